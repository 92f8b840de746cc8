"""`fal stat`: its schema, its figures, and that a reader sees one moment."""

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support import BIN, NULL, assert_books, eventually, run

import fal
from fal import stat, status

POLLER = {
    *(
        "name",
        "device",
        "backend",
        "mode",
        "zero_copy",
        "chains",
        "cpus",
        "sent",
        "send_failed",
        "hash_seed",
        "page_size",
        "frames",
        "frames_free",
    ),
    *("pid", "state", "link_received", "if_dropped", "queues", "sockets", "groups"),
    *("unparsed", "defrag_evicted"),
}
GROUP = {
    *("id", "mode", "received", "filtered", "delivered", "app_received", "app_dropped", "drops"),
    *("gone", "members"),
}
MEMBER = {
    *("number", "pid", "started", "delivered", "consumed", "in_ring", "abandoned", "dropped"),
    *("ring", "left"),
}
FIGURES = GROUP - {"mode", "drops", "gone", "members"}


def test_schema_and_figures(start_poller):
    poller = start_poller("dev", *NULL, "--name", "dmz", "--wait", "4", "--count", "1000")
    a = fal.open(poller.device, group=7, fanout="lb")
    b = fal.open(poller.device, group=7, ring=64)
    with fal.open(poller.device, ring=512) as one, fal.open(poller.device) as other:
        eventually(lambda: other.stats().recv == 1000)
        next(a.batches(max=100))
        next(a.batches(max=1))
        eventually(lambda: poller.group(7)["members"][0]["consumed"] == 100)
        report = poller.stat()
        assert_books(report)
        assert set(report) == POLLER
        facts = {key: report[key] for key in ("name", "device", "backend", "mode", "state")}
        assert facts == dict(zip(facts, ("dmz", "dev", "null", "memory", "running"), strict=True))
        assert (report["pid"], report["page_size"], report["zero_copy"]) == (poller.pid, 4096, True)
        assert report["frames"] == int(poller.ready["frames"])
        assert 0 < report["frames_free"] < report["frames"]
        assert report["queues"] == [{"id": 0, "received": 1000}]
        assert (report["link_received"], report["if_dropped"]) == (1000, 0)
        assert [set(m) for m in report["sockets"]] == [MEMBER] * 2
        assert [(m["number"], m["delivered"], m["dropped"]) for m in report["sockets"]] == [
            (None, 512, 488),
            (None, 1000, 0),
        ]
        (group,) = report["groups"]
        assert set(group) == GROUP
        assert {key: group[key] for key in FIGURES} == {
            "id": 7,
            "received": 1000,
            "filtered": 0,
            "delivered": 564,
            "app_received": 100,
            "app_dropped": 436,
        }
        assert group["drops"] == {"ring_full": 436, "no_member": 0}
        assert group["gone"] == {"delivered": 0, "consumed": 0, "abandoned": 0}
        assert group["members"] == [
            {
                "number": 0,
                "pid": os.getpid(),
                "started": True,
                "left": False,
                "delivered": 500,
                "consumed": 100,
                "in_ring": 400,
                "abandoned": 0,
                "dropped": 0,
                "ring": 4096,
            },
            {
                "number": 1,
                "pid": os.getpid(),
                "started": True,
                "left": False,
                "delivered": 64,
                "consumed": 0,
                "in_ring": 64,
                "abandoned": 0,
                "dropped": 436,
                "ring": 64,
            },
        ]
        a.close()
        eventually(lambda: len(poller.group(7)["members"]) == 1)
        report = poller.stat()
        assert_books(report)
        (group,) = report["groups"]
        assert group["gone"] == {"delivered": 500, "consumed": 101, "abandoned": 399}
        assert (group["app_received"], group["app_dropped"]) == (101, 835)
        assert [m["number"] for m in group["members"]] == [0]
        one.close()
    b.close()
    assert poller.wait() == 0


def test_a_reader_sees_one_moment(start_poller, runtime):
    """Flat out, with members that read, come and go: the books balance at every single look."""
    poller = start_poller("x", *NULL, "--wait", "4")
    a = fal.open(poller.device, group=7, fanout="lb", ring=256)
    b = fal.open(poller.device, group=7, ring=1024)
    c = fal.open(poller.device, group=8)
    passing = fal.open(poller.device, group=7, ring=64)
    segment = status.open_existing(runtime, "x")
    end, looks, moments = time.monotonic() + 1.5, 0, set()
    while time.monotonic() < end:
        for s in (a, b, c, passing):
            s.recv_batch(timeout=5)
        report = stat.report(segment)
        assert_books(report)
        for group in report["groups"]:  # both have been there from the first packet on
            assert group["received"] == report["link_received"] == report["queues"][0]["received"]
        looks += 1
        moments.add(report["link_received"])
        if looks % 10 == 0:  # members come and go
            passing.close()
            passing = fal.open(poller.device, group=7, ring=64)
        elif looks % 10 == 5:
            passing.leave()
    assert looks > 100
    assert len(moments) > looks / 2
    for s in (a, b, c, passing):
        s.close()
    segment.close()


def test_a_stopped_poller_is_shown_or_named(start_poller):
    """SIGSTOP may catch it in the middle of a burst: then one line says so, and no wrong figure."""
    poller = start_poller("x", *NULL)
    with fal.open(poller.device, group=1):
        for _ in range(3):
            poller.process.send_signal(signal.SIGSTOP)
            done = run("fal", "stat", "--json")
            if done.returncode == 0:
                assert_books(json.loads(done.stdout)["pollers"][0])
            else:
                assert "fal: x: fal-poller was stopped while it wrote its counters" in done.stderr
            poller.process.send_signal(signal.SIGCONT)
            time.sleep(0.01)


