"""The protocols between two sides, in every interleaving that there is: spin checks the models.

Each model says what it stands for, what is claimed, and which definitions break it; those that do
must give a counterexample, else the claim shows nothing.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from support import side_by_side

HERE = Path(__file__).parent
# The model, then its definitions.
HOLD = [
    ("bell", "HOW=EDGE", "BELLS=1"),
    ("bell", "HOW=EDGE", "BELLS=2"),
    ("bell", "HOW=LEVEL", "BELLS=1"),
    ("bell", "HOW=LEVEL", "BELLS=2"),
    ("bell", "HOW=BLOCK", "BELLS=1", "MOST=1"),
    ("bell", "HOW=BLOCK", "BELLS=2", "MOST=1"),
    ("plan",),
]
LONG = [("bell", "HOW=BLOCK", "BELLS=1")]
FAIL = [
    ("bell", "HOW=EDGE", "NO_POLLER_FENCE"),
    ("bell", "HOW=LEVEL", "NO_POLLER_FENCE"),
    ("bell", "HOW=BLOCK", "NO_POLLER_FENCE"),
    ("bell", "HOW=EDGE", "NO_WORKER_FENCE"),
    ("bell", "HOW=LEVEL", "NO_WORKER_FENCE"),
    ("bell", "HOW=BLOCK", "NO_WORKER_FENCE"),
    ("bell", "HOW=LEVEL", "NO_SECOND_LOOK"),
    ("bell", "HOW=EDGE", "DRAINED_LATE"),
    ("bell", "HOW=EDGE", "NO_ARM_ON_NOTHING"),
    ("bell", "HOW=BLOCK", "WOKEN_ALL_THE_SAME"),
    ("bell", "HOW=BLOCK", "END_BEFORE_PACKETS"),
    ("plan", "NO_WAIT"),
    ("plan", "USED_AGAIN_AT_ONCE"),
    ("plan", "NOT_TAKEN_BACK"),
    ("plan", "FREED_EARLY"),
    ("plan", "BOOKED_TO_THE_NEWEST"),
]


def errors(case: tuple[str, ...], directory: Path) -> int:
    """Check a model to its end; returns 1 if there is a counterexample, 0 if there can be none."""
    model, *definitions = case

    def output(*command: str) -> str:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    spin = ["spin", "-a", *(f"-D{d}" for d in definitions), str(HERE / f"{model}.pml")]
    output(*spin)
    # A counterexample is found sooner than a compiler can optimise.
    output("gcc", "-O0" if case in FAIL else "-O1", "-w", "-DSAFETY", "-o", "pan", "pan.c")
    report = output("./pan", "-m10000")
    assert "max search depth too small" not in report
    found = int(re.search(r"errors: (\d+)", report)[1])
    assert found or "Search not completed" not in report, report
    return found


@pytest.fixture(scope="module")
def found(request):
    with side_by_side(request, errors) as result:
        yield result


@pytest.mark.parametrize(
    "case", [*HOLD, *(pytest.param(case, marks=pytest.mark.long) for case in LONG)], ids=" ".join
)
def test_holds(found, case):
    assert found(case) == 0


@pytest.mark.parametrize("case", FAIL, ids=" ".join)
def test_broken_on_purpose(found, case):
    assert found(case) == 1


@pytest.mark.parametrize("model", sorted(path.stem for path in HERE.glob("*.pml")))
def test_every_break_is_tried(model):
    text = (HERE / f"{model}.pml").read_text()
    breaks = set(re.findall(r"#ifn?def (\w+)\n", text)) - {"MOST", "BELLS"}
    assert breaks
    assert breaks == {case[-1] for case in FAIL if case[0] == model}
