"""What arrives is what was sent: bytes, order, number, time and queue."""

import random
import signal
import socket
import struct
import time
from collections import Counter

import pytest
from support import assert_books, assert_spread, eventually, quiet, received, send_slowly, udp

import fal
from fal.bindings import lib

MODES = ("generic", "native")
VLAN, AD = lib.FAL_DESC_VLAN, lib.FAL_DESC_8021AD


def tagged(frame, *tags):
    """Put (type, tci) tags before the type of a frame."""
    return frame[:12] + b"".join(struct.pack(">HH", *tag) for tag in tags) + frame[12:]


def all_sizes():
    """Return frames of 60 to 1514 bytes, then some with tags, then odd ones, each in 16 flows."""
    random_bytes = random.Random(1).randbytes

    def sizes(source, step, most=1514):
        for n in range(60, most + 1, step):
            yield udp((source, 1000 + n % 16), ("10.0.0.2", 53), random_bytes(n - 42))

    frames = list(sizes("10.0.0.1", 1))
    frames += [tagged(f, (0x8100, 0x6000 | i % 16)) for i, f in enumerate(sizes("10.0.0.3", 21))]
    frames += [
        tagged(f, (0x88A8, 7), (0x8100, i % 16)) for i, f in enumerate(sizes("10.0.0.4", 41, 1510))
    ]
    # the longest that an MTU of 1500 lets through
    frames += [tagged(f, (0x8100, 1)) for f in sizes("10.0.0.5", 1) if len(f) == 1514]
    frames += [frames[0][:12] + b"\x08\x06" + random_bytes(n) for n in range(1, 50)]  # bad ARP
    return frames


def tag_of(frame):
    """What the descriptor of a frame is to say of its tag."""
    kind, tci = struct.unpack(">HH", frame[12:16].ljust(4, b"\0"))
    return {0x8100: (VLAN, tci), 0x88A8: (VLAN | AD, tci)}.get(kind, (0, 0))


def test_bytes_order_once(served):
    veth, poller = served
    frames = all_sizes()
    with (
        fal.open(poller.device) as everything,
        fal.open(poller.device, group=1, fanout="hash") as h0,
        fal.open(poller.device, group=1) as h1,
        fal.open(poller.device, group=2, fanout="lb") as l0,
        fal.open(poller.device, group=2) as l1,
        fal.open(poller.device, group=2) as l2,
    ):
        sent_at = dict(zip(frames, send_slowly(veth, frames, everything), strict=True))
        groups = [
            [received(s) for s in sockets] for sockets in ([everything], [h0, h1], [l0, l1, l2])
        ]
        now = time.time_ns()

        assert_spread(groups, frames, len(poller.look()["cpus"]))
        for got in (got for members in groups for got in members):
            for meta, frame in got:
                assert meta["len"] == meta["caplen"] == len(frame)
                assert meta["hash"] == fal.flow_hash(frame)
                assert (meta["flags"] & (VLAN | AD), meta["vlan_tci"]) == tag_of(frame)
                assert sent_at[frame] <= meta["ts_ns"] <= now
        report = poller.look()
        assert Counter(int(meta["queue"]) for meta, _ in groups[0][0]) == {
            q["id"]: q["received"] for q in report["queues"] if q["received"]
        }
        assert len(report["queues"]) == int(poller.ready["queues"])
        assert report["link_received"] == len(frames)
        assert report["if_dropped"] == 0

        for s in (everything, h0, h1, l0, l1, l2):
            received(s)
        assert_books(eventually(lambda: quiet(poller)))
    assert poller.stop() == 0


@pytest.mark.parametrize("served", [("native", 4, 2), ("tpacket", 1, 1)], indirect=True)
def test_stamps_once_the_clocks_are_compared_anew(served):
    veth, poller = served
    with fal.open(poller.device) as s:
        time.sleep(1.1)
        for i in range(20):
            before = time.time_ns()
            veth.send(udp(("10.0.0.9", i), ("10.0.0.2", 53)))
            (meta,) = s.recv_batch(timeout=5).meta
            assert before <= meta["ts_ns"] <= time.time_ns()


