"""Groups: who gets what, while members come and go under traffic."""

import contextlib
import ctypes
import itertools
import json
import random
import socket
import struct
import subprocess
import sys
from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest
from numbered import WINDOW, Numbered, frame_of, numbers
from support import assert_books, eventually, quiet, received, send_slowly, udp

import fal
from fal import stat, status
from fal.frames import tcp

FLOWS = 2000
SOL_PACKET, PACKET_FANOUT, PACKET_FANOUT_DATA = 263, 18, 22  # linux/if_packet.h
PACKET_FANOUT_CBPF = 6


def both_directions(flows):
    """Return (number of the flow, frame): IPv4 and IPv6, with and without a VLAN tag, mixed."""
    draw, frames = random.Random(2), []
    for flow in range(flows):
        family = (socket.AF_INET, 4) if flow % 2 else (socket.AF_INET6, 16)
        a, b = (
            (socket.inet_ntop(family[0], draw.randbytes(family[1])), draw.randrange(1, 65536))
            for _ in "ab"
        )
        vlan, make = draw.choice((None, None, 100)), draw.choice((udp, tcp))
        frames += [
            (flow, make(*ends, bytes([i]) * 20, vlan))
            for i, ends in enumerate([(a, b), (b, a)] * 2)
        ]
    draw.shuffle(frames)
    return frames


def test_hash_is_symmetric_and_groups_are_independent(served):
    veth, poller = served
    flow_of = {frame: flow for flow, frame in both_directions(400)}
    frames = list(flow_of)
    with fal.open(poller.device) as everything:
        hashed = [fal.open(poller.device, group=1, fanout="hash") for _ in range(4)]
        shared = [fal.open(poller.device, group=65535, fanout="lb") for _ in range(3)]
        send_slowly(veth, frames, everything)
        assert Counter(f for _, f in received(everything)) == Counter(frames)

        members = [[frame for _, frame in received(s)] for s in hashed]
        assert Counter(chain(*members)) == Counter(frames)
        flows = [{flow_of[frame] for frame in got} for got in members]
        assert sum(map(len, flows)) == 400, "a flow met two workers"
        assert min(map(len, flows)) > 400 / 4 / 2

        members = [[frame for _, frame in received(s)] for s in shared]
        assert Counter(chain(*members)) == Counter(frames)
        report = eventually(lambda: quiet(poller))
        turns = len(report["cpus"])  # each poller takes turns of its own
        assert max(map(len, members)) - min(map(len, members)) <= turns
        assert_books(report)
        assert report["link_received"] == len(frames)
        for g, sockets in zip(report["groups"], (hashed, shared), strict=True):
            assert g["received"] == g["delivered"] == g["app_received"] == len(frames)
            assert [m["delivered"] for m in g["members"]] == [s.stats().recv for s in sockets]
        for s in hashed + shared:
            s.close()


WORKER = """
import json, sys, fal
with fal.open(sys.argv[1], group=5, fanout="hash") as s:
    print(s.member, flush=True)
    print(json.dumps([data.hex() for _, data in s]))
"""


def test_worker_processes(make_veth, start_poller):
    veth = make_veth(queues=4)
    poller = start_poller(veth.device, namespace=veth.inside)
    flow_of = {frame: flow for flow, frame in both_directions(200)}
    workers = []
    for number in range(3):
        command = [sys.executable, "-P", "-c", WORKER, poller.device]
        workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert workers[-1].stdout.readline() == f"{number}\n"
    with fal.open(poller.device) as everything:
        send_slowly(veth, list(flow_of), everything)
        received(everything)
    report = eventually(lambda: quiet(poller))
    assert_books(report)
    assert [m["pid"] for m in report["groups"][0]["members"]] == [w.pid for w in workers]
    assert poller.stop() == 0
    got = [[bytes.fromhex(frame) for frame in json.load(w.stdout)] for w in workers]
    assert Counter(chain(*got)) == Counter(list(flow_of))
    flows = [{flow_of[frame] for frame in frames} for frames in got]
    assert all(flows)
    assert sum(map(len, flows)) == 200, "a flow met two workers"
    for w in workers:
        w.stdout.close()
        assert w.wait(5) == 0


# ---- members come and go ---------------------------------------------------------------------


class Member:
    """A socket in group 1, and the numbers of all packets that it has read, in order."""

    ids = itertools.count()

    def __init__(self, poller):
        self.id = next(self.ids)
        self.socket = fal.open(poller.device, group=1, fanout="hash", ring=8192)
        self.read = []
        self.own = None  # how many of these are the group's: it may read on after leaving

    def drain(self):
        while batch := self.socket.recv_batch(timeout=0):
            self.read.append(numbers(batch))

    @property
    def got(self):
        return np.concatenate([np.empty(0, np.int64), *self.read])


def owners(members, first):
    """Return whose each flow was from packet `first` on, while every flow came by twice."""
    owner = np.full((2, FLOWS), -1)
    for m in members:
        mine = m.got[(m.got >= first) & (m.got < first + 2 * FLOWS)] - first
        owner[mine // FLOWS, mine % FLOWS] = m.id
    assert (owner[0] == owner[1]).all(), "a flow met two workers"
    return np.roll(owner[0], first)  # packet n is of flow n modulo FLOWS


def test_turns_go_on_when_members_come(make_veth, start_poller):
    """The n-th packet goes to member n modulo members, however many there were before."""
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)
    frame = udp(("10.0.0.1", 1), ("10.0.0.2", 2))
    with contextlib.ExitStack() as stack:
        members = []
        for n in range(1, 9):
            members.append(stack.enter_context(fal.open(poller.device, group=1, fanout="lb")))
            before = [s.stats().recv for s in members]
            veth.send(frame)
            got = eventually(
                lambda before=before: [
                    i for i, s in enumerate(members) if s.stats().recv > before[i]
                ]
            )
            assert got == [n % len(members)]


