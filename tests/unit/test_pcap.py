"""The pcap backend: a capture file, replayed to the workers."""

import errno
import itertools
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from captures import write_pcap, write_pcapng
from support import BIN, NOBODY, assert_books, eventually, run, udp

import fal
from fal.bindings import lib

BEGIN = 1_600_000_000_123_456_789


def packets(count, apart=1_000_003):
    """Return (ns, frame) of 16 flows, each frame its own."""
    return [
        (
            BEGIN + i * apart,
            udp(("10.0.0.1", 1000 + i % 16), ("10.0.0.2", 53), i.to_bytes(8) + bytes(i % 1000)),
        )
        for i in range(count)
    ]


@pytest.fixture
def replay(start_poller):
    """A fal-poller on a file."""

    def start(path, *words, **how):
        return start_poller(str(path), "--hugepages", "off", *words, **how)

    return start


def read_all(s):
    """Return (descriptor, bytes) of all that comes until the end."""
    got = []
    for batch in s.batches():
        got += zip(batch.meta.copy(), map(bytes, batch), strict=True)
    return got


# ---- what a file holds is what arrives -----------------------------------------------------------


@pytest.mark.parametrize("write", [write_pcap, write_pcapng])
def test_bytes_stamps_order_once(replay, tmp_path, write):
    sent = packets(3000)
    poller = replay(write(tmp_path / "some.trace.pcap", sent), "--wait", "3")
    facts = {"name": "some.trace", "backend": "pcap", "mode": "copy", "queues": "1"}
    assert poller.ready.items() >= facts.items()
    assert poller.look()["device"] == "some.trace.pcap"
    got = {}

    def work(name, **group):
        with fal.open(poller.device, **group) as s:
            got[name] = read_all(s)

    threads = [
        threading.Thread(target=work, args=(name,), kwargs=group)
        for name, group in (("all", {}), ("a", {"group": 1}), ("b", {"group": 1}))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(int(m["ts_ns"]), data) for m, data in got["all"]] == sent
    assert all(m["len"] == m["caplen"] == len(data) for m, data in got["all"])
    assert all(m["flags"] == lib.FAL_DESC_FIRST for m, _ in got["all"])
    two = got["a"] + got["b"]
    assert sorted((int(m["ts_ns"]), data) for m, data in two) == sent
    for one in (got["a"], got["b"]):
        stamps = [int(m["ts_ns"]) for m, _ in one]
        assert stamps == sorted(stamps)
        assert stamps
    assert poller.wait() == 0
    assert len(poller.lines) == 1


