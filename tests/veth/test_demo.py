"""`make demo` is the first thing that a user sees: it must run, and say that all is well."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import NOBODY

DEMO = Path(__file__).parents[2] / "demo" / "demo.py"


@pytest.mark.parametrize("who", [(), NOBODY], ids=["root", "nobody"])
def test_the_demo(who):
    env = {k: v for k, v in os.environ.items() if k != "FAL_RUNTIME_DIR"}
    done = subprocess.run([*who, sys.executable, DEMO], env=env, capture_output=True, text=True)
    words = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no flow on two workers but for the moved buckets" in words
    assert words.count("balanced") == 2
    assert "WRONG" not in words
    namespaces = subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
    assert "fal-demo-" not in namespaces
