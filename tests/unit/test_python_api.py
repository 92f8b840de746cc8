"""The Python API, as users meet it: every call, good and bad, over the null backend."""

import asyncio
import errno
import gc
import itertools
import math
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from support import NULL, assert_books, eventually, number, run

import fal
from fal.bindings import lib


@pytest.fixture
def source(start_poller):
    """A fal-poller whose packets come when so many sockets are started, and end."""

    def start(count, *words, wait=1):
        return start_poller("made", *NULL, "--wait", str(wait), "--count", str(count), *words)

    return start


def refused(code, *words):
    """Expect one clear line, with that errno."""
    pattern = "".join(f"(?=.*{re.escape(word)})" for word in words)
    return pytest.raises(fal.FalError, match=rf"\A{pattern}[^\n]+\Z", check=has_errno(code))


def has_errno(code):
    return lambda e: isinstance(e, OSError) and e.errno == code


def python(program, *words, **options):
    return run(sys.executable, "-P", "-c", textwrap.dedent(program), *words, **options)


# ---- opening -----------------------------------------------------------------------------------


def test_open_refuses_bad_arguments(start_poller):
    poller = start_poller("x", *NULL)
    ring = ("power of two", str(lib.FAL_MIN_RING), str(lib.FAL_MAX_RING))
    with fal.open(poller.device, group=42, fanout="hash", ring=64):
        for bad, code, *words in [
            ({"device": "x"}, errno.ENODEV, "no device x"),
            ({"device": "netmap:x"}, errno.EINVAL, "fal:NAME"),
            ({"device": "fal:"}, errno.EINVAL, "''"),
            ({"device": "fal:../x"}, errno.EINVAL, "'../x'"),
            ({"device": "fal:x\0y"}, errno.EINVAL, "NUL"),
            ({"device": "fal:nobody"}, errno.ENOENT, "'nobody'", "fal-poller nobody"),
            ({"device": "fal:" + 200 * "x"}, errno.ENAMETOOLONG, "xxx"),
            ({"group": -1}, errno.EINVAL, "group -1", "65535"),
            ({"group": 65536}, errno.EINVAL, "group 65536", "65535"),
            ({"fanout": "hash"}, errno.EINVAL, "'hash'", "group"),
            ({"group": 1, "fanout": "flew"}, errno.EINVAL, "'flew'", "known: hash, lb"),
            ({"group": True}, errno.EINVAL, "group True"),
            ({"device": "fal:\udcff"}, errno.ENOENT, "no fal-poller"),
            ({"device": "fal:\ud800"}, errno.EINVAL, "half a character"),
            ({"group": 1, "fanout": "\udcff"}, errno.EINVAL, "unknown fan-out mode"),
            ({"group": 1, "fanout": 70 * "x"}, errno.EINVAL, "xxx"),
            ({"group": 1, "fanout": "ha\0sh"}, errno.EINVAL, "NUL"),
            ({"group": 42, "fanout": "lb"}, errno.EINVAL, "group 42", "mode hash", "not lb"),
            *[({"ring": n}, errno.EINVAL, f"ring {n}:", *ring) for n in (-1, 1, 32, 65, 100)],
            *[({"ring": n}, errno.EINVAL, f"ring {n}:", *ring) for n in (1 << 21, 1 << 40)],
            ({"ring": 65536}, errno.ENOSPC, "65536", poller.ready["frames"], "--frames"),
            *[({"snaplen": n}, errno.EINVAL, f"snaplen {n}", "262144") for n in (-1, 0, 262145)],
            *[({"timeout": n}, errno.EINVAL, "timeout") for n in (-1, math.nan, math.inf, 1e9)],
        ]:
            with refused(code, *words):
                fal.open(**({"device": poller.device} | bad))
        for wrong in ({"group": "42"}, {"group": 1.5}, {"snaplen": 1.5}, {"device": None}):
            with pytest.raises(TypeError):
                fal.open(**({"device": poller.device} | wrong))
        gc.collect()
        assert len(eventually(lambda: poller.look())["groups"]) == 1
    eventually(lambda: not poller.look()["groups"] and not poller.look()["sockets"])


