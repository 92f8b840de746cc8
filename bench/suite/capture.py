"""FAL beside the kernel's own capture and fan-out (TPACKET_V3, PACKET_FANOUT), on the same veth
pair and from the same source: how many packets the workers had for each second of sending.

The source has one core; the workers, and our poller, the other.  GRO is on at the device, so that
the kernel's sockets see XDP frames, too.

Sent by a socket, packets are few: its core does the kernel's part of receiving, too, and is the
limit; the workers have all that it sends.  What counts is what that part costs.  For an XDP program
veth makes a frame of each packet first, by a copy, before the copy into the pool.  A packet socket
has no such copy: in one run with 64 bytes a bare loop over AF_XDP came to 0.96 of the kernel's
fan-out, and FAL to 0.90 to 0.97.  By --backend tpacket the sender's core has one packet socket to
serve, and no fan-out to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from captured import by_fal, captured
from trials import Case, Rival, play, results
from veth import pair

from fal.bindings import lib

SOCKETS, FRAMES = ">=1.0", ">=2.0"
OPTIONS = {
    "native": ("--mode", "native"),
    "generic": ("--mode", "generic"),
    "tpacket": ("--backend", "tpacket"),
}
FANOUT = {  # the kernel numbers them as we do
    "hash": lib.FAL_MODE_HASH,
    "lb": lib.FAL_MODE_LB,
    "cpu": lib.FAL_MODE_CPU,
    "rollover": lib.FAL_MODE_ROLLOVER,
    "rnd": lib.FAL_MODE_RND,
    "qm": lib.FAL_MODE_QM,
}


@dataclass(frozen=True)
class Setting:
    source: str
    by: str = "native"
    sizes: str = "64"
    workers: int = 2
    fanout: str = "hash"

    @property
    def name(self) -> str:
        return f"{self.source}/{self.by}/{self.sizes}/{self.workers}/{self.fanout}"

    @property
    def goal(self) -> str:
        if self.source != "xdp":
            return SOCKETS
        return FRAMES if self.by == "native" else ""


def settings() -> Iterator[Setting]:
    """Give what shows most: each thing that can differ, while the others stay."""
    for source in ("socket", "af_xdp", "xdp"):
        yield Setting(source)
    for source in ("socket", "xdp"):
        for workers in (1, 4):
            yield Setting(source, workers=workers)
        yield Setting(source, sizes="1514")
        yield Setting(source, by="generic")
    for source in ("socket", "af_xdp", "xdp"):
        yield Setting(source, by="tpacket")
    yield Setting("xdp", sizes="64-1514")
    for fanout in FANOUT:
        if fanout != "hash":
            yield Setting("xdp", fanout=fanout)


def tried(s: Setting, seconds: float, rounds: int) -> list[dict[str, Any]]:
    traffic: dict[str, Any] = {"source": s.source, "sizes": s.sizes, "seconds": seconds}
    with pair(gro=True) as veth:
        options = (*OPTIONS[s.by], "--idle", "spin")
        ours = partial(by_fal, veth, s.workers, s.fanout, *options, **traffic)
        words = (s.workers, veth.device, FANOUT[s.fanout])
        theirs = partial(captured, veth, "tpacket_fanout", *words, **traffic)
        case = Case(s.name, Rival("fal", ours), [Rival("tpacket", theirs)], s.goal, unit="Mpps")
        return results(play(case, rounds))


def run(quick: bool) -> list[dict[str, Any]]:
    chosen = list(settings())
    seconds, rounds = (0.05, 1) if quick else (0.3, 5)
    found = []
    for setting in chosen[1:3] if quick else chosen:
        found += tried(setting, seconds, rounds)
    return found
