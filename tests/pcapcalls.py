"""libfal-pcap's functions, as a C program calls them: `Handle` is a pcap_t."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from ctypes import POINTER, byref, c_char_p, c_long, c_size_t, c_uint, c_void_p
from pathlib import Path
from typing import Any

from support import Namespace

from fal.libpcap import FAL_LIBRARY as LIBRARY

ERROR, BREAK, NO_SUCH_DEVICE, ACTIVATED, NOT_ACTIVATED = -1, -2, -5, -4, -3
INOUT, IN, OUT = 0, 1, 2  # pcap_direction_t
MICRO, NANO = 0, 1
ALL = 0xFFFFFFFF  # PCAP_NETMASK_UNKNOWN


class Header(ctypes.Structure):
    """struct pcap_pkthdr; `fraction` in micro- or nanoseconds."""

    _fields_ = (
        ("seconds", c_long),
        ("fraction", c_long),
        ("caplen", ctypes.c_uint32),
        ("len", ctypes.c_uint32),
    )


class Stat(ctypes.Structure):
    """struct pcap_stat."""

    _fields_ = (("recv", c_uint), ("drop", c_uint), ("ifdrop", c_uint))


class Program(ctypes.Structure):
    """struct bpf_program."""

    _fields_ = (("count", c_uint), ("instructions", c_void_p))


class Device(ctypes.Structure):
    """struct pcap_if, its head."""


Device._fields_ = (
    ("next", POINTER(Device)),
    ("name", c_char_p),
    ("description", c_char_p),
    ("addresses", c_void_p),
    ("flags", c_uint),
)

CALLBACK = ctypes.CFUNCTYPE(None, c_void_p, POINTER(Header), c_void_p)
lib = ctypes.CDLL(str(LIBRARY))
for made in ("create", "open_live", "open_dead", "open_offline"):
    getattr(lib, f"pcap_{made}").restype = c_void_p
for text in ("geterr", "next", "statustostr"):
    getattr(lib, f"pcap_{text}").restype = c_void_p if text == "next" else c_char_p
lib.pcap_dump_open.restype = c_void_p
lib.pcap_inject.argtypes = (c_void_p, c_char_p, c_size_t)

Packet = tuple[Header, bytes]


class PcapError(Exception):
    """What a function returned, and the words."""

    def __init__(self, code: int, words: bytes) -> None:
        super().__init__(code, words.decode())
        self.code, self.words = code, words.decode()


class Handle:
    """Functions by their names without "pcap_"; what fails is a PcapError."""

    def __init__(self, pointer: int | None) -> None:
        self.pointer = c_void_p(pointer)

    def __getattr__(self, name: str) -> Callable[..., int]:
        function = getattr(lib, f"pcap_{name}")

        def call(*words: Any) -> int:
            encoded = (word.encode() if isinstance(word, str) else word for word in words)
            result: int = function(self.pointer, *encoded)
            if isinstance(result, int) and result < 0 and result != BREAK:
                raise PcapError(result, lib.pcap_geterr(self.pointer))
            return result

        return call

    def close(self) -> None:
        if self.pointer:
            lib.pcap_close(self.pointer)
        self.pointer = c_void_p(None)

    def nonblocking(self) -> Handle:
        self.setnonblock(1, ctypes.create_string_buffer(256))
        return self

    def filter(self, expression: str) -> None:
        program = Program()
        self.compile(byref(program), expression, 1, c_uint(ALL))
        self.setfilter(byref(program))
        lib.pcap_freecode(byref(program))

    def read(self, count: int = -1, by: str = "dispatch") -> list[Packet]:
        """Return what one pcap_dispatch (or pcap_loop) gives."""
        got: list[Packet] = []

        def take(_: int, header: Any, data: int) -> None:
            h = header.contents
            got.append(
                (Header(h.seconds, h.fraction, h.caplen, h.len), ctypes.string_at(data, h.caplen))
            )

        self.result = getattr(self, by)(count, CALLBACK(take), None)
        return got

    def read_one(self) -> Packet | None:
        header, data = POINTER(Header)(), c_void_p()
        if self.next_ex(byref(header), byref(data)) != 1:
            return None
        return header.contents, ctypes.string_at(data.value or 0, header.contents.caplen)

    def counts(self) -> tuple[int, int, int]:
        stat = Stat()
        self.stats(byref(stat))
        return stat.recv, stat.drop, stat.ifdrop


def started(inside: Namespace, program: str, device: str, config: Path) -> subprocess.Popen[str]:
    """Start a Python program that may import this, in a namespace, configured by a file of ours."""
    here = {"PYTHONPATH": str(Path(__file__).parent), "PCAP_CONFIG": str(config)}
    return subprocess.Popen(
        inside.command(sys.executable, "-P", "-c", program, device),
        env=os.environ | here,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def opened(device: str, snaplen: int = 65535, timeout: int = 100) -> Handle:
    """pcap_open_live."""
    why = ctypes.create_string_buffer(256)
    pointer = lib.pcap_open_live(device.encode(), snaplen, 1, timeout, why)
    if not pointer:
        raise PcapError(0, why.value)
    return Handle(pointer)


def created(device: str) -> Handle:
    why = ctypes.create_string_buffer(256)
    pointer = lib.pcap_create(device.encode(), why)
    if not pointer:
        raise PcapError(0, why.value)
    return Handle(pointer)


def devices() -> list[str]:
    first, why = POINTER(Device)(), ctypes.create_string_buffer(256)
    assert lib.pcap_findalldevs(byref(first), why) == 0, why.value

    def each() -> Iterator[str]:
        device = first
        while device:
            yield device.contents.name.decode()
            device = device.contents.next

    with contextlib.ExitStack() as stack:
        stack.callback(lib.pcap_freealldevs, first)
        return list(each())
