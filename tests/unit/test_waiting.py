"""Waiting for packets: no wake-up gets lost, whatever one waits with, and everything ends a wait.

Packets come over a veth pair where one by one is wanted; from the null backend, which floods, where
it matters only that there are some: `--wait 2` keeps it silent until a second socket comes.
"""

import asyncio
import contextlib
import errno
import itertools
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from statistics import median

import pytest
from support import Traffic, eventually, udp

import fal
from fal.bindings import ffi, lib

FRAME = udp(("10.0.0.1", 1000), ("10.0.0.2", 53), bytes(8))
TICK = 1.0  # seconds: after so many an idle poller wakes by itself
LOST = 2.0  # seconds: a packet that has not come by then never will
CPUS = sorted(os.sched_getaffinity(0))

SENDER = """
import os, random, socket, sys, time
number, least, most, pause = int(sys.argv[3]), *map(float, sys.argv[4:7])
s, acks = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:3])
frames = [bytearray.fromhex(sys.argv[7]) for _ in range(16)]
for port, frame in enumerate(frames):  # flows, so that all queues of the device get some
    frame[35] = port
os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
random.seed(1)
sent = 0
while sent < number:
    burst = min(random.choice([1, 1, 1, 2, 3]), number - sent)
    for _ in range(burst):
        s.send(random.choice(frames))
    while burst:
        n = len(acks.recv(burst))
        burst, sent = burst - n, sent + n
    end = time.perf_counter() + random.uniform(least, most)
    if sent == number // 2:
        end += pause
    time.sleep(max(0, end - time.perf_counter() - 1e-3))
    while time.perf_counter() < end:
        pass  # a sleep takes 60 us more than asked for
"""


@contextlib.contextmanager
def trickle(veth, number, least=0.0, most=100e-6, pause=0.0):
    """Send so many packets from a process of its own, one to three at a time, and pause halfway.

    Those after them come when they are acknowledged, acknowledge(n), and not sooner: otherwise a
    packet whose wake-up got lost would be found when the next one comes.
    """
    ours, theirs = socket.socketpair()
    fds = [veth.sender.fileno(), theirs.fileno()]
    words = map(str, [*fds, number, least, most, pause, FRAME.hex()])
    process = subprocess.Popen([sys.executable, "-P", "-c", SENDER, *words], pass_fds=fds)
    theirs.close()
    try:
        yield lambda n: n and ours.send(bytes(n))
        assert process.wait(LOST + 1) == 0
    finally:
        ours.close()
        process.kill()
        process.wait()


# ---- ways to wait: each returns True when there may be packets, False when time is up ------------


def by_select(s):
    fd = s.fileno()
    return lambda seconds: bool(select.select([fd], [], [], seconds)[0])


def by_poll(s):
    p = select.poll()
    p.register(s.fileno(), select.POLLIN)
    return lambda seconds: bool(p.poll(seconds * 1000))


def by_epoll(s):
    p = select.epoll()
    p.register(s.fileno(), select.EPOLLIN)
    return lambda seconds: bool(p.poll(seconds))


def by_edge(s):
    p = select.epoll()
    p.register(s.fileno(), select.EPOLLIN | select.EPOLLET)
    return lambda seconds: bool(p.poll(seconds))


WAYS = {"select": by_select, "poll": by_poll, "epoll": by_epoll, "edge": by_edge}


def packets(s, way, wanted, acknowledge):
    """Receive so many packets; fewer if one did not come for LOST seconds."""
    got = 0
    if way == "blocking":
        while got < wanted and (n := len(s.recv_batch(timeout=LOST))):
            got += n
            acknowledge(n)
        return got
    wait = WAYS[way](s)
    while got < wanted and wait(LOST):
        while n := len(batch := s.recv_batch(max=2, timeout=0)):
            got += n
            acknowledge(n)
            end = time.perf_counter() + random.uniform(0, 150e-6)
            while time.perf_counter() < end:
                pass  # so that the next may come just when the release arms the bell
            batch.release()
            if way != "edge":
                break  # what is left behind keeps it readable
    return got


EACH_WAY = ["blocking", *WAYS]
# Each way with each idle, and with each number of pollers.
ONE, TWO = itertools.cycle(["adaptive", "sleep"]), itertools.cycle(["sleep", "adaptive"])
LOSABLE = [(way, next(ONE), 1) for way in EACH_WAY] + [(way, next(TWO), 2) for way in EACH_WAY]


