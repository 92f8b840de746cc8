"""One socket on several devices, as on the two ends of a tap."""

import errno
import itertools
import select

import pytest
from support import assert_books, eventually, udp

import fal
from fal.bindings import lib


@pytest.fixture
def tap(make_veth, start_poller):
    """Two devices, each served by a fal-poller; the first by two pollers."""
    veths = [make_veth(queues=2), make_veth()]
    pollers = [
        start_poller(veth.device, *words, namespace=veth.inside)
        for veth, words in zip(veths, (("--cpus", "0,1"), ()), strict=True)
    ]
    return veths, pollers, "fal:" + "^".join(poller.name for poller in pollers)


def collect(sockets, n):
    """Receive n packets; returns (socket, device, frame) of each."""
    got = []

    def read():
        for i, s in enumerate(sockets):
            while batch := s.recv_batch(timeout=0):
                got.extend((i, batch.device, bytes(packet)) for packet in batch)
        return len(got) >= n

    eventually(read)
    return got


def test_both_directions_meet_one_worker(tap):
    """Also after members have come and gone, and whatever order they joined in."""
    veths, pollers, device = tap
    flows = [(("10.0.0.1", 1000 + i), ("10.0.0.2", 53)) for i in range(200)]
    sockets = [fal.open(device, group=42, fanout="hash") for _ in range(5)]
    sockets.pop(1).close()
    sockets.append(fal.open(device, group=42))
    sockets[0].leave()
    sockets[0].join(42)
    for a, b in flows:
        veths[0].send(udp(a, b))
        veths[1].send(udp(b, a))
    got = collect(sockets, 2 * len(flows))
    worker = {(name, frame): i for i, name, frame in got}
    assert len(worker) == 2 * len(flows)
    ends = [
        [worker[pollers[0].name, udp(a, b)], worker[pollers[1].name, udp(b, a)]] for a, b in flows
    ]
    assert all(there == back for there, back in ends)
    assert {i for i, _, _ in got} == set(range(5))
    for poller in pollers:
        report = poller.look()
        assert_books(report)
        assert report["groups"][0]["received"] == len(flows)
    assert sum(s.stats().recv for s in sockets) >= 2 * len(flows)
    for s in sockets:
        s.close()


def test_one_descriptor_for_all(tap):
    veths, pollers, device = tap
    with fal.open(device) as s:
        assert lib.fal_rings(s._handle) == 3
        poll = select.epoll()
        poll.register(s, select.EPOLLIN | select.EPOLLET)
        for n, veth in zip(range(60), itertools.cycle(veths)):
            veth.send(udp(("10.0.0.1", n), ("10.0.0.2", 2)))
            assert poll.poll(2)
            (packet,) = collect([s], 1)
            assert packet[1] == pollers[n % 2].name
        poll.close()


def test_one_ends_and_then_the_other(tap):
    """A clean end leaves the other device, and does not keep the descriptor readable."""
    veths, pollers, device = tap
    with fal.open(device) as s, fal.open(device) as iterating:
        veths[0].send(udp(("10.0.0.1", 1), ("10.0.0.2", 2)))
        eventually(lambda: s.stats().recv == 1)
        assert pollers[0].stop() == 0
        assert collect([s], 1)
        assert len(s.recv_batch(timeout=0.2)) == 0
        assert not select.select([s], [], [], 0.2)[0]
        veths[1].send(udp(("10.0.0.1", 2), ("10.0.0.2", 2)))
        assert select.select([s], [], [], 5)[0]
        assert len(s.recv_batch(timeout=5)) == 1
        assert pollers[1].stop() == 0
        assert select.select([s], [], [], 5)[0]
        with pytest.raises(EOFError):
            s.recv_batch(timeout=5)
        assert len(list(iterating)) == 2


@pytest.mark.parametrize("which", [0, 1])
def test_one_dies(tap, which):
    veths, pollers, device = tap
    with fal.open(device) as s:
        veths[1 - which].send(udp(("10.0.0.1", 2), ("10.0.0.2", 2)))
        eventually(lambda: s.stats().recv == 1)
        pollers[which].kill()
        assert len(s.recv_batch(timeout=5)) == 1  # what came before
        with pytest.raises(fal.PollerGone) as e:
            s.recv_batch(timeout=5)
        assert e.value.errno == errno.ECONNRESET


def test_everywhere_or_nowhere(tap):
    _, pollers, device = tap
    with fal.open(f"fal:{pollers[1].name}", group=7, fanout="lb"), fal.open(device) as s:
        with pytest.raises(fal.FalError, match="group 7 has mode lb, not hash"):
            s.join(7, "hash")
        assert s.group is None
        eventually(lambda: not pollers[0].look()["groups"])
        s.join(7)  # a new group there, the one that is here
        assert [p.look()["groups"][0]["mode"] for p in pollers] == ["hash", "lb"]
    for bad, words in (
        (f"{device}^nobody", "no fal-poller serves 'nobody'"),
        (f"{device}^", "'' is not a name"),
        ("fal:" + "^".join([pollers[1].name] * 9), "at most 8 devices"),
    ):
        with pytest.raises(fal.FalError, match=words):
            fal.open(bad, ring=64)
    for poller in pollers:
        eventually(lambda p=poller: not p.look()["sockets"] and not p.look()["groups"])


def test_leaving_can_be_tried_again(tap):
    """One device refuses since too much lies unread; the other is left, and this one later."""
    veths, pollers, device = tap
    most = lib.FAL_SOCKET_MEMBERSHIPS
    with fal.open(device) as s:
        for i in range(most):  # unread packets of so many memberships, at one of the two
            if i:
                s.join(1) if i % 2 else s.leave()
            veths[1].send(udp(("10.0.0.1", 2), ("10.0.0.2", 2)))
            eventually(lambda i=i: s.stats().recv == i + 1)
        with pytest.raises(fal.FalError, match="lie unread"):
            s.leave()
        assert s.group == 1
        assert not pollers[0].look()["groups"]
        collect([s], most)

        def leave():
            try:
                s.leave()
            except fal.FalError:  # the poller has not looked yet
                return False
            return True

        eventually(leave)
        assert s.group is None
        assert not pollers[1].look()["groups"]
        assert [len(p.look()["sockets"]) for p in pollers] == [1, 1]


def test_what_is_left_goes_on(tap):
    """When one device has ended cleanly the socket joins and leaves at the other."""
    veths, pollers, device = tap
    with fal.open(device) as s:
        assert pollers[0].stop() == 0
        assert len(s.recv_batch(timeout=0.2)) == 0
        s.join(5)
        assert pollers[1].look()["groups"][0]["id"] == 5
        s.leave()
        veths[1].send(udp(("10.0.0.1", 2), ("10.0.0.2", 2)))
        assert len(s.recv_batch(timeout=5)) == 1


def test_sends_on_the_first(tap):
    _, pollers, device = tap
    with fal.open(device) as s:
        s.inject(udp(("10.0.0.1", 2), ("10.0.0.2", 2)))
        eventually(lambda: pollers[0].look()["sent"] == 1)
        assert pollers[1].look()["sent"] == 0