@pytest.mark.parametrize("mode", MODES)
def test_the_queue_is_told(make_veth, start_poller, mode):
    veth = make_veth(queues=4)
    poller = start_poller(veth.device, "--mode", mode, namespace=veth.inside)
    with fal.open(poller.device) as s:
        for queue in range(4):
            veth.use_queue(queue)
            veth.send(udp(("10.0.0.1", 1), ("10.0.0.2", queue)))
            (meta,) = s.recv_batch(timeout=5).meta
            # generic XDP is told of one queue less than there is, by the kernel
            assert meta["queue"] in ((queue,) if mode == "native" else (queue, max(queue - 1, 0)))
        assert sum(q["received"] for q in poller.look()["queues"]) == 4


def test_some_queues(make_veth, start_poller):
    """What comes in on other queues stays the host's."""
    veth = make_veth(queues=4)
    poller = start_poller(
        *(veth.device, "--mode", "native", "--queues", "0,2"), namespace=veth.inside
    )
    assert poller.ready["queues"] == "2"
    frames = [udp(("10.0.0.1", 1), ("10.0.0.2", queue)) for queue in range(4)]
    with veth.inside.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as host:
        host.bind((veth.device, 3))
        host.settimeout(5)
        with fal.open(poller.device) as s:
            for queue, frame in enumerate(frames):
                veth.use_queue(queue)
                veth.send(frame)
            assert [host.recv(2048), host.recv(2048)] == frames[1::2]
            eventually(lambda: s.stats().recv == 2)
            got = received(s)
            assert {int(m["queue"]): frame for m, frame in got} == {0: frames[0], 2: frames[2]}
    assert {q["id"]: q["received"] for q in poller.look()["queues"]} == {0: 1, 2: 1}


def test_a_flood_on_one_queue_costs_the_others_no_turn(make_veth, start_poller):
    """A full burst from one queue is followed by what the others have."""
    veth = make_veth(queues=4)
    poller = start_poller(veth.device, "--mode", "native", namespace=veth.inside)
    with fal.open(poller.device) as s:
        poller.process.send_signal(signal.SIGSTOP)
        for queue, n in ((0, 1500), (1, 1), (2, 1), (3, 1)):
            veth.use_queue(queue)
            veth.send(*[udp(("10.0.0.1", queue), ("10.0.0.2", 2))] * n)
        poller.process.send_signal(signal.SIGCONT)
        eventually(lambda: s.stats().recv == 1503)
        order = [int(meta["queue"]) for meta, _ in received(s)]
        assert max(order.index(queue) for queue in (1, 2, 3)) < 3 * lib.FAL_BURST


@pytest.mark.parametrize(("size", "mtu"), [(4096, 3000), (2112, 1500), (2112, 9000)])
def test_other_frame_sizes(make_veth, start_poller, size, mtu):
    """Those of 2112 bytes lie across pages."""
    veth = make_veth(mtu=mtu)
    longest = mtu + 14
    random_bytes = random.Random(size).randbytes
    frames = [
        udp(("10.0.0.1", n), ("10.0.0.2", 53), random_bytes(n - 42))
        for n in (*range(60, longest, 43), *range(longest - 40, longest + 1))
    ]
    with veth.packet_socket() as back:
        back.bind((veth.peer, 0x88B5))
        back.settimeout(5)
        for mode in MODES:
            poller = start_poller(
                *(veth.device, "--mode", mode, "--frame-size", str(size)), namespace=veth.inside
            )
            with fal.open(poller.device) as s:
                for _ in range(4):
                    send_slowly(veth, frames, s)
                    got = []
                    while batch := s.recv_batch(timeout=0):
                        got += map(bytes, batch)
                    assert got == frames
                for n in range(60, min(longest, size) + 1, 11):
                    mine = bytes(12) + b"\x88\xb5" + random_bytes(n - 14)
                    s.inject(mine)
                    assert back.recv(65536) == mine
            report = poller.look()
            assert report["chains"] == (mtu > size - 256 - 22)
            assert report["if_dropped"] == 0
            assert poller.stop() == 0
