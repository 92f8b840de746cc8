"""pcapy-ng: python_pcapy.py FILE packets|counted|batches

A callback is faster than next(); batches are its next_batch, of which numpy makes the most.
"""

from __future__ import annotations

import sys

import numpy as np
import pcapy
from python_work import Clock, Table, counted, protocol_and_port, report, table

BATCH = 1024  # the fastest of 512, 1024, … 16384


def main() -> None:
    path, how = sys.argv[1:]
    clock, size = Clock(), 0
    lists, arrays = table(), Table()
    reader = pcapy.open_offline(path)

    def take(_: object, data: bytes) -> None:
        nonlocal size
        size += len(data)

    def count(_: object, data: bytes) -> None:
        protocol, port = protocol_and_port(data)
        lists[protocol][port] += 1

    with clock:
        if how == "batches":
            while (found := reader.next_batch(BATCH))[1]:
                offsets = np.frombuffer(found[1], np.uint32).reshape(-1, 4)[:, 2]
                arrays.count(np.frombuffer(found[0], np.uint8), offsets)
        else:
            reader.loop(-1, take if how == "packets" else count)
    rows = counted(arrays.rows() if how == "batches" else lists)
    report(clock, size=size, counted=rows)


main()
