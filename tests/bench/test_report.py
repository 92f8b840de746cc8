"""`make bench-report`: of made results, the document and the plots; what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import report as drawn  # noqa: E402

MACHINE = {"cpu": "6502", "cpus": 2, "kernel": "6.18", "python": "3.11", "distance": "near"}


def spread(median: float) -> dict[str, float]:
    return {"low": 0.9 * median, "median": median, "high": 1.1 * median}


def result(case: str, ours: float, **peers: float) -> dict[str, Any]:
    """Of a case with the goal that ours is at least the best peer; without peers, 100."""
    best = max(peers, key=peers.__getitem__, default="")
    ratio = ours / peers[best] if best else ours
    return {
        "case": case,
        "ratio": spread(ratio),
        "peer": best,
        "goal": ">=1" if best else "<=100",
        "verdict": "ok" if ratio >= 1 else "short",
        "unit": "M/s" if best else "instructions",
        "values": {"mine": spread(ours)} | {name: spread(v) for name, v in peers.items()},
        "more": {},
        "rounds": 25,
        "thrown_away": 3,
    }


def write(directory: Path, name: str, *results: dict[str, Any], **other: Any) -> None:
    directory.mkdir(exist_ok=True)
    report = {"name": name, "quick": False, "machine": MACHINE, "results": results} | other
    (directory / f"{name}.json").write_text(json.dumps(report))


@pytest.fixture
def report(tmp_path):
    """Draw what was written into tmp_path/results: report() returns its end, and where it wrote."""
    number = count()

    def draw():
        docs = tmp_path / f"docs{next(number)}"
        words = ("--results", tmp_path / "results", "--docs", docs)
        command = [sys.executable, ROOT / "bench" / "report.py", *words]
        return subprocess.run(command, capture_output=True, text=True), docs

    return draw


def test_tables(report, tmp_path):
    sizes = [result(f"{n}/near", n, theirs=32.0, other=2.0) for n in (8, 64)]
    write(tmp_path / "results", "ring", *sizes, result("parse", 61))
    done, docs = report()
    assert (done.returncode, done.stderr) == (0, "")
    assert "benchmarks.md is without busy, capture, cost, " in done.stdout
    text = (docs / "benchmarks.md").read_text()
    for line in (
        "    6502, 2 CPUs, Linux 6.18, Python 3.11",
        "Our ring of descriptors beside DPDK's rte_ring, between two pinned processes.",  # its file
        "| case | FAL, M/s | theirs | other | ratio | goal | verdict | rounds, thrown away |",
        "| 64/near | 64 (57.6 … 70.4) | **32** (28.8 … 35.2) | 2 (1.8 … 2.2) | 2 (1.8 … 2.2)"
        " | >=1 | ok | 25, 3 |",
        "| parse | 61 (54.9 … 67.1) |  | <=100 | ok | 25, 3 |",
    ):
        assert line in text.splitlines()
    (picture,) = (docs / "benchmarks").iterdir()  # of one figure alone there is none
    assert f"(benchmarks/{picture.name})" in text


def test_plots(report, tmp_path):
    """By size, a panel for each number of workers; the same each time, and small."""
    cases = [f"{size}/{n}-workers" for n in (1, 2) for size in (1514, 64, 256)]
    write(tmp_path / "results", "ring", *(result(case, 5, theirs=4) for case in cases))
    (_, first), (_, second) = report(), report()
    picture = (first / "benchmarks" / "ring.svg").read_bytes()
    assert picture == (second / "benchmarks" / "ring.svg").read_bytes()
    assert len(picture) < 60000
    words = re.findall(r"<text.*?>([^<]*)</text>", picture.decode())
    assert [word for word in words if "workers" in word] == ["1 workers", "2 workers"]
    assert [word for word in words if word in ("64", "256", "1514")] == 2 * ["64", "256", "1514"]
    assert {"FAL", "theirs", "M/s"} <= set(words)


def test_panels():
    """Each case is shown: what differs in one number together, by it; the others by their names."""
    cases = ["64/2-workers/hash", "1514/2-workers/hash", "64/1-worker/hash", "64/2-workers/lb", "x"]
    panels = [
        (title, [x for x, _ in some])
        for title, some in drawn.panels("ring", [result(case, 5, theirs=4) for case in cases])
    ]
    assert panels == [
        ("2 workers hash", ["64", "1514"]),
        ("64 workers hash", ["1", "2"]),
        ("", ["64/2-workers/lb", "x"]),
    ]


def test_refused(report, tmp_path):
    directory = tmp_path / "results"
    assert_refused(report, f"nothing was measured in {directory}: make bench")
    write(directory, "ring", result("", 5, theirs=4))
    write(directory, "scale", result("", 5, theirs=4), machine=MACHINE | {"kernel": "6.1"})
    assert_refused(report, "on different machines: make bench B=")
    write(directory, "scale", result("", 5, theirs=4), quick=True)
    assert_refused(report, "scale was made with --quick, which says nothing of speed: make bench")


def assert_refused(report, why: str) -> None:
    done, docs = report()
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("bench-report: ")
    assert why in line
    assert not docs.exists()
