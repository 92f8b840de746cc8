"""The directory of the control sockets: where it is, who may use it, and who starts in it."""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fal.errors import FalError

SYSTEM_DIRECTORY = Path("/run/fal")
LOCK_SECONDS = 10.0  # a start takes one or two


def own_directory() -> Path:
    """Where this user's fal-poller keeps its control socket (fal/native/control.c looks there)."""
    if directory := os.environ.get("FAL_RUNTIME_DIR"):
        return Path(directory)
    if os.geteuid() == 0:
        return SYSTEM_DIRECTORY
    if user := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(user) / "fal"
    raise FalError(
        errno.ENOENT,
        "no directory for the control socket (set FAL_RUNTIME_DIR to a directory of yours, for the"
        " workers too)",
    )


def directories() -> list[Path]:
    """All places where a status of interest may come from: where the clients look for sockets."""
    if os.environ.get("FAL_RUNTIME_DIR"):
        return [own_directory()]
    found = [SYSTEM_DIRECTORY]
    with suppress(FalError):
        found.insert(0, own_directory())
    return list(dict.fromkeys(found))


def make_directory() -> Path:
    directory = own_directory()
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as e:
        raise FalError(
            e.errno, f"cannot make {directory}: {e.strerror} (set FAL_RUNTIME_DIR to another place)"
        ) from None
    return directory


@contextmanager
def starting(directory: Path) -> Iterator[None]:
    """Serialise what starts in that directory; the lock goes with the process.

    It is on a file that others cannot open, as whoever can open a file can lock it.
    """
    path = directory / ".lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise FalError(
            e.errno,
            f"cannot make {path}: {e.strerror} (set FAL_RUNTIME_DIR to a directory of yours)",
        ) from None
    try:
        end = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise FalError(
                        errno.EAGAIN,
                        f"another fal-poller has been starting for {LOCK_SECONDS:.0f} s: it has"
                        f" {path} locked (see: fuser {path})",
                    ) from None
                time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def share_with_group(file: int | Path, mode: int) -> None:
    """Let root and group `fal`, where that exists, in."""
    with suppress(KeyError, PermissionError):
        os.chown(file, -1, grp.getgrnam("fal").gr_gid)
    os.chmod(file, mode)