@pytest.mark.parametrize(("way", "idle", "pollers"), LOSABLE)
def test_no_wake_up_is_lost(make_veth, start_poller, way, idle, pollers):
    """Also with the rings of several pollers behind one descriptor."""
    veth = make_veth(queues=pollers)
    words = ("--idle", idle, "--cpus", ",".join(map(str, CPUS[:pollers])))
    poller = start_poller(veth.device, *words, namespace=veth.inside)
    with fal.open(poller.device) as s, trickle(veth, 3000, pause=TICK) as acknowledge:
        assert packets(s, way, 3000, acknowledge) == 3000
        assert all(cpu["received"] for cpu in poller.look()["cpus"])


@pytest.mark.parametrize("way", EACH_WAY)
def test_no_wake_up_is_lost_behind_a_filter(make_veth, start_poller, way):
    """While packets that do not match come and wake in between."""
    veth = make_veth()
    poller = start_poller(veth.device, "--idle", "sleep", namespace=veth.inside)
    with (
        fal.open(poller.device, filter="udp[4:2] = 16") as s,  # FRAME has 8 bytes of payload
        Traffic(veth, 3000),
        trickle(veth, 1500) as acknowledge,
    ):
        assert packets(s, way, 1500, acknowledge) == 1500
        assert s.counters()["filtered"]


def test_packets_of_others_do_not_send_to_sleep(make_veth, start_poller):
    """By the C functions, which wait in one go: what came while it armed was for another."""
    veth = make_veth()
    poller = start_poller(veth.device, "--idle", "sleep", namespace=veth.inside)
    batch = ffi.new("struct fal_batch *")
    with fal.open(poller.device, filter="udp[4:2] = 16") as s, Traffic(veth, 5000):
        for _ in range(3000):
            veth.send(FRAME)
            start = time.monotonic()
            assert lib.fal_wait(s._handle, 10000, ffi.NULL) == 1
            assert time.monotonic() - start < LOST
            assert lib.fal_receive(s._handle, 8, batch) == 1


def test_asyncio(make_veth, start_poller):
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)

    async def receive(s, wanted, acknowledge):
        loop, done, got = asyncio.get_running_loop(), asyncio.Event(), 0

        def readable():
            nonlocal got
            n = len(s.recv_batch(timeout=0))
            acknowledge(n)
            got += n
            if got == wanted:
                done.set()

        loop.add_reader(s, readable)
        await asyncio.wait_for(done.wait(), 20)
        loop.remove_reader(s)

    with fal.open(poller.device) as s, trickle(veth, 1000) as acknowledge:
        asyncio.run(receive(s, 1000, acknowledge))


# ---- what the descriptor says --------------------------------------------------------------------


def test_readable_whenever_there_is_something_to_read(make_veth, start_poller):
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)
    with fal.open(poller.device) as s:
        readable = by_select(s)
        assert not readable(0.1)
        veth.send(*[FRAME] * 5)
        assert readable(LOST)  # before the first read
        eventually(lambda: s.stats().recv == 5)
        for _ in range(5):
            assert readable(0)
            assert len(s.recv_batch(max=1, timeout=0)) == 1  # and this leaves some behind
        s.recv_batch(timeout=0)
        assert not readable(0.1)

    veth.send(FRAME)
    with fal.open(poller.device) as s:  # read first, ask for the descriptor then
        veth.send(FRAME, FRAME)
        eventually(lambda: s.stats().recv == 2)
        assert len(s.recv_batch(max=1)) == 1
        assert by_select(s)(0)


def test_readable_once_too_often_and_no_more(make_veth, start_poller):
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)
    with fal.open(poller.device) as s:
        readable = by_select(s)
        for _ in range(10):
            veth.send(FRAME)
            assert readable(LOST)
            batch = s.recv_batch(timeout=0)
            assert len(batch) == 1
            woken, end = 0, time.monotonic() + 0.05
            while readable(max(0, end - time.monotonic())):
                woken += 1
                assert woken <= 2
                assert len(s.recv_batch(timeout=0)) == 0

    with fal.open(poller.device) as s:  # nor does a wait spin for long that was woken before
        threading.Timer(0.2, veth.send, [FRAME]).start()
        assert len(s.recv_batch(timeout=LOST)) == 1
        before = time.thread_time()
        assert len(s.recv_batch(timeout=0.5)) == 0
        assert time.thread_time() - before < 0.1


