"""`fal captop`: it counts every packet, sums over all its workers, and tells who was lost."""

import json
import os
import re
import signal
import subprocess
import time

import psutil
import pytest
from support import BIN, NULL, eventually, run

import fal


def captop(*words):
    return subprocess.Popen(
        [BIN / "fal", "captop", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process, code=0):
    out, err = process.communicate(timeout=20)
    assert process.returncode == code, err
    return out, err


def members(poller):
    return [m for g in poller.look()["groups"] for m in g["members"] if m["started"]]


def test_what_does_not_match_is_counted_apart(start_poller):
    """Of 64 flows of the null backend, each from another port, one matches."""
    poller = start_poller("dev", *NULL, "--wait", "2", "--count", "6400")
    top = captop("dev", "--workers", "2", "--json", "--filter", "udp src port 10007")
    report = json.loads(ended(top)[0])
    assert poller.wait() == 0
    assert (report["captured"], report["filtered"], report["ring_dropped"]) == (100, 6300, 0)
    assert "syntax error" in ended(captop("dev", "--filter", "port"), 1)[1]


KINDS = pytest.mark.parametrize("kind", [(), ("--threads",)], ids=["processes", "threads"])


@KINDS
def test_every_packet_is_counted(start_poller, kind):
    """The source ends, and with it the workers: what one did not count, its ring had dropped."""
    count = 400_000
    poller = start_poller("dev", *NULL, "--wait", "3", "--count", str(count))
    top = captop("dev", "--workers", "3", "--json", *kind)
    report = json.loads(ended(top)[0])
    assert poller.wait() == 0
    assert report["device"] == "fal:dev"
    assert report["captured"] + report["ring_dropped"] == count
    assert report["if_dropped"] == 0
    workers = report["workers"]
    for w in workers:  # of 64 flows, by their hash
        assert w["packets"] > 0
        assert w["packets"] + w["ring_dropped"] > count / 20
    assert [w["bytes"] for w in workers] == [60 * w["packets"] for w in workers]
    for name in ("packets", "bytes", "ring_dropped"):
        for i, w in enumerate(workers):
            assert sum(s["workers"][i][name] for s in report["samples"]) == w[name]


@KINDS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_end_that_is_asked_for(start_poller, kind, number):
    """Drops are those of all rings: stopped, they have many, each its own."""
    poller = start_poller("dev", *NULL)
    top = captop("fal:dev", "--workers", "2", "--group", "7", "--fanout", "lb", *kind)
    eventually(lambda: len(members(poller)) == 2)
    pids = {m["pid"] for m in members(poller)}
    assert (top.pid in pids) == bool(kind)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    eventually(lambda: all(m["dropped"] > 100_000 for m in members(poller)))
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    time.sleep(1.2)
    before = sum(m["dropped"] for m in members(poller))
    top.send_signal(number)
    out, _ = ended(top)
    last = out.splitlines()[-1]
    words = last.replace(",", "").replace(";", "").split()
    assert last.startswith("captured ")
    assert last.endswith(", by the interface 0")
    assert int(words[1]) > 0
    assert int(words[7]) >= before > 200_000
    assert "     all " in out
    assert poller.stop() == 0


def test_what_lies_in_the_ring_is_counted(start_poller):
    """A worker that lags when the end is asked for: the source begins only then."""
    poller = start_poller("dev", *NULL, "--wait", "2", "--count", "3000")
    top = captop("dev", "--json")
    (member,) = eventually(lambda: members(poller))
    os.kill(member["pid"], signal.SIGSTOP)
    top.send_signal(signal.SIGINT)
    time.sleep(0.5)
    with fal.open("fal:dev") as s:
        eventually(lambda: s.stats().recv == 3000)
        os.kill(member["pid"], signal.SIGCONT)
        assert json.loads(ended(top)[0])["captured"] == 3000


def test_seconds_cpus_and_group(start_poller):
    start_poller("dev", *NULL, "--wait", "200")  # no packet comes
    report = json.loads(
        ended(captop("dev", "--workers", "3", "--cpus", "0,1", "--seconds", "1.5", "--json"))[0]
    )
    assert report["cpus"] == [0, 1, 0]
    assert 1.4 < report["seconds"] < 5
    assert len(report["samples"]) == 3  # a second, the half, and what came until all had ended
    assert (report["captured"], report["fanout"]) == (0, "hash")
    top = captop("dev", "--cpus", "1", "--seconds", "5")
    (child,) = eventually(psutil.Process(top.pid).children)
    eventually(lambda: os.sched_getaffinity(child.pid) == {1})
    top.send_signal(signal.SIGINT)
    ended(top)


def test_who_is_killed(start_poller):
    poller = start_poller("dev", *NULL)
    top = captop("dev", "--workers", "2")
    eventually(lambda: len(members(poller)) == 2)
    time.sleep(0.2)
    os.kill(members(poller)[1]["pid"], signal.SIGKILL)
    eventually(lambda: len(members(poller)) == 1)
    top.send_signal(signal.SIGINT)
    out, err = ended(top, 1)
    assert "captured " in out
    assert re.fullmatch(r"fal: worker [01] was killed; what it counted is above\n", err)

    top = captop("dev", "--workers", "2")  # it is killed itself: its workers go
    eventually(lambda: len(members(poller)) == 2)
    top.kill()
    top.communicate()
    eventually(lambda: not members(poller))

    top = captop("dev", "--workers", "2")  # the poller is
    eventually(lambda: len(members(poller)) == 2)
    time.sleep(0.2)
    poller.kill()
    out, err = ended(top, 1)
    assert "captured " in out
    assert err == "fal: fal-poller died\n"


def test_refusals(start_poller):
    poller = start_poller("dev", *NULL)
    with_group = captop("dev", "--group", "3", "--fanout", "lb")
    eventually(lambda: members(poller))
    for code, words, message in (
        (1, ("nosuch",), "no device nosuch"),
        (1, ("fal:nosuch",), "nosuch"),
        (1, ("dev", "--group", "3", "--fanout", "hash"), "group 3"),
        (1, ("dev", "--fanout", "odd", "--workers", "2"), "odd"),
        (2, ("dev", "--workers", "0"), "'0'"),
        (2, ("dev", "--cpus", "4000"), "CPU 4000"),
        (2, ("dev", "--seconds", "-1"), "--seconds"),
    ):
        done = run("fal", "captop", *words)
        assert (done.returncode, done.stdout) == (code, "")
        last = done.stderr.splitlines()[-1]
        assert last.startswith("fal")
        assert message in last
    with_group.send_signal(signal.SIGINT)
    ended(with_group)
