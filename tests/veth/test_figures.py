"""The figures that are no books: what the interface dropped, and whom a burst wakes."""

import ctypes
import fcntl
import os
import signal
import struct
import termios
import time
from pathlib import Path

import pytest
from support import eventually, libc, udp

import fal


def test_interface_drops_are_counted(make_veth, start_poller):
    """A stopped poller gives no frames back: what does not fit is dropped, and counted later."""
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)
    with fal.open(poller.device, ring=16384) as s:
        os.kill(poller.pid, signal.SIGSTOP)
        frame, sent = udp(("10.0.0.1", 1), ("10.0.0.2", 2)), 9000
        veth.send(*[frame] * sent)
        os.kill(poller.pid, signal.SIGCONT)
        eventually(lambda: poller.look()["link_received"] == sent)
        report = poller.look()
        assert report["if_dropped"] > 0
        assert report["queues"][0]["received"] == sent - report["if_dropped"]
        assert s.stats().ifdrop == report["if_dropped"]


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_stamps_are_of_the_arrival(make_veth, start_poller, mode):
    """What came while the poller was stopped bears the time when it came, each its own."""
    veth = make_veth()
    poller = start_poller(veth.device, "--mode", mode, namespace=veth.inside)
    with fal.open(poller.device) as s:
        os.kill(poller.pid, signal.SIGSTOP)
        before = time.time_ns()
        veth.send(*[udp(("10.0.0.1", 1), ("10.0.0.2", 2))] * 50)
        after = time.time_ns()
        time.sleep(0.1)
        os.kill(poller.pid, signal.SIGCONT)
        eventually(lambda: s.stats().recv == 50)
        stamps = s.recv_batch(timeout=5).meta["ts_ns"].tolist()
        assert before < stamps[0]
        assert stamps == sorted(set(stamps))
        assert stamps[-1] < after


class Timex(ctypes.Structure):
    """struct timex of adjtimex(2), as far as the offset of TAI goes."""

    _fields_ = (("modes", ctypes.c_uint), ("_", ctypes.c_long * 5), ("constant", ctypes.c_long))
    _fields_ += (("rest", ctypes.c_byte * 256),)


@pytest.fixture
def tai_moved():
    """Move the kernel's TAI clock, which the stamps are taken by, by 1000 s; nobody's wall clock.

    As a leap second, or a time server that tells the offset late, would.
    """

    def ahead():
        return round(time.clock_gettime(time.CLOCK_TAI) - time.time())

    def move(seconds):
        request = Timex(modes=0x80, constant=offset + seconds)  # ADJ_TAI
        assert libc.adjtimex(ctypes.byref(request)) >= 0
        assert ahead() == offset + seconds

    offset = ahead()

    yield lambda: move(1000)
    move(0)


def test_the_clock_is_measured_again_every_second(make_veth, start_poller, tai_moved):
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)

    def error():
        """Return how many seconds the next stamp is off."""
        veth.send(udp(("10.0.0.1", 1), ("10.0.0.2", 2)))
        return abs(float(s.recv_batch(timeout=5).meta["ts_ns"][0]) * 1e-9 - time.time())

    with fal.open(poller.device) as s:
        assert error() < 1
        tai_moved()
        eventually(lambda: error() < 1)


def wake_bytes(s: fal.Socket) -> int:
    """Count what lies in the socket's wake socket: the stream socket of this process."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            answer = fcntl.ioctl(int(name), termios.FIONREAD, struct.pack("i", 0))
        except OSError:
            continue
        total += struct.unpack("i", answer)[0]
    return total


def test_who_gets_nothing_is_not_woken(make_veth, start_poller):
    """A worker that has read its last packet and sleeps is not woken by packets for another."""
    veth = make_veth()
    poller = start_poller(veth.device, "--idle", "spin", namespace=veth.inside)
    frames = [udp(("10.0.0.1", port), ("10.0.0.2", 2)) for port in range(100)]
    with fal.open(poller.device, group=1) as idle, fal.open(poller.device, group=1) as other:
        idle.fileno()
        mine: list[bytes] = []
        for i, frame in enumerate(frames):  # find out whose flows they are
            veth.send(frame)
            eventually(lambda: idle.stats().recv + other.stats().recv > i)  # noqa: B023
            mine += map(bytes, idle.recv_batch(timeout=0))
        theirs = [frame for frame in frames if frame not in mine]
        assert mine
        assert theirs
        for _ in range(20):
            veth.send(mine[0])
            assert len(idle.recv_batch(timeout=5)) == 1
            assert len(idle.recv_batch(timeout=0)) == 0  # armed
            before = wake_bytes(idle)
            veth.send(theirs[0])
            time.sleep(0.01)
            assert wake_bytes(idle) == before
        assert other.stats().recv >= 20


def seconds_of_cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_idle_is_as_asked(make_veth, start_poller):
    """Without packets `spin` takes its core, `sleep` and `adaptive` next to nothing of theirs."""
    used = {}
    for idle in ("spin", "sleep", "adaptive"):
        veth = make_veth()
        poller = start_poller(veth.device, "--idle", idle, namespace=veth.inside)
        time.sleep(0.2)
        before = seconds_of_cpu(poller.pid)
        time.sleep(0.5)
        used[idle] = seconds_of_cpu(poller.pid) - before
        poller.stop()
    assert used["spin"] > 5 * max(used["sleep"], used["adaptive"], 0.01), used