def test_open_takes_good_arguments(source):
    poller = source(10, wait=100)
    with (
        fal.open(poller.device) as everything,
        fal.open(
            poller.device, group=np.int64(0), fanout="hash", snaplen=1, timeout=0, ring=64
        ) as least,
        fal.open(poller.device, group=65535, fanout="LB", timeout=2e6, ring=16384) as most,
        fal.open(poller.device, group=65535) as as_it_is,
    ):
        assert [s.device for s in (everything, most)] == ["fal:made"] * 2
        assert [s.group for s in (everything, least, most, as_it_is)] == [None, 0, 65535, 65535]
        assert [s.member for s in (everything, least, most, as_it_is)] == [None, 0, 0, 1]
        report = poller.look()
        assert [(g["id"], g["mode"]) for g in report["groups"]] == [(0, "hash"), (65535, "lb")]
        rings = [m["ring"] for g in report["groups"] for m in g["members"]]
        assert rings == [64, 16384, 4096]
        assert report["sockets"][0]["ring"] == 4096


def test_no_poller_and_a_crashed_one(start_poller):
    with refused(errno.ENOENT, "fal-poller x"):
        fal.open("fal:x")
    start_poller("x", *NULL).kill()
    with refused(errno.ECONNREFUSED, "fal-poller x"):
        fal.open("fal:x")
    start_poller("x", *NULL).stop()
    with refused(errno.ENOENT, "fal-poller x"):
        fal.open("fal:x")


def test_errors_are_one_tree():
    assert issubclass(fal.PollerGone, fal.FalError)
    assert issubclass(fal.FalError, OSError)


