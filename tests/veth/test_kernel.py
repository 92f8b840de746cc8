"""The same Socket over the kernel's packet socket and its fan-out: "tpacket:eth0", or "eth0"."""

from __future__ import annotations

import errno
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from packets import tag
from support import BIN, NOBODY, compiled, eventually, ip, run, udp

import fal
from fal import bpf
from fal.bindings import lib

FLOWS, RET = 64, 6
BYTE = [(0x30, 0, 0, 49), (0x16, 0, 0, 0)]  # ldb [49]; ret a: the last of a number
KERNELS = ("hash", "lb", "cpu", "rollover", "rnd", "qm")


def frame(n: int, size: int = 18) -> bytes:
    return udp(("10.0.0.1", 1000 + n % FLOWS), ("10.0.0.2", 53), n.to_bytes(8, "big") + bytes(size))


FRAMES = [frame(n) for n in range(500)]


def number(data: bytes | memoryview) -> int:
    return int.from_bytes(data[42:50], "big")


@pytest.fixture
def veth(make_veth):
    return make_veth()


@pytest.fixture
def opened(veth):
    """Open sockets on the inner end, which are closed afterwards."""
    made = []

    def opened(prefix="", **how):
        with veth.inside.entered():
            made.append(fal.open(prefix + veth.device, **how))
        return made[-1]

    yield opened
    for s in made:
        s.close()


def read(wanted, *sockets, most=1024):
    """Read so many packets, and no more are there; what each socket got."""
    got = [[] for _ in sockets]

    def look():
        for s, mine in zip(sockets, got, strict=True):
            while batch := s.recv_batch(max=most, timeout=0):
                mine += map(bytes, batch)
        return sum(map(len, got)) >= wanted

    eventually(look)
    assert sum(map(len, got)) == wanted
    return got


@pytest.mark.parametrize("prefix", ["", "tpacket:"])
def test_bytes_order_once(veth, opened, prefix):
    s = opened(prefix)
    before = time.time_ns()
    veth.send(*FRAMES)
    after = time.time_ns()
    got, stamps = [], []
    while len(got) < len(FRAMES):
        with s.recv_batch(max=7, timeout=5) as batch:
            got += map(bytes, batch)
            stamps += batch.meta["ts_ns"].tolist()
            assert {fal.flow_hash(data) for data in batch} == set(batch.meta["hash"].tolist())
            assert batch.device == veth.device
    assert got == FRAMES
    assert stamps == sorted(stamps)
    assert before < stamps[0] < stamps[-1] < after
    assert s.stats() == (len(FRAMES), 0, 0)
    assert (s.member, s.group) == (None, None)


def test_what_a_descriptor_says(veth, opened):
    s = opened()
    tags = {0x8100: 0, 0x88A8: lib.FAL_DESC_8021AD}
    frames = [FRAMES[0][:12] + tag(0x6123, kind) + FRAMES[0][12:] for kind in tags]
    veth.send(*frames)  # which the kernel takes off
    with veth.inside.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as host:
        host.bind((veth.device, 0))
        host.send(FRAMES[1])
        got = []
        while len(got) < 3:
            batch = s.recv_batch(timeout=5)
            got += zip(map(bytes, batch), batch.meta.copy(), strict=True)
    assert [data for data, _ in got] == [*frames, FRAMES[1]]
    for (_, meta), flag in zip(got, tags.values(), strict=False):
        assert meta["flags"] == lib.FAL_DESC_FIRST | lib.FAL_DESC_VLAN | flag
        assert (meta["vlan_tci"], meta["len"]) == (0x6123, len(frames[0]))
    assert got[2][1]["flags"] == lib.FAL_DESC_FIRST | lib.FAL_DESC_OUTGOING


