"""fal-poller's command line: every option, good and bad, and the end of a finite source."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from support import (
    BIN,
    NOBODY,
    NULL,
    Poller,
    assert_books,
    eventually,
    huge_pages_kept,
    number,
    run,
)

import fal
from fal import admission, status
from fal.bindings import ffi, lib
from fal.poller import main
from fal.runtime import starting


def fails(code, *words, message=()):
    """Run fal-poller and expect one line of error (after the usage where that is the fault)."""
    done = run("fal-poller", *words)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    lines = done.stderr.splitlines()
    assert lines[-1].startswith("fal-poller: ")
    assert lines[0].startswith("usage: ") if code == 2 else len(lines) == 1, done.stderr
    for part in [message] if isinstance(message, str) else message:
        assert part in lines[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "DEV"),
        (["x", "y"], "y"),
        (["x", "--backend", "nul"], ("'nul'", "af_xdp", "null")),
        (["x", "--back", "null"], "--back"),  # abbreviations are refused
        (["x", "--count", "1"], "--backend null"),
        (["x", "--wait", "1"], "--backend null"),
        (["a/b"], ("'a/b'", "--name")),
        ([64 * "x"], ("63", "--name")),
        ([".x"], "'.x'"),
        (["x", "--name", "a b"], "'a b' is no name"),
        (["x", "--name", "../x"], "'../x' is no name"),
        (["x", "--name", ""], "'' is no name"),
        (["x", "--name", 64 * "n"], "63"),
        (["x" * 64, "--name", "x"], "63 bytes"),
        (["ü" * 32, "--name", "x"], "63 bytes"),
        (["", "--name", "x"], "63 bytes"),
        (["x", "--mode", "fast"], ("'fast'", "auto", "native", "generic")),
        (["x", "--backend", "null", "--mode", "native"], "af_xdp"),
        (["x", "--backend", "null", "--queues", "1"], "af_xdp"),
        (["x", "--queues", "a"], ("'a'", "0,2-4")),
        (["x", "--queues", ""], "''"),
        (["x", "--queues", "1,1"], "twice"),
        (["x", "--queues", "3-1"], "'3-1'"),
        (["x", "--queues", "0-64"], "64"),
        (["x", "--queues", "0-99999999999999999999"], "'0-99999999999999999999'"),
        (["x", "--queues", "99999999999"], "'99999999999'"),
        (["x", "--cpus", "0,0"], "twice"),
        (["x", "--cpus", "9999"], "CPU 9999"),
        (["x", "--cpus", "-1"], "--cpus"),
        (["x", "--frames", "0"], "'0'"),
        (["x", "--frames", "many"], "'many'"),
        (["x", "--frames", str((1 << 26) + 1)], str(1 << 26)),
        (["x", "--frame-size", "1500"], ("1500", "2048", "2112", "4096")),
        (["x", "--hash-seed", "any"], ("'any'", "random", "2**64")),
        (["x", "--hash-seed", str(1 << 64)], "2**64"),
        (["x", "--hash-seed", "-1"], "2**64"),
        (["x", "--hugepages", "yes"], ("'yes'", "try", "on", "off")),
        (["x", "--idle", "never"], ("'never'", "spin", "adaptive", "sleep")),
        (["x", "--wait", "0"], "'0'"),
        (["x", "--wait", "257"], "256"),
        (["x", "--count", "0"], "'0'"),
        (["x", "--count", "-5"], "--count"),
        (["x", "--promisc=yes"], "--promisc"),
        (["x", "--rate", "1000"], "--backend pcap"),
        (["x", "--flows", "9"], "--backend null"),
        (["x", "--backend", "null", "--flows", "0"], "'0'"),
        *[
            (["x", "--sizes", bad], (f"'{bad}'", "imix"))
            for bad in ("59", "9-", "99-98", "64-5000")
        ],
        (["x", "--backend", "null", "--seed", str(1 << 64)], "--seed"),
        (["x", "--backend", "null", "--loop", "2"], "--backend pcap"),
        (["x", "--backend", "pcap", "--mode", "native"], "af_xdp"),
        (["x", "--backend", "pcap", "--rate", "fast"], ("'fast'", "max", "capture", str(10**9))),
        (["x", "--backend", "pcap", "--rate", "0"], "'0'"),
        (["x", "--backend", "pcap", "--loop", "-1"], "--loop"),
        (["a b.pcap", "--backend", "pcap"], ("'a b'", "--name")),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_bad_usage(words, message, capsys):
    """In this process, since there are so many; the exit status is main's (SystemExit)."""
    with pytest.raises(SystemExit, check=lambda e: e.code == 2):
        main(words)
    out, err = capsys.readouterr()
    assert (out, err.startswith("usage: ")) == ("", True)
    last = err.splitlines()[-1]
    assert last.startswith("fal-poller: error: ")
    for part in [message] if isinstance(message, str) else message:
        assert part in last


