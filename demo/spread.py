"""Who gets which packet: what the examples of docs/fanout.md call."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import fal
from fal import bpf, modes
from fal.bindings import lib

POLLER = Path(sys.executable).with_name("fal-poller")


def save(path: Path, frames: Sequence[bytes]) -> None:
    """Write a capture file in which frame i was captured at the i-th nanosecond."""
    header = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1)
    records = [struct.pack("<IIII", 0, i, len(f), len(f)) + f for i, f in enumerate(frames)]
    path.write_bytes(header + b"".join(records))


def read(s: fal.Socket, made: bool) -> dict[int, int]:
    """Read all that lies in the rings: {a packet's number: its hash}."""
    found: dict[int, int] = {}
    with suppress(EOFError):  # the source is over when all have read
        while batch := s.recv_batch(timeout=0):
            numbers = batch.meta["ts_ns"].tolist()
            if made:
                numbers = [int.from_bytes(packet[42:50], "little") for packet in batch]
            found |= zip(numbers, batch.meta["hash"].tolist(), strict=True)
    return found


def runs(numbers: Iterable[int]) -> str:
    """Write 0, 1, 2, 5 as 0..2 5."""
    found: list[list[int]] = []
    for n in sorted(numbers):
        if found and found[-1][-1] == n - 1:
            found[-1][1:] = [n]
        else:
            found.append([n])
    return " ".join("..".join(map(str, run)) for run in found) or "-"


def spread(
    source: int | Sequence[bytes],
    *fanouts: str,
    rings: Sequence[int] = (64, 64),
    program: bpf.Program | None = None,
    options: Sequence[str] = (),
) -> None:
    """Print who gets which packet, for a group of each fan-out; nobody reads before all are sent.

    The packets, numbered from 0, are so many of the null backend's, or these frames.  Each group
    has a member for each of `rings`; `|` lies between the members, of a fan-out that hashes between
    those that have one hash and so meet one member (which one is chance: members' ids are random).
    """
    made = isinstance(source, int)
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        os.environ["FAL_RUNTIME_DIR"] = directory
        words = ["x", "--backend", "null", "--count", str(source)]
        if not isinstance(source, int):
            words = [f"{directory}/x.pcap"]
            save(Path(words[0]), source)
        words += ["--hugepages", "off", "--wait", str(len(fanouts) * len(rings)), *options]
        poller = subprocess.Popen([POLLER, *words], stderr=subprocess.PIPE, text=True)
        stack.enter_context(poller)
        stack.callback(poller.terminate)
        assert poller.stderr
        assert " ready " in (said := poller.stderr.readline()), said
        groups: dict[str, list[fal.Socket]] = defaultdict(list)
        for number, fanout in enumerate(fanouts):
            for ring in rings:
                s = fal.open("fal:x", group=number, fanout=fanout, ring=ring, program=program)
                groups[fanout].append(stack.enter_context(s))
        packets = source if isinstance(source, int) else len(source)
        for fanout, group in groups.items():
            while sum(s.stats().recv + s.stats().drop for s in group) < packets:
                time.sleep(0.001)
            members = [read(s, made) for s in group]
            if modes.parse(fanout).mode == lib.FAL_MODE_HASH:
                together: dict[int, dict[int, int]] = defaultdict(dict)
                for packet, value in sorted(item for got in members for item in got.items()):
                    together[value][packet] = value
                assert sum(len(set(got.values())) for got in members) == len(together)
                members = list(together.values())
            print(fanout.ljust(max(map(len, fanouts))), "", " | ".join(map(runs, members)))
