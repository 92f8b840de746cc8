"""Packets longer than a frame: they come in pieces, and are whole again for who reads them."""

import itertools
import random
import struct
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from support import (
    assert_books,
    assert_spread,
    compiled,
    eventually,
    quiet,
    send_slowly,
    udp,
)

import fal
from fal.bindings import lib

FIRST, MORE = lib.FAL_DESC_FIRST, lib.FAL_DESC_MORE
MTU = 9000
PIECE = 2048 - 256  # bytes of a packet in a frame
MODES = ("generic", "native")
WAYS = [(mode, *way) for mode in MODES for way in ((1, 1), (4, 2))]

HOLDS = """
import sys, time, fal
s = fal.open(sys.argv[1], group=1, ring=64)
print("started", flush=True)
time.sleep(1000)
"""

C_WORKER = r"""
#include <fal.h>
#include <stdio.h>
/* Reads COUNT packets, few at a time, gives back not all of them, and prints them in hex. */
int main(int argc, char **argv) {
    struct fal_error err = {0};
    struct fal_batch b;
    static unsigned char whole[16384];
    struct fal_socket *s = fal_open(64, &err);
    if (argc != 2 || !s || fal_attach(s, argv[1], &err) || fal_start(s, &err))
        return 1;
    printf("started\n");
    fflush(stdout);
    for (unsigned count = 700, max = 1; count > 0; max = max % 9 + 1) {
        if (fal_wait(s, 20000, &err) != 1 || fal_receive(s, max, &b) < 1)
            return 2;
        unsigned whole_ones = 0, half = 0, taken = 0;
        for (unsigned i = 0; i < b.count; i++)
            whole_ones += (b.packets[i].flags & FAL_DESC_FIRST) != 0;
        if (whole_ones != b.whole || (b.count > max && b.whole != 1) ||
            b.packets[b.count - 1].flags & FAL_DESC_MORE || b.slot + b.count > 64)
            return 3;
        for (unsigned i = 0; i < b.count && taken <= b.whole / 2; i++) {
            if (!(b.packets[i].flags & FAL_DESC_FIRST))
                continue;
            unsigned n = fal_copy(&b, i, whole, sizeof whole);
            if (n != b.packets[i].len || fal_copy(&b, i, whole, n / 2) != n / 2)
                return 4;
            for (unsigned k = 0; k < n; k++)
                printf("%02x", whole[k]);
            printf("\n");
            half = i + 1; /* a part of it: the whole packet goes */
            taken++;
            count--;
        }
        fal_release_first(s, half);
    }
    fal_close(s);
    return 0;
}
"""

OLD_KERNEL = r"""
#include <errno.h>
#include <linux/if_xdp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
/* As before Linux 6.6, to which XDP_USE_SG is no flag. */
int bind(int fd, const struct sockaddr *address, socklen_t size) {
    if (address->sa_family == 44 && ((const struct sockaddr_xdp *)address)->sxdp_flags & 16) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_bind, fd, address, size);
}
"""


def frame(number, size):
    """A frame of this size in one of 16 flows, in either direction; no two are alike."""
    ends = [("10.0.0.1", 1000 + number % 16), ("10.0.0.2", 53)]
    payload = number.to_bytes(4, "big") + random.Random(number).randbytes(size - 46)
    return udp(*ends[:: 1 if number % 3 else -1], payload)


