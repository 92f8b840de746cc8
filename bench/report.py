"""`make bench-report`: docs/benchmarks.md and its plots, of what `make bench` measured.

Of each benchmark: what it does and what sets its limit (the head of its file in bench/suite), a
plot, and a table: medians, and quartiles in brackets.  Then the figures of docs/scaling.md.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import model
from matplotlib.figure import Figure
from run import NAMES, RESULTS
from trials import ROOT

Report = dict[str, Any]  # of one benchmark, as run.py writes it
Result = dict[str, Any]  # of one case, as trials.results gives it

DOCS = ROOT / "docs"
NUMBER = re.compile(r"p?(\d+(?:\.\d+)?)[a-zA-Z]*")
MARKS = "osD^vP*X"
X = {"busy": 1}  # the place in the cases' names: by the number of workers, as in the paper
HEAD = """# Benchmarks

Written by `make bench-report`, of what `make bench` measured on

    {cpu}, {cpus} CPUs, Linux {kernel}, Python {python}

A figure is the median of many rounds, with the quartiles in brackets. In a round all rivals try in
turn; one in which the cores' distance changed, or a thread that is watched was off its CPU, is
thrown away. A ratio is ours to the best peer's (in bold) of one round: absolute figures drift by a
third from one hour to the next, ratios do not. Where a goal differs by distance, cores are *near*
when a cache line's round trip between them takes less than 250 ns, else *far*.
"""


# ---- what was measured ---------------------------------------------------------------------------


def load(directory: Path) -> list[Report]:
    """Return the reports, in the order of run.py; exits where they do not make one document."""
    found = [
        json.loads(path.read_text())
        for path in (directory / f"{name}.json" for name in NAMES)
        if path.exists()
    ]
    if not found:
        raise SystemExit(f"bench-report: nothing was measured in {directory}: make bench")
    for report in found:
        again = f"make bench B={report['name']}"
        if report["quick"]:
            raise SystemExit(
                f"bench-report: {report['name']} was made with --quick,"
                f" which says nothing of speed: {again}"
            )
        if fixed(report["machine"]) != fixed(found[0]["machine"]):
            raise SystemExit(
                f"bench-report: {report['name']} and {found[0]['name']}"
                f" were measured on different machines: {again}"
            )
    return found


def fixed(machine: dict[str, Any]) -> dict[str, Any]:
    """What of a machine does not change from one minute to the next."""
    return {key: value for key, value in machine.items() if key != "distance"}


def rivals(result: Result) -> tuple[str, tuple[str, ...]]:
    ours, *peers = result["values"]
    return ours, tuple(peers)


def parts(result: Result) -> list[str]:
    return re.split("[/-]", result["case"])


def number(part: str) -> float | None:
    """Return the number that a part of a case's name is: of 64, 0.5us, p99.9."""
    there = NUMBER.fullmatch(part)
    return float(there.group(1)) if there else None


def alike(found: Sequence[Result]) -> list[list[Result]]:
    """Divide cases into those that go into one table and one plot: of the same peers and unit."""
    made: dict[Any, list[Result]] = {}
    for r in found:
        made.setdefault((rivals(r)[1], r["unit"]), []).append(r)
    return list(made.values())


# ---- tables --------------------------------------------------------------------------------------


def cell(spread: dict[str, float], strong: bool = False) -> str:
    low, median, high = (
        f"{value:.0f}" if value >= 100 else f"{value:.3g}"
        for value in (spread["low"], spread["median"], spread["high"])
    )
    mark = "**" if strong else ""
    return f"{mark}{median}{mark}" + (f" ({low} … {high})" if low != high else "")


def table(found: Sequence[Result]) -> str:
    """One of cases that are alike."""
    _, peers = rivals(found[0])
    unit = found[0]["unit"]
    head = ("case", f"FAL, {unit}" if unit else "FAL", *peers)
    head += ("ratio", "goal", "verdict", "rounds, thrown away")
    rows = [head, ("---",) * len(head)]
    for r in found:
        ours, _ = rivals(r)
        values = [cell(r["values"][ours])]
        values += [cell(r["values"][peer], peer == r["peer"]) for peer in peers]
        ratio = cell(r["ratio"]) if r["peer"] else ""  # a goal for the value itself
        goal, verdict = r["goal"] or "", r["verdict"] or "reported"
        rounds = f"{r['rounds']}, {r['thrown_away']}"
        rows.append((r["case"] or "", *values, ratio, goal, verdict, rounds))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


# ---- plots ---------------------------------------------------------------------------------------


