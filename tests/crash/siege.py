"""fal-poller under siege, over every source of packets: what the honest must not notice.

Two workers share group 42, one has group 7, one is in none.  Packets come all the time: over a veth
pair, from a file over and over, or made in memory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from captures import write_pcap
from support import Poller, Traffic, Veth, Worker, assert_books, eventually, udp

import fal
from fal.bindings import lib

RATE = 5000  # packets a second, where it is ours to say
RING = 1024  # of each worker
HONEST = (42, 42, 7, -1)
NULL = ("--backend", "null", "--wait", str(len(HONEST)), "--hugepages", "off")
FILE = ("--loop", "0", "--wait", str(len(HONEST)), "--hugepages", "off")
# How packets come: queues of a veth pair (0: a source that needs none), pollers, options.
WAYS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "generic": (1, 1, ("--mode", "generic")),
    "native": (1, 1, ("--mode", "native")),
    "native-4-2": (4, 2, ("--mode", "native")),
    "tpacket-2-2": (1, 2, ("--backend", "tpacket")),
    "pcap-paced": (0, 1, ("--rate", str(RATE), *FILE)),
    "pcap-max": (0, 1, FILE),
    "null": (0, 1, NULL),
    "null-2": (0, 2, NULL),
}


class Siege:
    """Within its `with` packets come; at its end all is asked.  `room`: frames for more rings."""

    def __init__(
        self,
        way: str,
        make_veth: Callable[..., Veth],
        start_poller: Callable[..., Poller],
        start_worker: Callable[..., Worker],
        directory: Path,
        room: int,
    ) -> None:
        queues, self.pollers, words = WAYS[way]
        self.lossless = way == "pcap-max"  # one that does not read holds all up
        self.flood = way.startswith("null")  # more than anybody can read
        veth = make_veth(queues=queues) if queues else None
        device = veth.device if veth else "siege"
        if way.startswith("pcap"):
            frames = [udp(("10.0.0.1", 1000 + i), ("10.0.0.2", 53)) for i in range(64)]
            device = str(write_pcap(directory / "siege.pcap", list(enumerate(frames))))
        of_each = max(1, queues // self.pollers)
        needed = of_each * (lib.FAL_RX_RING + lib.FAL_BURST) + lib.FAL_TX_FRAMES
        needed += len(HONEST) * RING
        words += ("--frames", str(needed + room), "--name", "siege")
        words += ("--cpus", ",".join(map(str, range(self.pollers))))
        self.start = lambda: start_poller(device, *words, namespace=veth and veth.inside)
        self.start_worker = start_worker
        self.poller = self.start()
        self.room = int(self.poller.ready["frames"]) // self.pollers - needed  # whole pages
        self.idle = self.poller.look()["frames_free"]
        # Where packets come as fast as they can, a nap after each batch leaves others the machine.
        how = 500 if self.lossless or self.flood else "read"
        self.workers = [start_worker(self.poller, g, ring=RING, how=how) for g in HONEST]
        self.before = self.descriptors()
        self.traffic = Traffic(veth, RATE) if veth else None

    def sending(self) -> contextlib.AbstractContextManager[object]:
        return self.traffic or contextlib.nullcontext()

    def __enter__(self) -> Siege:
        self.sending().__enter__()
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        self.sending().__exit__(kind, *rest)
        if not kind:
            self.check()
            self.end()

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.poller.pid}/fd"))

    def members(self, group: int = 42) -> dict[int, dict[str, Any]]:
        """The members of a group, by their processes."""
        report = self.poller.look()
        return {m["pid"]: m for g in report["groups"] if g["id"] == group for m in g["members"]}

    def honest(self, report: dict[str, Any]) -> list[dict[str, Any]]:
        pids = {w.pid for w in self.workers}
        everyone = [m for g in report["groups"] for m in g["members"]] + report["sockets"]
        return [m for m in everyone if m["pid"] in pids]

    def goes_on(self) -> None:
        """Packets still come, and to every honest worker."""

        def consumed() -> list[int]:
            return [m["consumed"] for m in self.honest(self.poller.look())]

        before = consumed()
        assert len(before) == len(HONEST)
        eventually(lambda: all(b > a for a, b in zip(before, consumed(), strict=True)))

    def settled(self) -> dict[str, Any] | None:
        """The report once all that was sent is read; of a source that never ends: any."""
        report = self.poller.look()
        if not self.traffic:
            return report
        there = report["link_received"] >= self.traffic.sent
        return report if there and not any(m["in_ring"] for m in self.honest(report)) else None

    def check(self) -> None:
        poller = self.poller
        assert poller.process.poll() is None, poller.lines
        eventually(lambda: self.descriptors() == self.before, 7)
        report = eventually(self.settled)
        assert_books(report)
        assert report["if_dropped"] == 0
        honest = self.honest(report)
        assert [m["abandoned"] for m in honest] == [0] * len(HONEST)
        if not self.flood:
            assert [m["dropped"] for m in honest] == [0] * len(HONEST)
        assert not self.traffic or report["link_received"] == self.traffic.sent
        received = report["link_received"] - report["if_dropped"]
        assert received > 0
        ours = [g for g in report["groups"] if g["id"] in HONEST]
        assert [g["received"] for g in ours] == [received] * 2
        alone = next(m for m in report["sockets"] if m["pid"] == self.workers[3].pid)
        assert alone["delivered"] + alone["dropped"] == received
        # it still does its work, also for who comes now
        with fal.open(poller.device, group=9, ring=64) as s:
            assert s.member == 0

    def end(self) -> None:
        for w in self.workers:
            w.kill()
        eventually(lambda: not self.poller.look()["groups"] and not self.poller.look()["sockets"])
        wavers = 0 if self.traffic else lib.FAL_BURST * self.pollers  # what a source holds
        eventually(lambda: self.poller.look()["frames_free"] >= self.idle - wavers)
        assert self.poller.stop() == 0
        assert len(self.poller.lines) <= 2, self.poller.lines
