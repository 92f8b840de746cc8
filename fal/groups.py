"""Sockets and groups: who is in which, in what order, by what mode.  Pure: it moves no packet.

A group is made by its first member and ends with its last.  Members are numbered in the order in
which they are started; when one leaves, the last takes its number, as in the kernel.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from fal import modes
from fal.bindings import ffi, lib
from fal.errors import FalError
from fal.modes import Fanout


@dataclass(eq=False)
class Socket:
    number: int  # from 1
    id: int  # random, its own
    pid: int
    capacity: int
    started: bool = False
    group: Group | None = None
    record: int = -1  # of its present membership, in the status


@dataclass(eq=False)
class Group:
    id: int  # -1: the nameless group of a socket that is in none
    fanout: Fanout
    filter: bytes = b""  # struct fal_bpf_insn[]
    program: bytes = b""  # the same, of mode cbpf
    record: int = -1  # in the status
    started: list[Socket] = field(default_factory=list)  # in the order of their numbers
    admitted: list[Socket] = field(default_factory=list)

    @property
    def members(self) -> list[Socket]:
        return self.started + self.admitted


HASH = Fanout(lib.FAL_MODE_HASH, 0, lib.FAL_HASH_FLOW)
EVERYTHING = Fanout(lib.FAL_MODE_LB, 0, lib.FAL_HASH_FLOW)  # to the one member that there is


class Groups:
    """All groups of one fal-poller."""

    def __init__(self) -> None:
        self.groups: list[Group] = []

    def place(
        self, socket: Socket, group_id: int, word: str, filter: bytes = b"", program: bytes = b""
    ) -> None:
        """Put a socket into a group (-1: none), making that where needed."""
        if not -1 <= group_id <= lib.FAL_MAX_GROUP_ID:
            raise FalError(errno.EINVAL, f"group {group_id}: ids are 0 to {lib.FAL_MAX_GROUP_ID}")
        fanout = modes.parse(word) if word else None
        if (filter or program) and group_id < 0:
            raise FalError(errno.EINVAL, "a filter or a program of a group wants a group, too")
        found = [g for g in self.groups if g.id == group_id] if group_id >= 0 else []
        if found:
            group = found[0]
            if fanout not in (None, group.fanout):
                raise FalError(
                    errno.EINVAL,
                    f"group {group_id} has mode {group.fanout}, not {fanout}"
                    " (name its mode, or none)",
                )
            for what, mine, its in (
                ("filter", filter, group.filter),
                ("program", program, group.program),
            ):
                if mine not in (b"", its):
                    raise FalError(
                        errno.EINVAL,
                        f"group {group_id} has {'another' if its else 'no'} {what}"
                        f" (name the same {what}, or none)",
                    )
            if len(group.members) >= lib.FAL_GROUP_MEMBERS:
                raise FalError(
                    errno.ENOSPC,
                    f"group {group_id} has all {lib.FAL_GROUP_MEMBERS} members it can have",
                )
        else:
            if group_id >= 0 and sum(g.id >= 0 for g in self.groups) >= lib.FAL_MAX_GROUPS:
                raise FalError(
                    errno.ENOSPC, f"all {lib.FAL_MAX_GROUPS} groups of this fal-poller are in use"
                )
            self.check_room(filter + program)
            fanout = fanout or (HASH if group_id >= 0 else EVERYTHING)
            group = Group(group_id, fanout, filter, program)
            if (fanout.mode == lib.FAL_MODE_CBPF) != bool(program):
                why = (
                    "takes no program (mode cbpf does)"
                    if program
                    else "wants a program (name no mode, to join a group that has one)"
                )
                raise FalError(errno.EINVAL, f"a new group of mode {fanout} {why}")
        self.remove(socket)
        if group not in self.groups:  # new, or ended with that
            self.groups.append(group)
        (group.started if socket.started else group.admitted).append(socket)
        socket.group = group

    def check_room(self, program: bytes) -> None:
        """Refuse programs that would cost the poller too much time, however harmless each is."""
        size: int = ffi.sizeof("struct fal_bpf_insn")
        used = sum(len(g.filter + g.program) for g in self.groups) // size
        if used + len(program) // size > lib.FAL_BPF_MAX:
            raise FalError(
                errno.ENOSPC,
                f"no room for a BPF program of {len(program) // size}: all groups here"
                f" together have {used} of {lib.FAL_BPF_MAX} instructions",
            )

    def start(self, socket: Socket) -> None:
        assert socket.group is not None
        if not socket.started:
            socket.started = True
            socket.group.admitted.remove(socket)
            socket.group.started.append(socket)

    def remove(self, socket: Socket) -> None:
        group = socket.group
        if group is None:
            return
        if socket.started:
            last = group.started.pop()
            if last is not socket:
                group.started[group.started.index(socket)] = last
        else:
            group.admitted.remove(socket)
        if not group.members:
            self.groups.remove(group)
        socket.group = None
