"""`make demo` is the first thing that a user sees: it must run, and say that all is well."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import NOBODY, side_by_side

DEMO = Path(__file__).parents[2] / "demo" / "demo.py"


WHO = {"root": (), "nobody": NOBODY}


@pytest.fixture(scope="module")
def shown(request):
    env = {k: v for k, v in os.environ.items() if k != "FAL_RUNTIME_DIR"}

    def demo(who, _):
        command = [*WHO[who], sys.executable, DEMO]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    with side_by_side(request, demo) as result:
        yield result


@pytest.mark.parametrize("case", WHO)
def test_the_demo(shown, case):
    done = shown(case)
    words = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no flow on two workers but for the moved buckets" in words
    assert words.count("balanced") == 2
    assert "WRONG" not in words


def test_it_leaves_nothing_behind(shown):
    shown("root")
    namespaces = subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    assert "fal-demo-" not in namespaces