def test_failures():
    fails(2, "x", "--idle", "never", message="'never'")
    least = admission.reserved(1) + lib.FAL_MIN_RING
    fails(1, "x", *NULL, "--frames", "1000", message=("--frames 1000", str(least)))
    fails(1, "x", *NULL, "--frames", str(1 << 26), message=("no memory", "MiB", "--frames"))
    fails(1, "nosuchdev0", message="nosuchdev0")
    fails(1, "\udcff", "--name", "x", message="no device")


def test_help_and_version():
    done = run("fal-poller", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "examples:" in done.stdout
    for limit in (
        *(lib.FAL_DEFAULT_RING, lib.FAL_MAX_SOCKETS, lib.FAL_MAX_GROUPS),
        *(lib.FAL_GROUP_MEMBERS, lib.FAL_MAX_QUEUES, lib.FAL_MIN_RING, lib.FAL_MAX_RING),
    ):
        assert re.search(rf"\b{limit}\b", done.stdout)
    assert all(len(line) <= 100 for line in done.stdout.splitlines())
    assert run("fal-poller", "--version").stdout == f"fal-poller {fal.__version__}\n"


def test_examples_of_the_help_are_right():
    """Each is taken by the parser: all but the null one then fail for want of device or file."""
    lines = re.findall(r"^  fal-poller (.*?)(?:   .*)?$", run("fal-poller", "--help").stdout, re.M)
    assert len(lines) >= 4
    for line in lines:
        if "null" not in line:
            words = line.replace("eth0", "nosuchdev0")
            words = words.replace("--cpus 2,3", "--cpus 0").replace("--cpus 2", "--cpus 0")
            fails(1, *words.split(), message=words.split()[0])
        else:
            process = Poller(*line.split(), env=dict(os.environ)).wait_ready()
            assert process.stop() == 0


# ---- the ready line, the end ---------------------------------------------------------------------


def test_ready_line_and_notification(start_poller, tmp_path, monkeypatch):
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(5)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    poller = start_poller("dev", *NULL, "--name", "x", "--frames", "8192")
    assert poller.lines == [
        f"fal-poller: ready x backend=null mode=memory queues=1 frames={poller.ready['frames']}"
        f" page_size=4096 pid={poller.pid}"
    ]
    assert 8192 <= int(poller.ready["frames"]) < 8192 + 1024  # up to a whole huge page
    assert manager.recv(100) == b"READY=1"
    poller.process.send_signal(signal.SIGHUP)
    with fal.open(poller.device, ring=64) as s:
        assert len(s.recv_batch(timeout=5))
    assert poller.stop() == 0
    assert manager.recv(100) == b"STOPPING=1"
    manager.close()
    assert len(poller.lines) == 1


@pytest.mark.parametrize("number_", [signal.SIGTERM, signal.SIGINT])
def test_ends_cleanly_on_a_signal(start_poller, runtime, number_):
    poller = start_poller("x", *NULL)
    with fal.open(poller.device) as s:
        poller.process.send_signal(number_)
        assert poller.wait() == 0
        for _ in s:  # ends
            pass
    assert [path.name for path in runtime.iterdir()] == [".lock"]
    assert status.names(runtime) == []
    assert len(poller.lines) == 1


def test_wait_and_count_are_exact(start_poller):
    poller = start_poller("x", *NULL, "--wait", "3", "--count", "4001")
    sockets = [fal.open(poller.device, group=i) for i in range(2)]
    time.sleep(0.1)
    assert poller.look()["link_received"] == 0
    sockets.append(fal.open(poller.device))
    got = [[], [], []]
    threads = [
        threading.Thread(target=lambda s=s, g=g: g.extend(number(data) for _, data in s))
        for s, g in zip(sockets, got, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [list(range(4001))] * 3
    assert poller.wait() == 0


def test_waits_for_started_sockets_not_for_admitted_ones(start_poller):
    """And packets of a group whose members are only admitted are counted as no_member."""
    poller = start_poller("x", *NULL, "--wait", "1", "--count", "500")
    err = ffi.new("struct fal_error *")
    admitted = lib.fal_open(64, err)
    assert lib.fal_join(admitted, 9, b"lb", err) == 0
    assert lib.fal_attach(admitted, poller.device.encode(), err) == 0
    (member,) = poller.group(9)["members"]
    assert (member["started"], member["number"]) == (False, None)
    assert lib.fal_member(admitted) == -1
    assert poller.look()["link_received"] == 0
    with fal.open(poller.device) as s:
        eventually(lambda: s.stats().recv == 500)
        group = poller.group(9)
        assert group["drops"] == {"ring_full": 0, "no_member": 500}
        assert (group["received"], group["app_dropped"]) == (500, 500)
        assert_books(poller.look())
    lib.fal_close(admitted)
    assert poller.wait() == 0


def test_a_finite_source_ends_without_any_worker(start_poller):
    assert start_poller("x", *NULL, "--count", "100000").wait() == 0


def test_a_finite_source_waits_for_one_that_lags(start_poller):
    poller = start_poller("x", *NULL, "--wait", "2", "--count", "3000")
    with fal.open(poller.device, group=1) as quick, fal.open(poller.device, group=2) as slow:
        assert len(list(zip(range(3000), quick, strict=False))) == 3000
        time.sleep(0.3)
        assert poller.process.poll() is None
        numbers = []
        for batch in slow.batches(max=100):
            numbers += map(number, batch)
            time.sleep(0.005)
        assert numbers == list(range(3000))
        assert list(quick) == []
    assert poller.wait() == 0


def test_a_finite_source_does_not_wait_for_the_dead(start_poller):
    poller = start_poller("x", *NULL, "--wait", "2", "--count", "3000")
    worker = subprocess.Popen(
        [BIN / "python", "-P", "-c", "import fal, time; s = fal.open('fal:x'); time.sleep(60)"]
    )
    with fal.open(poller.device) as s:
        assert len(list(zip(range(3000), s, strict=False))) == 3000
        assert poller.process.poll() is None
        worker.kill()
        assert poller.wait() == 0
    worker.wait()


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["2048", "2112", "4096"])
def test_frame_size(start_poller, size):
    poller = start_poller("x", *NULL, "--frame-size", size, "--wait", "1", "--count", "3000")
    with fal.open(poller.device) as s:
        eventually(lambda: s.stats().recv == 3000)
        with s.recv_batch(max=4000) as batch:
            assert set(batch.meta["offset"] % int(size)) == {0}
            assert list(map(number, batch)) == list(range(3000))
            assert len(set(batch.meta["offset"].tolist())) == 3000
            assert len(batch.data) >= int(size) * int(poller.ready["frames"])


def seen_hashes(poller):
    with fal.open(poller.device) as s, s.recv_batch(timeout=5) as batch:
        packets = [bytes(packet) for packet in batch]
        return packets, batch.meta["hash"].tolist()


def test_hash_seed(start_poller):
    for seed in ("7", "0xffffffffffffffff"):
        packets, hashes = seen_hashes(start_poller("s" + seed, *NULL, "--hash-seed", seed))
        assert hashes == [fal.flow_hash(packet, seed=int(seed, 0)) for packet in packets]
    packets, hashes = seen_hashes(start_poller("default", *NULL))
    assert hashes == [fal.flow_hash(packet) for packet in packets]
    two = []
    for name in "ab":
        packets, hashes = seen_hashes(start_poller(name, *NULL, "--hash-seed", "random"))
        seen = dict(zip(packets, hashes, strict=True))
        two.append({packet[:42]: value for packet, value in seen.items()})
    both = two[0].keys() & two[1].keys()
    assert both
    assert all(two[0][flow] != two[1][flow] for flow in both)


@pytest.mark.parametrize("idle", ["spin", "adaptive", "sleep"])
def test_idle(start_poller, idle):
    """Spinning takes the CPU while nothing comes, the others do not; each wakes for a packet."""
    poller = start_poller("x", *NULL, "--idle", idle, "--wait", "2", "--count", "100")
    with fal.open(poller.device) as s, fal.open(poller.device, group=1) as t:
        assert len(list(zip(range(100), s, strict=False))) == 100
        ticks = polling_ticks(poller)
        time.sleep(0.4)
        # a source that is over is slept on in any mode
        assert polling_ticks(poller) - ticks < 20
        assert len(list(t)) == 100
    assert poller.wait() == 0


def polling_thread(poller):
    """Its directory in /proc: the last thread that fal-poller starts (numpy has some, too)."""
    return max(Path(f"/proc/{poller.pid}/task").iterdir(), key=lambda task: int(task.name))


def polling_ticks(poller):
    fields = (polling_thread(poller) / "stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def cpus_of(task):
    return re.search(r"Cpus_allowed_list:\s*(\S+)", (task / "status").read_text())[1]


def test_cpus(start_poller):
    """The polling thread is pinned, the control thread is not; a second one takes another CPU."""
    ours = cpus_of(Path("/proc/self"))
    poller = start_poller("x", *NULL, "--wait", "1", "--cpus", "0")
    assert eventually(lambda: cpus_of(polling_thread(poller)) == "0")
    assert cpus_of(Path(f"/proc/{poller.pid}")) == ours
    poller.stop()
    pollers = [start_poller(name, *NULL, "--wait", "1") for name in "ab"]
    taken = [eventually(lambda p=p: cpus_of(polling_thread(p)).isdecimal() and p) for p in pollers]
    cpus = [cpus_of(polling_thread(p)) for p in taken]
    assert cpus[0] == str(max(os.sched_getaffinity(0)))
    if len(os.sched_getaffinity(0)) > 1:
        assert len(set(cpus)) == 2


def test_several_pollers(start_poller):
    """Each on its CPU, with a part of the packets; a worker has a ring of each."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    count = 5001  # odd: the parts differ
    words = ("--wait", "2", "--count", str(count), "--cpus", ",".join(map(str, cpus)))
    poller = start_poller("x", *NULL, *words)
    assert poller.ready["queues"] == str(len(cpus))
    with fal.open(poller.device) as s, fal.open(poller.device, group=1, ring=16384) as late:
        assert lib.fal_rings(s._handle) == len(cpus)
        got, rings = [], set()
        while len(got) < count:
            batch = s.recv_batch(timeout=5)
            rings.add(s._next.ring)
            assert {s._next.ring} == set(batch.meta["queue"].tolist())
            got += map(number, batch)
        assert rings == set(range(len(cpus)))
        assert sorted(got) == list(range(count))
        report = poller.look()
        assert_books(report)
        assert report["sockets"][0]["dropped"] == 0
        assert [c["cpu"] for c in report["cpus"]] == cpus
        assert [c["received"] for c in report["cpus"]] == [2501, 2500][: len(cpus)]
        assert report["frames_free"] < report["frames"]
        s.recv_batch(timeout=0)  # which gives the last batch back
        assert poller.process.poll() is None  # one ring of each poller is unread
        assert sum(map(len, late.batches())) == count
    assert poller.wait() == 0


def test_more_pollers_than_queues(make_veth, start_poller):
    veth = make_veth()
    line = start_poller(veth.device, "--cpus", "0,1", namespace=veth.inside, ready=False).refused()
    assert f"2 CPUs for 1 queue of {veth.device}" in line
    assert "--cpus" in line


@pytest.fixture
def huge_pages():
    with huge_pages_kept() as number:
        yield number


def start_mended(start_poller, name):
    """Start one that complains, do what it says, and start it again."""
    for _ in range(3):  # others on this machine may take pages, too
        poller = start_poller(name, "--backend", "null")
        if poller.ready["page_size"] == "4096":
            (warning,) = (line for line in poller.lines if "huge pages" in line)
            assert poller.look()["page_size"] == 4096
            poller.stop()
            command = re.search(r"sysctl vm\.nr_hugepages=\d+", warning)[0]
            assert run(*command.split()).returncode == 0
            poller = start_poller(name, "--backend", "null")
        if poller.ready["page_size"] == str(2 << 20):
            break
        poller.stop()
    assert poller.look()["page_size"] == 2 << 20
    assert len(poller.lines) == 1
    return poller


def test_huge_pages_mended_by_the_very_command_of_the_warning(start_poller, huge_pages):
    """Also for a second one: the command counts what is in use."""
    huge_pages.write_text("0")
    fails(1, "x", "--backend", "null", "--hugepages", "on", message=("2 MiB", "vm.nr_hugepages="))
    x = start_mended(start_poller, "x")
    y = start_mended(start_poller, "y")
    with fal.open(x.device) as a, fal.open(y.device) as b:
        assert all(len(s.recv_batch(timeout=5)) for s in (a, b))
    x.stop()
    huge_pages.write_text(str(int(huge_pages.read_text()) + 200))  # whoever else is taking some
    on = start_poller("on", "--backend", "null", "--hugepages", "on")
    assert on.ready["page_size"] == str(2 << 20)
    off = start_poller("off", "--backend", "null", "--hugepages", "off")
    assert (off.ready["page_size"], len(off.lines)) == ("4096", 1)


# ---- names and places ----------------------------------------------------------------------------


def test_a_second_one_of_the_name(start_poller):
    poller = start_poller("x", *NULL)
    fails(1, "x", *NULL, message=("x runs already", f"pid {poller.pid}", "--name"))
    fails(1, "y", *NULL, "--name", "x", message="x runs already")
    other = start_poller("x", *NULL, "--name", "y")
    for p in (poller, other):
        with fal.open(p.device) as s:
            assert len(s.recv_batch(timeout=5))


def test_what_a_crash_left_is_replaced(start_poller, runtime):
    for _ in range(3):
        start_poller("x", *NULL).kill()
        assert (runtime / "x.sock").exists()
    poller = start_poller("x", *NULL)
    with fal.open(poller.device) as s:
        assert len(s.recv_batch(timeout=5))
    assert poller.stop() == 0


def test_of_two_at_the_same_moment_one_wins(start_poller):
    for _ in range(8):
        two = [start_poller("x", *NULL, "--frames", "6000", ready=False) for _ in range(2)]
        eventually(lambda two=two: [p for p in two if p.ready], 20)
        loser = eventually(
            lambda two=two: [p for p in two if p.process.poll() is not None], 20
        ).pop()
        (winner,) = (p for p in two if p is not loser)
        assert loser.wait() == 1
        assert re.fullmatch(r"fal-poller: fal-poller x runs already .*", "\n".join(loser.lines))
        assert winner.ready
        fal.open("fal:x", ring=64).close()
        winner.stop()


def test_a_path_too_long_for_a_socket(tmp_path, monkeypatch):
    monkeypatch.setenv("FAL_RUNTIME_DIR", str(tmp_path / (100 * "x")))
    fails(1, "x", *NULL, message=("107", "FAL_RUNTIME_DIR"))
    with pytest.raises(fal.FalError, match="name too long"):
        fal.open("fal:x")


def test_a_runtime_directory_that_is_none(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        monkeypatch.setenv("FAL_RUNTIME_DIR", str(tmp_path / place))
        fails(1, "x", *NULL, message=(str(tmp_path / place), "FAL_RUNTIME_DIR"))


@pytest.fixture
def home():
    """A directory of nobody's: pytest's own are root's alone."""
    path = Path(tempfile.mkdtemp(prefix="fal-test-"))
    os.chown(path, 65534, 65534)
    yield path
    shutil.rmtree(path)


WORKER = "import fal; print(sum(1 for _ in fal.open('fal:x', group=1)))"


@pytest.mark.parametrize("variable", ["FAL_RUNTIME_DIR", "XDG_RUNTIME_DIR"])
def test_the_null_backend_needs_no_privilege(home, monkeypatch, variable):
    monkeypatch.delenv("FAL_RUNTIME_DIR")
    monkeypatch.setenv(variable, str(home))
    process = subprocess.Popen(
        [*NOBODY, BIN / "fal-poller", "x", *NULL, "--wait", "1", "--count", "1000"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "ready x" in process.stderr.readline()
    found = run(*NOBODY, BIN / "fal", "stat", "x", "--json")
    assert '"state": "running"' in found.stdout
    done = run(*NOBODY, BIN / "python", "-P", "-c", WORKER)
    assert (done.stdout, done.stderr) == ("1000\n", "")
    assert process.communicate(timeout=10)[1] == ""
    assert process.returncode == 0
    directory = home / "fal" if variable.startswith("XDG") else home
    assert [path.name for path in directory.iterdir()] == [".lock"]
    assert run(*NOBODY, BIN / "fal", "stat", "x").returncode == 1


def test_no_permission_for_the_runtime_directory(runtime, monkeypatch):
    runtime.parent.chmod(0o755)
    done = run(*NOBODY, BIN / "fal-poller", "x", *NULL)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"fal-poller: cannot make {runtime}/.lock: Permission denied")
    assert "FAL_RUNTIME_DIR" in done.stderr
    assert status.names(runtime) == []
    monkeypatch.setenv("FAL_RUNTIME_DIR", str(runtime / "below"))
    done = run(*NOBODY, BIN / "fal-poller", "x", *NULL)
    assert done.stderr.startswith(f"fal-poller: cannot make {runtime}/below: Permission denied")


def test_a_worker_without_permission_is_told(start_poller, runtime):
    start_poller("x", *NULL)
    for directory in (runtime, runtime.parent):
        directory.chmod(0o755)
    done = run(*NOBODY, BIN / "python", "-P", "-c", WORKER)
    assert f"fal.errors.FalError: no permission for {runtime}/x.sock" in done.stderr
    assert "group fal" in done.stderr


def test_the_members_of_group_fal_may_work(start_poller, runtime, home):
    """Whoever is in the group named fal may open, receive and look; the group is made for this."""
    group = home / "group"
    group.write_text(Path("/etc/group").read_text() + "fal:x:64242:\n")
    there = f'mount --bind {group} /etc/group && exec "$@"'  # for this fal-poller alone
    through = ("unshare", "--mount", "sh", "-c", there, "-")
    poller = start_poller("x", *NULL, "--wait", "1", "--count", "1000", through=through)
    for directory in (runtime, runtime.parent):
        directory.chmod(0o755)
    member = [word.replace("--regid=65534", "--regid=64242") for word in NOBODY]
    segment = Path(f"/dev/shm/{status.prefix(runtime)}x").stat()
    assert (segment.st_gid, segment.st_mode & 0o777) == (64242, 0o640)
    assert "no permission" in run(*NOBODY, BIN / "python", "-P", "-c", WORKER).stderr
    done = run(*member, BIN / "python", "-P", "-c", WORKER)
    assert (done.stdout, done.stderr) == ("1000\n", "")
    assert poller.wait() == 0


def test_a_start_does_not_wait_for_ever(runtime, monkeypatch):
    """Where another start has hung, the next says which file it waits for."""
    monkeypatch.setattr("fal.runtime.LOCK_SECONDS", 0.2)
    refused = pytest.raises(fal.FalError, match=r"another fal-poller has been starting .*\.lock")
    with starting(runtime), refused, starting(runtime):
        pass


def test_many_workers_at_the_same_moment(start_poller):
    """A crowd that opens at once is let in, one after the other."""
    poller = start_poller("x", *NULL, "--wait", "60", "--count", "30000")
    gate, got = threading.Barrier(60), []

    def work():
        gate.wait()
        with fal.open(poller.device, group=1, fanout="lb", ring=512) as s:
            got.append(sum(map(len, s.batches())))

    threads = [threading.Thread(target=work) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [500] * 60
    assert poller.wait() == 0
