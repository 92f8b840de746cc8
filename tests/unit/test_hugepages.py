"""`fal-hugepages`: on a tree as sysfs is, with two nodes, and on the machine itself."""

import json
import re
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
from support import BIN, huge_pages_kept, run

SCRIPT = Path(__file__).parents[2] / "hugepages" / "fal-hugepages"
FILES = {"nr_hugepages": 0, "free_hugepages": 0, "surplus_hugepages": 0}


class Tree:
    """What sysfs has of two NUMA nodes; nobody fills in what a kernel would."""

    def __init__(self, path):
        self.sysfs, self.state = path / "sys", path / "state" / "hugepages.json"
        for node in (0, 1):
            for size in ("2048kB", "1048576kB"):
                for name, value in FILES.items():
                    file = self.file(node, name, size)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(f"{value}\n")
        for name in ("online", "possible"):  # no nodes, but their names are like it
            (self.sysfs / "devices/system/node" / name).write_text("0-1\n")

    def file(self, node, name, size="2048kB"):
        return self.sysfs / f"devices/system/node/node{node}/hugepages/hugepages-{size}" / name

    def set(self, node, reserved, free):
        self.file(node, "nr_hugepages").write_text(f"{reserved}\n")
        self.file(node, "free_hugepages").write_text(f"{free}\n")

    def reserved(self):
        return [int(self.file(node, "nr_hugepages").read_text()) for node in (0, 1)]

    def run(self, *words, code=0):
        done = run(SCRIPT, "--sysfs", str(self.sysfs), "--state", str(self.state), *words)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_show(tree):
    tree.set(1, 60, 13)
    assert tree.run("show").splitlines() == [
        "node 0: 0 reserved (0 MiB), 0 free",
        "node 1: 60 reserved (120 MiB), 13 free",
    ]


def test_reserve_and_undo(tree):
    tree.set(0, 10, 4)
    assert "node 0: 10 -> 34" in tree.run("reserve", "55")  # 28 free, and 27 on the other node
    assert tree.reserved() == [34, 27]
    tree.set(1, 27, 27)
    tree.run("reserve", "20", "--node", "1")  # they are free already
    assert tree.reserved() == [34, 27]
    tree.run("reserve", "30", "--node", "1")
    assert tree.reserved() == [34, 30]
    assert f"undo is there: {tree.state}" in tree.run("show")
    assert json.loads(tree.state.read_text()) == {"0": 10, "1": 0}
    assert tree.run("undo", "--dry-run").count("not done") == 2
    assert tree.reserved() == [34, 30]
    tree.run("undo")
    assert tree.reserved() == [10, 0]
    assert not tree.state.exists()
    assert "nothing to undo" in tree.run("undo")
    assert {tree.file(n, "nr_hugepages", "1048576kB").read_text() for n in (0, 1)} == {"0\n"}


def test_dry_run(tree):
    assert tree.run("reserve", "3", "--dry-run").splitlines() == [
        "node 0: 0 -> 2 (not done)",
        "node 1: 0 -> 1 (not done)",
    ]
    assert tree.reserved() == [0, 0]
    assert not tree.state.exists()


def test_refusals(tree, tmp_path):
    assert "no node 7 (there are: 0, 1)" in tree.run("reserve", "1", "--node", "7", code=1)
    assert "'0' is not a number from 1" in tree.run("reserve", "0", code=2)
    tree.state.parent.mkdir()
    for damage in ("{", "[]", '{"0": "many"}'):
        tree.state.write_text(damage)
        assert "damaged" in tree.run("undo", code=1)
    tree.state.unlink()
    target = tmp_path / "elsewhere"
    tree.state.symlink_to(target)
    tree.run("reserve", "1")
    assert not target.exists()
    done = run(SCRIPT, "--sysfs", str(tmp_path / "none"), "show")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fal-hugepages: no NUMA node ")


def test_a_kernel_that_finds_fewer(tree, monkeypatch, capsys):
    """Not on the machine: it would give all its memory."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = SourceFileLoader("script", str(SCRIPT))
    script = module_from_spec(spec_from_loader("script", loader))
    loader.exec_module(script)
    reserved = script.Pages.reserved
    few = property(reserved.fget, lambda pages, count: reserved.fset(pages, min(count, 20)))
    monkeypatch.setattr(script.Pages, "reserved", few)
    words = ["--sysfs", str(tree.sysfs), "--state", str(tree.state), "reserve", "50"]
    monkeypatch.setattr(sys, "argv", ["fal-hugepages", *words])
    with pytest.raises(SystemExit, match=r"not all 50 could be had.*hugepages=50"):
        script.main()
    assert "node 1: 0 -> 20, not 25" in capsys.readouterr().out
    assert tree.reserved() == [20, 20]
    tree.run("undo")
    assert tree.reserved() == [0, 0]


def test_on_the_machine(tmp_path):
    """It is what `make build` installs that runs here."""
    words = (BIN / "fal-hugepages", "--state", str(tmp_path / "state"))

    def free():
        lines = run(*words, "show").stdout
        return sum(int(n) for n in re.findall(r"(\d+) free", lines))

    with huge_pages_kept() as reserved:
        before, was_free = reserved.read_text(), free()
        done = run(*words, "reserve", str(was_free + 3))
        assert done.returncode == 0, done.stderr
        assert int(reserved.read_text()) == int(before) + 3
        assert free() == was_free + 3
        assert run(*words, "undo").returncode == 0
        assert reserved.read_text() == before
