# SPDX-License-Identifier: BSD-3-Clause
"""The examples of the documentation, run as they stand."""

import doctest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_fanout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "demo")
    failed, tried = doctest.testfile(str(ROOT / "docs/fanout.md"), module_relative=False)
    assert tried > 10
    assert failed == 0
