"""The model of docs/scaling.md finds what points were made of, and the page has its tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import model  # noqa: E402
from suite import scale  # noqa: E402

RING, GROUP, BYTE, READ = 0.5, 20.0, 0.01, 0.05


@pytest.fixture
def made():
    """Points of a machine whose costs are exactly linear, named as the suite names them."""
    found = {}
    for points in scale.families(0, 0):
        for name in (rival.name for rival in points):
            kind, *parts = name.split("/")
            numbers = [int(part.partition("-")[0]) for part in parts]
            if kind == "poller":
                size, workers, groups = numbers
                size = size or model.IMIX
                grown = RING * workers * groups + GROUP * (groups - 1) + BYTE * (size - 64)
                found[name] = 30 + grown
            elif kind == "af_xdp":
                workers, groups = numbers
                found[name] = 70 + RING * workers * groups + GROUP * (groups - 1)
            elif kind == "worker":
                found[name] = 5 + READ * numbers[1]
            else:
                found[name] = 20.0
    return found


def test_fit(made):
    m = model.Model(made)
    assert [m.base, m.ring, m.group, m.byte] == pytest.approx([30, RING, GROUP, BYTE])
    assert [m.packet, m.read] == pytest.approx([5, READ])
    rows = [line.split(" | ") for line in model.check(m).splitlines()[2:]]
    assert len(rows) >= 2
    assert {off.rstrip(" |") for *_, off in rows} <= {"+0 %", "-0 %"}


def test_what_is_checked_was_not_fitted(made):
    """Each point that the model says it predicts may be anything, without a change to it."""
    fitted = vars(model.Model(made)) | {"points": None}
    checked = [shape.key for shape in model.CHECKED]
    checked += [scale.AF_XDP.format(*woken) for woken in model.WOKEN]
    assert set(checked) < set(made)
    other = made | dict.fromkeys(checked, 1e6)
    assert vars(model.Model(other)) | {"points": None} == fitted


def test_line_rates():
    """64 bytes with the check sequence are 148.8 million packets a second at 100 Gb/s."""
    assert 1000 * model.rate(100, 60) == pytest.approx(148.81, abs=0.01)
    assert 1000 * model.rate(100, 1514) == pytest.approx(8.127, abs=0.001)


def test_the_page_has_the_tables():
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "model.py"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    page = (ROOT / "docs" / "scaling.md").read_text()
    tables = done.stdout.strip("\n").split("\n\n")
    assert len(tables) == page.count("<!-- end -->") > 0
    assert all(f" -->\n{table}\n<!-- end -->" in page for table in tables)


def test_written_anew(made, tmp_path):
    """As make bench-report does: the points at one distance, near if it can be, and the tables."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "scaling.md").write_text((ROOT / "docs" / "scaling.md").read_text())
    results = [
        {
            "case": f"{point.name}/{where}",
            "ratio": {"median": made[point.name] / made[first.name]},
            "peer": first.name,
            "values": {first.name: {"median": factor * made[first.name]}},
        }
        for where, factor in (("far", 2), ("near", 1))
        for first, *others in scale.families(0, 0)
        for point in others
    ]
    model.write({"results": results}, tmp_path)
    assert model.load(tmp_path) == pytest.approx(made, abs=0.01)
    with pytest.raises(SystemExit, match="make bench B=scale"):
        model.points({"results": results[1:-1]})
    page = (tmp_path / "scaling.md").read_text()
    assert all(table in page for table in model.tables(model.load(tmp_path)).values())
