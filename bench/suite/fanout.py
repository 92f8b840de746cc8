"""Our poller, from a burst of packets to two workers, beside DPDK doing the same.

What each source does, and what a worker does, is said in bench/fanout_race.h.  Both sides have 4096
buffers, and huge pages where there are any; ours lie 2112 bytes apart, which AF_XDP allows in its
unaligned mode only, and DPDK's as its mempool lays them.

A packet is more work for our poller than for DPDK's: a descriptor of 32 bytes is filled in,
steered, copied into a ring and its frame booked, where DPDK passes a pointer of 8 bytes on.  How
much of the difference that makes was not measured; `cost` has what the loop takes when workers read
on its own core.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from trials import Case, Rival, Trial, play, program, results

BURSTS = (32, 64)
PAUSES = (0, 8, 32, 128)  # that the workers make when they find nothing
PAGES = 64  # huge ones, of 2 MiB
PEERS = {
    "net_ring": ("fanout_ring", "fanout_ring_crc"),
    "net_null": ("fanout_null", "fanout_null_crc"),
    "distributor": ("fanout_distributor", "fanout_distributor_crc"),
}
GOALS: dict[tuple[str, int], dict[str, str] | str] = {
    ("net_ring", 32): {"near": ">=1.0", "far": ">=1.5"},
    ("net_null", 32): {"near": ">=1.6", "far": ">=2"},
    ("net_null", 64): {"near": ">=1.6", "far": ">=2"},
    ("distributor", 32): ">=2.5",
    ("distributor", 64): ">=2.5",
}


@contextmanager
def huge_pages(more: int) -> Iterator[None]:
    """Reserve so many for a while, where that is allowed and memory is in one piece."""
    knob = Path("/proc/sys/vm/nr_hugepages")
    try:
        before = knob.read_text()
        knob.write_text(str(int(before) + more))
    except OSError:
        yield
        return
    try:
        yield
    finally:
        knob.write_text(before)


def trial(name: str, burst: int, pauses: int, seconds: float) -> Trial:
    done = program(name, burst, pauses, seconds)
    return Trial(done["rate"] / 1e6, done["off"], {"pauses": pauses, "stride": done["stride"]})


def rival(name: str, burst: int, seconds: float, tried: Sequence[int]) -> Rival:
    """One that pauses as suits it best of what is tried."""
    pauses = max(tried, key=lambda pauses: trial(name, burst, pauses, seconds / 2).value)
    return Rival(name, partial(trial, name, burst, pauses, seconds))


def run(quick: bool) -> list[dict[str, Any]]:
    seconds, rounds = (0.01, 1) if quick else (0.1, 15)
    pauses = PAUSES[:1] if quick else PAUSES
    found = []
    with huge_pages(PAGES):
        for burst in BURSTS[:1] if quick else BURSTS:
            ours = rival("fanout_fal", burst, seconds, pauses)
            for name, programs in PEERS.items():
                peers = [rival(peer, burst, seconds, pauses) for peer in programs]
                goal = GOALS.get((name, burst), "")
                case = Case(f"{name}/{burst}", ours, peers, goal, unit="Mpps")
                found += results(play(case, rounds))
    return found
