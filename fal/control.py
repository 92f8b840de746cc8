"""The control thread: admits sockets, keeps groups, and tells the pollers by a new plan.

One connection of the control socket is one FAL socket; when it closes, for whatever reason, its
socket goes, and with it its ring and its frames.  What a client sends is read as one fixed-size
message or refused; nothing it does can block this thread: every send is non-blocking, and a client
that does not take its reply is dropped.  Descriptors that a client sends are refused by the kernel;
before Linux 6.16 recv() discards them.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fal.admission import Admission
from fal.bindings import ffi, lib
from fal.errors import FalError, checked
from fal.groups import Groups, Socket
from fal.runtime import share_with_group

REQUEST_SIZE = ffi.sizeof("struct fal_request")
INSTRUCTION_SIZE = ffi.sizeof("struct fal_bpf_insn")
LONGEST_REQUEST = REQUEST_SIZE + 2 * lib.FAL_BPF_MAX * INSTRUCTION_SIZE
SO_PASSRIGHTS = 83  # asm-generic/socket.h; inherited by what is accepted
PENDING_SECONDS = 5.0  # a connection that asks for nothing is closed
PENDING_PER_USER = 16
LONGEST_PATH = 107  # sun_path, less the NUL
ACCEPT_PAUSE = 0.5  # seconds, when descriptors are short


@dataclass(eq=False)
class Connection:
    """One client; `member` is its socket once that is admitted."""

    peer: socket.socket
    pid: int
    uid: int
    since: float
    member: Socket | None = None
    cursors: Any = None  # struct fal_segment *
    wake: socket.socket | None = None
    transmit: Any = None  # struct fal_segment *
    ring: int = 0  # offset of its ring
    sender: socket.socket | None = None  # by which its worker wakes the poller, and his end
    sender_end: socket.socket | None = None
    sends: bool = False


class Control:
    """The control socket of one fal-poller, and what is said over it."""

    def __init__(
        self,
        path: Path,
        selector: selectors.BaseSelector,
        device: Any,
        arenas: Any,
        status_fd: int,
        max_send: int,
        admission: Admission,
        on_started: Callable[[int], None],
    ) -> None:
        self.path, self.selector, self.device, self.arenas = path, selector, device, arenas
        self.max_send = max_send
        self.status_fd, self.admission, self.on_started = status_fd, admission, on_started
        self.groups = Groups()
        self.connections: dict[int, Connection] = {}  # by descriptor
        self.deaf_until = 0.0  # 0: listening
        self.rings_offset = ffi.cast("struct fal_arena *", arenas[0].address).rings_offset
        if len(os.fsencode(path)) > LONGEST_PATH:
            raise FalError(
                errno.ENAMETOOLONG,
                f"{path} is longer than the {LONGEST_PATH} bytes that a Unix socket's path can have"
                " (set FAL_RUNTIME_DIR to a shorter directory, or give a shorter --name)",
            )
        path.unlink(missing_ok=True)  # a crash left it: the directory is locked, and nobody runs
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.setblocking(False)
        with suppress(OSError):  # before Linux 6.16 they are received, and closed at once
            self.listener.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        old = os.umask(0o117)
        try:
            self.listener.bind(str(path))
        except OSError as e:
            raise FalError(
                e.errno,
                f"cannot make {path}: {e.strerror} (set FAL_RUNTIME_DIR to a directory of yours)",
            ) from None
        finally:
            os.umask(old)
        share_with_group(path, 0o660)
        self.listener.listen(64)
        selector.register(self.listener, selectors.EVENT_READ, self.accept)

    # ---- connections -------------------------------------------------------------------------

    def accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError as e:
            if e.errno in (errno.EMFILE, errno.ENFILE):  # it waits until some are free again
                self.selector.unregister(self.listener)
                self.deaf_until = time.monotonic() + ACCEPT_PAUSE
            return
        connection.setblocking(False)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, _ = struct.unpack("iII", credentials)
        pending = [c for c in self.connections.values() if c.uid == uid and not c.member]
        if len(pending) >= PENDING_PER_USER:
            self.send(connection, self.reply(lib.FAL_BYE, errno.EUSERS, "too many connections"))
            connection.close()
            return
        c = Connection(connection, pid, uid, time.monotonic())
        self.connections[connection.fileno()] = c
        self.selector.register(connection, selectors.EVENT_READ, lambda: self.hear(c))

    def expire(self) -> None:
        """Close connections that never asked for anything; listen again after a pause."""
        if self.deaf_until and self.deaf_until < time.monotonic():
            self.deaf_until = 0.0
            self.selector.register(self.listener, selectors.EVENT_READ, self.accept)
        limit = time.monotonic() - PENDING_SECONDS
        for c in list(self.connections.values()):
            if c.member is None and c.since < limit:
                self.close(c)

    def close(self, c: Connection, code: int = 0, text: str = "") -> None:
        """End a connection, with a last word where there is a code.

        Once: there may be two reasons at a time, such as an impossible cursor and a hang-up.
        """
        if self.connections.pop(c.peer.fileno(), None) is None:
            return
        if code:
            self.send(c.peer, self.reply(lib.FAL_BYE, code, text))
        self.selector.unregister(c.peer)
        if c.member:
            self.groups.remove(c.member)
            self.publish()
            self.admission.release(c.member.number)
            self.free(c)
        c.peer.close()

    def free(self, c: Connection) -> None:
        if c.cursors:
            lib.fal_segment_free(c.cursors)
        if c.transmit:
            lib.fal_segment_free(c.transmit)
        for end in (c.wake, c.sender, c.sender_end):
            if end:
                end.close()

    def close_all(self, code: int, text: str) -> None:
        """Say goodbye to everybody, and let nobody in any more."""
        if not self.deaf_until:
            self.selector.unregister(self.listener)
        self.listener.close()
        self.path.unlink(missing_ok=True)
        for c in self.connections.values():  # their books stay as they are
            self.send(c.peer, self.reply(lib.FAL_BYE, code, text))
            c.peer.close()

    def close_broken(self) -> None:
        for c in list(self.connections.values()):
            if c.member and lib.fal_device_broken(self.device, c.member.number):
                text = "this socket's cursor is impossible: its membership has ended"
                self.close(c, errno.EPROTO, text)

    # ---- messages ----------------------------------------------------------------------------

    def reply(self, kind: int, code: int = 0, text: str = "") -> Any:
        reply = ffi.new("struct fal_reply *", {"type": kind, "code": code})
        raw = text.encode()[: lib.FAL_ERROR_TEXT - 1]
        ffi.memmove(reply.text, raw, len(raw))
        return reply

    def send(self, to: socket.socket, reply: Any, fds: list[int] | None = None) -> bool:
        """Send, or not at all: a client that does not read must not hold us up."""
        try:
            socket.send_fds(to, [ffi.buffer(reply)], fds or [], socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def hear(self, c: Connection) -> None:
        try:
            message = c.peer.recv(LONGEST_REQUEST + 1)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self.close(c)
            return
        fds: list[int] = []
        kind = lib.FAL_BYE
        try:
            expect_size(message, REQUEST_SIZE, at_least=True)
            request = ffi.cast("struct fal_request *", ffi.from_buffer(message))
            if request.version != lib.FAL_PROTOCOL_VERSION:
                raise FalError(
                    errno.EPROTO,
                    f"protocol version {request.version}, fal-poller has {lib.FAL_PROTOCOL_VERSION}"
                    " (install the same version of pcap-fal at both ends)",
                )
            instructions = request.filter + request.program
            expect_size(message, REQUEST_SIZE + instructions * INSTRUCTION_SIZE)
            kind = request.type
            reply = self.answer(kind, c, request, fds)
            reply.type = kind
            sent = self.send(c.peer, reply, fds)
        except OSError as e:  # not FalError alone: descriptors may be short
            why = str(e) if isinstance(e, FalError) else f"fal-poller failed: {e.strerror}"
            sent = self.send(c.peer, self.reply(kind, e.errno or errno.EIO, why))
            sent = sent and c.member is not None and e.errno != errno.EPROTO
        finally:
            for fd in fds:  # opened for this message
                os.close(fd)
        if not sent:
            self.close(c)

    def open(self, c: Connection, request: Any, fds: list[int]) -> Any:
        capacity = request.ring or lib.FAL_DEFAULT_RING
        if not lib.FAL_MIN_RING <= capacity <= lib.FAL_MAX_RING or capacity & (capacity - 1):
            raise FalError(
                errno.EINVAL,
                f"ring {capacity}: a ring's size is a power of two from"
                f" {lib.FAL_MIN_RING} to {lib.FAL_MAX_RING}",
            )
        taken = {c.member.number for c in self.connections.values() if c.member}
        free = (n for n in range(1, lib.FAL_MAX_SOCKETS + 1) if n not in taken)
        number = next(free, 0)
        if not number:
            raise FalError(
                errno.ENOSPC, f"all {lib.FAL_MAX_SOCKETS} sockets of this fal-poller are in use"
            )
        member = Socket(number, request.id, c.pid, capacity)
        with undone() as undo:
            slot = self.admission.admit(number, capacity)
            undo.append(lambda: self.admission.release(number))
            offset = self.rings_offset + slot * ffi.sizeof("struct fal_desc")
            c.cursors = ffi.new("struct fal_segment *")
            undo.append(lambda: self.free(c))
            err = ffi.new("struct fal_error *")
            checked(lib.fal_cursor_page_create(c.cursors, err), err)
            c.wake, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            c.wake.shutdown(socket.SHUT_RD)  # whatever the worker sent would lie there for ever
            self.enter(member, request)
            undo.append(lambda: self.groups.remove(member))
            fds.append(os.open(f"/proc/self/fd/{self.status_fd}", os.O_RDONLY | os.O_CLOEXEC))
            for arena in self.arenas:
                fds.append(os.dup(arena.fd))
            checked(
                lib.fal_device_ring(
                    self.device, number, offset, capacity, c.cursors, c.wake.fileno(), err
                ),
                err,
            )
            self.publish()
        c.member, c.ring = member, offset
        fds[1:1] = c.cursors.fd, theirs.detach()
        c.cursors.fd = -1
        reply = self.reply(lib.FAL_OPEN)
        reply.socket, reply.member, reply.ring = number, member.record, capacity
        reply.pollers = len(self.arenas)
        reply.ring_offset[0 : reply.pollers] = [offset] * reply.pollers
        return reply

    def start(self, member: Socket) -> Any:
        if member.started:  # a plan costs the poller time: none for nothing
            return self.reply(lib.FAL_START)
        self.groups.start(member)
        self.publish()
        self.on_started(sum(bool(o.member and o.member.started) for o in self.connections.values()))
        return self.reply(lib.FAL_START)

    def transmit(self, c: Connection, member: Socket, fds: list[int]) -> Any:
        """Give a socket its transmit area; after a fork another process may ask again.

        Each step is done once, also where descriptors were short for the next one.
        """
        if not self.max_send:
            raise FalError(errno.EOPNOTSUPP, "nothing can be sent on this device")
        err = ffi.new("struct fal_error *")
        if c.transmit is None:
            area = ffi.new("struct fal_segment *")
            checked(lib.fal_transmit_area_create(area, err), err)
            c.transmit = area
        if c.sender is None or c.sender_end is None:
            c.sender, c.sender_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            c.sender_end.shutdown(socket.SHUT_RD)  # it is one-way
        if not c.sends:
            offered = lib.fal_device_transmit(
                self.device, member.number, c.transmit, c.ring, c.sender.fileno(), err
            )
            checked(offered, err)
            c.sends = True
        fds.append(os.dup(c.transmit.fd))
        fds.append(os.dup(c.sender_end.fileno()))
        reply = self.reply(lib.FAL_TRANSMIT)
        reply.poller = member.number % len(self.arenas)
        return reply

    def move(self, member: Socket, request: Any) -> Any:
        """Put a socket into another group (-1: none); what lies in its ring may still be read."""
        if lib.fal_device_memberships(self.device, member.number) >= lib.FAL_SOCKET_MEMBERSHIPS:
            raise FalError(
                errno.EBUSY,
                f"packets of {lib.FAL_SOCKET_MEMBERSHIPS} groups lie unread in this ring:"
                " read some first",
            )
        self.enter(member, request)
        self.publish()
        reply = self.reply(lib.FAL_JOIN)
        reply.member = member.record
        return reply

    def join(self, member: Socket, request: Any) -> Any:
        if member.group and member.group.id >= 0:
            raise FalError(errno.EALREADY, f"already in group {member.group.id}")
        if request.group < 0:
            raise FalError(
                errno.EINVAL, f"group {request.group}: ids are 0 to {lib.FAL_MAX_GROUP_ID}"
            )
        return self.move(member, request)

    def leave(self, member: Socket) -> Any:
        if member.group and member.group.id < 0:
            raise FalError(errno.EINVAL, "the socket is in no group")
        return self.move(member, ffi.new("struct fal_request *", {"group": -1}))

    def answer(self, kind: int, c: Connection, request: Any, fds: list[int]) -> Any:
        if kind not in (lib.FAL_OPEN, lib.FAL_JOIN) and request.filter + request.program:
            raise FalError(errno.EPROTO, f"request {kind} takes no BPF program")
        if kind == lib.FAL_OPEN and not c.member:
            return self.open(c, request, fds)
        if kind == lib.FAL_START and c.member:
            return self.start(c.member)
        if kind == lib.FAL_JOIN and c.member:
            return self.join(c.member, request)
        if kind == lib.FAL_LEAVE and c.member:
            return self.leave(c.member)
        if kind == lib.FAL_TRANSMIT and c.member:
            return self.transmit(c, c.member, fds)
        raise FalError(errno.EPROTO, f"request {kind} makes no sense here")

    # ---- the plan ------------------------------------------------------------------------------

    def enter(self, member: Socket, request: Any) -> None:
        """Begin a new membership, for the next plan; where it is refused nothing has changed."""
        record = lib.fal_device_free_member(self.device)
        group_record = lib.fal_device_free_group(self.device)
        if record < 0 or group_record < 0:
            raise FalError(
                errno.ENOSPC,
                "all records of memberships are in use: read what lies unread of groups that were"
                f" left, or close some sockets (there are {lib.FAL_MAX_MEMBERS} records)",
            )
        self.groups.place(member, request.group, text_of(request.mode), *programs_of(request))
        member.record = record
        assert member.group
        if member.group.record < 0:
            member.group.record = group_record

    def publish(self) -> None:
        """Have the pollers take in what the groups are now."""
        groups = self.groups.groups
        about = ffi.new("struct fal_plan_group[]", len(groups))
        members = [s for g in groups for s in g.members]
        places = ffi.new("struct fal_plan_member[]", len(members))
        for a, g in zip(about, groups, strict=True):
            a.id, a.record, a.fanout = g.id, g.record, g.fanout
            a.started, a.admitted = len(g.started), len(g.admitted)
            filter, program = (  # g keeps them alive
                ffi.from_buffer("struct fal_bpf_insn[]", raw) for raw in (g.filter, g.program)
            )
            a.filter, a.filter_count = filter, len(filter)
            a.program, a.program_count = program, len(program)
        for p, s in zip(places, members, strict=True):
            p.id, p.socket, p.record, p.pid = s.id, s.number, s.record, s.pid
        err = ffi.new("struct fal_error *")
        checked(lib.fal_device_publish(self.device, about, len(groups), places, err), err)


def expect_size(message: bytes, size: int, at_least: bool = False) -> None:
    if len(message) < size or (len(message) > size and not at_least):
        raise FalError(errno.EPROTO, f"a request of {len(message)} bytes, not {size}")


def programs_of(request: Any) -> list[bytes]:
    """Return the group's filter and its program, which follow a request, checked."""
    at, programs = ffi.cast("struct fal_bpf_insn *", request + 1), []
    for count in (request.filter, request.program):
        if count:
            err = ffi.new("struct fal_error *")
            checked(lib.fal_bpf_check(at, count, err), err)
        programs.append(bytes(ffi.buffer(at, count * INSTRUCTION_SIZE)))
        at += count
    return programs


def text_of(field: Any) -> str:
    """Return a fixed-size field of a message as text, whether it ends in NUL or not."""
    return bytes(ffi.buffer(field)).split(b"\0")[0].decode(errors="replace")


@contextmanager
def undone() -> Iterator[list[Callable[[], None]]]:
    """Undo in reverse what was done, if the block fails."""
    steps: list[Callable[[], None]] = []
    try:
        yield steps
    except BaseException:
        for step in reversed(steps):
            with suppress(FalError):
                step()
        raise
