"""A worker: counts its packets and says which flows it saw, and when first.

Usage: worker.py DEVICE GROUP MODE
"""

import json
import sys
import time

import numpy as np

import fal

device, group, mode = sys.argv[1:]
flows: dict[int, int] = {}  # flow hash -> time of its first packet, ns
packets, news, said = 0, {}, 0.0

with fal.open(device, group=int(group), fanout=mode) as s:
    print(json.dumps({"started": s.member}), flush=True)
    for batch in s.batches(timeout=0.2):
        hashes, first = np.unique(batch.meta["hash"], return_index=True)
        times = batch.meta["ts_ns"][first]
        for flow, ts in zip(hashes.tolist(), times.tolist(), strict=True):
            if flow not in flows:
                flows[flow] = news[flow] = ts
        packets += len(batch)
        if time.monotonic() - said > 0.2:
            print(json.dumps({"packets": packets, "flows": news}), flush=True)
            news, said = {}, time.monotonic()
print(json.dumps({"packets": packets, "flows": news}), flush=True)
