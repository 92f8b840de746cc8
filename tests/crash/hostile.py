"""A client that keeps no rule: it speaks the control socket's bytes, and maps what it is given."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
from typing import Any

from support import Poller

from fal.bindings import ffi, lib

CURSORS = dict(ffi.typeof("struct fal_cursor_page").fields)
CONSUMER = CURSORS["cursor"].offset
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
        self.status_fd, self.cursor_fd, self.wake_fd, self.arena_fd = self.fds
        self.cursors = mmap.mmap(self.cursor_fd, lib.FAL_CURSOR_PAGE)
        self.arena = mmap.mmap(self.arena_fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
        # Indices as whole words: struct packs byte by byte, and half an index is impossible.
        self.words = memoryview(self.cursors).cast("I")
        self.arena_words = memoryview(self.arena).cast("I")
        self.memory = [self.words, self.arena_words, self.cursors, self.arena]
        self.ring_offset, self.ring, self.number = reply.ring_offset[0], reply.ring, reply.socket
        if start:
            assert self.ask(lib.FAL_START).code == 0
        return self

    @property
    def producer(self) -> int:
        return self.arena_words[self.ring_offset // 4]

    def set_consumer(self, value: int) -> None:
        self.words[CONSUMER // 4] = value & 0xFFFFFFFF

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


def text(reply: Any) -> str:
    return str(ffi.string(reply.text).decode(errors="replace"))
