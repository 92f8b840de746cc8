"""Filters of groups and of sockets, over the null backend: 64 flows, from 10.0.0.1 … 10.0.0.64."""

import contextlib
import errno
import itertools
import re
import time

import pytest
from support import NULL, assert_books, eventually, number, received

import fal
from fal import bpf
from fal.bindings import ffi, lib

COUNT = 6400  # a hundred of each flow
HALF = "ip[15] & 1 = 1"  # of the flows: the last byte of the source address is odd


@pytest.fixture
def source(start_poller):
    """A fal-poller whose packets come when so many sockets are started."""

    def start(wait, count=COUNT):
        return start_poller("made", *NULL, "--wait", str(wait), "--count", str(count))

    return start


def refused(code, *words):
    pattern = "".join(f"(?=.*{re.escape(word)})" for word in words)
    return pytest.raises(fal.FalError, match=pattern, check=lambda e: e.errno == code)


# ---- groups --------------------------------------------------------------------------------------


def test_a_group_s_filter(source):
    """What it does not match is for no member, and counted; other groups see all."""
    poller = source(wait=5)
    with contextlib.ExitStack() as stack:

        def member(**words):
            return stack.enter_context(fal.open(poller.device, ring=8192, **words))

        everything = member()
        hashed = [member(group=1, group_filter="ip[15] & 1 = 1 and udp port 53") for _ in range(2)]
        shared = member(group=2, fanout="lb", group_filter="src host 10.0.0.9")
        no_filter = member(group=3)
        eventually(lambda: poller.look()["link_received"] == COUNT)
        for s, ours in ((everything, range(64)), (no_filter, range(64)), (shared, [8])):
            numbers = [number(data) for _, data in received(s)]
            assert numbers == [i for i in range(COUNT) if i % 64 in ours]
        got = [[number(data) for _, data in received(s)] for s in hashed]
        assert all(numbers == sorted(numbers) for numbers in got)
        assert sorted(got[0] + got[1]) == [i for i in range(COUNT) if i % 2 == 0]
        assert all(got)


def test_the_books_with_a_filter(source):
    """Filtered, delivered, dropped, no member: each packet once."""
    poller = source(wait=2)
    with (
        fal.open(poller.device, group=1, group_filter=HALF, ring=64),
        fal.open(poller.device, group=2, group_filter="arp") as nothing,
    ):
        eventually(lambda: poller.look()["link_received"] == COUNT)
        report = poller.look()
        assert_books(report)
        one, two = report["groups"]
        assert (one["received"], one["filtered"], one["delivered"]) == (COUNT, COUNT / 2, 64)
        assert one["drops"]["ring_full"] == COUNT / 2 - 64
        assert (two["received"], two["filtered"], two["delivered"]) == (COUNT, COUNT, 0)
        assert nothing.stats().recv == 0


def test_the_first_member_decides(source):
    poller = source(wait=100)
    with (
        fal.open(poller.device, group=1, group_filter=HALF) as first,
        fal.open(poller.device, group=1) as as_it_is,
        fal.open(poller.device, group=1, group_filter=HALF) as same,
        fal.open(poller.device, group=2) as no_filter,
    ):
        assert [s.member for s in (first, as_it_is, same)] == [0, 1, 2]
        with refused(errno.EINVAL, "group 1 has another filter", "or none"):
            fal.open(poller.device, group=1, group_filter="udp")
        with refused(errno.EINVAL, "group 2 has no filter"):
            fal.open(poller.device, group=2, group_filter="udp")
        with fal.open(poller.device) as s:
            with refused(errno.EINVAL, "another filter"):
                s.join(1, group_filter="udp")
            assert s.group is None
            s.join(1)  # what was refused is forgotten
            s.leave()
            s.join(3, "lb", group_filter="udp")
            assert s.member == 0
        for s in (first, as_it_is, same, no_filter):
            s.leave()
        with fal.open(poller.device, group=1, group_filter="udp"):  # the group began anew
            pass


def test_what_is_no_filter(source):
    poller = source(wait=100)
    for bad, *words in [
        ({"group": 1, "group_filter": "port"}, "'port'", "syntax error"),
        ({"group": 1, "group_filter": "ip and arp"}, "rejects all"),
        ({"group_filter": "ip"}, "'ip' wants a group"),
        ({"group": 1, "group_filter": "ip\0"}, "NUL"),
    ]:
        with refused(errno.EINVAL, *words):
            fal.open(poller.device, **bad)
    with fal.open(poller.device, group=1, group_filter=""):
        pass
    assert not eventually(poller.stat)["groups"]


