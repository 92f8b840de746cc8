"""The status segment: POSIX shared memory that fal-poller writes and anybody may read.

It outlives a crash on purpose, for the post-mortem; the next start of the same name replaces it.
Its writer holds a lock on it (of the open file description, so that it ends with the process,
however that comes about): this is what tells a running poller from a crashed one.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import posix_ipc

from fal.bindings import ffi, lib
from fal.errors import FalError
from fal.runtime import SYSTEM_DIRECTORY, share_with_group

SIZE = ffi.sizeof("struct fal_status")
FOREIGN = "this is no status of FAL, or one of another version"
NAME = re.compile(r"[A-Za-z0-9_@:+-][A-Za-z0-9_@:+.-]*")


def prefix(directory: Path) -> str:
    """Of the names of the segments that belong to a directory of control sockets."""
    if directory == SYSTEM_DIRECTORY:
        return "fal."
    return f"fal-{zlib.crc32(os.fsencode(directory.resolve())):08x}."


def _lock(fd: int, command: int, kind: int) -> int:
    """Set or query the lock of the open file description; returns the kind that stands."""
    flock = struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)
    return int(struct.unpack("hhqqi4x", fcntl.fcntl(fd, command, flock))[0])


def _writer_lives(fd: int) -> bool:
    return _lock(fd, fcntl.F_OFD_GETLK, fcntl.F_RDLCK) != fcntl.F_UNLCK


class Status:
    """A mapped status segment; `view` is its `struct fal_status`."""

    def __init__(self, memory: posix_ipc.SharedMemory, writable: bool) -> None:
        self.fd = memory.fd
        self.memory = memory
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        if os.fstat(self.fd).st_size < SIZE:
            memory.close_fd()
            raise FalError(errno.EINVAL, FOREIGN)
        self.map = mmap.mmap(self.fd, SIZE, mmap.MAP_SHARED, protection)
        self.buffer = ffi.from_buffer(self.map, require_writable=writable)
        self.view: Any = ffi.cast("struct fal_status *", self.buffer)

    @property
    def ready(self) -> bool:
        """Whether there is something to read: not while its fal-poller starts."""
        if not self.view.version:
            return False
        if (self.view.magic, self.view.version) != (lib.FAL_STATUS_MAGIC, lib.FAL_LAYOUT_VERSION):
            raise FalError(errno.EINVAL, FOREIGN)
        return True

    @property
    def running(self) -> bool:
        return _writer_lives(self.fd)

    def poller(self, index: int) -> Any:
        """Return one poller's part, all of one moment.

        Of a crashed poller, as it died: maybe in the middle of a burst.  EAGAIN where a living one
        has no quiet moment.
        """
        copy = ffi.new("struct fal_poller_status *")
        for _ in range(10):  # of a tenth of a second each
            if lib.fal_status_copy(ffi.addressof(self.view.poller, index), copy) == 0:
                return copy
            if not self.running:
                return copy
        raise FalError(errno.EAGAIN, "fal-poller was stopped while it wrote its counters")

    def close(self) -> None:
        self.view = None
        ffi.release(self.buffer)
        self.map.close()
        self.memory.close_fd()

    def remove(self) -> None:
        with suppress(posix_ipc.ExistentialError):
            self.memory.unlink()


def create(directory: Path, name: str) -> Status:
    """Make the segment of a starting fal-poller, in place of one that a crash left.

    EEXIST where a poller of that name runs.  Call it while `starting`.
    """
    path = "/" + prefix(directory) + name
    try:
        old = open_existing(directory, name)
    except FileNotFoundError:
        pass
    except FalError as e:
        if e.errno == errno.EACCES:
            raise
        posix_ipc.unlink_shared_memory(path)  # another version's
    else:
        running, pid = old.running, old.view.pid
        old.close()
        if running:
            raise FalError(
                errno.EEXIST, f"fal-poller {name} runs already (pid {pid}): stop it, or give --name"
            )
        old.remove()
    memory = posix_ipc.SharedMemory(path, posix_ipc.O_CREX, mode=0o600, size=SIZE)
    _lock(memory.fd, fcntl.F_OFD_SETLK, fcntl.F_WRLCK)
    share_with_group(memory.fd, 0o640)
    status = Status(memory, writable=True)
    status.view.pid = os.getpid()
    return status


def open_existing(directory: Path, name: str) -> Status:
    """Open the segment of that name for reading; FileNotFoundError where there is none."""
    try:
        memory = posix_ipc.SharedMemory("/" + prefix(directory) + name, read_only=True)
    except posix_ipc.ExistentialError:
        raise FileNotFoundError(2, f"no fal-poller {name} runs or crashed here") from None
    except posix_ipc.PermissionsError:
        raise FalError(
            errno.EACCES,
            f"no permission for /dev/shm/{prefix(directory)}{name}"
            " (be root, its user, or a member of group fal)",
        ) from None
    return Status(memory, writable=False)


def names(directory: Path) -> list[str]:
    """All names with a segment, running or crashed, sorted."""
    start = prefix(directory)
    return sorted(n.removeprefix(start) for n in os.listdir("/dev/shm") if n.startswith(start))
