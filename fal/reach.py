"""Whether a program will be reached by our libpcap, and by which means.

LD_PRELOAD puts it before every other.  It is the dynamic loader that heeds it: not for a program
that has none, or another than our library is made for, nor for one that gains rights by starting.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

from fal.errors import FalError
from fal.libpcap import FAL_LIBRARY

LINE_SIZE, SCRIPTS = 256, 5  # as the kernel: the length of a #! line, and how many follow another
# Of ELF with 64 bits: where the program headers are; the size and number of them; one of them.
HEADERS, SIZES, HEADER = struct.Struct("=Q"), struct.Struct("=2H"), struct.Struct("=2I4Q")
PT_INTERP = 3


def found(word: str) -> str:
    """Find what a shell would start; FalError: it is not there (ENOENT), or cannot be (EACCES)."""
    if path := shutil.which(word):
        return path
    if "/" in word and os.path.exists(word):
        raise FalError(errno.EACCES, f"{word} is no file that may be executed")
    raise FalError(errno.ENOENT, f"{word}: no such program")


def behind(path: str) -> str:
    """Follow #! lines to the program that runs in the end, where that is env to what env starts."""
    for _ in range(SCRIPTS):
        with open(path, "rb") as f:
            line = f.readline(LINE_SIZE)
        if not line.startswith(b"#!"):
            return path
        words = os.fsdecode(line[2:]).split()
        if words and Path(words[0]).name == "env":
            words = [w for w in words[1:] if not w.startswith("-") and "=" not in w]
        if not words:
            break
        path = found(words[0])
    raise FalError(errno.ENOEXEC, f"{path} is a script whose first line names no program")


# ---- what its file says --------------------------------------------------------------------------


class Elf(NamedTuple):
    machine: bytes  # class and byte order, then the machine, as they stand in the file
    loader: str | None  # the dynamic loader; None: there is none, or it is not of 64 bits


def elf(path: str) -> Elf:
    """Read what an ELF file wants to run on; ENOEXEC: it is none."""
    with open(path, "rb") as f:
        head = f.read(64)
        if head[:4] != b"\x7fELF" or len(head) < 64:
            raise FalError(errno.ENOEXEC, f"{path} is neither an ELF program nor a script with #!")
        machine = head[4:6] + head[18:20]
        if head[4:6] == b"\2\1":  # 64 bits, little endian
            (table,), (size, count) = HEADERS.unpack_from(head, 32), SIZES.unpack_from(head, 54)
            for i in range(count):
                f.seek(table + i * size)
                kind, _, offset, _, _, length = HEADER.unpack(f.read(40).ljust(40, b"\0"))
                if kind == PT_INTERP:
                    f.seek(offset)
                    return Elf(machine, os.fsdecode(f.read(min(length, 4096)).rstrip(b"\0")))
    return Elf(machine, None)


def gives_none() -> bool:
    """Whether no program that we start gains rights by that: prctl's PR_SET_NO_NEW_PRIVS."""
    return "\nNoNewPrivs:\t1\n" in Path("/proc/self/status").read_text()


def gained(path: str, uid: int, gid: int) -> str | None:
    """Say by what a program gains rights when that user starts it: it is then AT_SECURE."""
    s = os.stat(path)
    if os.statvfs(path).f_flag & os.ST_NOSUID or gives_none():
        return None
    if s.st_mode & stat.S_ISUID and s.st_uid != uid:
        return "is set-user-ID"
    if s.st_mode & stat.S_ISGID and s.st_mode & stat.S_IXGRP and s.st_gid != gid:
        return "is set-group-ID"
    if uid != 0 and "security.capability" in os.listxattr(path):
        return "has file capabilities"
    return None


# ---- the verdict ---------------------------------------------------------------------------------


def reachable(path: str) -> str:
    """Return the program that runs for `path`; EOPNOTSUPP: LD_PRELOAD cannot reach it."""
    program = behind(path)
    name = Path(program).name
    theirs, ours = elf(program), elf("/proc/self/exe")
    hint = f"let tcpdump read for it: fal run -- tcpdump -i DEVICE -U -w - | {name} -r -"
    if name == "sudo":
        why, hint = "starts its programs without LD_PRELOAD", "write: sudo fal run -- PROGRAM"
    elif theirs.machine != ours.machine:
        why = "is for another machine than FAL"
    elif theirs.loader is None:
        why = "is static: it has no dynamic loader, which would load FAL's libpcap"
    elif Path(theirs.loader).name != Path(str(ours.loader)).name:
        why = f"is for another C library than FAL, that of {theirs.loader}"
    elif rights := gained(program, os.getuid(), os.getgid()):
        why = f"{rights}, for which the loader ignores LD_PRELOAD"
        if not gained(program, 0, 0):
            hint = f"start it as root: sudo fal run -- {name}"
    else:
        return program
    raise FalError(errno.EOPNOTSUPP, f"{program} {why} ({hint})")


def means(program: str) -> str:
    """Say how a reachable program is reached with our environment, by the loader's own word.

    ELIBACC: the loader does not take our library.
    """

    def loads(**variables: str) -> tuple[str, str]:
        done = subprocess.run(
            [str(elf(program).loader), "--list", program],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
        )
        return done.stdout, done.stderr

    listed, complaint = loads()
    if f"{FAL_LIBRARY} (" not in listed:
        first = (complaint or listed).strip().partition("\n")[0]
        raise FalError(errno.ELIBACC, f"{program} starts without {FAL_LIBRARY}: {first}")
    if links := re.search(r"^\s*(libpcap\.so\S*) => ", loads(LD_PRELOAD="")[0], re.MULTILINE):
        return f"links {links[1]}, in the place of which it has FAL's"
    return (
        "links no libpcap: what it loads later, a Python module or a plug-in, has FAL's;"
        " one that is built into it stays"
    )