def test_filters_of_all_groups_have_a_limit(source):
    """What the poller has to run for each packet is bounded, whoever asks."""
    poller = source(wait=100)
    half = bpf.native([(0x04, 0, 0, 1)] * (lib.FAL_BPF_MAX // 2 - 1) + [(6, 0, 0, 1)])
    err = ffi.new("struct fal_error *")
    with contextlib.ExitStack() as stack:

        def join(group, program):
            s = lib.fal_open(64, err)
            stack.callback(lib.fal_close, s)
            assert lib.fal_set_group_filter(s, program, len(program), err) == 0
            assert lib.fal_join(s, group, ffi.NULL, err) == 0
            return lib.fal_attach(s, poller.device.encode(), err)

        assert join(1, half) == join(2, half) == 0
        assert join(1, half) == 0  # costs nothing
        assert join(3, bpf.native([(6, 0, 0, 1)])) == -1
        assert err.code == errno.ENOSPC
        assert "no room for a BPF program of 1: all groups here together have 4096 of 4096" in (
            ffi.string(err.text).decode()
        )
    with fal.open(poller.device, group=3, group_filter="udp"):
        pass


def test_c_programs_are_checked():
    err = ffi.new("struct fal_error *")
    s = lib.fal_open(0, err)
    for function in (lib.fal_setfilter, lib.fal_set_group_filter, lib.fal_set_group_program):
        assert function(s, bpf.native([(0, 0, 0, 0)]), 1, err) == -1
        assert (err.code, ffi.string(err.text)) == (
            errno.EINVAL,
            b"BPF program: instruction 0 is the last and no return",
        )
        assert function(s, ffi.NULL, lib.FAL_BPF_MAX + 1, err) == -1
        assert function(s, ffi.NULL, 0, err) == 0
    lib.fal_close(s)


# ---- programs ------------------------------------------------------------------------------------

BYTE = [(0x30, 0, 0, 42), (0x16, 0, 0, 0)]  # the lowest of the packet's number


def test_a_program_picks_the_member(source):
    poller = source(wait=3)
    sockets = [fal.open(poller.device, group=1, fanout="cbpf", program=BYTE, ring=8192)]
    sockets += [fal.open(poller.device, group=1, ring=8192) for _ in range(2)]
    for member, s in enumerate(sockets):
        eventually(lambda: poller.look()["link_received"] == COUNT)
        numbers = [number(data) for _, data in received(s)]
        assert numbers == [i for i in range(COUNT) if i % 256 % 3 == member]
        assert poller.look()["groups"][0]["mode"] == "cbpf"
    for s in sockets:
        s.close()


def test_a_program_and_a_filter(source):
    poller = source(wait=2)
    with (
        fal.open(
            poller.device, group=1, fanout="cbpf", program=BYTE, group_filter=HALF, ring=8192
        ) as even,
        fal.open(poller.device, group=1, ring=8192) as odd,
    ):
        eventually(lambda: poller.look()["link_received"] == COUNT)
        assert_books(poller.look())
        assert odd.stats().recv == 0
        assert [number(data) for _, data in received(even)] == list(range(0, COUNT, 2))


def test_whose_program_it_is(source):
    poller = source(wait=100)
    other = [(6, 0, 0, 1)]
    for bad, *words in [
        ({"group": 1, "fanout": "cbpf"}, "mode cbpf wants a program (name no mode"),
        ({"group": 1, "program": BYTE}, "mode hash takes no program (mode cbpf does)"),
        ({"group": 1, "fanout": "lb", "program": BYTE}, "mode lb takes no program"),
        ({"program": BYTE}, "wants a group"),
        ({"group": 1, "fanout": "cbpf", "program": BYTE[:1]}, "instruction 0 is the last"),
        ({"group": 1, "fanout": "cbpf", "program": [(1, 2)]}, "(code, jt, jf, k)"),
    ]:
        with refused(errno.EINVAL, *words):
            fal.open(poller.device, **bad)
    with (
        fal.open(poller.device, group=1, fanout="cbpf", program=BYTE),
        fal.open(poller.device, group=1, fanout="CBPF", program=list(map(tuple, BYTE))),
        fal.open(poller.device, group=2, fanout="lb"),
    ):
        with refused(errno.EINVAL, "group 1 has another program"):
            fal.open(poller.device, group=1, program=other)
        with refused(errno.EINVAL, "group 2 has no program"):
            fal.open(poller.device, group=2, program=BYTE)


# ---- sockets -------------------------------------------------------------------------------------

MINE = "udp[0:2] & 7 = 0"  # every eighth flow: source ports are from 10000 on
OURS = [i for i in range(COUNT) if i % 8 == 0]


@pytest.fixture
def filtered(source):
    """A socket whose ring is full of packets, one in eight of which it wants."""
    poller = source(wait=2)
    with fal.open(poller.device, ring=8192, filter=MINE) as s, fal.open(poller.device, ring=64):
        eventually(lambda: s.stats().recv == COUNT)  # and the other never reads: it does not end
        yield poller, s


def consumed(poller):
    return max(m["consumed"] for m in poller.look()["sockets"])


@pytest.mark.parametrize("most", [1, 7, 100, 5000])
def test_a_socket_s_filter(filtered, most):
    poller, s = filtered
    got, kept = [], []
    while batch := s.recv_batch(max=most, timeout=0):
        assert len(batch) == len(batch.meta) <= most
        for packet, meta in zip(batch, batch.meta, strict=True):
            begin = int(meta["offset"])
            assert batch.data[begin : begin + int(meta["caplen"])].tobytes() == bytes(packet)
            assert int(meta["hash"]) == fal.flow_hash(packet)
            got.append(number(packet))
        kept.append((batch.meta, batch.meta.copy()))
    assert got == OURS
    assert s.stats() == (COUNT, 0, 0)
    assert s.counters() == {"ring_full": 0, "filtered": COUNT - len(OURS)}
    eventually(lambda: consumed(poller) == COUNT)
    s.close()
    for meta, copy in kept:  # each batch's own
        assert (meta == copy).all()
        with pytest.raises(ValueError, match="read-only"):
            meta["len"] = 1


def test_what_is_read_in_part_is_received_again(filtered):
    poller, s = filtered
    got = []
    for take in itertools.cycle([1, 3, 0, 50, 200]):
        batch = s.recv_batch(max=120, timeout=0)
        if not len(batch):
            break
        got += map(number, list(batch)[:take])
        s._released(batch, take)
        # What lies before the next one was given back, no more; that is shown once a second.
        if 0 < take < len(batch) and len(got) < 60:
            eventually(lambda: consumed(poller) == OURS[len(got)])  # noqa: B023
            assert s.counters()["filtered"] == OURS[len(got)] - len(got)
        if take == 3:  # a loop that is left
            got += [number(data) for _, data in itertools.islice(s, 5)]
    assert got == OURS
    eventually(lambda: consumed(poller) == COUNT)


def test_a_filter_comes_and_goes(filtered):
    """Also for what lies in the ring, and while a batch is out."""
    poller, s = filtered
    batch = s.recv_batch(max=10)
    with refused(errno.EINVAL, "syntax error"):
        s.setfilter("port")
    s.setfilter(None)
    assert [number(p) for p in batch] == OURS[:10]
    batch = s.recv_batch(max=10)
    assert [number(p) for p in batch] == list(range(73, 83))
    assert batch.meta.ctypes.data == s._views[0].slots[73:].ctypes.data  # the ring itself
    s.setfilter("udp[0:2] = 10001")
    assert [number(p) for p in s.recv_batch(max=3)] == [129, 193, 257]
    s.setfilter("")
    s.setfilter("src host 10.0.0.1 and udp[0:2] = 10001")
    assert len(s.recv_batch(timeout=0.01)) == 0
    eventually(lambda: consumed(poller) == COUNT)


def test_the_end_comes_after_the_last_that_matches(source):
    with fal.open(source(wait=1).device, ring=8192, filter=MINE) as s:
        assert [number(data) for _, data in s] == OURS


def test_a_flood_of_others_does_not_hold_a_timeout_up(start_poller):
    poller = start_poller("x", *NULL)
    slow = [(4, 0, 0, 1)] * 4000 + [(6, 0, 0, 0)]  # so that the ring is never found empty
    with fal.open(poller.device, filter="arp") as s:
        s._set(lib.fal_setfilter, slow)
        for timeout in (0, 0.2, 0.7):
            start = time.monotonic()
            assert len(s.recv_batch(timeout=timeout)) == 0
            assert timeout <= time.monotonic() - start < timeout + 3
        assert s.counters()["filtered"] > 10000
        assert s.stats().drop


def test_filters_of_group_and_socket(source):
    poller = source(wait=1)
    with fal.open(poller.device, group=1, group_filter=HALF, ring=8192, filter=MINE) as s:
        eventually(lambda: s.stats().recv == COUNT // 2)
        assert [number(data) for _, data in s] == OURS
        assert s.stats() == (COUNT // 2, 0, 0)
        assert s.counters()["filtered"] == COUNT // 2 - len(OURS)


def test_a_bad_filter_opens_nothing(source):
    poller = source(wait=100)
    with refused(errno.EINVAL, "'port'", "syntax error"):
        fal.open(poller.device, filter="port")
    assert not poller.look()["sockets"]
