"""What the poller's loop costs a packet, and how that grows.

Counted is all that the poller does between the return of the backend's `rx_burst` and the next one:
parsing and hashing, steering, the rings, frames taken back from workers, bells, counters, and what
the loop does once a round; not the backend's own (`rx_burst`, `refill`).  Bursts of 64 packets, UDP
over IPv4, 60 bytes (64 with Ethernet's checksum) where nothing else is said.  Two workers in one
group, by hash, with rings of 1024, who have read all when the next burst is fetched.

Instructions are callgrind's.  Nanoseconds are those of the median burst, on a thread that lets the
workers read in between: without what two cores pay for handing cache lines over (see `fanout`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from functools import cache, partial
from typing import Any

from trials import Case, Rival, Trial, instructions, play, program, results


@dataclass(frozen=True)
class Work:
    workers: int = 2  # of each group
    groups: int = 1
    flows: int = 64
    size: int = 60
    mode: str = "hash"


BASE = Work()
LIMIT = "<=100"  # instructions
GROWTH = {  # beside BASE, with what is asked of the ratio
    "1-worker": (Work(workers=1), ""),
    "8-workers": (Work(workers=8), ""),
    "64-workers": (Work(workers=64), "<=1.5"),
    "1-flow": (Work(flows=1), ""),
    "4096-flows": (Work(flows=4096), ""),
    "1000000-flows": (Work(flows=1000000), ""),
    "252-bytes": (Work(size=252), ""),
    "1514-bytes": (Work(size=1514), ""),
}
MODES = ["lb", "rnd", "qm", "cpu", "rollover", "cbpf"]
MODES += ["hash+rollover", "hash+defrag", "hash+inner", "flow_2_tuple"]
GROUPS = (2, 4, 8)
FURTHER = "<=0.4"  # of what the first group costs

Cost = Callable[[Work], float]


def nanoseconds(bursts: int, work: Work) -> float:
    return float(program("cost", *astuple(work), bursts, cpu=0)["ns"])


@cache
def counted(work: Work) -> float:
    return instructions("cost", *astuple(work), 300)


def rival(name: str, cost: Cost, work: Work) -> Rival:
    return Rival(name, lambda: Trial(cost(work)))


def further(name: str, cost: Cost, groups: int) -> Rival:
    """A group more: its share of what all but the first cost."""
    many = replace(BASE, groups=groups)
    return Rival(name, lambda: Trial((cost(many) - cost(BASE)) / (groups - 1)))


def cases(unit: str, cost: Cost, quick: bool) -> list[Case]:
    growth = GROWTH | {mode: (Work(mode=mode), "") for mode in MODES}
    if quick:
        growth = {name: growth[name] for name in ("64-workers", "cbpf")}
    base = [rival("2 workers, hash", cost, BASE)]
    made = [
        Case(f"{name}/{unit}", rival(name, cost, work), base, goal)
        for name, (work, goal) in growth.items()
    ]
    first = [rival("the first group", cost, BASE)]
    made += [
        Case(f"{n}-groups/{unit}", further("a further group", cost, n), first, FURTHER)
        for n in (GROUPS[-1:] if quick else GROUPS)
    ]
    return [replace(case, lower=True, unit=unit) for case in made]


def run(quick: bool) -> list[dict[str, Any]]:
    bursts, rounds = (50, 1) if quick else (2000, 25)
    time = partial(nanoseconds, bursts)
    limit = [
        Case("instructions", rival("fal", counted, BASE), [], LIMIT, True, "instructions", True),
        Case("ns", rival("fal", time, BASE), [], "", True, "ns", True),
    ]
    found = results(play(limit[0], 1, lambda: "")) + results(play(limit[1], rounds, lambda: ""))
    for case in cases("instructions", counted, quick):
        found += results(play(case, 1, lambda: ""))  # the same each time
    for case in cases("ns", time, quick):
        found += results(play(case, rounds, lambda: ""))  # one thread: no distance matters
    return found
