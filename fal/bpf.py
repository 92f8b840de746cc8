"""Filters: pcap expressions to classic BPF, by libpcap.

libpcap thinks of Ethernet frames with their tags in the bytes, which is how they are here.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from fal import libpcap
from fal.bindings import ffi, lib
from fal.errors import FalError, c_string

Instruction = tuple[int, int, int, int]  # code, jt, jf, k: as `tcpdump -ddd` prints them
Program = Sequence[Instruction]

SNAPLEN = 262144  # what a filter returns for a match


def compile(expression: str) -> list[Instruction]:
    """Compile a pcap expression (see pcap-filter(7)); EINVAL with libpcap's own words."""
    text, library = c_string(expression), libpcap.load("filters")
    made = libpcap.ffi().new("struct bpf_program *")
    handle = library.pcap_open_dead_with_tstamp_precision(
        libpcap.DLT_EN10MB, SNAPLEN, libpcap.NANOSECONDS
    )
    if not handle:
        raise FalError(errno.ENOMEM, "no memory for a filter")
    try:
        if library.pcap_compile(handle, made, text, True, libpcap.NETMASK_UNKNOWN) < 0:
            why = libpcap.words(library, handle)
            raise FalError(errno.EINVAL, f"filter '{expression}': {why}")
        program = [(i.code, i.jt, i.jf, i.k) for i in made.bf_insns[0 : made.bf_len]]
        library.pcap_freecode(made)
        err = ffi.new("struct fal_error *")
        if lib.fal_bpf_check(native(program), len(program), err) < 0:  # loops ("protochain")
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