def test_receiving_nothing_promises_a_new_edge(make_veth, start_poller):
    """By the C functions: recv_batch of nothing is a fal_wait, too, which would hide it."""
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)
    batch = ffi.new("struct fal_batch *")
    with fal.open(poller.device) as s:
        edge = by_edge(s)
        for _ in range(100):
            veth.send(FRAME)
            assert edge(LOST)
            assert lib.fal_receive(s._handle, 8, batch) == 1
            assert lib.fal_receive(s._handle, 8, batch) == 0


def test_descriptor_of_a_second_attachment(start_poller):
    first = start_poller("a", "--backend", "null", "--wait", "2")
    second = start_poller("b", "--backend", "null", "--wait", "2")
    with fal.open(first.device) as s:
        assert not by_select(s)(0)
        assert lib.fal_detach(s._handle, ffi.NULL) == 0
        with pytest.raises(ValueError, match="negative"):
            by_select(s)(0)
        assert lib.fal_attach(s._handle, second.device.encode(), ffi.NULL) == 0
        assert lib.fal_start(s._handle, ffi.NULL) == 0
        readable = by_select(s)
        assert not readable(0.1)
        with fal.open(second.device):
            assert readable(LOST)


# ---- what ends a wait ----------------------------------------------------------------------------


def end_by_iterating(s):
    for _ in s:
        raise AssertionError("there were no packets")
    raise EOFError


def end_by_receiving(s):
    s.recv_batch(timeout=None)


def end_by(wait):
    def ended(s):
        assert wait(s)(10)
        s.recv_batch(timeout=0)

    return ended


async def end_of_asyncio(s):
    done = asyncio.Event()
    asyncio.get_running_loop().add_reader(s, done.set)
    await asyncio.wait_for(done.wait(), 10)
    s.recv_batch(timeout=0)


ENDS = {
    "iteration": end_by_iterating,
    "blocking": end_by_receiving,
    **{way: end_by(wait) for way, wait in WAYS.items()},
    "asyncio": lambda s: asyncio.run(end_of_asyncio(s)),
}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_the_poller_ends_every_wait(start_poller, how):
    poller = start_poller("p", "--backend", "null", "--wait", "100")
    ended = {}

    def waiter(way, s):
        try:
            ENDS[way](s)
        except Exception as e:
            ended[way] = (e, time.monotonic())

    with contextlib.ExitStack() as stack:
        threads = [
            threading.Thread(
                target=waiter, args=(way, stack.enter_context(fal.open(poller.device)))
            )
            for way in ENDS
        ]
        for t in threads:
            t.start()
        time.sleep(0.3)
        assert not ended
        start = time.monotonic()
        poller.process.send_signal(how)
        poller.process.wait()
        if how == signal.SIGTERM:
            start = time.monotonic()  # a clean end takes what it takes
        for t in threads:
            t.join(5)
    assert set(ended) == set(ENDS)
    for way, (e, when) in ended.items():
        assert isinstance(e, fal.PollerGone if how == signal.SIGKILL else EOFError), (way, e)
        assert when - start < 1, way


INTERRUPTED = """
import fal, sys, threading
s = fal.open(sys.argv[1])
threading.Timer(0.2, lambda: print("waiting", flush=True)).start()
try:
    {}
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    "wait", ["s.recv_batch()", "for p in s: pass", "for b in s.batches(): pass"]
)
def test_keyboard_interrupt(start_poller, wait):
    poller = start_poller("p", "--backend", "null", "--wait", "2")
    worker = subprocess.Popen(
        [sys.executable, "-P", "-c", INTERRUPTED.format(wait), poller.device],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert worker.stdout.readline() == "waiting\n"
        worker.send_signal(signal.SIGINT)
        out, _ = worker.communicate(timeout=2)
        assert out == "interrupted\n"
    finally:
        worker.kill()
        worker.communicate()


class AlarmError(Exception):
    pass


@pytest.fixture
def alarm():
    """Set the handler of SIGALRM for the test's time."""
    old = signal.getsignal(signal.SIGALRM)
    yield lambda handler: signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


