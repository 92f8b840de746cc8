"""A client that keeps no rule: it speaks the control socket's bytes, and maps what it is given."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import select
import socket
import termios
import time
from collections.abc import Sequence
from typing import Any

from support import Poller

from fal.bindings import ffi, lib

CURSORS = dict(ffi.typeof("struct fal_cursor_page").fields)
CONSUMER, CURSOR = CURSORS["cursor"].offset, ffi.sizeof("struct fal_cursor")
RING = ffi.sizeof("struct fal_ring")  # a ring's head, in the arena
TRANSMITTED = dict(ffi.typeof("struct fal_ring").fields)["transmitted"].offset
REQUEST = ffi.sizeof("struct fal_request")


def request(
    kind: int,
    group: int = -1,
    mode: bytes = b"",
    ring: int = 0,
    after: bytes = b"",
    **fields: int,
) -> bytes:
    """Make a request, right but for what is asked for; `after`: what follows it."""
    made = ffi.new("struct fal_request *")
    made.type, made.version, made.id = kind, lib.FAL_PROTOCOL_VERSION, 1
    made.group, made.ring = group, ring
    ffi.memmove(made.mode, mode, len(mode))
    for name, value in fields.items():
        setattr(made, name, value)
    return bytes(ffi.buffer(made)) + after


class Hostile:
    """One connection."""

    def __init__(self, poller: Poller) -> None:
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(10)
        self.control.connect(f"{poller.env['FAL_RUNTIME_DIR']}/{poller.name}.sock")
        self.fds: list[int] = []
        self.memory: list[memoryview | mmap.mmap] = []

    def send(self, data: bytes) -> None:
        self.control.send(data)

    def reply(self) -> Any:
        """Receive one reply; None: the connection is closed.  Takes the descriptors with it."""
        try:
            data, fds, _, _ = socket.recv_fds(self.control, 4096, 35)
        except ConnectionResetError:  # it did not read all that we sent; a last word may follow
            data, fds, _, _ = socket.recv_fds(self.control, 4096, 35)
        self.fds += fds
        if not data:
            return None
        reply = ffi.new("struct fal_reply *")
        ffi.memmove(reply, data, len(data))
        return reply

    def last_word(self) -> str:
        """Return the text of the last reply before the connection was closed."""
        last = None
        with contextlib.suppress(ConnectionResetError):
            while reply := self.reply():
                last = reply
        return text(last) if last else ""

    def ask(self, kind: int, **fields: Any) -> Any:
        self.send(request(kind, **fields))
        return self.reply()

    def open(self, start: bool = True, **fields: Any) -> Hostile:
        """Become a member, and map all that there is."""
        reply = self.ask(lib.FAL_OPEN, **fields)
        assert reply.code == 0, text(reply)
        self.status_fd, self.cursor_fd, self.wake_fd, *self.arena_fds = self.fds
        self.cursors = mmap.mmap(self.cursor_fd, lib.FAL_CURSOR_PAGE)
        self.arenas = [mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ) for fd in self.arena_fds]
        # Indices as whole words: struct packs byte by byte, and half an index is impossible.
        self.words = memoryview(self.cursors).cast("I")
        self.heads = [
            memoryview(arena)[offset : offset + RING].cast("I")
            for arena, offset in zip(self.arenas, reply.ring_offset[0 : reply.pollers], strict=True)
        ]
        self.memory = [self.words, *self.heads, self.cursors, *self.arenas]
        if start:
            assert self.ask(lib.FAL_START).code == 0
        return self

    @property
    def producer(self) -> int:
        """The first poller's."""
        return self.producers[0]

    @property
    def producers(self) -> list[int]:
        return [head[0] for head in self.heads]

    @property
    def transmitted(self) -> int:
        """By the first poller."""
        return self.heads[0][TRANSMITTED // 4]

    def set_consumer(self, value: int, poller: int = 0) -> None:
        self.words[(CONSUMER + poller * CURSOR) // 4] = value & 0xFFFFFFFF

    def close(self) -> None:
        self.control.close()
        for memory in self.memory:  # views first: a map in use cannot be closed
            memory.__exit__(None, None, None)
        for fd in self.fds:
            os.close(fd)
        self.fds, self.memory = [], []

    def __enter__(self) -> Hostile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Sender:
    """A transmit area, of a member that writes into it what it likes."""

    def __init__(self, h: Hostile) -> None:
        reply = h.ask(lib.FAL_TRANSMIT)
        assert reply.code == 0, text(reply)
        self.area_fd, self.wake_fd = h.fds[-2:]
        segment = ffi.new("struct fal_segment *")
        assert lib.fal_segment_map(self.area_fd, lib.FAL_TX_AREA, 1, segment, ffi.NULL) == 0
        segment.fd = -1  # it is the client's
        self.segment = ffi.gc(segment, lib.fal_segment_free)
        self.area = ffi.cast("struct fal_transmit *", segment.address)


def text(reply: Any) -> str:
    return str(ffi.string(reply.text).decode(errors="replace"))


def cut_off(h: Hostile) -> bool:
    """Whether the connection was closed; if so, with the promised word."""
    if not select.select([h.control], [], [], 0)[0]:
        return False
    reply = h.reply()
    assert (reply.type, reply.code) == (lib.FAL_BYE, errno.EPROTO)
    assert "cursor is impossible" in text(reply)
    assert h.reply() is None
    return True


def fill_wake_sockets(hostiles: Sequence[Hostile], quiet: float) -> None:
    """Be always armed and never read: a wake a burst, until none more fits in for so long."""
    arm, unread, since = 1, bytearray(4), time.monotonic()
    while time.monotonic() < since + quiet:
        for h in hostiles:
            h.cursors[:8] = arm.to_bytes(8, "little")
            for poller, producer in enumerate(h.producers):
                h.set_consumer(producer, poller)
        arm += 2
        before = bytes(unread)
        fcntl.ioctl(hostiles[-1].wake_fd, termios.FIONREAD, unread)
        if before != unread:
            since = time.monotonic()
    assert int.from_bytes(unread, "little") > 100