def test_packages_types_hold(tmp_path):
    """mypy --strict takes a program that uses all of the API, and knows what it returns."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""\
        import fal
        import numpy as np

        with fal.open("fal:x", group=1, fanout="hash", snaplen=96, timeout=1.0, ring=64) as s:
            for ts, data in s:
                half: float = ts / 2
                first: bytes = data[:1]
            for batch in s.batches(max=1024, timeout=0.1):
                n: int = len(batch) + int(batch.meta["len"].sum()) + int(batch.data[0])
                one: memoryview = batch[0]
                views: list[memoryview] = list(batch)
                n += fal.flow_hash(one, "hash", seed=1) + fal.flow_hash(data)
            with s.recv_batch(max=1, timeout=None) as held:
                kind: np.dtype[np.void] = held.meta.dtype
            held.release()
            stats: fal.Stats = s.stats()
            n = stats.recv + stats.drop + stats.ifdrop + sum(s.counters().values()) + s.fileno()
            s.leave()
            s.join(2, fanout=None)
            where: tuple[str, int | None, int | None] = (s.device, s.group, s.member)
            s.close()
        try:
            fal.open("fal:x")
        except fal.PollerGone as e:
            error: fal.FalError = e
        fal.open("fal:x", group="1")  # type: ignore[arg-type]
        """)
    )
    cache = ("--cache-dir", str(tmp_path))
    done = run("mypy", "--strict", *cache, str(program), cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    program.write_text('import fal\nfal.open("fal:x", group="1")\n')
    done = run("mypy", "--strict", *cache, str(program), cwd=tmp_path)
    assert 'argument "group"' in done.stdout.lower()


# ---- iterating ---------------------------------------------------------------------------------


def test_iteration_gives_times_and_copies_and_ends(source):
    before = time.time()
    poller = source(3000)
    with fal.open(poller.device) as s:
        got = list(s)
    assert [number(data) for _, data in got] == list(range(3000))
    assert all(type(ts) is float and type(data) is bytes for ts, data in got)
    assert before - 1 < got[0][0] <= got[-1][0] < time.time() + 1
    assert poller.wait() == 0
    assert [number(data) for _, data in got] == list(range(3000))  # also without the pool


def test_iteration_goes_on_through_timeouts(source):
    poller = source(10, wait=2)
    later = []
    timer = threading.Timer(0.3, lambda: later.append(fal.open(poller.device)))
    with fal.open(poller.device, timeout=0.01) as s:
        timer.start()
        assert len(list(itertools.islice(s, 10))) == 10
        timer.join()
    later[0].close()


def test_a_loop_goes_on_where_one_was_left(source):
    poller = source(1000)
    with fal.open(poller.device) as s:
        first = [number(data) for _, data in itertools.islice(s, 100)]
        assert first + [number(data) for _, data in s] == list(range(1000))


def test_iteration_raises_after_a_crash(start_poller):
    poller = start_poller("x", *NULL, "--wait", "2")
    with fal.open(poller.device) as s:
        poller.kill()
        with pytest.raises(fal.PollerGone, check=has_errno(errno.ECONNRESET)):
            list(s)
        with pytest.raises(fal.PollerGone):
            s.recv_batch(timeout=1)
        with pytest.raises(fal.PollerGone):
            s.join(1)


def test_clean_shutdown_ends_iteration_after_the_last_packet(source):
    poller = source(100)
    with fal.open(poller.device, ring=128) as s:
        eventually(lambda: s.stats().recv == 100)
        assert poller.stop() == 0
        assert len(list(s)) == 100
        assert list(s.batches()) == []
        with pytest.raises(EOFError, match="fal-poller has ended"):
            s.recv_batch()


def test_batches(source):
    poller = source(1000)
    sizes, numbers = [], []
    with fal.open(poller.device) as s:
        for batch in s.batches(max=100, timeout=1):
            sizes.append(len(batch))
            numbers += map(number, batch)
    assert max(sizes) <= 100
    assert numbers == list(range(1000))


def test_batches_come_empty_when_time_is_up(source):
    with fal.open(source(10, wait=2).device) as s:
        assert len(next(s.batches(timeout=0.01))) == 0


def test_a_batch_does_not_wrap(start_poller):
    poller = start_poller("x", *NULL)
    with fal.open(poller.device, ring=128) as s:
        places = set()
        for batch in itertools.islice(s.batches(max=100), 200):
            numbers = list(map(number, batch))
            assert numbers == sorted(numbers)
            first = batch.meta.ctypes.data
            places |= {first, first + batch.meta.nbytes}
        assert max(places) - min(places) == 128 * batch.meta.itemsize  # the whole ring, and no more


# ---- batches -----------------------------------------------------------------------------------


def test_empty_batch(source):
    with fal.open(source(10, wait=2).device) as s:
        batch = s.recv_batch(timeout=0)
        assert len(batch) == len(batch.meta) == len(batch.data) == 0
        assert batch.meta.dtype.names[0] == "ts_ns"
        assert list(batch) == []
        with pytest.raises(IndexError):
            batch[0]
        with refused(errno.EINVAL, "max 0"):
            s.recv_batch(max=0)
        with refused(errno.EINVAL, "timeout"):
            s.recv_batch(timeout=-1)


def test_a_batch_shows_the_poller_s_own_memory(source):
    seed = 99
    poller = source(200, "--hash-seed", str(seed))
    with fal.open(poller.device, group=1) as s:
        eventually(lambda: s.stats().recv == 200)
        batch = s.recv_batch(max=150)
        meta, data = batch.meta, batch.data
        assert len(batch) == len(meta) == 150
        fields = {"ts_ns", "caplen", "len", "offset", "hash", "queue", "vlan_tci", "flags"}
        assert set(meta.dtype.names) == fields
        assert set(meta["len"]) == set(meta["caplen"]) == {60}
        assert set(meta["flags"]) == {lib.FAL_DESC_FIRST}
        assert set(meta["queue"]) == set(meta["vlan_tci"]) == {0}
        assert abs(int(meta["ts_ns"][0]) - time.time_ns()) < 60e9
        assert (len(set(meta["hash"])), len(set(meta["offset"]))) == (64, 150)
        for i, packet in enumerate(batch):
            assert number(packet) == number(batch[i]) == i
            offset = int(meta["offset"][i])
            assert bytes(packet) == data[offset : offset + 60].tobytes()
            assert np.frombuffer(packet, np.uint8).ctypes.data == data.ctypes.data + offset
            assert int(meta["hash"][i]) == fal.flow_hash(packet, seed=seed)
        assert number(batch[-1]) == 149
        assert number(batch[np.int64(3)]) == 3
        for i in (150, -151):
            with pytest.raises(IndexError):
                batch[i]
        with pytest.raises(TypeError, match="slice"):
            batch[0:2]


def test_nothing_in_a_batch_can_be_written(source):
    with fal.open(source(10).device) as s:
        batch = s.recv_batch()
        assert batch[0].readonly
        with pytest.raises(TypeError):
            batch[0][0] = 1
        for array in (batch.meta, batch.data, batch.meta["hash"], batch.data[:10]):
            assert not array.flags.writeable
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.setflags(write=True)
            with pytest.raises(ValueError, match="read-only"):
                array[0] = array[1]


def test_a_released_batch_raises(source):
    poller = source(1000)
    with fal.open(poller.device) as s:
        eventually(lambda: s.stats().recv == 1000)
        batch = s.recv_batch(max=10)
        batch.release()
        batch.release()
        eventually(lambda: poller.look()["sockets"][0]["consumed"] == 10)
        for use in (len, list, lambda b: b[0], lambda b: b.meta, lambda b: b.data):
            with pytest.raises(ValueError, match="released"):
                use(batch)
        with pytest.raises(ValueError, match="released"), batch:
            pass
        with s.recv_batch(max=10) as batch:
            assert number(batch[0]) == 10
        with pytest.raises(ValueError, match="released"):
            len(batch)
        older = s.recv_batch(max=10)
        newer = s.recv_batch(max=10)
        older.release()  # too late to do anything, and harmless
        assert number(newer[0]) == 30
        with pytest.raises(ValueError, match="released"):
            len(older)
        # 30 were given back and 10 are held
        eventually(lambda: poller.look()["sockets"][0]["consumed"] == 30)
        s.close()
        with pytest.raises(ValueError, match="released"):
            len(newer)


def test_a_batch_keeps_its_socket(source):
    batch = fal.open(source(10).device).recv_batch()
    gc.collect()
    assert number(batch[9]) == 9


def test_what_was_kept_stays_safe_to_touch(start_poller):
    """After release, close, the poller's death, and collection: stale at worst, never a crash."""
    poller = start_poller("x", *NULL)
    program = """
        import gc, os, signal, sys
        import fal

        def touch(kept):
            return sum(int(array[-1].item() is not None) for array in kept)

        kept = []
        for turn in range(150):
            s = fal.open("fal:x", group=turn % 3, ring=64)
            for _ in range(3):
                batch = s.recv_batch(timeout=5)
                kept += [batch.meta, batch.meta["ts_ns"], batch.data, batch.meta[-1:]]
                views = [batch[0], batch[-1], *batch]
                if turn % 2:
                    batch.release()
                sum(view[0] for view in views)
            if turn % 3:
                s.close()
            del s, batch
            touch(kept)
            if turn % 50 == 0:
                kept = kept[-4:]
                gc.collect()
            sum(view[0] for view in views)
        os.kill(int(sys.argv[1]), signal.SIGKILL)
        try:
            fal.open("fal:x")
        except fal.FalError:
            pass
        gc.collect()
        touch(kept), sum(view[0] + view[-1] for view in views)
        maps = open("/proc/self/maps").read
        assert "fal-arena" in maps()
        del kept, views
        gc.collect()
        assert "fal-arena" not in maps() and "fal-cursor" not in maps()
    """
    done = python(program, str(poller.pid))
    assert (done.returncode, done.stderr) == (0, "")
    poller.kill()


def test_snaplen(source):
    poller = source(10)
    with fal.open(poller.device, snaplen=46, ring=64) as s:
        with s.recv_batch(timeout=5) as batch:
            assert {len(packet) for packet in batch} == {len(batch[0])} == {46}
            assert set(batch.meta["caplen"]) == {60}  # of the ring itself
            rest = 10 - len(batch)
        assert [len(data) for _, data in s] == [46] * rest


# ---- the socket --------------------------------------------------------------------------------


def test_stats_and_counters(source):
    poller = source(1000)
    with fal.open(poller.device, group=3, ring=64) as s:
        eventually(lambda: sum(s.stats()) == 1000)
        assert s.stats() == fal.Stats(recv=64, drop=936, ifdrop=0)
        assert s.counters() == {"ring_full": 936, "filtered": 0}
        report = poller.group(3)
        assert report["members"][0]["dropped"] == report["app_dropped"] == 936
        assert len(list(s)) == 64


def test_join_and_leave_at_run_time(source):
    """What lay in the ring is read after the move, and booked where it came from."""
    poller = source(300, wait=2)
    with fal.open(poller.device, group=7, fanout="lb") as s:
        with refused(errno.EALREADY, "group 7"):
            s.join(8)
        assert (s.group, s.member) == (7, 0)
        s.leave()
        assert (s.group, s.member) == (None, None)
        with refused(errno.EINVAL, "no group"):
            s.leave()
        with refused(errno.EINVAL, "known: hash, lb"):
            s.join(7, "flew")
        assert s.group is None
        s.join(7)
        assert (s.group, s.member) == (7, 0)
        assert poller.group(7)["mode"] == "hash"  # a new one: the old ended with its last member
        with fal.open(poller.device, ring=512) as other:
            eventually(lambda: s.stats().recv == other.stats().recv == 300)
            keeper = fal.open(poller.device, group=7)  # else the group would end
            s.leave()
            s.join(8, "lb")
            s.leave()
            report = poller.look()
            assert_books(report)
            assert [g["id"] for g in report["groups"]] == [7]
            members = report["groups"][0]["members"]
            assert [(m["number"], m["left"], m["in_ring"]) for m in members] == [
                (0, False, 0),
                (None, True, 300),
            ]
            assert s.stats().recv == 300
            assert number(s.recv_batch(max=100)[99]) == 99
            s.join(9)
            s.recv_batch(max=1)
            eventually(lambda: poller.group(7)["members"][1]["consumed"] == 100)
            assert_books(poller.look())
            assert [number(data) for _, data in itertools.islice(s, 199)] == list(range(101, 300))
            assert len(s.recv_batch(timeout=0.01)) == 0
            gone = {"delivered": 300, "consumed": 300, "abandoned": 0}
            eventually(lambda: poller.group(7)["gone"] == gone)
            assert_books(poller.look())
            keeper.close()
            eventually(lambda: [g["id"] for g in poller.look()["groups"]] == [9])


def test_members_are_numbered_as_they_start(source):
    poller = source(1, wait=100)
    a, b, c, d = (fal.open(poller.device, group=1) for _ in range(4))
    assert [s.member for s in (a, b, c, d)] == [0, 1, 2, 3]
    a.close()  # the last takes its number
    eventually(lambda: [s.member for s in (d, b, c)] == [0, 1, 2])
    b.leave()
    assert [s.member for s in (d, c, b)] == [0, 1, None]
    b.join(1)
    assert [s.member for s in (d, c, b)] == [0, 1, 2]
    for s in (b, c, d):
        s.close()
    eventually(lambda: not poller.look()["groups"])


def test_a_closed_socket_says_so(source):
    s = fal.open(source(1, wait=100).device, group=1)
    assert not s.closed
    s.close()
    s.close()
    assert s.closed
    for use in (
        s.recv_batch,
        s.stats,
        s.counters,
        s.fileno,
        s.leave,
        lambda: s.join(2),
        lambda: s.member,
        lambda: list(s),
        lambda: list(s.batches()),
    ):
        with refused(errno.EBADF, "closed"):
            use()


def test_leaving_the_block_closes_also_on_an_exception(source):
    poller = source(1, wait=100)
    with pytest.raises(KeyError), fal.open(poller.device) as s:
        raise KeyError
    assert s.closed
    eventually(lambda: not poller.look()["sockets"])


def test_a_forgotten_socket_is_closed(source):
    poller = source(1, wait=100)
    s = fal.open(poller.device)
    fal.open(poller.device).recv_batch(timeout=0)  # both forgotten at once: a cycle
    gc.collect()
    eventually(lambda: len(poller.look()["sockets"]) == 1)
    del s
    eventually(lambda: not poller.look()["sockets"])


def test_a_socket_a_thread(source):
    count = 12000
    poller = source(count, wait=4)
    got = [[] for _ in range(4)]

    def work(i):
        with fal.open(poller.device, group=1, fanout="lb") as s:
            got[i] += [number(data) for _, data in s]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(numbers) for numbers in got] == [count / 4] * 4
    assert all(numbers == sorted(numbers) for numbers in got)
    assert sorted(itertools.chain(*got)) == list(range(count))