def test_signal_before_the_wait_sleeps(start_poller, alarm):
    """A signal that comes while the wait still spins finds no system call to interrupt."""
    poller = start_poller("p", "--backend", "null", "--wait", "2")

    def handler(*_):
        raise AlarmError

    alarm(handler)
    with fal.open(poller.device) as s:
        for i in range(6):
            start = time.monotonic()
            with pytest.raises(AlarmError):  # noqa: PT012
                signal.setitimer(signal.ITIMER_REAL, 10e-6 + i * 8e-6)
                s.recv_batch(timeout=3)
            assert time.monotonic() - start < 1


def test_signals_do_not_prolong_a_wait(start_poller, alarm):
    poller = start_poller("p", "--backend", "null", "--wait", "2")
    alarm(lambda *_: None)
    with fal.open(poller.device) as s:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        start = time.monotonic()
        threading.Timer(3, lambda: signal.setitimer(signal.ITIMER_REAL, 0)).start()
        assert len(s.recv_batch(timeout=0.3)) == 0
        assert 0.3 <= time.monotonic() - start < 1


def test_timeouts_and_the_gil(start_poller):
    poller = start_poller("p", "--backend", "null", "--wait", "2")
    counted, stop = 0, False

    def count():
        nonlocal counted
        while not stop:
            counted += 1

    with fal.open(poller.device) as s:
        start = time.monotonic()
        for _ in range(100):
            assert len(s.recv_batch(timeout=0)) == 0
        assert time.monotonic() - start < 1
        for timeout in (0.0001, 0.05, 0.7):
            start = time.monotonic()
            assert len(s.recv_batch(timeout=timeout)) == 0
            assert timeout <= time.monotonic() - start < timeout + 1

        thread = threading.Thread(target=count)
        thread.start()
        try:
            lib.fal_wait(s._handle, 200, ffi.NULL)  # one call: without the GIL, or nobody counts
        finally:
            stop = True
            thread.join()
        assert counted > 10000

        threading.Timer(0.2, lambda: fal.open(poller.device)).start()
        assert len(s.recv_batch(timeout=None)) > 0


# ---- one core, no packets ------------------------------------------------------------------------


@contextlib.contextmanager
def alone_on(core, poller):
    """Have a core for this thread and the polling thread, before all others where we may.

    In turns of 100 ms unless one yields: so who does not is seen, and nobody waits for ever.
    """
    me = threading.get_native_id()
    threads = {int(t) for t in os.listdir(f"/proc/{poller.pid}/task")}
    pair = [me, *(t for t in threads if os.sched_getaffinity(t) == {core})]
    assert len(pair) == 2
    os.sched_setaffinity(me, [core])
    try:
        with contextlib.suppress(PermissionError):
            for thread in pair:
                os.sched_setscheduler(thread, os.SCHED_RR, os.sched_param(1))
        yield
    finally:
        for thread in pair:
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(me, CPUS)


@pytest.mark.parametrize("worker", ["spinning", "sleeping"])
@pytest.mark.parametrize("idle", ["spin", "adaptive"])
def test_hand_off_on_one_core(make_veth, start_poller, idle, worker):
    """From a packet's arrival to a worker's hands, in nanoseconds."""
    veth, core, took = make_veth(), CPUS[0], []
    poller = start_poller(veth.device, "--idle", idle, "--cpus", str(core), namespace=veth.inside)
    timeout = 0 if worker == "spinning" else LOST
    with fal.open(poller.device) as s, trickle(veth, 100, 300e-6, 2e-3) as acknowledge:
        time.sleep(0.2)
        with alone_on(core, poller):
            while len(took) < 100:
                batch = s.recv_batch(timeout=timeout)
                now = time.time_ns()
                took += (now - batch.meta["ts_ns"].astype("i8")).tolist()
                acknowledge(len(batch))
                assert len(batch) or not timeout
    print(f"--idle {idle}, {worker} worker: median {median(took) / 1e3:.1f} us")
    assert median(took) < 1_000_000


def test_an_idle_poller_costs_little(make_veth, start_poller):
    veth = make_veth()
    poller = start_poller(veth.device, "--idle", "adaptive", namespace=veth.inside)

    def ticks():
        with open(f"/proc/{poller.pid}/stat") as f:
            return sum(map(int, f.read().rpartition(")")[2].split()[11:13]))

    with fal.open(poller.device) as s:
        veth.send(FRAME)
        assert len(s.recv_batch(timeout=LOST)) == 1
        time.sleep(0.2)
        before = ticks()
        time.sleep(1)
        share = (ticks() - before) / os.sysconf("SC_CLK_TCK")
    print(f"idle: {share:.1%} of a core")
    assert share < 0.05