@pytest.mark.parametrize("mode", [*KERNELS, "cbpf", "hash+defrag", "lb|rollover", "round_robin"])
def test_members_share(veth, opened, mode):
    """One names the mode, the other joins the group as it is."""
    program = BYTE if mode == "cbpf" else None
    sockets = [opened(group=3, fanout=mode, program=program), opened(group=3)]
    veth.send(*FRAMES)
    got = [list(map(number, mine)) for mine in read(len(FRAMES), *sockets)]
    assert sorted(got[0] + got[1]) == list(range(len(FRAMES)))
    assert all(mine == sorted(mine) for mine in got)
    if mode.startswith("hash"):
        assert not {n % FLOWS for n in got[0]} & {n % FLOWS for n in got[1]}
        assert min(map(len, got)) > 100
    elif mode == "cbpf":
        assert got == [[n for n in range(500) if n % 256 % 2 == member] for member in (0, 1)]
    elif mode in ("lb|rollover", "round_robin"):
        assert len(got[0]) == len(got[1])
    with pytest.raises(fal.FalError, match="has another mode") as e:
        opened(group=3, fanout="hash" if mode != "hash" else "lb")
    assert e.value.errno == errno.EINVAL


def test_a_program_that_branches(veth, opened):
    """What libpcap compiles is made for the Ethernet header, and the kernel runs it behind that."""
    program = [
        (code, jt, jf, min(k, 1) if code == RET else k)
        for code, jt, jf, k in bpf.compile("udp and src portrange 1000-1031")
    ]
    sockets = [opened(group=1, fanout="cbpf", program=program), opened(group=1)]
    veth.send(*FRAMES)
    got = [list(map(number, mine)) for mine in read(len(FRAMES), *sockets)]
    accepted = [n for n in range(500) if n % FLOWS < 32]
    assert got == [[n for n in range(500) if n not in accepted], accepted]


def test_members_come_under_traffic(veth, opened):
    """No packet is lost, and next to none comes to two: a member receives just before it joins."""
    sockets, sent = [opened(group=1, fanout="lb")], []

    def send():
        while len(sockets) < 20:
            sent.append(len(sent))
            veth.send(frame(sent[-1]))

    sender = threading.Thread(target=send)
    sender.start()
    while len(sockets) < 20:
        sockets.append(opened(group=1, ring=64))
    sender.join()
    recv, drop = (sum(s.stats()[k] for s in sockets) for k in (0, 1))
    found = [number(packet) for mine in read(recv, *sockets) for packet in mine]
    twice = len(found) - len(set(found))
    assert len(set(found)) + drop == len(sent)
    assert twice < len(sent) / 20


def test_joining_later(veth, opened):
    """What lay in the ring before stays there."""
    s, other = opened(), opened(group=1, fanout="lb")
    veth.send(*FRAMES[:100])
    s.join(1)
    assert s.group == 1
    veth.send(*FRAMES[100:200])
    mine, others = (list(map(number, got)) for got in read(300, s, other))
    assert mine[:100] == others[:100] == list(range(100))
    assert sorted(mine[100:] + others[100:]) == list(range(100, 200))
    with pytest.raises(fal.FalError, match="already in group 1") as e:
        s.join(2)
    assert e.value.errno == errno.EALREADY
    with pytest.raises(fal.FalError, match="lets no socket out") as e:
        s.leave()
    assert (e.value.errno, s.group) == (errno.EOPNOTSUPP, 1)


@pytest.mark.parametrize(
    ("mode", "program", "words"),
    [
        ("cbpf", [(0x60, 0, 0, 0), (0x16, 0, 0, 0)], "does not take the program"),  # ld M[0]
        ("hash", BYTE, "only mode cbpf takes a program"),
        (None, BYTE, "only mode cbpf takes a program"),
        ("cbpf", None, "mode cbpf wants a program"),
    ],
)
def test_a_program_that_is_refused(veth, opened, mode, program, words):
    """Refused is the join: it does not stay in the group."""
    theirs = {"fanout": mode or "lb", "program": BYTE if mode == "cbpf" else None}
    s, other = opened(), opened(group=1, **theirs)
    with pytest.raises(fal.FalError, match=words) as e:
        s.join(1, mode, program=program)
    assert (e.value.errno, s.group) == (errno.EINVAL, None)
    veth.send(*FRAMES[:100])
    assert read(200, s, other) == [FRAMES[:100]] * 2


