"""A device that drops whatever is sent on it: one end of a veth pair, whose other end drops all in
its driver, by an XDP program.  No receiver is quicker.

It lies in a network namespace that only this process is in, and goes with it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess

from fal.bindings import ffi, lib
from fal.errors import FalError, checked

CLONE_NEWNET = 0x40000000
DEVICE, OTHER = "sink", "drop"

_libc = ctypes.CDLL(None, use_errno=True)


def enter() -> str:
    """Move this thread into the namespace and return the device; EPERM: without CAP_SYS_ADMIN."""
    if _libc.unshare(CLONE_NEWNET) < 0:
        code = ctypes.get_errno()
        raise FalError(code, f"a network namespace needs CAP_SYS_ADMIN: {os.strerror(code)}")
    for words in (
        ("add", DEVICE, "type", "veth", "peer", "name", OTHER),
        ("set", DEVICE, "arp", "off", "up"),
        ("set", OTHER, "arp", "off", "up"),
    ):
        try:
            done = subprocess.run(["ip", "link", *words], capture_output=True, text=True)
        except FileNotFoundError:
            raise FalError(errno.ENOENT, "a veth pair needs ip (package iproute2)") from None
        if done.returncode:
            raise FalError(errno.EOPNOTSUPP, f"no veth pair can be made: {done.stderr.strip()}")
    err = ffi.new("struct fal_error *")
    checked(lib.fal_live_sink(socket.if_nametoindex(OTHER), err), err)  # until this process ends
    return DEVICE
