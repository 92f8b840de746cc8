"""Clients that keep no rule: fal-poller lives, and the honest lose nothing (promise 2)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from crash.hostile import REQUEST, Hostile, cut_off, fill_wake_sockets, request, text
from support import Poller, eventually

import fal
from fal.bindings import lib

FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2


# ---- what is sent over the control socket --------------------------------------------------------


def test_garbage_of_every_length(siege):
    with siege:
        for length in range(1, 1001):
            with Hostile(siege.poller) as h:
                h.send(random.randbytes(length))
                said = h.last_word()
                assert said.startswith("protocol version" if length >= REQUEST else "a request of")
        with Hostile(siege.poller) as h:  # an empty message looks like an end, and is one
            h.send(b"")
            assert h.last_word() == ""
        with Hostile(siege.poller) as h:  # half of a request, then the other half
            whole = request(lib.FAL_OPEN)
            h.send(whole[: REQUEST // 2])
            with contextlib.suppress(OSError):
                h.send(whole[REQUEST // 2 :])
            assert h.last_word() == f"a request of {REQUEST // 2} bytes, not {REQUEST}"


def test_requests_at_the_wrong_time(siege):
    with siege:
        for kind in (
            lib.FAL_START,
            lib.FAL_JOIN,
            lib.FAL_LEAVE,
            lib.FAL_BYE,
            lib.FAL_TRANSMIT,
            0,
            2**32 - 1,
        ):
            with Hostile(siege.poller) as h:
                reply = h.ask(kind)
                assert (reply.code, text(reply)) == (
                    errno.EPROTO,
                    f"request {kind} makes no sense here",
                )
                assert h.reply() is None
        with Hostile(siege.poller).open(group=42, ring=64) as h:
            assert h.ask(lib.FAL_OPEN).code == errno.EPROTO  # a second time
            assert h.reply() is None
        with Hostile(siege.poller).open(ring=64) as h:
            for _ in range(1000):
                assert h.ask(lib.FAL_START).code == 0  # repeated: nothing changes


def test_values_out_of_range(siege):
    with siege:
        for ring in (1, 63, 65, 2**20 + 1, 2**21, 2**31, 2**32 - 1):
            with Hostile(siege.poller) as h:
                assert h.ask(lib.FAL_OPEN, ring=ring).code == errno.EINVAL
        with Hostile(siege.poller) as h:
            reply = h.ask(lib.FAL_OPEN, ring=2**20)
            assert reply.code == errno.ENOSPC
            assert "no frames for a ring of 1048576" in text(reply)
        for group in (-2, 65536, 2**31 - 1, -(2**31)):
            with Hostile(siege.poller) as h:
                assert h.ask(lib.FAL_OPEN, group=group).code == errno.EINVAL
            with Hostile(siege.poller).open(ring=64) as h:
                assert h.ask(lib.FAL_JOIN, group=group).code == errno.EINVAL
        for mode in (b"\xff\xfe\x80", b"\xc3(" * 32, b"x" * 64, b"\x1b[2J", b"lb"):
            with Hostile(siege.poller) as h:
                assert h.ask(lib.FAL_OPEN, group=42, mode=mode).code == errno.EINVAL
            with Hostile(siege.poller).open(ring=64) as h:
                assert h.ask(lib.FAL_JOIN, group=42, mode=mode).code == errno.EINVAL
                assert h.ask(lib.FAL_JOIN, group=42, mode=b"hash").code == 0


def test_programs_that_are_none(siege):
    """Counts that do not fit what follows, and instructions that must not be run."""
    insn = struct.Struct("<HBBI").pack
    good, most = insn(6, 0, 0, 1), lib.FAL_BPF_MAX
    with siege:
        for fields, after in [
            ({}, good),
            ({"filter": 1}, b""),
            ({"filter": 1}, good[:-1]),
            ({"filter": 1}, good + good),
            ({"filter": 1, "program": 1}, good),
            ({"filter": 2**32 - 1, "program": 1}, b""),  # a sum in 32 bits would be 0
            ({"filter": 2**29}, b""),  # a product would be
            ({"program": most, "filter": most}, good * (2 * most - 1)),
            ({"program": most, "filter": most}, good * (2 * most + 1)),
        ]:
            with Hostile(siege.poller) as h:
                h.send(request(lib.FAL_OPEN, group=7, after=after, **fields))
                assert h.last_word().startswith("a request of ")
        bad = [
            good * (most + 1),
            insn(0, 0, 0, 0),
            insn(5, 0, 0, 0),
            insn(5, 0, 0, 2**32 - 1) + good,
            insn(0x15, 1, 0, 0) + good,
            insn(2, 0, 0, 16) + good,
            insn(0x20, 0, 0, 0xFFFFF000) + good,
            insn(0xFFFF, 0, 0, 0) + good,
            *(random.randbytes(8 * n) for n in range(1, 200)),
        ]
        for i, program in enumerate(bad):
            if i % 2:
                member = Hostile(siege.poller).open(ring=64)
            with member if i % 2 else Hostile(siege.poller) as h:
                kind = lib.FAL_JOIN if i % 2 else lib.FAL_OPEN
                reply = h.ask(kind, group=1000, filter=len(program) // 8, after=program, ring=64)
                assert reply.code == errno.EINVAL
                assert "BPF program" in text(reply)
        for kind in (lib.FAL_START, lib.FAL_LEAVE):  # where they have no place
            with Hostile(siege.poller).open(group=1000, ring=64) as h:
                assert h.ask(kind, filter=1, after=good).code == errno.EPROTO
        with Hostile(siege.poller) as h:  # the longest that there can be
            reply = h.ask(lib.FAL_OPEN, group=1000, filter=most, after=good * most, ring=64)
            assert reply.code == 0
            assert h.ask(lib.FAL_START).code == 0


def test_joining_again_and_again(siege):
    with siege, Hostile(siege.poller).open(ring=64) as h:
        assert h.ask(lib.FAL_JOIN, group=42).code == 0
        again = request(lib.FAL_JOIN, group=42)
        for _ in range(70000 // 50):  # many requests in flight
            for _ in range(50):
                h.send(again)
            assert all(h.reply().code == errno.EALREADY for _ in range(50))


def test_unread_memberships_use_up_all_records(siege):
    """Each membership that is left with unread packets keeps its record, until there are none."""
    with siege, contextlib.ExitStack() as stack:
        hostiles = [stack.enter_context(Hostile(siege.poller).open(ring=64)) for _ in range(80)]
        refused = set()
        for i in range(lib.FAL_SOCKET_MEMBERSHIPS):
            time.sleep(0.05)  # packets for each
            for h in hostiles:
                kind = lib.FAL_LEAVE if i % 2 else lib.FAL_JOIN
                reply = h.ask(kind, group=1000)
                if reply.code:
                    refused.add((reply.code, text(reply).split(":")[0]))
        full = "all records of memberships are in use"
        assert (errno.ENOSPC, full) in refused
        # who was refused is where he was, and who comes later is told the same
        with pytest.raises(fal.FalError, match=full) as caught:
            fal.open(siege.poller.device, group=1001)
        assert caught.value.errno == errno.ENOSPC


def test_descriptors_sent_along_do_not_gather(siege):
    with siege, Hostile(siege.poller).open(ring=64) as h, open("/dev/null") as null:
        before = siege.descriptors()
        for _ in range(200):
            try:
                socket.send_fds(h.control, [request(lib.FAL_JOIN, group=-5)], [null.fileno()] * 100)
            except PermissionError:  # from Linux 6.16 on they are refused
                h.send(request(lib.FAL_JOIN, group=-5))
            assert h.reply().code == errno.EINVAL
        assert siege.descriptors() == before


def test_many_connections(siege):
    """The limit holds for those that say nothing; members go on, and have company again soon."""
    with siege, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(Hostile(siege.poller)) for _ in range(16)]
        began = time.monotonic()
        eventually(lambda: siege.descriptors() == siege.before + 16)
        for _ in range(500):
            with Hostile(siege.poller) as h:
                assert h.last_word() == "too many connections"
        with pytest.raises(fal.FalError, match=r"^too many connections$") as caught:
            fal.open(siege.poller.device)
        assert caught.value.errno == errno.EUSERS
        assert all(h.last_word() == "" for h in silent)  # closed
        assert 4 < time.monotonic() - began < 9


def test_a_client_that_never_reads_its_replies(siege):
    with siege, Hostile(siege.poller).open(ring=64) as h:
        h.control.setblocking(False)
        bad = request(lib.FAL_JOIN, group=-5)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
            while True:  # until it is cut off
                with contextlib.suppress(BlockingIOError):
                    h.send(bad)
        with Hostile(siege.poller) as other, contextlib.suppress(OSError):
            for _ in range(100):  # requests waiting when it goes
                other.send(request(lib.FAL_OPEN, ring=64))


# ---- cursors -------------------------------------------------------------------------------------


def consumed(poller: Poller, h: Hostile) -> int:
    members = poller.look()["groups"][-1]["members"]
    return next(m["consumed"] for m in members if m["pid"] == os.getpid())


@pytest.mark.parametrize("group", [42, -1])
def test_impossible_cursors(siege, group):
    """Ahead of the producer, backwards, half the circle away: the offender is cut off."""
    with siege:
        for wrong in (
            lambda h: h.producer + 10000,
            lambda h: h.producer + 2**31,
            lambda h: h.producer + 2**32 - 65,
            lambda h: -1,
        ):
            with Hostile(siege.poller).open(group=group, ring=64) as h:
                eventually(lambda: h.producer > 10)
                h.set_consumer(wrong(h))
                eventually(lambda: cut_off(h))
        with Hostile(siege.poller).open(group=group, ring=64) as h:
            eventually(lambda: h.producer > 20)
            h.set_consumer(20)
            eventually(lambda: h.producer > 70)  # it was believed
            h.set_consumer(19)
            eventually(lambda: cut_off(h))


def test_scribbling_over_the_cursor_page(siege):
    """Random words, at random places, while packets flow; some of them happen to be possible."""
    with siege:
        for _ in range(15):
            with Hostile(siege.poller).open(group=42, ring=64) as h:
                end = time.monotonic() + 0.1
                while time.monotonic() < end:
                    h.cursors[:128] = random.randbytes(128)
                    h.set_consumer(random.choice([h.producer, random.getrandbits(32)]))
                h.set_consumer(-1)  # where the poller looked at possible ones only
                eventually(lambda: cut_off(h))


def test_broken_and_gone_at_the_same_moment(siege):
    """Both news reach the control thread together: what the second is about is closed already."""
    with siege:
        for i in range(300):
            with Hostile(siege.poller).open(group=42, ring=64) as h:
                if i % 10 == 0:
                    eventually(lambda: h.producer)
                # The control thread is busy with us: the poller's word and ours pile up behind it.
                h.set_consumer(-1)
                with contextlib.suppress(OSError):  # cut off already
                    for _ in range(i % 50):
                        h.send(request(lib.FAL_START))


def test_the_poller_is_told_of_both_when_it_wakes(siege):
    """The same, with the pile made sure of: nothing is heard while the process is stopped."""
    poller = siege.poller
    with siege:
        for _ in range(20):
            with contextlib.ExitStack() as stack:
                hostiles = [
                    stack.enter_context(Hostile(poller).open(group=50 + i, ring=64))
                    for i in range(8)  # each gets all packets: of few flows it may have none
                ]
                eventually(lambda: all(h.producer for h in hostiles))  # noqa: B023
                poller.process.send_signal(signal.SIGSTOP)
                os.waitpid(poller.pid, os.WUNTRACED)
                for h in hostiles:
                    h.set_consumer(-1)
                    h.send(request(lib.FAL_START))
                poller.process.send_signal(signal.SIGCONT)
                time.sleep(0.02)


# ---- what a worker was given ---------------------------------------------------------------------


def test_the_cursor_page_pulled_away(siege):
    with siege:
        for _ in range(20):
            with Hostile(siege.poller).open(group=42, ring=64) as h:
                for size in (0, 1, lib.FAL_CURSOR_PAGE * 2):
                    with pytest.raises(PermissionError):
                        os.ftruncate(h.cursor_fd, size)
                with pytest.raises(PermissionError):
                    fcntl.fcntl(h.cursor_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
                eventually(lambda: h.producer > 5)
                h.set_consumer(5)
                eventually(lambda: consumed(siege.poller, h) == 5)
                punch = [
                    "fallocate",
                    "--punch-hole",
                    "--length",
                    "4096",
                    f"/proc/self/fd/{h.cursor_fd}",
                ]
                subprocess.run(punch, check=True, pass_fds=[h.cursor_fd])
                assert h.cursors[:] == bytes(lib.FAL_CURSOR_PAGE)
                eventually(lambda: cut_off(h))


def test_wake_sockets_filled_and_shut(siege):
    with siege, contextlib.ExitStack() as stack:
        hostiles = [
            stack.enter_context(Hostile(siege.poller).open(group=42, ring=64)) for _ in range(3)
        ]
        ends = [socket.socket(fileno=os.dup(h.wake_fd)) for h in hostiles]
        for h in hostiles:
            for fd in h.fds:  # cleared, set, cleared: what the poller waits for is not ours to say
                for blocking in (True, False, True):
                    os.set_blocking(fd, blocking)
        for how, end in zip((socket.SHUT_RD, socket.SHUT_RDWR, socket.SHUT_WR), ends, strict=True):
            with pytest.raises(BrokenPipeError):  # it is one-way
                end.send(b"x", socket.MSG_DONTWAIT)
            end.shutdown(how)
        fill_wake_sockets(hostiles, 0.5)
        goal = siege.poller.look()["link_received"] + 2000
        eventually(lambda: siege.poller.look()["link_received"] > goal)  # it does not wait for us
        for end in ends:
            end.close()


def test_a_membership_cannot_outlive_its_process(siege):
    """Not even when the connection itself lies, as a message, where only the poller could read."""
    with siege:
        tests = Path(__file__).parents[1]
        code = (
            f"import sys, os, socket; sys.path.append({str(tests)!r})\n"
            "from types import SimpleNamespace\n"
            "from crash.hostile import Hostile\n"
            "h = Hostile(SimpleNamespace(env=os.environ, name='siege')).open(group=42, ring=64)\n"
            "try: socket.send_fds(socket.socket(fileno=h.wake_fd), [b'x'], [h.control.fileno()])\n"
            "except OSError: pass\n"
            "os.kill(os.getpid(), 9)\n"
        )
        done = subprocess.run([sys.executable, "-Pc", code], capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        eventually(lambda: len(siege.poller.group(42)["members"]) == 2)


def test_too_few_descriptors(siege):
    """A fal-poller that runs out of descriptors refuses whom it must, and goes on."""
    pid = siege.poller.pid
    with siege, contextlib.ExitStack() as stack:
        subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={siege.before + 5}:"], check=True)
        refused = []
        for _ in range(12):
            try:
                stack.enter_context(fal.open(siege.poller.device, ring=64))
            except fal.FalError as e:
                refused.append(e)
                break
        assert refused
        assert refused[0].errno == errno.EMFILE, refused
        stack.close()
        subprocess.run(["prlimit", f"--pid={pid}", "--nofile=1024:"], check=True)


def test_who_is_refused_is_told_why_even_late(siege, worker_program):
    """A connection that is closed with our request unread gives an error before the last word."""
    poller = siege.poller
    with siege, contextlib.ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(Hostile(poller))
        eventually(lambda: siege.descriptors() == siege.before + 16)
        poller.process.send_signal(signal.SIGSTOP)
        os.waitpid(poller.pid, os.WUNTRACED)
        words = [worker_program, poller.device, "42", "-", "64", "read", "0"]
        with subprocess.Popen(words, env=poller.env, stdout=subprocess.PIPE, text=True) as late:
            doing = Path(f"/proc/{late.pid}/syscall")
            eventually(lambda: doing.read_text().startswith("47 "))  # recvmsg: it has asked
            late.send_signal(signal.SIGSTOP)
            os.waitpid(late.pid, os.WUNTRACED)
            poller.process.send_signal(signal.SIGCONT)
            time.sleep(0.2)
            late.send_signal(signal.SIGCONT)
            assert late.communicate(timeout=5)[0] == "too many connections\n"
