"""`make bench`: FAL beside its peers, on the same work, in turn.

Prints a table, and of each case a line `NAME[/CASE] ratio=… goal=… verdict=ok|short`; writes JSON
to build/bench/results/, from which `make bench-report` draws docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from trials import BUILT, build, distance

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("suite/*.py"))
RESULTS = BUILT / "results"


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = [line for line in lines if line.startswith("model name")]
    return {
        "cpu": model[0].partition(": ")[2] if model else platform.machine(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "distance": distance(),
    }


def table(name: str, found: list[dict[str, Any]]) -> Table:
    made = Table("case", "rival", "median", "quartiles", "unit", title=name, title_justify="left")
    for r in found:
        for rival, spread in r["values"].items():
            low, median, high = (f"{spread[key]:.4g}" for key in ("low", "median", "high"))
            made.add_row(r["case"], rival, median, f"{low} … {high}", r["unit"])
        made.add_section()
    return made


def line(name: str, r: dict[str, Any]) -> str:
    label = "/".join(filter(None, (name, r["case"])))
    goal, verdict = r["goal"] or "none", r["verdict"] or "reported"
    return f"{label} ratio={r['ratio']['median']:.3g} goal={goal} verdict={verdict}"


def known(name: str) -> str:
    if name not in NAMES:
        raise argparse.ArgumentTypeError(f"no '{name}' (there are: {', '.join(NAMES)})")
    return name


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("name", nargs="*", type=known, help=f"which of {', '.join(NAMES)} (all)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes")
    parser.add_argument("--quick", action="store_true", help="for a moment: to see that it works")
    options = parser.parse_args()
    for ending in (signal.SIGINT, signal.SIGTERM):  # what was set up is taken down
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    build()
    for name in options.name or NAMES:
        try:
            found = importlib.import_module(f"suite.{name}").run(options.quick)
        except subprocess.TimeoutExpired as error:
            raise SystemExit(f"bench: {error}") from None
        options.results.mkdir(parents=True, exist_ok=True)
        report = {"name": name, "quick": options.quick, "machine": machine(), "results": found}
        (options.results / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
        Console(width=120).print(table(name, found))
        for r in found:
            print(line(name, r), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
