"""The same traffic over the kernel's PACKET_FANOUT, member by member, where both are defined."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from support import eventually, received, udp

import fal

SOL_PACKET, PACKET_FANOUT, ETH_P_ALL = 263, 18, 3  # linux/if_packet.h, linux/if_ether.h
MODES = {"hash": 0, "lb": 1, "cpu": 2, "rollover": 3, "rnd": 4, "qm": 5}
CPUS = sorted(os.sched_getaffinity(0))


class Kernel:
    """A veth pair whose inner end has a fan-out group of packet sockets."""

    def __init__(self, veth, mode, members, **how):
        self.veth = veth
        self.sockets = [self.member(mode, **how) for _ in range(members)]

    def member(self, mode, group=1, buffer=1 << 20):
        with self.veth.inside.entered():
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        s.setsockopt(socket.SOL_SOCKET, 33, buffer)  # SO_RCVBUFFORCE
        s.bind((self.veth.device, ETH_P_ALL))
        s.setblocking(False)
        try:
            s.setsockopt(SOL_PACKET, PACKET_FANOUT, group | MODES[mode] << 16)
        except OSError:
            s.close()
            raise
        return s

    def members_of(self, count):
        """Return which member got each of so many packets that bear their number."""
        found = {}

        def look():
            for i, s in enumerate(self.sockets):
                try:
                    while data := s.recv(2048):
                        found[number(data)] = i
                except BlockingIOError:
                    pass
            return len(found) == count

        eventually(look)
        return [found[n] for n in range(count)]

    def close(self):
        for s in self.sockets:
            s.close()


def frame(n, port=1):
    return udp(("10.0.0.1", port), ("10.0.0.2", 53), n.to_bytes(8, "big"))


def number(data):
    return int.from_bytes(data[42:50], "big")


@pytest.fixture
def both(make_veth, start_poller):
    """Have the same frames go to a group of the kernel's and to one of FAL's; who got each."""
    made = []

    def both(mode, members, count, send, queues=1, buffer=1 << 20, ring=1024):
        veths = [make_veth(queues=queues) for _ in range(2)]
        kernel = Kernel(veths[0], mode, members, buffer=buffer)
        made.append(kernel)
        poller = start_poller(veths[1].device, "--mode", "native", namespace=veths[1].inside)
        sockets = [fal.open(poller.device, group=1, fanout=mode, ring=ring) for _ in range(members)]
        made.extend(sockets)
        for n in range(count):
            for veth in veths:
                send(veth, n)
        eventually(lambda: sum(s.stats().recv for s in sockets) == count)
        ours = {number(data): i for i, s in enumerate(sockets) for _, data in received(s)}
        return kernel.members_of(count), [ours[n] for n in range(count)]

    yield both
    for thing in made:
        thing.close()


def test_lb(both):
    kernel, ours = both("lb", 3, 100, lambda veth, n: veth.send(frame(n, n)))
    assert kernel == ours
    assert set(ours) == {0, 1, 2}


def test_qm(both):
    def send(veth, n):
        veth.use_queue(n % 4)
        veth.send(frame(n))

    kernel, ours = both("qm", 3, 12, send, queues=4)
    assert kernel == ours
    assert set(ours) == {0, 1, 2}


def test_cpu(both):
    def send(veth, n):
        """From one CPU and then another: what is sent over veth is received there."""
        os.sched_setaffinity(0, {CPUS[n // 2 % len(CPUS)]})
        veth.send(frame(n))

    try:
        kernel, ours = both("cpu", 2, 40, send)
    finally:
        os.sched_setaffinity(0, CPUS)
    assert kernel == ours == [CPUS[n // 2 % len(CPUS)] % 2 for n in range(40)]


def test_rollover(both):
    """Nobody reads: each member is filled until it is backlogged, then comes the next."""
    kernel, ours = both(
        "rollover", 3, 120, lambda veth, n: veth.send(frame(n)), buffer=65536, ring=64
    )
    for members in (kernel, ours):
        assert members == sorted(members)
    assert ours[:49] == [0] * 48 + [1]  # three quarters of 64
    assert kernel[0] == 0
    assert set(kernel) >= {0, 1}


def test_rules(make_veth, start_poller):
    """The same calls, the same errors."""
    veths = [make_veth() for _ in range(2)]
    kernel = Kernel(veths[0], "hash", 0)
    poller = start_poller(veths[1].device, namespace=veths[1].inside)

    def join(mode, group):
        """Return how both end."""
        ends = []
        for make in (
            lambda: kernel.sockets.append(kernel.member(mode, group)),
            lambda: kept.append(fal.open(poller.device, group=group, fanout=mode, ring=64)),
        ):
            try:
                make()
                ends.append(0)
            except OSError as e:
                ends.append(e.errno)
        return ends

    kept = []
    for group in (0, 65535):
        assert join("lb", group) == [0, 0]
        assert join("hash", group) == [errno.EINVAL] * 2  # a living group has its mode
        assert join("lb", group) == [0, 0]
    with pytest.raises(OSError, match="already") as again:  # a second join
        kernel.sockets[0].setsockopt(SOL_PACKET, PACKET_FANOUT, 5 | 1 << 16)
    with pytest.raises(fal.FalError) as ours:
        kept[0].join(5, "lb")
    assert again.value.errno == ours.value.errno == errno.EALREADY
    for thing in (*kept, *kernel.sockets):
        thing.close()
    eventually(lambda: not poller.look()["groups"])
    assert join("hash", 0) == [0, 0]  # an ended one has none
    for thing in (*kept, *kernel.sockets):
        thing.close()
