"""One Python worker beside pcapy-ng, pypcap and scapy, on the same 131,072 packets of 60 bytes.

They lie in a capture file, which is the bindings' best case: no kernel hands them a packet.  Those
read it from the page cache; fal-poller reads it on one CPU, and the worker has on the other what
that puts into its ring.

- `batches`: count packets by protocol and port, the worker by numpy over whole batches, the
  bindings packet by packet, as their loops give them.
- `batches-next_batch`: the same beside pcapy-ng's next_batch, which gives many packets in a call,
  so that numpy counts them, too.  Some 10 ns a packet were numpy's on either side, with everything
  in the cache, of 16 and 70: with this work nobody could be ten times as fast as that.
- `packets`: `for ts, data`, adding up lengths.

In these three the worker's clock stands while it waits for its ring (4096) to be full, as that of
the others stood while the file came into the page cache: they tell what a worker can take.
`…-replayed`: all the time from the first packet to the last, with fal-poller reading the file
meanwhile.  That is then the limit; it was about 110 ns a packet.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from python_work import protocol_and_port
from trials import TOOLS, Case, Rival, Trial, play, results
from veth import served

from fal.frames import tcp, udp

BENCH = Path(__file__).parents[1]
RING, RINGS = 4096, 32
FLOWS = 4096
SERVICES = (80, 443, 53, 22)

BINDINGS = ("pcapy", "pypcap", "scapy")
CASES = (  # name, how ours works, the peers, how those work, goal
    ("batches", "batches", BINDINGS, "counted", ">=10"),
    ("batches-next_batch", "batches", ("pcapy",), "batches", ">=10"),
    ("packets", "packets", BINDINGS, "packets", ">=1"),
    ("batches-replayed", "batches", BINDINGS, "counted", ""),
    ("packets-replayed", "packets", BINDINGS, "packets", ">=1"),
)
QUICK_CASES = CASES[0], CASES[1], CASES[4]  # all that the programs can do


def frames() -> list[bytes]:
    """Make one frame of each flow: three in four TCP."""
    ends = [((f"10.{i >> 8}.{i & 255}.1", 1024 + i), f"10.200.0.{i % 200}") for i in range(FLOWS)]
    return [
        (udp if i % 4 == 0 else tcp)(source, (server, SERVICES[i // 4 % 4]))
        for i, (source, server) in enumerate(ends)
    ]


class Capture:
    """A capture file, and what is to be found in it."""

    def __init__(self, directory: Path, rings: int) -> None:
        self.path = directory / "made.pcap"
        self.packets = rings * RING
        self.rings = rings
        self.size = 0
        self.counted: Counter[str] = Counter()
        with self.path.open("wb") as file:
            file.write(struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
            for n, frame in enumerate(islice(cycle(frames()), self.packets)):
                lengths = len(frame), len(frame)
                file.write(struct.pack("<IIII", n // 10**6, n % 10**6, *lengths) + frame)
                self.size += len(frame)
                self.counted["{}/{}".format(*protocol_and_port(frame))] += 1

    def trial(self, who: str, how: str, found: dict[str, Any], timed: int) -> Trial:
        """Return what a worker found, if that is all there is; so many packets took its time."""
        right = found["size"] == self.size if how == "packets" else found["counted"] == self.counted
        if not right:
            raise SystemExit(f"bench: {who} {how}: not all packets, or some of them twice")
        seconds = found["seconds"]
        return Trial(timed / seconds / 1e6, max(0.0, 1 - found["cpu"] / seconds))


def run_python(script: str, *words: object) -> dict[str, Any]:
    """Run a worker on CPU 1."""
    command = ["taskset", "-c", "1", sys.executable, str(BENCH / script), *map(str, words)]
    env = os.environ | {"PYTHONPATH": str(BENCH)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise SystemExit(f"bench: {script} failed: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def worker(capture: Capture, how: str, replayed: bool) -> Trial:
    turn, lying = (capture.packets, 1) if replayed else (RING, RING)
    turns = capture.packets // turn
    words = capture.path, "--name", "bench", "--cpus", 0, "--idle", "spin"
    with served([str(TOOLS / "fal-poller"), *map(str, words)]):
        found = run_python("python_fal.py", "fal:bench", how, turn, turns, lying)
    return capture.trial("fal", how, found, turn * (turns - 1 or 1))


def binding(capture: Capture, name: str, how: str) -> Trial:
    found = run_python(f"peers/python_{name}.py", capture.path, how)
    return capture.trial(name, how, found, capture.packets)


def run(quick: bool) -> list[dict[str, Any]]:
    found = []
    with tempfile.TemporaryDirectory() as directory:
        capture = Capture(Path(directory), 4 if quick else RINGS)
        for name, ours, peers, theirs, goal in QUICK_CASES if quick else CASES:
            rivals = [
                Rival(f"fal {ours}", partial(worker, capture, ours, name.endswith("replayed"))),
                *(
                    Rival(f"{peer} {theirs}", partial(binding, capture, peer, theirs))
                    for peer in peers
                ),
            ]
            case = Case(name, rivals[0], rivals[1:], goal, unit="M/s")
            found += results(play(case, 1 if quick else 15))
    return found