def test_microseconds(replay, tmp_path):
    poller = replay(write_pcap(tmp_path / "x.pcap", packets(10), nano=False))
    with fal.open("fal:x") as s:
        stamps = [int(m["ts_ns"]) for m, _ in read_all(s)]
    assert stamps == [ns // 1000 * 1000 for ns, _ in packets(10)]
    assert poller.wait() == 0


def test_packets_longer_than_a_frame_are_cut(replay, tmp_path):
    long, short = bytes(range(250)) * 12, udp(("10.0.0.1", 1), ("10.0.0.2", 2))
    path = write_pcap(tmp_path / "x.pcap", [(1, long), (2, short), (3, short[:50], 9000)])
    for size in (2048, 4096):
        replay(path, "--name", f"x{size}", "--frame-size", str(size))
        with fal.open(f"fal:x{size}") as s:
            got = read_all(s)
        assert [data for _, data in got] == [long[:size], short, short[:50]]
        assert [int(m["len"]) for m, _ in got] == [3000, 60, 9000]
        cut = [bool(m["flags"] & lib.FAL_DESC_TRUNCATED) for m, _ in got]
        assert cut == [size < 3000, False, True]


def test_a_file_without_a_packet(replay, tmp_path):
    poller = replay(write_pcap(tmp_path / "x.pcap", []), "--loop", "0")
    with fal.open("fal:x") as s:
        assert read_all(s) == []
    assert poller.wait() == 0


def test_loop_and_count(replay, tmp_path):
    sent = packets(70)
    path = write_pcap(tmp_path / "x.pcap", sent)
    for words, wanted in [
        (("--loop", "3"), 3 * sent),
        (("--loop", "0", "--count", "1000"), (15 * sent)[:1000]),
        (("--loop", "2", "--count", "9"), sent[:9]),
    ]:
        poller = replay(path, *words)
        with fal.open("fal:x") as s:
            assert [(int(m["ts_ns"]), data) for m, data in read_all(s)] == wanted
        assert poller.wait() == 0


# ---- pace ----------------------------------------------------------------------------------------


def test_flat_out_nothing_is_lost(replay, tmp_path):
    """A small ring, a slow reader and one that stands still for a while: the source waits."""
    sent = packets(2000)
    poller = replay(write_pcap(tmp_path / "x.pcap", sent), "--loop", "10", "--wait", "3")
    got = []

    def quick():
        with fal.open(poller.device, group=1, ring=64) as s:
            got.extend(int(m["ts_ns"]) for m, _ in read_all(s))

    with (
        fal.open(poller.device, group=2, ring=64) as still,
        fal.open(poller.device, group=3, ring=4096) as slow,
    ):
        thread = threading.Thread(target=quick)
        thread.start()
        eventually(lambda: still.stats().recv == 64)
        time.sleep(0.1)
        assert poller.look()["link_received"] == 64
        ticks = cpu_ticks(poller)
        time.sleep(0.5)
        assert cpu_ticks(poller) - ticks < 25  # of 50: it waits without spinning
        numbers = []

        def slowly():
            for batch in slow.batches(max=500):
                numbers.extend(batch.meta["ts_ns"].tolist())
                time.sleep(0.001)

        other = threading.Thread(target=slowly)
        other.start()
        assert [int(m["ts_ns"]) for m, _ in read_all(still)] == [ns for ns, _ in 10 * sent]
        thread.join()
        other.join()
        assert numbers == got == [ns for ns, _ in 10 * sent]
    assert poller.wait() == 0


def cpu_ticks(poller):
    fields = Path(f"/proc/{poller.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_flat_out_a_dead_worker_holds_nobody_up(replay, tmp_path):
    sent = packets(2000)
    poller = replay(write_pcap(tmp_path / "x.pcap", sent), "--wait", "2")
    program = "import fal, time; s = fal.open('fal:x', ring=64); print(flush=True); time.sleep(60)"
    dead = subprocess.Popen([BIN / "python", "-P", "-c", program], stdout=subprocess.PIPE)
    dead.stdout.readline()
    with fal.open(poller.device) as s:
        eventually(lambda: s.stats().recv == 64)
        dead.kill()
        assert [data for _, data in read_all(s)] == [data for _, data in sent]
    dead.communicate()
    assert poller.wait() == 0


@pytest.mark.parametrize("rate", ["capture", "500"])
def test_pace(replay, tmp_path, rate):
    """Half a second of packets takes half a second, twice over, and each comes when it is due."""
    sent = packets(250, apart=2_000_000)
    poller = replay(write_pcap(tmp_path / "x.pcap", sent), "--rate", rate, "--loop", "2")
    with fal.open(poller.device) as s:
        arrived = []
        for batch in s.batches():
            arrived += [time.monotonic()] * len(batch)
    assert len(arrived) == 500
    assert arrived[-1] - arrived[0] > 0.9
    assert sum(b - a > 0.001 for a, b in itertools.pairwise(arrived)) > 250
    assert poller.wait() == 0


def test_at_a_pace_what_finds_no_room_is_lost_and_counted(replay, tmp_path):
    path = write_pcap(tmp_path / "x.pcap", packets(2000))
    poller = replay(path, "--rate", "20000", "--wait", "2")
    with fal.open(poller.device, group=1) as quick, fal.open(poller.device, group=2, ring=64) as s:
        assert len(list(zip(range(2000), quick, strict=False))) == 2000
        eventually(lambda: s.stats() == (64, 1936, 0))
        assert_books(poller.look())
        assert len(read_all(s)) == 64
    assert poller.wait() == 0


# ---- what is no file of ours ---------------------------------------------------------------------


def test_what_cannot_be_read(replay, tmp_path):
    def refused(path, *words):
        return replay(path, *words, ready=False).refused()

    path = tmp_path / "x.pcap"
    assert "No such file" in refused(path)
    path.write_bytes(b"This is no capture file, but long enough to be one.")
    line = refused(path)
    assert f"cannot read {path} as a capture file" in line
    write_pcap(path, [], link=113)
    line = refused(path)
    assert "LINUX_SLL (113), not Ethernet" in line
    write_pcap(path, packets(3))
    os.truncate(path, path.stat().st_size - 5)
    poller = replay(path)
    with fal.open("fal:x") as s:
        got = []
        with pytest.raises(fal.FalError, match="truncated dump file") as raised:
            got.extend(data for _, data in s)
        assert raised.value.errno == errno.EBADMSG
    assert got == [data for _, data in packets(2)]
    assert poller.wait() == 1
    assert poller.lines[-1].startswith(f"fal-poller: {path}: truncated dump file")


def test_without_libpcap(replay, tmp_path, monkeypatch):
    """One that has none of the functions stands for one that is not there."""
    source = tmp_path / "empty.c"
    source.write_text("int nothing;\n")
    library = tmp_path / "libpcap.so.0.8"
    assert run("cc", "-shared", source, "-o", library).returncode == 0
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    path = write_pcap(tmp_path / "x.pcap", packets(3))
    assert "1.5.1" in replay(path, ready=False).refused()
    library.write_text("")
    assert "apt-get install libpcap0.8" in replay(path, ready=False).refused()


def test_it_needs_no_privilege(monkeypatch):
    home = Path(tempfile.mkdtemp(prefix="fal-test-"))
    try:
        os.chown(home, 65534, 65534)
        monkeypatch.setenv("FAL_RUNTIME_DIR", str(home))
        path = write_pcap(home / "x.pcap", packets(100))
        poller = subprocess.Popen(
            [*NOBODY, BIN / "fal-poller", path, "--hugepages", "off"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert "ready x" in poller.stderr.readline()
        program = "import fal; print(sum(1 for _ in fal.open('fal:x')))"
        assert run(*NOBODY, BIN / "python", "-P", "-c", program).stdout == "100\n"
        assert poller.communicate(timeout=10)[1] == ""
        assert poller.returncode == 0
    finally:
        shutil.rmtree(home)


def test_a_network_device_goes_before_a_file_of_its_name(tmp_path, monkeypatch):
    from fal.options import backend_for

    monkeypatch.chdir(tmp_path)
    for name in ("lo", "file"):
        write_pcap(Path(name), [])
    chosen = [backend_for(name) for name in ("lo", "./lo", "file", ".", "nosuch", "nosuch.pcap")]
    assert chosen == ["af_xdp", "pcap", "pcap", "af_xdp", "af_xdp", "pcap"]