THREE = [("tpacket", 2, 2), ("generic", 1, 1), ("native", 4, 2)]


@pytest.mark.parametrize("served", THREE, indirect=True)
def test_join_and_leave_under_traffic(served, runtime, tmp_path):
    veth, poller = served
    segment = status.open_existing(runtime, poller.name)
    members, gone, stages = [Member(poller)], [], []

    with Numbered(veth, poller, tmp_path / "words", FLOWS, 25000) as traffic:

        def read_until(number, readers):
            while True:
                over = traffic.sent >= number
                for m in readers:  # once more when it is over: one of them may read no more
                    m.drain()
                if over:
                    return

        def settle():
            """Have every flow come by twice, steered by the present members."""
            first = traffic.sent
            stages.append((list(members), first))
            read_until(first + 2 * FLOWS + 4 * WINDOW, members)

        def join():
            members.append(Member(poller))
            settle()

        def leave(m):
            """Leave the group, and read on until its last packet must have come."""
            if segment.view.pollers > 1:  # in two rings, the last of the group's are not together
                close(m)
                return
            m.socket.leave()
            assert m.socket.member is None
            last = traffic.sent
            while m.read[-1].max() < last:
                m.drain()
            m.own = eventually(books_closed)["consumed"] - sum(other.own for other in gone)
            close(m)

        def group():
            (g,) = (g for g in stat.report(segment)["groups"] if g["id"] == 1)
            return g

        def books_closed():
            g = group()
            return g["gone"] if not any(member["left"] for member in g["members"]) else None

        def close(m):
            m.socket.close()
            members.remove(m)
            eventually(lambda: len(group()["members"]) == len(members))  # it is heard of later
            gone.append(m)
            m.own = m.own or len(m.got)
            settle()

        settle()
        join()
        join()
        join()
        leave(members[1])
        join()
        leave(members[0])
        sleeper = members[1]  # reads no more, and goes with what lies in its ring
        read_until(traffic.sent + 2000, [m for m in members if m is not sleeper])
        close(sleeper)
        sent = traffic.stop()
        eventually(lambda: poller.look()["link_received"] == sent)
    for m in members:
        m.drain()

    report = eventually(lambda: quiet(poller))
    assert_books(report)
    (g,) = report["groups"]
    assert g["received"] == g["delivered"] == sent

    # Who left got everything afterwards: only what it read before was the group's.
    every = np.concatenate([m.got[: m.own] for m in members + gone])
    assert len(np.unique(every)) == len(every), "a packet met two members"
    assert g["gone"]["consumed"] == sum(len(m.got[: m.own]) for m in gone)
    assert g["gone"]["abandoned"] == sent - len(every) > 0
    for m in gone:
        assert (np.diff(m.got[m.own :]) == 1).all() or poller.ready["queues"] != "1"

    bucket = np.array([fal.flow_hash(frame_of(flow)) for flow in range(FLOWS)]) >> 18
    owner = [owners(*stage) for stage in stages]
    for o in owner:
        assert len(set(zip(bucket, o, strict=True))) == len(set(bucket))
    for (before, after), (a, b) in zip(pairwise(stages), pairwise(owner), strict=True):
        n = max(len(before[0]), len(after[0]))
        assert (a != b).sum() <= FLOWS * (1 / n + 0.05)
    for m in members:
        m.socket.close()
    segment.close()


# ---- member numbers ----------------------------------------------------------------------------


class KernelGroup:
    """A PACKET_FANOUT group whose mode is a program: a packet's first byte names the member."""

    def __init__(self, veth):
        self.veth, self.sockets = veth, []
        with veth.inside.entered():
            self.inside = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.inside.bind((veth.device, 0))

    def join(self):
        s = self.veth.packet_socket()
        s.bind((self.veth.peer, 3))  # ETH_P_ALL
        s.setsockopt(SOL_PACKET, PACKET_FANOUT, 1 | PACKET_FANOUT_CBPF << 16)
        program = struct.pack("HBBIHBBI", 0x30, 0, 0, 0, 0x16, 0, 0, 0)  # ldb [0]; ret a
        code = ctypes.create_string_buffer(program)
        s.setsockopt(
            SOL_PACKET, PACKET_FANOUT_DATA, struct.pack("HxxxxxxQ", 2, ctypes.addressof(code))
        )
        s.setblocking(False)
        self.sockets.append(s)

    def leave(self, which):
        self.sockets.pop(which).close()

    def numbers(self):
        """Return each socket's number, in the order in which they joined."""
        for number in range(len(self.sockets)):
            self.inside.send(b"\2" * 12 + b"\x88\xb5" + bytes([number]) * 46)
        return [s.recv(2048)[14] for s in self.sockets]


def test_members_are_numbered_as_in_the_kernel(make_veth, start_poller):
    draw = random.Random(3)
    kernel = KernelGroup(make_veth())
    poller = start_poller("numbers", "--backend", "null", "--wait", "200")
    sockets = []
    for step in range(40):
        if len(sockets) < 3 or (len(sockets) < 7 and draw.random() < 0.5):
            kernel.join()
            sockets.append(fal.open(poller.device, group=1, ring=64))
            assert sockets[-1].member == len(sockets) - 1
        else:
            which = draw.randrange(len(sockets))
            kernel.leave(which)
            s = sockets.pop(which)
            s.leave() if step % 2 else s.close()
            s.close()
        eventually(lambda: [s.member for s in sockets] == kernel.numbers())
    for s in sockets:
        s.close()
    for s in [kernel.inside, *kernel.sockets]:
        s.close()
