"""Many programs at one time over one veth pair, each alone and as copies that share the traffic.

Groups and sockets in no group do not disturb each other, so one run shows them all.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apps.programs import PROGRAMS, TICKS, TRAFFIC, Program, Seen, port_of
from support import Namespace, Poller, Veth, ended, eventually, run

from fal.libpcap import FAL_LIBRARY as LIBRARY

MARK = "FAL_TEST_COPY"  # in the environment of all that a copy starts


def preloaded(**more: str) -> dict[str, str]:
    """Return what a program needs in its environment to meet our library in place of libpcap."""
    return {"LD_PRELOAD": str(LIBRARY), "LD_LIBRARY_PATH": str(LIBRARY.parent)} | more


@dataclass
class Copy:
    """One process of a program."""

    program: Program
    here: Path
    process: subprocess.Popen[bytes]
    seen: Seen = field(default_factory=Seen)
    status: int | None = None

    @property
    def daemon(self) -> int | None:
        """The process that goes on after a fork, as p0f says it."""
        found = re.search(r"Daemon process created, PID (\d+)", self.said("stdout"))
        return int(found[1]) if found else None

    @property
    def running(self) -> bool:
        daemon = Path(f"/proc/{self.daemon}/exe")  # a zombie has none
        return self.process.poll() is None or daemon.exists()

    def signal(self, number: int) -> None:
        if self.running:
            os.kill(self.daemon or self.process.pid, number)

    def said(self, where: str) -> str:
        return (self.here / where).read_text()

    def look(self, inside: Namespace) -> Seen:
        """Say what it saw so far."""
        self.seen = self.program.seen(self.here, inside)
        return self.seen


class Crowd:
    """Programs that capture from `veth`, by `poller` where there is one, else from the kernel."""

    def __init__(self, veth: Veth, poller: Poller | None, here: Path) -> None:
        self.veth, self.poller, self.here = veth, poller, here
        self.copies: dict[tuple[str, int], list[Copy]] = {}  # by program, and how many there are
        self.times: list[int] = []  # when each packet was sent, in nanoseconds
        self.arrived = 0  # when all had arrived
        self.early = self.report = dict[str, Any]()  # before what is sent came, and after

    # ---- starting ------------------------------------------------------------------------------

    def start(self, name: str, many: int, **environment: str) -> None:
        program = PROGRAMS[name]
        for _ in range(many):
            here = self.here / str(sum(map(len, self.copies.values())))
            here.mkdir(mode=0o777)
            here.chmod(0o777)
            (here / "arp.dat").touch()  # which arpwatch wants to exist
            device, more = self.veth.device, environment | {MARK: here.name}
            if self.poller and program.plain:
                more["PCAP_DRIVER"] = "fal"
            elif self.poller:
                device = self.poller.device
            facts = {"device": device, "here": here, "port": port_of(here)}
            words = [word.format_map(facts) for word in program.words]
            command = ["env", *(f"{k}={v}" for k, v in more.items()), *words]
            with (here / "stdout").open("wb") as out, (here / "stderr").open("wb") as err:
                process = subprocess.Popen(
                    self.veth.inside.command(*command), stdout=out, stderr=err, cwd=here
                )
            self.copies.setdefault((name, many), []).append(Copy(program, here, process))

    @property
    def all(self) -> list[Copy]:
        return [copy for copies in self.copies.values() for copy in copies]

    def capturing(self) -> set[str]:
        """Return the copies that capture by now."""
        if self.poller:
            report = self.poller.look()
            members = report["sockets"] + [m for g in report["groups"] for m in g["members"]]
            pids = [m["pid"] for m in members if m["started"]]
        else:  # those whose filter is in place: with one instruction it rejects all, for the moment
            sockets = run(*self.veth.inside.command("ss", "-0Hpb")).stdout
            found = re.findall(r"pid=(\d+),[^\n]*\n[^\n]*bpf filter \((\d+)\)", sockets)
            pids = [int(pid) for pid, length in found if int(length) > 1]
        own = {copy.process.pid: copy.here.name for copy in self.all}
        return {own.get(pid) or mark_of(pid) for pid in pids}

    def is_ready(self, copy: Copy) -> bool:
        """Whether it captures, or has ended before its time."""
        captures = copy.here.name in self.capturing() and copy.program.ready in copy.said("stderr")
        return captures or not copy.running

    def wait_ready(self) -> None:
        self.wait_for_all(lambda copies: not all(map(self.is_ready, copies)), 20)

    # ---- traffic -------------------------------------------------------------------------------

    def send(self) -> None:
        """Send all traffic, and wait until each program has seen what it wants."""
        if self.poller:
            self.early = self.poller.look()
        for frame in TRAFFIC:
            self.times.append(time.time_ns())
            self.veth.send(frame)
        if poller := self.poller:
            eventually(lambda: poller.look()["link_received"] >= len(TRAFFIC))
            self.arrived = time.time_ns()
        self.wait_for_all(lambda copies: not self.saw_enough(copies), 20)
        if self.poller:
            self.report = self.poller.look()
        else:
            self.arrived = time.time_ns()

    def saw_enough(self, copies: list[Copy]) -> bool:
        """Whether they have seen what is wanted, all together."""
        seen = sum((copy.look(self.veth.inside) for copy in copies), Seen())
        return seen >= copies[0].program.wanted

    def wait_for_all(self, behind: Callable[[list[Copy]], bool], seconds: float) -> None:
        """Wait until no program is behind, or that long; send ticks to those that need them."""
        end = time.monotonic() + seconds
        waiting = list(self.copies.values())
        while (waiting := list(filter(behind, waiting))) and time.monotonic() < end:
            if any(copies[0].program.ticks for copies in waiting):
                self.veth.send(*TICKS)
            time.sleep(0.05)

    # ---- the end -------------------------------------------------------------------------------

    def end(self) -> None:
        """Signal all, and wait for their end."""
        for copy in self.all:
            copy.signal(copy.program.end)
        self.wait_for_all(lambda copies: any(copy.running for copy in copies), 10)
        for copy in self.all:
            copy.status = None if copy.running else copy.process.poll()
            if copy.program.keeps:
                copy.look(self.veth.inside)

    def kill(self) -> None:
        """Leave nobody behind, whatever happened; all in the namespace is ours."""
        pids = set(map(int, run("ip", "netns", "pids", self.veth.inside.name).stdout.split()))
        for pid in pids - {self.poller.pid if self.poller else 0}:
            os.kill(pid, signal.SIGKILL)
        for copy in self.all:
            ended(copy.process, 5)


def mark_of(pid: int) -> str:
    """Return the copy that a process belongs to; "" where it is none, or has gone."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return next((w.partition(b"=")[2].decode() for w in words if w.startswith(MARK.encode())), "")
