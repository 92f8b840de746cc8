"""Filters: pcap expressions to classic BPF, by libpcap, which is loaded when first asked for.

libpcap thinks of Ethernet frames with their tags in the bytes, which is how they are here.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from functools import cache
from typing import Any

from fal.bindings import ffi, lib
from fal.errors import FalError, c_string

Instruction = tuple[int, int, int, int]  # code, jt, jf, k: as `tcpdump -ddd` prints them
Program = Sequence[Instruction]

LIBRARY = "libpcap.so.0.8"
DLT_EN10MB = 1
SNAPLEN = 262144  # what a filter returns for a match
NETMASK_UNKNOWN = 0xFFFFFFFF


class _Program(ctypes.Structure):
    """struct bpf_program."""

    _fields_ = (("count", ctypes.c_uint), ("instructions", ctypes.c_void_p))


@cache
def _libpcap() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        raise FalError(
            errno.ELIBACC, f"filters need {LIBRARY}, which is not here: apt-get install libpcap0.8"
        ) from None
    library.pcap_open_dead.restype = ctypes.c_void_p
    library.pcap_geterr.restype = ctypes.c_char_p
    for function in (library.pcap_close, library.pcap_geterr):
        function.argtypes = (ctypes.c_void_p,)
    library.pcap_freecode.argtypes = (ctypes.POINTER(_Program),)
    library.pcap_compile.argtypes = (
        ctypes.c_void_p,
        ctypes.POINTER(_Program),
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_uint,
    )
    return library


def compile(expression: str) -> list[Instruction]:
    """Compile a pcap expression (see pcap-filter(7)); EINVAL with libpcap's own words."""
    text, library, made = c_string(expression), _libpcap(), _Program()
    handle = library.pcap_open_dead(DLT_EN10MB, SNAPLEN)
    if not handle:
        raise FalError(errno.ENOMEM, "no memory for a filter")
    try:
        if library.pcap_compile(handle, made, text, True, NETMASK_UNKNOWN) < 0:
            why = " ".join(library.pcap_geterr(handle).decode(errors="replace").split())
            raise FalError(errno.EINVAL, f"filter '{expression}': {why}")
        instructions = ffi.cast("struct fal_bpf_insn *", made.instructions or 0)
        program = [(i.code, i.jt, i.jf, i.k) for i in instructions[0 : made.count]]
        err = ffi.new("struct fal_error *")
        fault = lib.fal_bpf_check(instructions, made.count, err) < 0
        library.pcap_freecode(made)
        if fault:  # loops ("protochain")
            why = ffi.string(err.text).decode()
            raise FalError(errno.EINVAL, f"filter '{expression}': {why}")
    finally:
        library.pcap_close(handle)
    return program


def native(program: Program) -> Any:
    """Return a program as C takes it, a `struct fal_bpf_insn[]`; EINVAL if it cannot be one."""
    try:
        instructions = [(code, jt, jf, k) for code, jt, jf, k in program]
        return ffi.new("struct fal_bpf_insn[]", instructions)
    except (TypeError, ValueError, OverflowError) as e:
        raise FalError(
            errno.EINVAL, f"a program is a list of (code, jt, jf, k), of 16, 8, 8 and 32 bits: {e}"
        ) from None