# From the shortest to the longest, and what just fits frames.
SIZES = [60 + i * (MTU + 14 - 60) // 690 for i in range(691)]
SIZES += [n * PIECE + more for n in (1, 2, 5) for more in (-1, 0, 1)]
FRAMES = [frame(i, size) for i, size in enumerate(SIZES)]
random.Random(1).shuffle(FRAMES)


@pytest.fixture(params=WAYS, ids=["-".join(map(str, way)) for way in WAYS])
def jumbo(request, make_veth, start_poller):
    mode, queues, pollers = request.param
    veth = make_veth(queues=queues, mtu=MTU)
    cpus = ",".join(map(str, range(pollers)))
    poller = start_poller(veth.device, "--mode", mode, "--cpus", cpus, namespace=veth.inside)
    assert poller.ready["mode"] == mode
    return veth, poller


def packets(s):
    """Return (descriptor of the first piece, bytes) of all that lies in the rings."""
    got = []
    while batch := s.recv_batch(timeout=0):
        flags = batch.meta["flags"]
        assert flags[0] & FIRST
        assert not flags[-1] & MORE
        assert len(batch) == len(batch.heads) == ((flags & FIRST) != 0).sum()
        got += zip(batch.heads.copy(), map(bytes, batch), strict=True)
    return got


def test_bytes_order_once(jumbo):
    veth, poller = jumbo
    with (
        fal.open(poller.device) as everything,
        fal.open(poller.device, group=1, fanout="hash") as h0,
        fal.open(poller.device, group=1) as h1,
        fal.open(poller.device, group=2, fanout="lb") as l0,
        fal.open(poller.device, group=2) as l1,
    ):
        before = time.time_ns()
        send_slowly(veth, FRAMES, everything)
        groups = [[packets(s) for s in members] for members in ([everything], [h0, h1], [l0, l1])]
        assert_spread(groups, FRAMES, len(poller.look()["cpus"]))
        for got in (got for members in groups for got in members):
            for meta, data in got:
                assert meta["len"] == len(data)
                assert meta["caplen"] == min(len(data), PIECE)
                assert meta["hash"] == fal.flow_hash(data)
                assert before <= meta["ts_ns"] <= time.time_ns()
        report = eventually(lambda: quiet(poller))
        assert_books(report)
        assert report["chains"]
        assert report["link_received"] == len(FRAMES)
        assert sum(q["received"] for q in report["queues"]) == len(FRAMES)
        assert {g["received"] for g in report["groups"]} == {len(FRAMES)}
    assert poller.stop() == 0


def test_the_pieces_in_a_batch(make_veth, start_poller):
    veth = make_veth(mtu=MTU)
    poller = start_poller(veth.device, namespace=veth.inside)
    frames = [frame(i, size) for i, size in enumerate((9014, 60, 1792, 1793, 4000))]
    pieces = [6, 1, 1, 2, 3]
    with fal.open(poller.device) as s:

        def again():
            veth.send(*frames)
            eventually(lambda: s.stats().recv % len(frames) == 0 and s.stats().recv)

        again()
        with s.recv_batch() as batch:
            assert len(batch) == 5
            assert [len(data) for data in batch] == [9014, 60, 1792, 1793, 4000]
            assert [bytes(batch[i]) for i in range(-5, 5)] == 2 * frames
            assert all(data.readonly for data in batch)
            with pytest.raises(IndexError):
                batch[5]
            flags = batch.meta["flags"] & (FIRST | MORE)
            assert flags.tolist() == [
                (FIRST if i == 0 else 0) | (MORE if i < n - 1 else 0)
                for n in pieces
                for i in range(n)
            ]
            for name in ("ts_ns", "len", "hash", "vlan_tci", "queue"):
                wanted = [
                    x for x, n in zip(batch.heads[name], pieces, strict=True) for _ in range(n)
                ]
                assert batch.meta[name].tolist() == wanted
        with pytest.raises(ValueError, match="released"):
            batch[0]

        again()  # max counts pieces; who has more of them comes alone
        batches = [list(map(len, s.recv_batch(max=3))) for _ in range(4)]
        assert batches == [[9014], [60, 1792], [1793], [4000]]
        assert len(s.recv_batch(timeout=0)) == 0

        again()  # a loop that is left has taken whole packets
        taken = [data for _, data in itertools.islice(s, 2)]
        taken += [data for _, data in itertools.islice(s, 3)]
        assert taken == frames

    with fal.open(poller.device, snaplen=2000) as s:
        again()
        assert [bytes(data) for data in s.recv_batch()] == [data[:2000] for data in frames]


@pytest.mark.parametrize("filtered", [False, True])
def test_filters_see_first_pieces(make_veth, start_poller, filtered):
    """Filters of a group and of a socket count packets, and a batch has whole ones."""
    veth = make_veth(mtu=MTU)
    poller = start_poller(veth.device, namespace=veth.inside)
    odd = [data for data in FRAMES if max(data[34:38]) and data[35] & 1 and data[37] == 53]
    words = {"filter" if filtered else "group_filter": "udp dst port 53 and udp[1] & 1 = 1"}
    with (
        fal.open(poller.device) as everything,
        fal.open(poller.device, group=1, ring=64, **words) as s,
    ):
        got = []

        def read():
            for batch in s.batches(max=7):
                assert len(batch.meta) <= 7 or len(batch) == 1
                got.extend(map(bytes, batch))
                if len(got) == len(odd):
                    return

        reader = threading.Thread(target=read)
        reader.start()
        for i in range(0, len(FRAMES), 5):
            send_slowly(veth, FRAMES[i : i + 5], everything)
            eventually(lambda: poller.look()["groups"][0]["members"][0]["in_ring"] <= 5)
            packets(everything)
        reader.join(10)
        assert got == odd
        s.recv_batch(timeout=0)
        report = eventually(lambda: quiet(poller))
        assert_books(report)
        others = len(FRAMES) - len(odd)
        assert report["groups"][0]["filtered"] == (0 if filtered else others)
        assert s.counters()["filtered"] == (others if filtered else 0)


def test_a_small_ring(jumbo):
    """Chains begin anew at its start again and again; nothing is lost, and all frames come back."""
    veth, poller = jumbo
    free = poller.look()["frames_free"]
    with fal.open(poller.device, ring=64) as s:
        for i in range(0, len(FRAMES), 4):
            some = FRAMES[i : i + 4]
            send_slowly(veth, some, s)
            assert Counter(data for _, data in packets(s)) == Counter(some)
        report = eventually(lambda: quiet(poller))
        assert_books(report)
        assert report["sockets"][0]["consumed"] == len(FRAMES)
    eventually(lambda: poller.look()["frames_free"] == free)


def test_a_full_ring_drops_whole_packets(make_veth, start_poller):
    veth = make_veth(mtu=MTU)
    poller = start_poller(veth.device, namespace=veth.inside)
    with fal.open(poller.device) as everything, fal.open(poller.device, group=1, ring=64) as slow:
        longest = [frame(i, MTU + 14) for i in range(100)]  # ten of six pieces fit
        send_slowly(veth, longest, everything)
        (group,) = poller.look()["groups"]
        assert (group["delivered"], group["drops"]["ring_full"]) == (10, 90)
        assert group["members"][0]["dropped"] == slow.stats().drop == 90
        short = [frame(100 + i, 100) for i in range(10)]  # four slots are left
        send_slowly(veth, short, everything)
        assert [data for _, data in packets(slow)] == longest[:10] + short[:4]
        assert [data for _, data in packets(everything)] == longest + short
        assert_books(eventually(lambda: quiet(poller)))


def test_rollover(make_veth, start_poller):
    """A chain goes on to another member where its own has no room for the whole of it."""
    veth = make_veth(mtu=MTU)
    poller = start_poller(veth.device, namespace=veth.inside)
    with (
        fal.open(poller.device) as everything,
        fal.open(poller.device, group=1, fanout="rollover", ring=64) as first,
        fal.open(poller.device, group=1, ring=1024) as second,
    ):
        send_slowly(veth, FRAMES[:200], everything)
        got = [data for s in (first, second) for _, data in packets(s)]
        assert got == FRAMES[:200]
        assert poller.look()["groups"][0]["drops"]["ring_full"] == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_worker(make_veth, start_poller, mode):
    veth = make_veth(mtu=MTU)
    poller = start_poller(veth.device, "--mode", mode, namespace=veth.inside)
    free = poller.look()["frames_free"]
    for _ in range(3):
        with fal.open(poller.device) as witness:
            worker = subprocess.Popen(
                [sys.executable, "-P", "-c", HOLDS, poller.device],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert worker.stdout
            assert worker.stdout.readline() == "started\n"
            send_slowly(veth, FRAMES[:100], witness)
            assert poller.look()["groups"][0]["members"][0]["in_ring"] > 0
            worker.kill()
            worker.wait()
            worker.stdout.close()
            eventually(lambda: not poller.look()["groups"])
            assert len(packets(witness)) == 100
            assert_books(eventually(lambda: quiet(poller)))
        eventually(lambda: poller.look()["frames_free"] == free)


def test_the_c_library(make_veth, start_poller, tmp_path):
    veth = make_veth(mtu=MTU)
    poller = start_poller(veth.device, namespace=veth.inside)
    (tmp_path / "worker.c").write_text(C_WORKER)
    program = compiled(tmp_path / "worker.c", tmp_path / "worker")
    with subprocess.Popen([program, poller.device], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout
        assert worker.stdout.readline() == "started\n"
        with fal.open(poller.device) as witness:
            lines = []
            reader = threading.Thread(target=lambda: lines.extend(worker.stdout))
            reader.start()
            try:
                for i in range(0, len(FRAMES), 7):
                    send_slowly(veth, FRAMES[i : i + 7], witness)
                    packets(witness)
                    eventually(lambda: not any(m["in_ring"] for m in poller.look()["sockets"]))
                reader.join(20)
            finally:
                worker.kill()
                reader.join()
        assert [bytes.fromhex(line) for line in lines] == FRAMES


# ---- what cannot be had --------------------------------------------------------------------------


def large_segment(size):
    """A TCP segment that the sender's device is to cut, after the header that tells it so."""
    head = struct.pack("<BBHHHH", 1, 1, 54, 1460, 34, 16)  # virtio_net_hdr: checksum, TCP over IPv4
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 40 + size, 0, 0, 64, 6, 0) + b"\n\0\0\1\n\0\0\2"
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 0, 0, 0x50, 0x10, 1000, 0, 0)
    return head, b"\2\0\0\0\0\2\2\0\0\0\0\1\x08\0" + ip + tcp + bytes(size)


def test_more_pieces_than_a_ring_is_sure_to_take(make_veth, start_poller):
    """A packet of more than 32 pieces is dropped and counted, and its frames come back."""
    veth = make_veth(mtu=MTU)
    poller = start_poller(veth.device, "--mode", "generic", namespace=veth.inside)
    free = poller.look()["frames_free"]
    with fal.open(poller.device, ring=64) as s, veth.packet_socket() as sender:
        sender.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
        for size in (32 * PIECE - 54, 20000):
            sender.send(b"".join(large_segment(size)))
            batch = s.recv_batch(timeout=5)
            assert (len(batch), len(batch.meta)) == (1, -(-(size + 54) // PIECE))
            assert bytes(batch[0])[54:] == bytes(size)
        for _ in range(200):
            sender.send(b"".join(large_segment(65000)))
        veth.send(FRAMES[0])
        assert bytes(s.recv_batch(timeout=5)[0]) == FRAMES[0]
        s.recv_batch(timeout=0)
        eventually(lambda: poller.look()["if_dropped"] == 200)
        eventually(lambda: poller.look()["frames_free"] == free)


def test_a_kernel_without_chains(make_veth, start_poller, tmp_path):
    """The frame then has to hold the MTU."""
    (tmp_path / "old.c").write_text(OLD_KERNEL)
    old = compiled(tmp_path / "old.c", tmp_path / "old.so", "-shared", "-fPIC")
    for mtu, words in (
        (3000, ("--frame-size 4096", "at most 1770")),
        (MTU, ("at most 3818", "6.6")),
    ):
        veth = make_veth(mtu=mtu)
        for mode in MODES:
            line = start_poller(
                *(veth.device, "--mode", mode),
                namespace=veth.inside,
                through=("env", f"LD_PRELOAD={old}"),
                ready=False,
            ).refused()
            assert f"the MTU of {veth.device}, {mtu}, does not fit into a frame" in line
            assert all(word in line for word in words)


def test_a_driver_that_refuses_chains(make_veth, start_poller):
    """`auto` then runs generic."""
    veth = make_veth()
    poller = start_poller("lo", "--frame-size", "4096", namespace=veth.inside)
    assert (poller.ready["mode"], poller.look()["chains"]) == ("generic", True)
