"""The benchmarks work: each runs for a moment.  How fast anything is, is not asserted here."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest
from support import eventually, ip

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from peers.hashes import Flows, additive, toeplitz  # noqa: E402
from trials import Case, Rival, Trial, of, play, results  # noqa: E402

NAMES = sorted(path.stem for path in (ROOT / "bench" / "suite").glob("*.py"))
LINE = r"{}(/\S+)? ratio=[0-9.e+-]+ goal=(none|[<>]=[0-9.]+) verdict=(ok|short|reported)"


@pytest.mark.timeout(300)  # the first one builds the programs
@pytest.mark.parametrize("name", NAMES)
def test_each_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "run.py", "--quick", "--results", tmp_path, name],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    report = json.loads((tmp_path / f"{name}.json").read_text())
    assert (report["name"], report["quick"]) == (name, True)
    lines = done.stdout.splitlines()[-len(report["results"]) :]
    for line, result in zip(lines, report["results"], strict=True):
        assert re.fullmatch(LINE.format(name), line), line
        assert result["ratio"]["low"] <= result["ratio"]["median"] <= result["ratio"]["high"]
        assert result["rounds"] > 0


def living(group: int) -> list[str]:
    """Return the names of the processes of a group."""
    lines = subprocess.check_output(["ps", "-eo", "pgid=,stat=,comm="], text=True).splitlines()
    words = [line.split() for line in lines]
    return [comm for pgid, stat, comm in words if int(pgid) == group and stat[0] != "Z"]


@pytest.mark.parametrize(
    ("name", "program", "number"),
    [("ring", "ring_fal", signal.SIGTERM), ("capture", "capture_fal", signal.SIGINT)],
)
def test_interrupted(name: str, program: str, number: signal.Signals) -> None:
    """All that it started ends with it, and its namespaces go."""
    command = [sys.executable, ROOT / "bench" / "run.py", name]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, process_group=0) as running:
        eventually(lambda: program in living(running.pid), 120)
        running.send_signal(number)
        _, said = running.communicate(timeout=20)
    assert (running.returncode, said) == (128 + number, "")
    eventually(lambda: not living(running.pid))
    assert f"fal-test-{running.pid}-" not in ip("netns")


def flows(source: str, destination: str) -> Flows:
    """Of the ports 2794 and 1766."""
    ends = [ip_address(end).packed for end in (source, destination)]
    words = [np.frombuffer(end, ">u4").astype(np.uint32)[None, :] for end in ends]
    return Flows(*words, *(np.array([port], np.uint32) for port in (2794, 1766)))


def test_the_hashes_of_the_peers_are_theirs() -> None:
    """RSS's by the vectors that come with its definition; PF_RING's by hand."""
    key = bytes.fromhex(
        "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
    )
    four = flows("66.9.149.187", "161.142.100.80")
    six = flows("3ffe:2501:200:1fff::7", "3ffe:2501:200:3::1")
    assert toeplitz(four, key) == [0x51CCC178]
    assert toeplitz(six, key) == [0x40207D3D]
    assert toeplitz(four) == toeplitz(flows("161.142.100.80", "66.9.149.187"))
    assert additive(flows("0.0.1.2", "0.0.0.3")) == [258 + 3 + 2794 + 1766 + 6]


def case(ours: float, peers: list[float], **more: object) -> Case:
    rivals = [Rival(str(n), lambda v=v: Trial(v)) for n, v in enumerate(peers)]  # type: ignore[misc]
    return Case("", Rival("ours", lambda: Trial(ours)), rivals, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ours", "peers", "more", "ratio", "peer", "verdict"),
    [
        (12, [10, 6], {"goal": ">=1.15"}, 1.2, "0", "ok"),
        (12, [10, 11], {"goal": ">=1.15"}, 12 / 11, "1", "short"),  # the best peer counts
        (8, [10, 20], {"goal": "<=0.8", "lower": True}, 0.8, "0", "ok"),
        (9, [20, 10], {"goal": "<=0.8", "lower": True}, 0.9, "1", "short"),
        (9, [10], {}, 0.9, "0", ""),
        (9, [2], {"goal": "<=9", "absolute": True}, 9, "", "ok"),  # of our value alone
        (9, [2], {"goal": "<=8", "absolute": True}, 9, "", "short"),
        (9, [10], {"goal": {"near": ">=0.5", "far": ">=2"}}, 0.9, "0", "ok"),
    ],
)
def test_verdict(ours, peers, more, ratio, peer, verdict):
    (result,) = results(play(case(ours, peers, **more), 3, lambda: "near"))
    assert (result["ratio"]["median"], result["peer"]) == (pytest.approx(ratio), peer)
    assert (result["verdict"], result["rounds"], result["thrown_away"]) == (verdict, 3, 0)


def test_rounds_that_do_not_count(capsys):
    """Where the distance changed, or a thread was off its CPU; what remains is told apart."""
    probes = iter(["near", "far"] + ["near"] * 4 + ["far"] * 2)
    trials = iter([Trial(1), Trial(2, off=0.04), Trial(3), Trial(4)])
    goal = {"near": ">=1", "far": ">=4"}
    made = Case("x", Rival("ours", lambda: next(trials)), [Rival("a", lambda: Trial(1))], goal)
    near, far = results(play(made, 2, lambda: next(probes)))
    assert (near["case"], near["ratio"]["median"], near["verdict"]) == ("x/near", 3, "ok")
    assert (far["case"], far["ratio"]["median"], far["verdict"]) == ("x/far", 4, "ok")
    assert near["thrown_away"] == 2
    never = Case("x", Rival("ours", lambda: Trial(1, off=1)), [Rival("a", lambda: Trial(1))])
    assert results(play(never, 2, lambda: "near")) == []
    assert "not quiet" in capsys.readouterr().err
    (alone,) = results(play(never, 1, lambda: "near"))  # one round only shows that it works
    assert alone["rounds"] == 1


def test_what_else_trials_gave_is_a_case_of_its_own():
    ours = Rival("ours", lambda: Trial(9, more={"p99": 2}))
    done = play(Case("x", ours, [Rival("a", lambda: Trial(1, more={"p99": 4}))]), 3, lambda: "near")
    (result,) = results(of(done, "p99", ">=0.5"))
    assert (result["case"], result["ratio"]["median"], result["verdict"]) == ("x/p99", 0.5, "ok")
    assert (result["rounds"], result["values"]["a"]["median"]) == (3, 4)
