"""What a worker is given to read, it cannot write, whoever it is (promise 2)."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import mmap
import os
import time

import pytest
from crash.hostile import Hostile
from support import libc

import fal
from fal.bindings import ffi, lib

PUNCH, ZERO, KEEP = 2, 16, 1  # fallocate's
NOBODY = 65534
PAGE = 2 << 20  # of either kind


def fallocate(fd, how):
    call(libc.fallocate(fd, how | KEEP, ctypes.c_long(0), ctypes.c_long(PAGE)))


def call(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def map_shared(fd, protection):
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    at = libc.mmap(None, PAGE, protection, mmap.MAP_SHARED, fd, 0)
    if at == ctypes.c_void_p(-1).value:
        call(-1)
    return at


def read_only(fd):
    return ctypes.c_void_p(map_shared(fd, mmap.PROT_READ))


def write_by_proc(fd):
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(read_only(fd).value)
        memory.write(b"x" * 64)


def write_by_process_vm(fd):
    here = (ctypes.c_uint64 * 10)(*[7] * 10)
    local = (ctypes.c_uint64 * 2)(ctypes.addressof(here), 64)
    remote = (ctypes.c_uint64 * 2)(read_only(fd).value, 64)
    call(libc.process_vm_writev(os.getpid(), local, 1, remote, 1, 0))


def write_by_ptrace(fd):
    """Poke into a child, which needs no privilege."""
    at = read_only(fd)
    if not (child := os.fork()):
        libc.ptrace(0, 0, None, None)  # PTRACE_TRACEME
        os.kill(os.getpid(), 19)
    os.waitpid(child, 0)
    try:
        call(libc.ptrace(4, child, at, ctypes.c_void_p(7)))  # PTRACE_POKETEXT
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def copy_into(fd):
    with open("/proc/self/exe", "rb") as source:
        os.copy_file_range(source.fileno(), fd, 64, 0, 0)


ATTEMPTS = {
    "mmap": lambda fd: map_shared(fd, mmap.PROT_READ | mmap.PROT_WRITE),
    "mmap for writing only": lambda fd: map_shared(fd, mmap.PROT_WRITE),
    "mprotect": lambda fd: call(libc.mprotect(read_only(fd), PAGE, 3)),
    "write": lambda fd: os.write(fd, b"x" * 64),
    "pwrite": lambda fd: os.pwrite(fd, b"x" * 64, 0),
    "copy_file_range": copy_into,
    "punch": lambda fd: fallocate(fd, PUNCH),
    "zero": lambda fd: fallocate(fd, ZERO),
    "shorten": lambda fd: os.ftruncate(fd, 0),
    "lengthen": lambda fd: os.ftruncate(fd, os.fstat(fd).st_size + PAGE),
    "MADV_REMOVE": lambda fd: call(libc.madvise(read_only(fd), PAGE, 9)),
    "seal": lambda fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
    "/proc/self/mem": write_by_proc,
    "process_vm_writev": write_by_process_vm,
    "ptrace": write_by_ptrace,
    "O_TRUNC": lambda fd: os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_TRUNC),
}


def break_in(fd: int) -> list[str]:
    """Return what could be done to this descriptor, and to a reopening of it."""
    done = []
    again = []
    for how in (os.O_RDWR, os.O_WRONLY):
        with contextlib.suppress(OSError):
            again.append(os.open(f"/proc/self/fd/{fd}", how))
    for which in (fd, *again):
        for name, attempt in ATTEMPTS.items():
            with contextlib.suppress(OSError):
                attempt(which)
                done.append(name if which == fd else f"{name}, reopened")
    return done


def as_user(uid: int, fd: int) -> list[str]:
    """Run break_in in a process of that user; it holds what it has inherited."""
    results, results_in = os.pipe()
    if not (child := os.fork()):
        try:
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: or /proc/self would be root's
            os.write(results_in, json.dumps(break_in(fd)).encode())
        finally:
            os._exit(0)
    os.close(results_in)
    os.waitpid(child, 0)
    with open(results, "rb") as file:
        return json.loads(file.read())


def content(arena):
    """Return a digest of all but the one word that an idle poller writes: it sleeps."""
    at = dict(ffi.typeof("struct fal_arena").fields)["transmit_seq"].offset
    digest = hashlib.sha256(arena[:at])
    digest.update(memoryview(arena)[at + 8 :])
    return digest.digest()


@pytest.mark.parametrize("pages", ["off", "on"])
def test_the_arena_cannot_be_written(hugepages, start_poller, pages):
    words = ("--frames", "8192", "--hugepages", pages, "--wait", "9")
    poller = start_poller("still", "--backend", "null", *words)
    with Hostile(poller).open(ring=64) as h:
        before = content(h.arenas[0])
        # That the attempts are real: they succeed on the page that is the worker's own.
        assert {"mmap", "pwrite", "punch"} <= set(as_user(0, h.cursor_fd))
        for uid in (0, NOBODY):
            assert as_user(uid, h.arena_fds[0]) == []
        assert as_user(NOBODY, h.status_fd) == []
        assert content(h.arenas[0]) == before
    assert poller.stop() == 0


def test_a_shortened_status_kills_nobody(start_poller):
    """Only root, or the poller's own user, can do it."""
    poller = start_poller("flood", "--backend", "null", "--frames", "16384")
    with fal.open(poller.device, group=42) as s, Hostile(poller).open(ring=64) as h:
        assert len(s.recv_batch(timeout=5))
        for size in (lib.FAL_CURSOR_PAGE, 0):
            os.truncate(f"/proc/self/fd/{h.status_fd}", size)
            end = time.monotonic() + 0.3  # its counters are written all the time
            while time.monotonic() < end:
                assert len(s.recv_batch(timeout=5))
        assert poller.process.poll() is None
    assert poller.stop() == 0
