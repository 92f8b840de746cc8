"""Packets longer than a frame: they come in pieces, and are whole again for who reads them."""

import random
from collections import Counter

import pytest
from support import send_slowly, udp

import fal
from fal.bindings import lib

FIRST, MORE = lib.FAL_DESC_FIRST, lib.FAL_DESC_MORE
MTU = 9000
WAYS = [(mode, *way) for mode in ("generic", "native") for way in ((1, 1), (4, 2))]


def frame(number, size):
    """A frame of this size in one of 16 flows, either direction; no two are alike."""
    ends = [("10.0.0.1", 1000 + number % 16), ("10.0.0.2", 53)]
    payload = number.to_bytes(4, "big") + random.Random(number).randbytes(size - 46)
    return udp(*ends[:: 1 if number % 3 else -1], payload)


def sizes(n):
    """So many from 60 to 9014, the shortest and the longest among them."""
    return [60 + i * (MTU + 14 - 60) // (n - 1) for i in range(n)]


FRAMES = [frame(i, size) for i, size in enumerate(sizes(700))]
random.Random(1).shuffle(FRAMES)


@pytest.fixture(params=WAYS, ids=["-".join(map(str, way)) for way in WAYS])
def jumbo(request, make_veth, start_poller):
    mode, queues, pollers = request.param
    veth = make_veth(queues=queues, mtu=MTU)
    cpus = ",".join(map(str, range(pollers)))
    poller = start_poller(veth.device, "--mode", mode, "--cpus", cpus, namespace=veth.inside)
    assert poller.ready["mode"] == mode
    return veth, poller


def test_bytes_order_once(jumbo):
    veth, poller = jumbo
    with (
        fal.open(poller.device) as everything,
        fal.open(poller.device, group=1, fanout="hash") as h0,
        fal.open(poller.device, group=1) as h1,
        fal.open(poller.device, group=2, fanout="lb") as l0,
        fal.open(poller.device, group=2) as l1,
    ):
        send_slowly(veth, FRAMES, everything)
        assert poller.stat()["chains"]
        for sockets in ([everything], [h0, h1], [l0, l1]):
            groups = []
            for s in sockets:
                got = []
                while batch := s.recv_batch(timeout=0):
                    assert len(batch) == len(batch.heads)
                    got += zip(batch.heads.copy(), map(bytes, batch), strict=True)
                groups.append(got)
            assert Counter(data for got in groups for _, data in got) == Counter(FRAMES)
            for meta, data in (one for got in groups for one in got):
                assert meta["len"] == len(data)
                assert meta["hash"] == fal.flow_hash(data)
            if sockets == [h0, h1]:
                flows = [{fal.flow_hash(data) for _, data in got} for got in groups]
                assert all(flows)
                assert not flows[0] & flows[1]