def test_waiting_releases_the_gil_and_can_be_interrupted(start_poller):
    start_poller("x", *NULL, "--wait", "2")
    program = """
        import fal, signal, threading
        with fal.open("fal:x") as s:
            beats = []
            threading.Timer(0.1, lambda: print("beat", flush=True)).start()
            s.recv_batch()
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "beat\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert err.endswith("KeyboardInterrupt\n")
    assert process.returncode == -signal.SIGINT


def test_signals_do_not_prolong_a_timeout(source):
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    main, over = threading.get_ident(), threading.Event()

    def disturb():
        end = time.monotonic() + 5
        while time.monotonic() < end and not over.wait(0.02):
            signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=disturb)
    try:
        with fal.open(source(1, wait=2).device) as s:
            thread.start()
            start = time.monotonic()
            assert len(s.recv_batch(timeout=0.3)) == 0
            assert 0.3 <= time.monotonic() - start < 4
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def test_asyncio_reads_by_the_descriptor(source):
    poller = source(100, wait=2)
    got = []

    async def work():
        with fal.open(poller.device) as s:
            done = asyncio.Event()
            loop = asyncio.get_running_loop()

            def read():
                got.extend(map(number, s.recv_batch(timeout=0)))
                if len(got) == 100:
                    done.set()

            loop.add_reader(s.fileno(), read)
            with fal.open(poller.device):
                await asyncio.wait_for(done.wait(), 10)
            loop.remove_reader(s.fileno())

    asyncio.run(work())
    assert got == list(range(100))


# ---- the hash ----------------------------------------------------------------------------------


def test_flow_hash_takes_what_holds_bytes():
    frame = bytes(range(64))
    value = fal.flow_hash(frame)
    assert 0 < value < 1 << 32
    for same in (bytearray(frame), memoryview(frame), memoryview(b"x" + frame)[1:]):
        assert fal.flow_hash(same) == value
    assert fal.flow_hash(frame, "HASH", seed=fal.HASH_SEED) == value
    assert fal.flow_hash(frame, seed=2**64 - 1) != value
    assert fal.flow_hash(b"") == 0
    for bad in ({"mode": "lb"}, {"mode": "flew"}, {"mode": ""}):
        with refused(errno.EINVAL, f"'{bad['mode']}'", "see `fal modes`"):
            fal.flow_hash(frame, **bad)
    for seed in (-1, 1 << 64):
        with refused(errno.EINVAL, str(seed), "2**64"):
            fal.flow_hash(frame, seed=seed)
