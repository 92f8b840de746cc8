# SPDX-License-Identifier: BSD-3-Clause
"""The examples of the documentation, run as they stand."""

import doctest
import re
import sys
import textwrap
from pathlib import Path

import pytest
from support import NULL, run

import fal

ROOT = Path(__file__).parents[2]


def test_fanout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "demo")
    failed, tried = doctest.testfile(str(ROOT / "docs/fanout.md"), module_relative=False)
    assert tried > 10
    assert failed == 0


def test_python(start_poller) -> None:
    text = (ROOT / "docs/python.md").read_text()
    example = r"`fal-poller ([^`]*)`:\n\n((?:    .*\n|\n)*)prints\n\n((?:    .*\n)*)"
    words, program, printed = re.search(example, text).groups()
    start_poller(*words.split(), "--hugepages", "off")
    done = run(sys.executable, "-Pc", textwrap.dedent(program))
    assert (done.stdout, done.stderr) == (re.sub("^    ", "", printed, flags=re.MULTILINE), "")


def test_every_key_of_fal_stat(start_poller) -> None:
    poller = start_poller("made", *NULL, "--count", "100", "--wait", "2")
    text = (ROOT / "docs/stat.md").read_text()

    def keys(value):
        if isinstance(value, dict):
            yield from value
        for part in value.values() if isinstance(value, dict) else value:
            if isinstance(part, dict | list):
                yield from keys(part)

    with fal.open(poller.device), fal.open(poller.device, group=1):
        assert [key for key in keys(poller.stat()) if f"`{key}`" not in text] == []


def test_man_pages() -> None:
    """Those that are installed, without a warning from groff; each refers to pages that exist."""
    installed = Path(sys.prefix) / "share" / "man"
    pages = sorted((ROOT / "docs/man").iterdir())
    ours = {page.stem for page in pages}
    for page in pages:
        there = installed / f"man{page.suffix[1:]}" / page.name
        assert there.read_text() == page.read_text()
        done = run("groff", "-man", "-Tutf8", "-wall", "-z", page)
        assert (done.returncode, done.stderr) == (0, "")
        also = page.read_text().split(".SH SEE ALSO")[1]
        named = re.findall(r"^\.BR (\S+) \((\d)", also, re.MULTILINE)
        assert {name for name, _ in named} & ours
        assert all(
            (ROOT / "docs/man" / f"{name}.{n}").exists() for name, n in named if name in ours
        )