# ---- forks and threads ---------------------------------------------------------------------------

FORKS = """
import errno, fal, os, select, signal, sys, time
s = fal.open(sys.argv[1])

def read():
    try:
        return len(s.recv_batch(max=8, timeout=5))
    except fal.FalError as e:
        return -e.errno

def fork(child):
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(0)
    return pid
"""


def run_forks(poller, body, before=lambda say: None):
    """Run a worker; `before(say)` gets a function that waits for what the worker prints next."""
    worker = subprocess.Popen(
        [sys.executable, "-P", "-c", FORKS + body, poller.device], stdout=subprocess.PIPE, text=True
    )
    try:
        before(worker.stdout.readline)
        out, _ = worker.communicate(timeout=20)
        assert worker.returncode == 0
        return out.split()
    finally:
        worker.kill()
        worker.communicate()


def test_fork_parent_reads_first(start_poller):
    poller = start_poller("p", "--backend", "null")
    said = run_forks(
        poller,
        """
print(read(), flush=True)
os.waitpid(fork(lambda: print(read(), flush=True)), 0)
print(read(), flush=True)
""",
    )
    assert said == ["8", str(-errno.EBUSY), "8"]


def test_fork_child_reads_first_and_dies(start_poller):
    poller = start_poller("p", "--backend", "null")
    said = run_forks(
        poller,
        """
r, w = os.pipe()
def child():
    batch = s.recv_batch(max=8, timeout=5)
    os.write(w, bytes(batch[0][42:50]))
    time.sleep(60)
pid = fork(child)
first = int.from_bytes(os.read(r, 8), "little")
print(read(), flush=True)
os.kill(pid, signal.SIGKILL)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # a zombie
batch = s.recv_batch(max=8, timeout=5)
print(len(batch), int.from_bytes(batch[0][42:50], "little") - first)  # held, so given again
os.waitpid(pid, 0)
""",
    )
    assert said == [str(-errno.EBUSY), "8", "0"]


def test_fork_and_close_in_one_process(start_poller):
    """The other is still a member, and its descriptor still tells of packets."""
    poller = start_poller("p", "--backend", "null", "--wait", "2")
    said = run_forks(
        poller,
        """
fd = s.fileno()
print(len(s.recv_batch(timeout=0)))
os.waitpid(fork(s.close), 0)
print(len(select.select([fd], [], [], 0.2)[0]))
other = fal.open(sys.argv[1])
print(len(select.select([fd], [], [], 2)[0]), read(), flush=True)
r, w = os.pipe()
def child():
    os.read(r, 1)
    print(len(select.select([fd], [], [], 2)[0]), read(), flush=True)
pid = fork(child)
s.close()
os.write(w, b"x")
os.waitpid(pid, 0)
""",
    )
    assert said == ["0", "0", "1", "8", "1", "8"]


def test_fork_the_other_steals_no_wake_up(make_veth, start_poller):
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)

    def before(say):
        assert say() == "open\n"
        veth.send(FRAME)
        assert say() == "1\n"
        time.sleep(1)  # by now the child has asked for the descriptor
        veth.send(FRAME)
        assert say() == "1\n"

    run_forks(
        poller,
        """
r, w = os.pipe()
def child():
    os.read(r, 1)
    time.sleep(0.5)
    s.fileno()
pid = fork(child)
print("open", flush=True)
print(read(), flush=True)
os.write(w, b"x")
start = time.monotonic()
print(read(), flush=True)
assert time.monotonic() - start < 3
os.waitpid(pid, 0)
""",
        before,
    )


def test_a_thread_each_with_its_own_socket(start_poller):
    poller = start_poller("p", "--backend", "null", "--wait", "4", "--count", "200000")
    got = []

    def work(s):
        n = sum(map(len, s.batches()))
        got.append(n + s.stats().drop)
        assert n == s.stats().recv

    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(fal.open(poller.device, group=1, fanout="lb")) for _ in range(4)
        ]
        threads = [threading.Thread(target=work, args=(s,)) for s in sockets]
        for t in threads:
            t.start()
        for t in threads:
            t.join(20)
    assert sorted(got) == [50000] * 4
    assert poller.wait() == 0