def panels(name: str, found: Sequence[Result]) -> list[tuple[str, list[tuple[str, Result]]]]:
    """Return (title, [(x, result)]) of each panel: cases whose names differ in one number, which is
    x; the largest first, as many as show every case once; then those that differ in words, too."""
    differ: dict[Any, list[tuple[str, Result]]] = {}
    for r in found:
        for at, part in enumerate(parts(r)):
            others = [*parts(r)[:at], *parts(r)[at + 1 :]]
            if number(part) is not None:  # a worker, 8 workers
                key = at, *(other.removesuffix("s") for other in others)
                differ.setdefault(key, []).append((part, r))
    shown: set[str] = set()
    made = []
    for (at, *_), some in sorted(
        differ.items(), key=lambda x: (x[0][0] != X.get(name), -len(x[1]))
    ):
        cases = {r["case"] for _, r in some}
        if len(cases) > 1 and not cases <= shown:
            shown |= cases
            same = parts(some[0][1])
            title = " ".join(p for n, p in enumerate(same) if n != at and p != some[0][1]["unit"])
            made.append((title, sorted(some, key=lambda x: number(x[0]) or 0)))
    left = [r for r in found if r["case"] not in shown]
    if left:
        made.append(("", [(r["case"].removesuffix(f"/{r['unit']}"), r) for r in left]))
    return made


def draw(axes: Any, some: Sequence[tuple[str, Result]]) -> None:
    """Draw all rivals of the cases over x; quartiles as bars."""
    lines = number(some[0][0]) is not None
    names = ["FAL", *rivals(some[0][1])[1]]
    every = [spread["median"] for _, r in some for spread in r["values"].values()]
    for k, name in enumerate(names):
        spreads = [list(r["values"].values())[k] for _, r in some]
        medians = [s["median"] for s in spreads]
        off = [
            [s["median"] - s["low"] for s in spreads],
            [s["high"] - s["median"] for s in spreads],
        ]
        style = {"label": name, "capsize": 2}
        if lines:
            axes.errorbar(range(len(some)), medians, off, marker=MARKS[k % len(MARKS)], **style)
        else:
            width = 0.8 / len(names)
            at = [i + width * (k - (len(names) - 1) / 2) for i in range(len(some))]
            axes.bar(at, medians, width, yerr=off, **style)
    axes.set_xticks(range(len(some)), [x or "all" for x, _ in some])
    if not lines:
        axes.tick_params("x", rotation=90 if len(some) > 6 else 20)
    if min(every) > 0 and max(every) > 100 * min(every):
        axes.set_yscale("log")
        axes.minorticks_off()
    else:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", linewidth=0.3)


def plot(name: str, found: Sequence[Result], to: Path) -> None:
    """Write the plot of cases that are alike, as SVG; the same bytes for the same figures."""
    made = panels(name, found)
    columns = min(3, len(made))
    rows = -(-len(made) // columns)
    wide = 4 if columns > 1 or len(made[0][1]) < 8 else 8
    figure = Figure(figsize=(wide * columns, 3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(made) :]:
        axes.remove()
    for axes, (title, some) in zip(grid.flat, made, strict=False):
        draw(axes, some)
        axes.set_title(title, fontsize="medium")
        axes.set_ylabel(found[0]["unit"])
    grid.flat[0].legend(fontsize="small")
    with matplotlib.rc_context({"svg.hashsalt": "fal", "svg.fonttype": "none"}):
        figure.savefig(to, metadata={"Date": None, "Creator": None})


# ---- the document --------------------------------------------------------------------------------


def about(name: str) -> str:
    """Return what the suite's file says of itself."""
    text = (ROOT / "bench" / "suite" / f"{name}.py").read_text()
    return ast.get_docstring(ast.parse(text)) or ""


def section(report: Report, plots: Path) -> str:
    name = report["name"]
    text = f"\n## {name}\n\n{about(name)}\n"
    for n, some in enumerate(alike(report["results"])):
        if len(some) > 1 or rivals(some[0])[1]:
            picture = f"{name}{n or ''}.svg"
            plot(name, some, plots / picture)
            text += f"\n![{name}]({plots.name}/{picture})\n"
        text += f"\n{table(some)}"
    return text


def write(found: Sequence[Report], docs: Path) -> None:
    plots = docs / "benchmarks"
    plots.mkdir(parents=True, exist_ok=True)
    for old in plots.glob("*.svg"):
        old.unlink()
    text = HEAD.format(**found[0]["machine"])
    text += "".join(section(report, plots) for report in found)
    (docs / "benchmarks.md").write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench-report", description=__doc__, allow_abbrev=False)
    parser.add_argument("--results", type=Path, default=RESULTS, help="what run.py wrote")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where to write")
    options = parser.parse_args()
    found = load(options.results)
    write(found, options.docs)
    if missing := [name for name in NAMES if name not in {r["name"] for r in found}]:
        page = options.docs / "benchmarks.md"
        print(f"bench-report: {page} is without {', '.join(missing)}: make bench B=NAME")
    for report in found:
        if report["name"] == "scale":
            model.write(report, options.docs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
