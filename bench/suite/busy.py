"""Busy workers: which share of the packets is processed, by how many workers and how much work.

A paced sender (socket, 60 bytes, 4096 flows) has CPU 0, all workers share CPU 1, where each packet
costs them 0.5, 1, 2 or 5 us.  Who fetches and spreads the packets is on the sender's CPU on both
sides: fal-poller (AF_XDP native, `--idle adaptive`) here, the kernel's receive path there.  So with
two CPUs the workers' is the limit, and more of them process no more: the figures tell what it costs
to spread, and what is lost for want of it.  5 us a packet are more than that CPU has.
`…-shared`: the workers have CPU 0, too, and the other lies idle.

A worker's ring holds 8192 packets on both sides.  A round counts in which nobody else had more than
3 % of either CPU.  Shares are rounded to a thousandth.

Peers: TPACKET_V3 with PACKET_FANOUT_HASH and as many workers; one worker without fan-out.
`…/reached`: the share of packets that reached a worker's ring, whether that had room or not: what
is missing was lost at the interface.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from trials import PROGRAMS, Case, Rival, Trial, of, play, program, results
from veth import Veth, pair, poller, started, told, within
from veth import run as run_command

WORK = (0.5, 1, 2, 5)  # microseconds a packet
WORKERS = (1, 2, 4)
RATE = 250_000  # packets a second
GROUP = 7
REST = 0.02  # seconds after the last packet, in which blocks that are not full come

Popen = subprocess.Popen[str]


@dataclass(frozen=True)
class Workers:
    count: int
    cpu: int = 1


def ran(process: Popen) -> float:
    """Return the seconds that all threads of a process have had of a CPU."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in tasks) / 1e9


def idle() -> list[float]:
    """Return the seconds that CPU 0 and CPU 1 have had nothing to do."""
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()[1:3]]
    return [(int(words[4]) + int(words[5])) / os.sysconf("SC_CLK_TCK") for words in lines]


class Others:
    """Finds what others took, meanwhile, of the CPUs that these run on."""

    def __init__(self, running: Sequence[Sequence[Popen]]) -> None:
        self._running = running
        self._begin = time.monotonic(), idle(), self._ours()

    def _ours(self) -> list[float]:
        return [sum(map(ran, processes)) for processes in self._running]

    def share(self, and_ours: Sequence[float]) -> float:
        """Return the larger share; `and_ours`: seconds of processes that have come and gone."""
        wall = time.monotonic() - self._begin[0]
        now = zip(idle(), self._begin[1], self._ours(), self._begin[2], and_ours, strict=True)
        return max(
            0.0, *(1 - (i - i0 + ran - ran0 + gone) / wall for i, i0, ran, ran0, gone in now)
        )


def trial(
    veth: Veth, fetching: Sequence[Popen], worker: list[object], at: Workers, seconds: float
) -> Trial:
    command = within(veth.inside, *worker, cpu=at.cpu)
    with ExitStack() as stack:
        running = [
            stack.enter_context(started(command, "ready", stdout=subprocess.PIPE))
            for _ in range(at.count)
        ]
        sender = PROGRAMS / "busy_send", veth.peer, int(RATE * seconds), RATE
        others = Others([fetching, running] if at.cpu else [[*fetching, *running], []])
        sent = json.loads(run_command(*within(veth.outside, *sender, cpu=0)))
        off = others.share([sent["cpu"], 0])
        time.sleep(REST)
        for process in running:
            process.terminate()
        found: list[dict[str, Any]] = [told(process) for process in running]
    processed, meant = (sum(w[what] for w in found) for what in ("processed", "meant"))
    if not processed <= meant <= sent["sent"]:
        raise SystemExit(f"bench: {worker}: {processed} processed of {meant} of {sent['sent']}")
    more = {"reached": round(meant / sent["sent"], 3)}
    return Trial(round(processed / sent["sent"], 3), off, more)


def fal(veth: Veth, steps: int, at: Workers, seconds: float) -> Trial:
    with poller(veth, "--cpus", 0) as process:
        worker = [PROGRAMS / "busy_fal", f"fal:{veth.device}", steps, GROUP]
        return trial(veth, [process], worker, at, seconds)


def tpacket(veth: Veth, steps: int, at: Workers, group: int, seconds: float) -> Trial:
    worker = [PROGRAMS / "busy_tpacket", veth.device, steps, group]
    return trial(veth, [], worker, at, seconds)


def run(quick: bool) -> list[dict[str, Any]]:
    seconds, rounds = (0.1, 1) if quick else (1, 5)
    steps = program("busy_steps")
    found = []
    settings = [(work, Workers(n)) for work, n in product(WORK, WORKERS)]
    settings += [(1, Workers(n, cpu=0)) for n in WORKERS]
    with pair() as veth:
        for work, at in [*settings[:1], settings[-2]] if quick else settings:
            about = veth, int(steps * work)
            ours = Rival("fal", partial(fal, *about, at, seconds))
            alone = replace(at, count=1)
            peers = [
                Rival("tpacket fanout", partial(tpacket, *about, at, GROUP, seconds)),
                Rival("tpacket alone", partial(tpacket, *about, alone, -1, seconds)),
            ]
            name = f"{work}us-{at.count}" + ("" if at.cpu else "-shared")
            done = play(Case(name, ours, peers, ">=1" if at.cpu else "", unit="share"), rounds)
            found += results(done) + results(of(done, "reached", ">=1" if at.cpu else ""))
    return found
