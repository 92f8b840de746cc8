"""Trials of rivals on the same work: in turn, many times, compared only where they met alike.

The distance of two cores changes while programs run, and with it what any ring can do.  So it is
probed around each round, and a round in which it changed, or in which a thread that a trial watches
was off its CPU, is thrown away.  A ratio is of one round; of the ratios the median counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import quantiles
from tempfile import NamedTemporaryFile
from typing import Any

ROOT = Path(__file__).parents[1]
TOOLS = Path(sys.executable).parent
BUILT = ROOT / "build" / "bench"
PROGRAMS = BUILT / "bench"
FAR = 250.0  # nanoseconds of a round trip: from here on two cores are far
OFF = 0.03  # the share of its time that a thread may be off its CPU


@dataclass(frozen=True)
class Trial:
    """What one run of a rival gave."""

    value: float  # a rate, or a cost
    off: float = 0.0  # the largest share of a thread that was off its CPU, of those watched
    more: dict[str, Any] = field(default_factory=dict)  # of interest beside it


@dataclass(frozen=True)
class Rival:
    """One of those that are compared: a name, and how to try it once."""

    name: str
    trial: Callable[[], Trial]


@dataclass(frozen=True)
class Case:
    """Ours beside its peers on one work.  The best peer counts.

    `goal` is what the ratio of ours to the peer's must be: ">=1.15", "<=0.8", or "" where it is
    only reported; or by distance, {"near": …, "far": …}.  `lower` where less is better: of a cost.
    `absolute`: our value itself stands in the ratio's place, and peers are only shown.
    """

    name: str  # "" where the benchmark has one case
    ours: Rival
    peers: Sequence[Rival]
    goal: str | dict[str, str] = ""
    lower: bool = False
    unit: str = ""
    absolute: bool = False


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*quantiles(values, n=4, method="inclusive"))


def build() -> None:
    """Build the programs of bench/, with what the package is built with."""
    env = os.environ | {"PATH": f"{TOOLS}:{os.environ['PATH']}"}
    werror = f"-Dwerror={'true' if os.environ.get('CI') else 'false'}"
    steps = [["ninja", "-C", str(BUILT)]]
    if not (BUILT / "build.ninja").exists():  # else it is made anew by itself when it must be
        steps.insert(0, ["meson", "setup", "-Dbench=true", werror, str(BUILT), str(ROOT)])
    for command in steps:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"bench: the build failed:\n{done.stdout}{done.stderr}")


def program(
    name: str,
    *words: object,
    cpu: int | None = None,
    under: Sequence[str] = (),
    timeout: float = 60,
) -> Any:
    """Run a program of bench/, `under` another one, to its end; return what it prints: JSON."""
    pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
    command = [*pinned, *under, str(PROGRAMS / name), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise SystemExit(f"bench: {name} failed: {done.stderr.strip() or done.returncode}")
    return json.loads(done.stdout)


def instructions(name: str, *words: object) -> float:
    """Return the instructions a packet that callgrind counts, where the program asks it to."""
    with NamedTemporaryFile("r") as counts:
        callgrind = ["valgrind", "--tool=callgrind", "--collect-atstart=no"]
        callgrind.append(f"--callgrind-out-file={counts.name}")
        packets = program(name, *words, under=callgrind)["packets"]
        (total,) = (line for line in counts if line.startswith("totals: "))
    return int(total.split()[1]) / float(packets)


def distance(cpus: tuple[int, int] = (0, 1)) -> str:
    """Say how far two CPUs are from one another at this moment."""
    return "far" if program("distance", *cpus) >= FAR else "near"


@dataclass
class Rounds:
    """The rounds of a case that count, by distance."""

    case: Case
    kept: dict[str, list[dict[str, Trial]]] = field(default_factory=dict)
    thrown_away: int = 0

    def ratios(self, where: str, peer: str) -> list[float]:
        return [r[self.case.ours.name].value / r[peer].value for r in self.kept[where]]


def play(case: Case, rounds: int, probe: Callable[[], str] = distance) -> Rounds:
    """Try all rivals in turn, so many rounds, and as many again to make up for what is lost.

    Of one round alone nothing is made up for: it shows that the rivals work, and counts always.
    """
    rivals = [case.ours, *case.peers]
    done = Rounds(case)
    for n in range(2 * rounds):
        if sum(map(len, done.kept.values())) == rounds:
            break
        before = probe()
        turn = n % len(rivals)  # nobody is always first
        tried = {r.name: r.trial() for r in rivals[turn:] + rivals[:turn]}
        quiet = probe() == before and max(t.off for t in tried.values()) <= OFF
        if rounds > 1 and not quiet:
            done.thrown_away += 1
        else:
            done.kept.setdefault(before, []).append(tried)
    return done


def of(done: Rounds, what: str, goal: str = "") -> Rounds:
    """Return the same rounds as a case of its own: of what else the trials gave, by its name."""
    case = replace(done.case, name=f"{done.case.name}/{what}", goal=goal)
    kept = {
        where: [{who: replace(t, value=t.more[what]) for who, t in r.items()} for r in rounds]
        for where, rounds in done.kept.items()
    }
    return Rounds(case, kept, done.thrown_away)


def meets(ratio: float, goal: str) -> str:
    """Return the verdict: ok or short, "" where there is no goal."""
    if not goal:
        return ""
    reached = ratio >= float(goal[2:]) if goal[:2] == ">=" else ratio <= float(goal[2:])
    return "ok" if reached else "short"


def results(done: Rounds) -> list[dict[str, Any]]:
    """Return what is said of a case: one result, or one for each distance that was met."""
    case = done.case
    kept = done.kept
    if isinstance(case.goal, str):  # whatever the distance was: a ratio is of one round
        kept = {"": [r for rounds in kept.values() for r in rounds]}
        done = Rounds(case, kept, done.thrown_away)
    found = []
    for where, tried in kept.items():
        if not tried:
            continue
        ratios = {peer.name: Spread.of(done.ratios(where, peer.name)) for peer in case.peers}
        if case.absolute:
            ratios = {"": Spread.of([r[case.ours.name].value for r in tried])}
        pick = max if case.lower else min  # the best peer is the one that leaves us the worst ratio
        best = pick(ratios, key=lambda name: ratios[name].median)
        goal = case.goal if isinstance(case.goal, str) else case.goal.get(where, "")
        values = {
            r.name: Spread.of([t[r.name].value for t in tried]) for r in [case.ours, *case.peers]
        }
        found.append(
            {
                "case": "/".join(filter(None, (case.name, where))),
                "ratio": vars(ratios[best]),
                "peer": best,
                "goal": goal,
                "verdict": meets(ratios[best].median, goal),
                "unit": case.unit,
                "values": {name: vars(spread) for name, spread in values.items()},
                "more": {r.name: tried[-1][r.name].more for r in [case.ours, *case.peers]},
                "rounds": len(tried),
                "thrown_away": done.thrown_away,
            }
        )
    if not found:
        print(f"bench: {case.name}: no round counted: the machine is not quiet", file=sys.stderr)
    return found
