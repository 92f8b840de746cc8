"""`--idle adaptive`: next to nothing while no packet comes, and a burst is not lost."""

import os
import signal
import time

import pytest
from captures import write_pcap
from support import NULL, Veth, assert_books, eventually, received, udp

import fal
from fal.sender import PacketSender

BURST = 4096
MOST = 0.03  # of a core
FRAMES = [udp(("10.0.0.1", 1000 + i), ("10.0.0.2", 53)) for i in range(64)]


def share(poller, seconds=0.3):
    """Return the CPU time that a process takes, all its threads, over the time that passes."""
    clock = ~poller.pid << 3 | 2  # clock_getcpuclockid(3)
    cpu, wall = time.clock_gettime(clock), time.monotonic()
    time.sleep(seconds)
    return (time.clock_gettime(clock) - cpu) / (time.monotonic() - wall)


def send(veth: Veth, count: int) -> None:
    with veth.outside.entered():
        sender = PacketSender(veth.peer, FRAMES)
    while sender.sent < count:
        sender.send(count - sender.sent)
    sender.close()


def test_nothing_comes(served):
    """Not before, nor after traffic that workers have read, or have not; nor after sending."""
    veth, poller = served
    assert share(poller) < MOST
    with fal.open(poller.device, group=1) as a, fal.open(poller.device, group=1) as b:
        send(veth, 1000)
        eventually(lambda: poller.look()["groups"][0]["delivered"] == 1000)
        assert share(poller) < MOST
        assert len(received(a)) + len(received(b)) == 1000
        assert share(poller) < MOST
        a.inject(FRAMES[0])
        assert share(poller) < MOST


def test_nothing_can_come(start_poller, tmp_path):
    """Before the first worker; while one that must lose nothing does not read; after the end."""
    file = str(write_pcap(tmp_path / "replay.pcap", list(enumerate(FRAMES * 2))))
    waiting = start_poller("waiting", *NULL, "--wait", "1")
    assert share(waiting) < MOST
    replay = start_poller(file, "--hugepages", "off", "--loop", "0")
    ended = start_poller("ended", *NULL, "--count", "100", "--wait", "1")
    with fal.open(replay.device, ring=64), fal.open(ended.device):
        for poller in (replay, ended):
            eventually(lambda p=poller: p.look()["sockets"][0]["in_ring"])
            assert share(poller) < MOST


@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize(("queues", "cpus"), [(1, "0"), (4, "0,1")])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_burst_is_not_lost(make_veth, start_poller, mode, queues, cpus, stopped):
    """It finds the poller asleep, or without a CPU until all are sent."""
    veth = make_veth(queues=queues)
    words = ("--mode", mode, "--cpus", cpus, "--idle", "adaptive")
    poller = start_poller(veth.device, *words, namespace=veth.inside)
    with fal.open(poller.device) as s:
        for n in range(1, 6):
            time.sleep(0.01)  # until it sleeps
            if stopped:
                os.kill(poller.pid, signal.SIGSTOP)
            send(veth, BURST)
            os.kill(poller.pid, signal.SIGCONT)
            eventually(lambda n=n: poller.look()["link_received"] == n * BURST)
            assert poller.look()["if_dropped"] == 0
            assert len(received(s)) == BURST
        assert_books(poller.look())
