"""A fal-poller that lies: what a worker believes of a reply is checked before it is used.

It passes on what a true one says, and changes a number.  Its worker is a process of its own, which
must say one line in place of a crash.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
from crash.hostile import REQUEST, Hostile
from support import NULL

from fal.bindings import ffi, lib

WORKER = """
import sys, fal
try:
    with fal.open("fal:liar", group=42, ring=64) as s:
        s.leave()
        print("opened", len(s.recv_batch()))
except fal.FalError as e:
    print(e)
"""
SMALL = ("--frames", "8192", "--wait", "1", "--count", "1")
BEYOND = lib.FAL_MAX_RING * ffi.sizeof("struct fal_desc")  # bytes: more than such an arena has
HUGE = 2**64 - 64
STATUS, ARENA = "struct fal_status", "struct fal_arena"


def changed(fd: int, kind: str, fields: dict[str, int]) -> int:
    """Return a copy of a segment, as long, with another head."""
    copy = os.memfd_create("liar")
    os.truncate(copy, os.fstat(fd).st_size)
    head = ffi.new(f"{kind} *")
    ffi.memmove(head, os.pread(fd, ffi.sizeof(kind), 0), ffi.sizeof(kind))
    for name, value in fields.items():
        setattr(head, name, value)
    os.write(copy, bytes(ffi.buffer(head)))
    return copy


@pytest.fixture
def tell(start_poller, runtime) -> Callable[..., str]:
    """Return what a worker says to these lies: in each kind of reply, and in two segments."""

    def told(lies: dict[int, dict[str, object]], segments: dict[str, dict[str, int]]) -> str:
        poller = start_poller("truth", *NULL, *SMALL)
        with contextlib.ExitStack() as stack:
            listening = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            listening.bind(str(runtime / "liar.sock"))
            listening.listen()
            listening.settimeout(10)
            worker = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-P", "-c", WORKER],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=poller.env,
                )
            )
            theirs = stack.enter_context(listening.accept()[0])
            theirs.settimeout(10)
            true = stack.enter_context(Hostile(poller))
            with contextlib.suppress(ConnectionResetError):
                while asked := theirs.recv(REQUEST):
                    true.send(asked)
                    reply = true.reply()
                    for name, value in lies.get(reply.type, {}).items():
                        setattr(reply, name, value)
                    fds = []
                    if reply.type == lib.FAL_OPEN:
                        fds = true.fds[:]
                        for place, kind in ((0, STATUS), (3, ARENA)):
                            if kind in segments:
                                fds[place] = changed(fds[place], kind, segments[kind])
                                stack.callback(os.close, fds[place])
                    socket.send_fds(theirs, [bytes(ffi.buffer(reply))], fds)
            said, _ = worker.communicate(timeout=10)
        return said.strip()

    return told


def test_what_is_passed_on_is_believed(tell):
    assert tell({}, {}) == "opened 1"


@pytest.mark.parametrize(
    ("lies", "segments"),
    [
        ({lib.FAL_OPEN: {"ring_offset": [BEYOND]}}, {}),
        ({lib.FAL_OPEN: {"ring_offset": [HUGE]}}, {}),
        ({lib.FAL_OPEN: {"ring_offset": [4097]}}, {}),
        ({lib.FAL_OPEN: {"ring": 2**31}}, {}),
        ({lib.FAL_OPEN: {"ring": lib.FAL_MAX_RING}}, {}),
        ({lib.FAL_OPEN: {"ring": 65}}, {}),
        ({lib.FAL_OPEN: {"ring": 0}}, {}),
        ({lib.FAL_OPEN: {"socket": 0}}, {}),
        ({lib.FAL_OPEN: {"socket": lib.FAL_MAX_SOCKETS + 1}}, {}),
        ({lib.FAL_OPEN: {"member": lib.FAL_MAX_MEMBERS}}, {}),
        ({lib.FAL_LEAVE: {"member": lib.FAL_MAX_MEMBERS}}, {}),
        ({}, {ARENA: {"frames_offset": HUGE}}),
        ({}, {ARENA: {"frames": 2**32}}),
        ({}, {ARENA: {"frames": 2**63, "frame_size": 2}}),
        ({}, {ARENA: {"frame_size": 2**40}}),
        ({}, {STATUS: {"max_send": lib.FAL_TX_SLOT_SIZE + 1}}),
    ],
    ids=str,
)
def test_a_lie_is_refused(tell, lies, segments):
    said = tell(lies, segments)
    assert said == "fal-poller sent a reply that makes no sense"