def test_a_crashed_poller_is_readable(start_poller):
    poller = start_poller("x", *NULL, "--wait", "1", "--count", "100")
    with fal.open(poller.device, group=7) as s:
        eventually(lambda: s.stats().recv == 100)
        poller.kill()
        report = poller.stat()
        assert report["state"] == "crashed"
        assert_books(report)
        assert report["groups"][0]["members"][0]["in_ring"] == 100
        assert "crashed" in run("fal", "stat", "x").stdout
    poller = start_poller("x", *NULL)  # the next start takes its place
    assert poller.stat()["state"] == "running"
    assert poller.stat()["groups"] == []


def test_none_several_and_one(start_poller):
    done = run("fal", "stat")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == ("fal: no fal-poller runs or crashed here (start one: fal-poller DEV)\n")
    pollers = [start_poller(name, *NULL) for name in ("b", "a")]
    found = json.loads(run("fal", "stat", "--json").stdout)
    assert set(found) == {"pollers"}
    assert [p["name"] for p in found["pollers"]] == ["a", "b"]
    assert pollers[0].stat()["name"] == "b"
    done = run("fal", "stat", "c")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fal: no fal-poller c runs or crashed here")
    for poller in pollers:
        poller.stop()
    assert run("fal", "stat").returncode == 1


def test_bad_usage():
    for words in (["--js"], ["--json", "--watch"], ["a", "b"]):
        assert run("fal", "stat", *words).returncode == 2
    assert run("fal").returncode == run("fal", "stats").returncode == 2
    assert run("fal", "--version").stdout == f"fal {fal.__version__}\n"
    assert "crashed" in run("fal", "stat", "--help").stdout


def test_piped_figures_are_whole(start_poller):
    poller = start_poller("x", *NULL)
    with fal.open(poller.device, group=7, fanout="lb", ring=64) as s, fal.open(poller.device):
        eventually(lambda: s.stats().drop > 10_000_000)
        done = run("fal", "stat", env=os.environ | {"COLUMNS": "60"})
        assert done.returncode == 0
        head, titles, all_line, group_line, member_line, *_ = done.stdout.splitlines()
        assert "…" not in done.stdout
        assert head.startswith("x x null memory pid")
        assert titles.split() == [
            *("group", "mode", "member", "pid", "delivered", "per", "s", "consumed", "in", "ring"),
            *("abandoned", "dropped"),
        ]
        assert all_line.split()[:2] == ["-", "all"]
        assert group_line.split()[:3] == ["7", "lb", "all"]
        assert member_line.split()[:4] == ["7", "lb", "0", str(os.getpid())]
        assert group_line.split()[3:8] == member_line.split()[4:9]  # it has no other member
        assert int(member_line.split()[-1].replace(",", "")) > 10_000_000
    shell = run("sh", "-c", f"{BIN}/fal stat --json | head -c 1")
    assert (shell.stdout, shell.stderr) == ("{", "")


def test_watch_draws_until_interrupted(start_poller):
    poller = start_poller("x", *NULL)
    terminal, theirs = pty.openpty()
    with fal.open(poller.device, group=7, ring=64):
        env = os.environ | {"COLUMNS": "150", "TERM": "xterm"}
        process = subprocess.Popen(
            [BIN / "fal", "stat", "--watch"], stdout=theirs, stderr=theirs, env=env
        )
        os.close(theirs)
        drawn, end = b"", time.monotonic() + 20
        while time.monotonic() < end and drawn.count(b"running") < 3:
            drawn += os.read(terminal, 4096)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                drawn += os.read(terminal, 4096)
            except OSError:  # EIO: it has ended
                break
        assert process.wait(10) == 130
        assert drawn.count(b"running") >= 3
        assert b"Traceback" not in drawn
    os.close(terminal)
    assert poller.stop() == 0


def test_watch_ends_with_the_last_poller(start_poller):
    poller = start_poller("x", *NULL)
    process = subprocess.Popen(
        [BIN / "fal", "stat", "x", "--watch"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    time.sleep(1)
    poller.stop()
    assert process.wait(10) == 0
    out, err = process.communicate()
    assert (b"running" in out, err) == (True, b"")


@pytest.fixture
def plant(runtime):
    """Put segments into /dev/shm under names of ours."""
    planted = []

    def put(name, content, owner=-1, mode=0o600):
        path = Path("/dev/shm") / (status.prefix(runtime) + name)
        planted.append(path)
        path.write_bytes(content)
        path.chmod(mode)
        os.chown(path, owner, -1)

    yield put
    for path in planted:
        path.unlink(missing_ok=True)


def test_foreign_segments_are_skipped_with_a_line(start_poller, plant):
    start_poller("x", *NULL)
    plant("empty", b"")
    plant("short", b"junk")
    plant("noise", os.urandom(status.SIZE))
    plant("starting", bytes(status.SIZE))
    done = run("fal", "stat", "--json")
    assert [p["name"] for p in json.loads(done.stdout)["pollers"]] == ["x"]
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [
        ["fal", name] for name in ("empty", "noise", "short")
    ]
    assert run("fal", "stat", "noise").returncode == 1
    start_poller("short", *NULL)  # what is nobody's is replaced
    start_poller("noise", *NULL)
    done = run("fal", "stat", "--json")
    assert [p["name"] for p in json.loads(done.stdout)["pollers"]] == ["noise", "short", "x"]


def test_a_segment_of_somebody_else(plant):
    """Root without its capabilities stands for any user: its files are another's."""
    plant("theirs", bytes(status.SIZE), owner=65534)
    unprivileged = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    done = run(*unprivileged, BIN / "fal", "stat")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("fal: theirs: no permission for /dev/shm/")
    done = run(*unprivileged, BIN / "fal-poller", "theirs", *NULL)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("fal-poller: no permission for /dev/shm/")