def test_closing_leaves_the_group_whoever_still_looks(veth, opened):
    """Views outlive the socket, as with fal-poller, and do not keep it in its group."""
    a, b = (opened(group=1, fanout="lb") for _ in range(2))
    veth.send(*FRAMES[:2])
    batch = a.recv_batch(timeout=5)
    assert len(batch) == 1
    packet, meta, data = batch[0], batch.meta, batch.data
    a.close()
    assert not any(packet)
    assert not data[int(meta["offset"][0])]
    veth.send(*FRAMES[2:10])
    assert len(read(9, b)[0]) == 9


@pytest.mark.parametrize("most", [1, 7, 1024])
def test_filters(veth, opened, most):
    """Over many blocks, most of which hold nothing that matches."""
    s = opened(filter="udp src port 1005")
    for turn in range(4):
        veth.send(*FRAMES)
        wanted = [n for n in range(500) if n % FLOWS == 5]
        assert list(map(number, read(len(wanted), s, most=most)[0])) == wanted, turn
    assert not s.recv_batch(timeout=0.05)
    assert s.stats().recv - s.counters()["filtered"] == 4 * len(wanted)
    s.setfilter(None)
    veth.send(*FRAMES)
    assert read(len(FRAMES), s, most=most) == [FRAMES]


def test_what_matches_is_found_wherever_it_lies(veth, opened):
    s = opened(ring=64, filter="udp src port 1005")
    veth.send(*[frame(6, 1400)] * 500, *[frame(6)] * 500, frame(5))
    time.sleep(0.1)
    assert len(s.recv_batch(timeout=0)) == 1


def test_an_iteration_that_is_left(veth, opened):
    s = opened(timeout=5)
    veth.send(*FRAMES)
    got = []
    while len(got) < len(FRAMES):
        for _, data in s:
            got.append(data)
            if len(got) % 70 == 0 or len(got) == len(FRAMES):
                break
    assert got == FRAMES


def test_nobody_reads(veth, opened):
    """Every packet is in one of the books; the smallest ring has 64 blocks."""
    s, sent = opened(ring=64), 8000
    big = frame(0, 1400)
    veth.send(*[big] * sent)
    eventually(lambda: sum(s.stats()[:2]) == sent)
    stats = s.stats()
    assert stats.drop > 0
    read(stats.recv, s)
    veth.send(*FRAMES)
    assert read(len(FRAMES), s) == [FRAMES]


# ---- waiting -----------------------------------------------------------------------------------


def test_waiting_by_edges(veth, opened):
    """A packet is an edge once a receive found nothing."""
    s = opened()
    p = select.epoll()
    p.register(s.fileno(), select.EPOLLIN | select.EPOLLET)
    with p:
        p.poll(0)
        for n in range(20):
            assert not s.recv_batch(timeout=0)
            veth.send(FRAMES[n])
            assert p.poll(2)
            assert [number(packet) for packet in s.recv_batch(timeout=1)] == [n]


def test_readable_while_packets_are_left(veth, opened):
    s = opened()
    assert not select.select([s.fileno()], [], [], 0)[0]
    veth.send(*FRAMES)
    got = 0
    while got < len(FRAMES):
        assert select.select([s.fileno()], [], [], 2)[0]
        got += len(s.recv_batch(max=100, timeout=0))
    assert not s.recv_batch(timeout=0)
    assert not select.select([s.fileno()], [], [], 0)[0]


def test_down_and_up_and_gone(veth, opened):
    """The end comes after the last packet, which lies in a block that is not full."""
    s = opened()
    ip("-n", veth.inside.name, "link", "set", veth.device, "down")
    with pytest.raises(fal.FalError, match="down") as e:
        s.inject(FRAMES[0])
    assert e.value.errno == errno.ENETDOWN
    assert not s.recv_batch(timeout=0.05)
    assert not select.select([s.fileno()], [], [], 0)[0]  # a pending error is no packet
    ip("-n", veth.inside.name, "link", "set", veth.device, "up")
    eventually(lambda: "LOWER_UP" in ip("-n", veth.outside.name, "link", "show", veth.peer))
    veth.send(*FRAMES)
    ip("-n", veth.inside.name, "link", "delete", veth.device)
    got = []
    with pytest.raises(fal.PollerGone, match=f"{veth.device} is gone") as e:
        got.extend(data for _, data in s)
    assert e.value.errno == errno.ENODEV
    assert got == FRAMES
    assert select.select([s.fileno()], [], [], 0)[0]
    with pytest.raises(fal.PollerGone):
        s.inject(FRAMES[0])


