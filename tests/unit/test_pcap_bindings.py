"""fal.pcap, as users meet it: over capture files, and over fal-pollers of the null backend."""

import contextlib
import errno
import itertools
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from captures import write_pcap, write_pcapng
from support import NULL, assert_books, eventually, number, run, udp

import fal
from fal import pcap

START = 1700000000123456789
PACKETS = [
    (START + 1001 * n, udp(("10.0.0.1", 1000 + n), ("10.0.0.2", 53 + n % 2), bytes(n % 50)))
    for n in range(300)
]
EVEN = "udp dst port 53"


@pytest.fixture
def path(tmp_path):
    return write_pcap(tmp_path / "x.pcap", PACKETS)


@pytest.fixture
def p(path):
    with pcap.open_offline(path) as p:
        yield p


@pytest.fixture
def quiet(start_poller):
    """A fal-poller that waits for a second socket in vain: no packet comes."""
    return start_poller("quiet", *NULL, "--wait", "100").device


def refused(code, *words):
    """Expect one clear line, with that errno."""
    pattern = "".join(f"(?=.*{re.escape(word)})" for word in words)
    return pytest.raises(
        fal.FalError, match=rf"\A{pattern}[^\n]+\Z", check=lambda e: e.errno == code
    )


def start_python(program, *words):
    """Start a program, and wait for its first line."""
    command = [sys.executable, "-Pc", textwrap.dedent(program), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


# ---- files -------------------------------------------------------------------------------------


def by_next(p):
    while (packet := p.next())[0]:
        yield packet


def by_next_ex(p):
    while (packet := p.next_ex())[0] == 1:
        yield packet[1:]
    assert packet == (-2, None, b"")


def by_loop(p):
    got = []
    assert p.loop(0, lambda *packet: got.append(packet)) == len(PACKETS)
    return got


def by_dispatch(p):
    got = []
    counts = []
    while n := p.dispatch(7, lambda *packet: got.append(packet)):
        counts.append(n)
    assert counts == [7] * 42 + [6]
    return got


@pytest.mark.parametrize("read", [by_next, by_next_ex, by_loop, by_dispatch])
def test_every_way_of_reading(p, read):
    got = list(read(p))
    assert [(h.ts_ns, data) for h, data in got] == PACKETS
    assert {type(data) for _, data in got} == {bytes}
    for h, data in got:
        assert h.getts() == (h.ts_ns // 10**9, h.ts_ns // 1000 % 10**6)
        assert (h.caplen, h.len) == (h.getcaplen(), h.getlen()) == (len(data), len(data))
    assert p.next() == (None, b"")
    assert p.next_ex() == (-2, None, b"")
    assert (p.loop(5, print), p.dispatch(-1, print), list(p)) == (0, 0, [])


def test_iterating(p):
    """A loop that is left has taken what it was given."""
    first = next(iter(p))
    assert first == (pytest.approx(START / 1e9, abs=1e-6), PACKETS[0][1])
    assert isinstance(first[0], float)
    assert [data for _, data in p] == [data for _, data in PACKETS[1:]]


def test_formats(tmp_path):
    """Microseconds are what the file has, cut packets say so, pcapng is read, and link types."""
    packets = [(START, PACKETS[0][1][:20], 60), PACKETS[1]]
    want = [(pcap.Header(START, 20, 60), packets[0][1])]
    for ng in (False, True):
        write = write_pcapng if ng else write_pcap
        with pcap.open_offline(write(tmp_path / "x", packets)) as p:
            assert [p.next()] == want
            assert p.datalink() == pcap.DLT_EN10MB
            assert p.snapshot() == 262144
    with pcap.open_offline(write_pcap(tmp_path / "x", packets, nano=False, link=228)) as p:
        assert p.next()[0].ts_ns == START // 1000 * 1000
        assert p.datalink() == 228


def test_what_is_no_file(tmp_path, path):
    with refused(errno.EINVAL, "nosuch", "No such file"):
        pcap.open_offline(tmp_path / "nosuch")
    (tmp_path / "x").write_bytes(b"no capture file, this")
    with refused(errno.EINVAL, f"{tmp_path}/x", "unknown file format"):
        pcap.open_offline(tmp_path / "x")
    with refused(errno.EINVAL, "NUL"):
        pcap.open_offline("x\0y")
    path.write_bytes(path.read_bytes()[:-1])
    with pcap.open_offline(path) as p:
        got = []
        with refused(errno.EIO, str(path), "truncated"):
            p.loop(0, lambda _, data: got.append(data))
        assert got == [data for _, data in PACKETS[:-1]]


def test_a_pipe_is_waited_for_without_the_gil(tmp_path, path):
    """What comes slowly through a FIFO holds no other thread up."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    turns, got = [], []

    def write():
        with fifo.open("wb", buffering=0) as file:
            file.write(path.read_bytes()[:5000])
            for _ in range(100):  # this thread runs while the other waits
                turns.append(len(got))
                time.sleep(0.001)
            file.write(path.read_bytes()[5000:])

    writer = threading.Thread(target=write)
    writer.start()
    with pcap.open_offline(fifo) as p:
        got.extend(data for _, data in p)
    writer.join()
    assert got == [data for _, data in PACKETS]


@pytest.mark.parametrize(
    ("what", "said"), [("breakloop", "0"), ("close", "the handle is closed")], ids=lambda x: x
)
def test_a_signal_breaks_the_wait_for_a_pipe(tmp_path, path, what, said):
    """Which is libpcap's own: its read fails by the signal."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = f"""
        import os, signal, sys
        from fal import FalError, pcap
        held = os.open(sys.argv[1], os.O_RDWR)
        os.write(held, open(sys.argv[2], "rb").read(24))
        p = pcap.open_offline(sys.argv[1])
        signal.signal(signal.SIGALRM, lambda *_: p.{what}())
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        print("ready", flush=True)
        try:
            print(p.loop(0, print))
        except FalError as e:
            print(e)
    """
    process = start_python(program, fifo, path)
    assert process.communicate(timeout=10) == (f"{said}\n", "")


def test_closed_at_once_also_below_an_exception(path):
    """Whose traceback has the frames of the read that failed."""
    path.write_bytes(path.read_bytes()[:-1])
    fds = len(os.listdir("/proc/self/fd"))
    with refused(errno.EIO, "truncated") as caught, pcap.open_offline(path) as p:
        p.loop(0, lambda *_: None)
    assert caught.traceback
    assert len(os.listdir("/proc/self/fd")) == fds


# ---- filters, callbacks --------------------------------------------------------------------------


def test_filters(p):
    even = p.compile(EVEN)
    assert [even.filter(data) for _, data in PACKETS] == [n % 2 == 0 for n in range(300)]
    assert not even.filter(PACKETS[0][1][:20])
    p.setfilter(EVEN)
    assert [p.next()[1], p.next()[1]] == [PACKETS[0][1], PACKETS[2][1]]
    p.setfilter(p.compile(f"not {EVEN}", optimize=False, netmask=0))
    assert p.next()[1] == PACKETS[3][1]
    for bad, why in [("port", "syntax error"), ("ip and arp", "rejects all packets")]:
        with refused(errno.EINVAL, why):
            p.setfilter(bad)
    with refused(errno.EINVAL, "NUL"):
        p.compile("ip\0")
    assert p.next()[1] == PACKETS[5][1]  # still the last good one
    p.setfilter("")
    assert p.next()[1] == PACKETS[6][1]


def test_a_dead_handle(tmp_path):
    with pcap.open_dead() as dead:
        assert dead.compile("arp").filter(b"\xff" * 12 + b"\x08\x06" + bytes(46))
        assert (dead.datalink(), dead.snapshot()) == (pcap.DLT_EN10MB, 262144)
        with dead.dump_open(tmp_path / "y.pcap") as dumper:
            for ts_ns, data in PACKETS:
                dumper.dump(pcap.Header(ts_ns, len(data), len(data) + 1), data)
        with refused(errno.EIO, "dead"):
            dead.next()
    with pcap.open_dead(linktype=228, snaplen=96) as dead:
        assert (dead.datalink(), dead.snapshot()) == (228, 96)
        assert dead.compile("ip").filter(b"\x45" + bytes(19))
    with pcap.open_offline(tmp_path / "y.pcap") as p:
        assert [(h.ts_ns, data, h.len) for h, data in by_next(p)] == [
            (ts_ns, data, len(data) + 1) for ts_ns, data in PACKETS
        ]


def test_files_are_written_whole_or_not(p, tmp_path):
    copy = tmp_path / "y.pcap"
    dumper = p.dump_open(copy)
    p.loop(100, dumper.dump)
    dumper.flush()
    with pcap.open_offline(copy) as q:
        assert [(h.ts_ns, data) for h, data in by_next(q)] == PACKETS[:100]
    p.loop(0, dumper.dump)
    p.close()  # which it outlives
    dumper.close()
    dumper.close()
    assert copy.read_bytes() == (tmp_path / "x.pcap").read_bytes()
    with refused(errno.EBADF, "y.pcap", "closed"):
        dumper.dump(pcap.Header(0, 0, 0), b"")
    with pcap.open_dead() as dead:
        with refused(errno.EIO, "nosuch"):
            dead.dump_open(tmp_path / "nosuch" / "z")
        full = dead.dump_open("/dev/full")
        full.dump(pcap.Header(0, 5, 5), b"12345")
        with refused(errno.ENOSPC, "/dev/full", "No space"):
            full.close()


def test_callbacks(p):
    """Their exceptions end the loop and are passed on; nothing is lost or given twice."""
    got = []

    def third(_, data):
        got.append(data)
        if len(got) % 3 == 0:
            raise KeyError(len(got))

    for read in (p.loop, p.dispatch):
        with pytest.raises(KeyError):
            read(0, third)
    assert p.loop(2, third) == 2
    assert got == [data for _, data in PACKETS[:8]]


def test_breakloop(p):
    """It ends what runs, or else what is begun next, once."""
    got = []

    def stop(_, data):
        got.append(data)
        p.breakloop()

    assert (p.loop(0, stop), p.dispatch(0, stop)) == (1, 1)
    for _, data in p:
        got.append(data)
        p.breakloop()
    p.breakloop()
    p.breakloop()
    assert p.next_ex() == (-2, None, b"")
    assert p.next()[1] == PACKETS[3][1]
    assert got == [data for _, data in PACKETS[:3]]


def test_what_was_given_stays(p):
    """No buffer is used again: each packet is a copy."""
    kept = list(by_next(p))
    assert [data for _, data in kept] == [data for _, data in PACKETS]


def test_nothing_leaks(path):
    def use():
        with pcap.open_offline(path) as p:
            p.setfilter(EVEN)
            assert p.loop(0, lambda *_: None) == 150
        p.close()
        for wrong in ("nosuch", "x\0"):
            with contextlib.suppress(fal.FalError):
                pcap.open_offline(wrong)
        with contextlib.suppress(fal.FalError):
            pcap.open_live("nosuch")
        pcap.open_offline(path)  # forgotten

    use()
    fds, pages = len(os.listdir("/proc/self/fd")), resident()
    for _ in range(200):
        use()
    assert len(os.listdir("/proc/self/fd")) == fds
    assert resident() - pages < 512  # 2 MiB: 200 unclosed files have some 4 KiB of buffer each


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])


# ---- what is refused -----------------------------------------------------------------------------


def test_refusals(p, quiet):
    with refused(errno.ENODEV, "nosuch", "No such device") as said:
        pcap.open_live("nosuch")
    assert str(said.value).count("No such device") == 1  # which libpcap says twice
    with refused(errno.ENODEV, "fal:nobody", "no fal-poller serves 'nobody'"):
        pcap.open_live("fal:nobody")
    for call in (p.stats, lambda: p.inject(b"x" * 60), lambda: p.fanout(1, "hash")):
        with pytest.raises(fal.FalError, match=r"\A[^\n]+\Z"):
            call()
    with pcap.create(quiet) as new:
        for call in (new.next, new.stats, lambda: new.setfilter("ip")):
            with refused(errno.ENOTCONN, quiet, "activated"):
                call()
        with refused(errno.EINVAL, "'flew'"):
            new.fanout(7, "flew")
    with pcap.create(quiet) as new:
        new.set_rfmon(True)
        with refused(errno.EOPNOTSUPP, quiet, "monitor mode"):
            new.activate()
    with pcap.open_live(quiet) as live:
        for call in (lambda: live.set_snaplen(5), live.activate):
            with refused(errno.EISCONN, quiet, "activated"):
                call()
        for group, fanout, words in [
            (-1, "hash", ["group -1", "65535"]),
            (65536, None, ["group 65536"]),
            (1, "flew", ["'flew'", "known: hash, lb"]),
            (1, "ha\0sh", ["NUL"]),
        ]:
            with refused(errno.EINVAL, *words):
                live.fanout(group, fanout)
        live.fanout(1, "lb")
        with refused(errno.EINVAL, "already in group 1"):
            live.fanout(2)
    for call in (p.next, p.stats, p.datalink, p.fileno, p.getnonblock, live.next, live.activate):
        p.close()
        with refused(errno.EBADF, "closed"):
            call()
    p.breakloop()  # a handler may come late
    assert p.closed
    assert live.closed


def test_a_missing_library_is_said_in_one_line():
    program = """
        from fal import FalError, libpcap, pcap
        libpcap.FAL_LIBRARY = "/nowhere/libpcap.so.0.8"
        try:
            pcap.lib_version()
        except FalError as e:
            print(e)
    """
    done = run(sys.executable, "-Pc", textwrap.dedent(program))
    assert done.stdout.startswith("cannot load /nowhere/libpcap.so.0.8: ")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_what_there_is(quiet):
    assert {"lo", quiet} <= set(pcap.findalldevs())
    assert pcap.lookupnet("lo") == ("127.0.0.0", "255.0.0.0")
    with refused(errno.EINVAL, "nosuch"):
        pcap.lookupnet("nosuch")
    assert pcap.lib_version().startswith("libpcap version 1.")


def test_what_could_not_be_had_is_a_warning(quiet):
    """libpcap 1.10.3 says so on no device here: its answer is made up."""

    class Lib:
        def __getattr__(self, name):
            return getattr(real, name)

        def pcap_activate(self, handle):
            return real.pcap_activate(handle) or 2

    with pcap.create(quiet) as p:
        real, p._lib = p._lib, Lib()
        with pytest.warns(UserWarning, match=f"{quiet}: That device doesn't support promiscuous"):
            p.activate()
        assert p.datalink() == pcap.DLT_EN10MB


# ---- live --------------------------------------------------------------------------------------


def test_set_up_by_hand(start_poller):
    """create, set_…, fanout, activate; a source that is over ends loops."""
    poller = start_poller("made", *NULL, "--wait", "2", "--count", "400")
    with pcap.create(poller.device) as p, fal.open(poller.device, group=9, fanout="lb") as other:
        p.set_snaplen(50)
        p.set_promisc(False)
        p.set_timeout(50)
        p.set_buffer_size(1 << 20)
        p.set_immediate_mode(True)
        p.fanout(9)
        p.activate()
        assert (p.datalink(), p.snapshot()) == (pcap.DLT_EN10MB, 50)
        assert poller.group(9)["mode"] == "lb"
        p.setfilter("len > 0")
        got = []
        assert p.loop(200, lambda h, data: got.append((h.caplen, h.len > 50))) == 200
        assert got == [(50, True)] * 200
        assert len(list(itertools.islice(other, 200))) == 200
        assert list(p) == []
        assert p.next_ex() == (-2, None, b"")
        assert p.stats() == (200, 0, 0)
        assert_books(poller.look())


def test_nonblock_and_the_descriptor(start_poller):
    poller = start_poller("made", *NULL, "--wait", "1", "--count", "10")
    with pcap.open_live(poller.device, to_ms=0) as p:
        assert p.getnonblock() is False
        p.setnonblock(True)
        assert p.getnonblock() is True
        got = []
        while len(got) < 10:
            assert select.select([p], [], [], 5)[0] == [p]
            p.dispatch(4, lambda h, data: got.append(number(data)))
        assert got == list(range(10))


def test_nothing_comes(quiet):
    """A timeout is one, for next and dispatch; none is 0 without waiting where that is asked."""
    with pcap.open_live(quiet, to_ms=200) as p:
        for read in (p.next_ex, lambda: (p.dispatch(0, print), None, b"")):
            begin = time.monotonic()
            assert read() == (0, None, b"")
            assert time.monotonic() - begin >= 0.2
        p.setnonblock(True)
        begin = time.monotonic()
        assert p.next() == (None, b"")
        assert p.dispatch(-1, print) == 0
        assert time.monotonic() - begin < 0.15


def test_dispatch_returns_whatever_comes(start_poller):
    """Packets come faster than Python takes them."""
    with pcap.open_live(start_poller("made", *NULL).device) as p:
        for cnt, most in ((0, 4096), (-1, 4096), (100, 100), (5000, 5000)):
            assert 0 < p.dispatch(cnt, lambda *_: None) <= most


WAITS = {
    "loop": "p.loop(0, print)",
    "iteration": "list(p)",
    "dispatch": "p.dispatch(0, print)",
    "next": "p.next()",
}


@pytest.mark.parametrize("wait", WAITS)
def test_another_thread_breaks_a_wait(quiet, wait):
    """And runs meanwhile: whoever waits does not hold the GIL.  Time-outs do not end a loop."""
    to_ms = 1 if wait in ("loop", "iteration") else 0
    with pcap.open_live(quiet, to_ms=to_ms) as p:
        done = threading.Event()

        def read():
            eval(WAITS[wait], {"p": p})
            done.set()

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(100):
            time.sleep(0.001)
        assert not done.is_set()
        p.breakloop()
        assert done.wait(5)
        reader.join()


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("how", ["default", "breakloop", "raise"])
def test_signals_break_a_wait(quiet, wait, how):
    program = f"""
        import signal, sys
        from fal import pcap
        with pcap.open_live(sys.argv[1], to_ms={1 if wait in ("loop", "iteration") else 0}) as p:
            def handler(*_):
                if "{how}" == "raise":
                    raise KeyError("mine")
                p.breakloop()
            if "{how}" != "default":
                signal.signal(signal.SIGINT, handler)
            print("ready", flush=True)
            try:
                {WAITS[wait]}
                print("broken")
            except (KeyboardInterrupt, KeyError) as e:
                print(repr(e))
    """
    process = start_python(program, quiet)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    want = {"default": "KeyboardInterrupt()", "breakloop": "broken", "raise": "KeyError('mine')"}
    assert (out, err) == (f"{want[how]}\n", "")


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("who", ["signal", "thread"])
def test_closing_breaks_a_wait(quiet, wait, who):
    """It says so, and the handle's memory stays until nobody reads."""
    program = f"""
        import signal, sys, threading
        from fal import FalError, pcap
        p = pcap.open_live(sys.argv[1], to_ms={1 if wait in ("loop", "iteration") else 0})
        if "{who}" == "signal":
            signal.signal(signal.SIGALRM, lambda *_: p.close())
            signal.setitimer(signal.ITIMER_REAL, 0.1)
        else:
            threading.Timer(0.1, p.close).start()
        print("ready", flush=True)
        try:
            {WAITS[wait]}
        except FalError as e:
            print(e)
    """
    process = start_python(program, quiet)
    assert process.communicate(timeout=10) == ("the handle is closed\n", "")
    assert process.returncode == 0


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_end_of_the_poller(start_poller, end):
    poller = start_poller("quiet", *NULL, "--wait", "100")
    with pcap.open_live(poller.device) as p:
        threading.Timer(0.2, getattr(poller, end)).start()
        if end == "stop":
            assert p.loop(0, print) == 0
        else:
            with refused(errno.EIO, "fal:quiet", "died"):
                p.loop(0, print)
        eventually(lambda: poller.process.poll() is not None)


def test_four_threads(start_poller):
    """A program that shares by pcap_fanout: every packet once, none of a flow at two."""
    poller = start_poller("made", *NULL, "--wait", "4", "--count", "4000")
    handles = [pcap.create(poller.device) for _ in range(4)]
    got = [[] for _ in handles]

    def work(p, mine):
        p.loop(0, lambda _, data: mine.append(data))

    for p in handles:
        p.fanout(42, "hash")
        p.activate()
    threads = [threading.Thread(target=work, args=a) for a in zip(handles, got, strict=True)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(number(data) for mine in got for data in mine) == list(range(4000))
    flows = [{fal.flow_hash(data) for data in mine} for mine in got]
    assert all(flows)
    assert sum(map(len, flows)) == len(set().union(*flows))
    assert [p.stats() for p in handles] == [(len(mine), 0, 0) for mine in got]
    for p in handles:
        p.close()


def test_packages_types_hold(tmp_path):
    """mypy --strict takes a program that uses all of the interface, and knows what it returns."""
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""\
        from fal import pcap

        names: list[str] = pcap.findalldevs()
        net, mask = pcap.lookupnet("lo")
        words: str = net + mask + pcap.lib_version()

        def handle(header: pcap.Header, data: bytes) -> None:
            n: int = header.ts_ns + header.caplen + header.len + len(data)

        with pcap.create("fal:x") as p:
            p.set_snaplen(96)
            p.set_promisc(True)
            p.set_rfmon(False)
            p.set_timeout(100)
            p.set_buffer_size(1 << 20)
            p.set_immediate_mode(True)
            p.activate()
        with pcap.open_live("fal:x", snaplen=96, promisc=True, to_ms=100) as p:
            p.fanout(42, "hash")
            p.setfilter(p.compile("udp"))
            p.setdirection(pcap.D_IN)
            p.setnonblock(not p.getnonblock())
            for ts, data in p:
                half: float = ts / 2
            header, data = p.next()
            code, header, data = p.next_ex()
            if header:
                handle(header, data)
            n: int = p.loop(5, handle) + p.dispatch(-1, handle) + p.inject(data) + p.fileno()
            p.breakloop()
            stats: pcap.Stats = p.stats()
            n = stats.recv + stats.drop + stats.ifdrop + p.datalink() + p.snapshot()
            with p.dump_open("x.pcap") as dumper:
                p.loop(5, dumper.dump)
                dumper.flush()
        with pcap.open_offline("x.pcap") as p, pcap.open_dead(pcap.DLT_EN10MB, 96) as dead:
            matches: bool = dead.compile("arp").filter(p.next()[1])
        """)
    )
    done = run(sys.executable, "-m", "mypy", "--strict", program, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
