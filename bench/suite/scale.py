"""The points that the model of docs/scaling.md is fitted to, and checked against; no peer.

Nanoseconds a packet.  `poller`: of a poller on one core over packets made in memory, with the
workers on the other, in turn on one thread, each reading the first cache line of its packets; the
making is in it, the larger part of it where lines that a worker has read are written again.
`pollers`: of each, one alone and two on a core of their own, nobody listening.  `worker`: of one
worker, by how much of a packet it reads.  `af_xdp`: of the poller's thread for 4096 packets that
lie in the receive ring when it wakes, in copy mode on veth: the kernel's copying is on another
core, as is a NIC's driver whose interrupt is another core's.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from trials import TOOLS, Case, Rival, Trial, play, program, results
from veth import gen, pair, poller, served

import fal
from fal import stat, status

BURST = 4096  # packets: what a receive ring holds
FLOWS = 4096
FRAMES = 100000  # for all rings
POLLER = "poller/{}-bytes/{}-workers/{}-groups"  # workers of each group; 0 bytes: IMIX
POLLERS = [(64, 2, 1), (64, 1, 1), (64, 4, 1), (64, 8, 1), (64, 16, 1), (64, 2, 2), (64, 2, 4)]
POLLERS += [(64, 4, 3), (590, 4, 1), (1514, 2, 1), (1514, 8, 1), (0, 4, 2)]
WORKER = "worker/{}-bytes/{}-read"
WORKERS = [(64, 64), (590, 590), (1514, 64), (1514, 1514)]
AF_XDP = "af_xdp/{}-workers/{}-groups"
AF_XDPS = [(2, 1), (8, 1), (2, 4), (4, 2)]


def null(size: int, *words: object) -> AbstractContextManager[Any]:
    """Serve packets of that size, of 4096 flows, as fal:scale."""
    made = ("--backend", "null", "--flows", FLOWS, "--sizes", size or "imix", "--idle", "spin")
    command = (TOOLS / "fal-poller", "scale", *made, "--frames", FRAMES, *words)
    return served([str(word) for word in command])


def read(size: int, workers: int, groups: int, read: int, seconds: float) -> dict[str, float]:
    with null(size, "--cpus", 0) as process:
        ran, begun = run_time(process.pid), time.monotonic_ns()
        done: dict[str, float] = program("reader", "fal:scale", groups, workers, read, seconds, 1)
        off = 1 - (run_time(process.pid) - ran) / (time.monotonic_ns() - begun)  # of the poller
    return done | {"off": max(done["off"], off)}


def polled(size: int, workers: int, groups: int, seconds: float) -> Trial:
    done = read(size, workers, groups, 64, seconds)
    return Trial(done["poller_ns"], done["off"], {"lost": done["lost"]})


def worked(size: int, much: int, seconds: float) -> Trial:
    done = read(size, 1, 1, much, seconds)
    return Trial(done["worker_ns"], done["off"])


def looked(name: str) -> dict[str, Any]:
    segment = status.open_existing(Path(os.environ["FAL_RUNTIME_DIR"]), name)
    try:
        return stat.report(segment)
    finally:
        segment.close()


def run_time(pid: int) -> int:
    """Return the nanoseconds that a process's threads but the first have had of a CPU."""
    threads = [task for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid)]
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)


def alone(cpus: str, seconds: float) -> Trial:
    """Of each of the pollers on these CPUs, while nobody listens."""
    pollers = len(cpus.split(","))
    with null(64, "--cpus", cpus) as process:
        before, ran = looked("scale")["link_received"], run_time(process.pid)
        begun = time.monotonic_ns()
        time.sleep(seconds)
        ran = run_time(process.pid) - ran
        took = (time.monotonic_ns() - begun) * pollers
        packets = looked("scale")["link_received"] - before
    return Trial(took / packets, max(0, 1 - ran / took))


def woken(workers: int, groups: int, bursts: int) -> Trial:
    """The median of some bursts that lie there when the poller, stopped until then, wakes."""
    costs = []
    with (
        pair() as veth,
        poller(veth, "--cpus", 1, "--idle", "sleep", "--frames", FRAMES) as process,
        ExitStack() as stack,
    ):
        sockets = [
            stack.enter_context(fal.open(f"fal:{veth.device}", group=group, fanout="hash"))
            for group in range(groups)
            for _ in range(workers)
        ]
        for s in sockets:
            s.recv_batch(timeout=0)  # from now on it has its share
        for n in range(1, bursts + 1):
            process.send_signal(signal.SIGSTOP)
            gen(veth, "--count", BURST, "--flows", FLOWS, "--sizes", 64, cpu=0)
            before = run_time(process.pid)
            process.send_signal(signal.SIGCONT)
            while looked(veth.device)["link_received"] < n * BURST:
                time.sleep(0.001)
            for s in sockets:
                while s.recv_batch(timeout=0):
                    pass
            time.sleep(0.02)  # until it sleeps
            costs.append((run_time(process.pid) - before) / BURST)
    return Trial(sorted(costs)[len(costs) // 2])


def families(seconds: float, bursts: int) -> list[list[Rival]]:
    """Return the points of each kind: the first is what the others are beside."""
    return [
        [Rival(POLLER.format(*p), partial(polled, *p, seconds)) for p in POLLERS],
        [Rival(f"pollers/{len(c) // 2 + 1}", partial(alone, c, seconds)) for c in ("0", "0,1")],
        [Rival(WORKER.format(*p), partial(worked, *p, seconds)) for p in WORKERS],
        [Rival(AF_XDP.format(*p), partial(woken, *p, bursts)) for p in AF_XDPS],
    ]


def run(quick: bool) -> list[dict[str, Any]]:
    seconds, bursts, rounds = (0.02, 1, 1) if quick else (0.1, 3, 7)
    found = []
    for first, *others in families(seconds, bursts):
        for point in others[:1] if quick else others:
            case = Case(point.name, point, [first], {}, lower=True, unit="ns")
            found += results(play(case, rounds))
    return found