# ---- forks -------------------------------------------------------------------------------------

FORK = """
import errno, fal, os, sys
s = fal.open(sys.argv[1], timeout=5)
print("ready", flush=True)

def some(n):
    numbers = []
    while len(numbers) < n:
        numbers += [int.from_bytes(p[42:50], "big") for p in s.recv_batch(max=n - len(numbers))]
    return numbers

print(*some(100))
sys.stdout.flush()
if (pid := os.fork()) == 0:
    try:
        s.recv_batch()
    except fal.FalError as e:
        print(errno.errorcode[e.errno], flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(*some(100), flush=True)
parent = os.getpid()
if os.fork():  # the parent holds a batch, unread, and dies
    s.recv_batch(max=10)
    os._exit(0)
while os.getppid() == parent:
    pass
print(*some(300), flush=True)
print(s.stats().recv)
"""


def test_forks(veth):
    """Who reads after the one that read before goes on where that one was."""
    worker = subprocess.Popen(
        veth.inside.command(sys.executable, "-P", "-c", FORK, veth.device),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert worker.stdout.readline() == "ready\n"
        veth.send(*FRAMES)
        out = worker.communicate(timeout=20)[0].split()
        assert out[:100] == [str(n) for n in range(100)]
        assert out[100] == "EBUSY"
        assert out[101:] == [*(str(n) for n in range(100, 500)), "500"]
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.communicate()


def test_a_reader_killed_at_any_instruction(veth, tmp_path):
    """The next one goes on: it reads each packet once, and none is lost."""
    program = compiled(Path(__file__).with_name("stepped.c"), tmp_path / "stepped", "-O2")
    points = [*random.Random(1).sample(range(2400), 24), 9999]  # it takes about 2200
    with subprocess.Popen(
        veth.inside.command("env", "LD_BIND_NOW=1", str(program), veth.device),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout.readline() == "ready\n"
        ends = set()
        for point in points:
            veth.send(*FRAMES[:10])
            time.sleep(0.05)  # longer than a block is kept
            worker.stdin.write(f"{point}\n")
            worker.stdin.flush()
            end, *numbers = worker.stdout.readline().split()
            assert numbers == [str(n) for n in range(10)], point
            ends.add(end)
        worker.stdin.close()
        assert worker.wait(5) == 0
    assert ends == {"killed", "done"}


# ---- sending, and what cannot be had -------------------------------------------------------------


def test_inject(veth, opened):
    s = opened()
    there = veth.packet_socket()
    there.bind((veth.peer, 3))
    there.settimeout(5)
    with there:
        assert s.inject_many(FRAMES[:20]) == 20
        assert [there.recv(2048) for _ in range(20)] == FRAMES[:20]
    ip("-n", veth.inside.name, "link", "set", veth.device, "down")
    ip("-n", veth.inside.name, "link", "set", veth.device, "up")
    eventually(lambda: "LOWER_UP" in ip("-n", veth.outside.name, "link", "show", veth.peer))
    assert s.inject(FRAMES[0])  # no old news
    for length in (13, 1519):
        with pytest.raises(fal.FalError, match="14 to 1518") as e:
            s.inject(bytes(length))
        assert e.value.errno == errno.EMSGSIZE


@pytest.mark.parametrize("group", [None, 1])
def test_on_the_loopback_device_each_packet_comes_once(veth, group):
    ip("-n", veth.inside.name, "link", "set", "lo", "up")
    with (
        veth.inside.entered(),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        fal.open("lo", group=group, filter="udp dst port 9") as s,
    ):
        for i in range(50):
            sender.sendto(bytes([i]) * 100, ("127.0.0.1", 9))
        assert [data[42] for data in read(50, s)[0]] == list(range(50))
        assert s.stats().recv - s.counters()["filtered"] == 50


def test_several_devices(veth, make_veth):
    """Without a group they may be several."""
    ip("-n", veth.inside.name, "link", "add", "fala", "type", "veth", "peer", "name", "falb")
    for dev in ("fala", "falb"):
        ip("-n", veth.inside.name, "link", "set", dev, "up")
    with veth.inside.entered(), fal.open(f"tpacket:fala^{veth.device}", filter="udp port 53") as s:
        veth.send(FRAMES[7])
        batch = s.recv_batch(timeout=5)
        assert (batch.device, bytes(batch[0])) == (veth.device, FRAMES[7])
        with pytest.raises(fal.FalError, match="has one device"):
            s.join(1)


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        (
            {"fanout": "flow_2_tuple"},
            errno.EOPNOTSUPP,
            "fan-out has no 'flow_2_tuple'",
        ),
        ({"fanout": "hash+inner"}, errno.EOPNOTSUPP, "fal-poller has all"),
        ({"fanout": "hush"}, errno.EINVAL, "unknown fan-out mode 'hush'"),
        ({"group_filter": "udp"}, errno.EOPNOTSUPP, "the kernel's groups have no filter"),
        (
            {"fanout": "cbpf", "program": [(0x80, 0, 0, 0), (0x16, 0, 0, 0)]},
            errno.EOPNOTSUPP,
            "knows no length",
        ),
        (
            {"fanout": "cbpf", "program": [(0x30, 0, 0, 1 << 20), (0x16, 0, 0, 0)]},
            errno.EOPNOTSUPP,
            "loads from offset 1048576",
        ),
    ],
)
def test_what_the_kernel_has_not(opened, how, code, words):
    with pytest.raises(fal.FalError, match=words) as e:
        opened(group=1, **how)
    assert e.value.errno == code


def test_refusals(veth, opened):
    for device, code, words in (
        ("nosuch0", errno.ENODEV, "no device nosuch0"),
        ("tpacket:" + "x" * 400, errno.ENODEV, "no device 'xxx"),
        ("tpacket:", errno.ENODEV, "no device ''"),
        ("pfring:eth0", errno.EINVAL, "fal:NAME"),
    ):
        with pytest.raises(fal.FalError, match=words) as e:
            fal.open(device)
        assert e.value.errno == code
    script = f"import fal; fal.open({veth.device!r})"
    command = (*NOBODY, sys.executable, "-P", "-c", script)
    said = run(*veth.inside.command(*command), check=False).stderr
    assert "CAP_NET_RAW" in said.splitlines()[-1]


def test_nothing_is_left(opened):
    """Neither descriptors nor memory, however it ended."""

    def counted():
        return len(os.listdir("/proc/self/fd")), len(
            Path("/proc/self/maps").read_text().split("\n")
        )

    def once():
        s = opened(ring=64)
        s.fileno()
        s.close()
        with pytest.raises(fal.FalError):
            opened(group=1, fanout="hash+inner")
        with pytest.raises(fal.FalError):
            opened(group=1, fanout="cbpf", program=[(0x80, 0, 0, 0), (0x16, 0, 0, 0)])

    once()
    before = counted()
    for _ in range(5):
        once()
    fds, maps = counted()
    assert fds == before[0]
    assert maps <= before[1] + 3  # Python's own come and go


def test_captop_by_the_bare_name(veth):
    words = ("captop", veth.device, "--workers", "2", "--seconds", "1", "--json")
    command = veth.inside.command(str(BIN / "fal"), *words)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as top:
        show = ("-d", "-n", veth.inside.name, "link", "show", veth.device)
        eventually(lambda: "promiscuity 2" in ip(*show))
        time.sleep(0.3)  # both have joined by then, too
        veth.send(*FRAMES)
        report = json.loads(top.communicate(timeout=10)[0])
    assert report["captured"] == len(FRAMES)


def test_views_are_read_only(veth, opened):
    s = opened()
    veth.send(FRAMES[0])
    batch = s.recv_batch(timeout=5)
    assert batch[0].readonly
    assert not batch.data.flags.writeable
    assert not batch.meta.flags.writeable
    assert np.shares_memory(batch.data, np.frombuffer(batch[0], np.uint8))
