"""libpcap, loaded when first asked for: filters and capture files need it, nothing else does."""

from __future__ import annotations

import ctypes
import errno
from functools import cache
from typing import Any

from fal.errors import FalError

LIBRARY = "libpcap.so.0.8"
DLT_EN10MB = 1  # Ethernet
TEXT_SIZE = 256  # PCAP_ERRBUF_SIZE


class Program(ctypes.Structure):
    """struct bpf_program."""

    _fields_ = (("count", ctypes.c_uint), ("instructions", ctypes.c_void_p))


class Header(ctypes.Structure):
    """struct pcap_pkthdr."""

    _fields_ = (
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("caplen", ctypes.c_uint32),
        ("len", ctypes.c_uint32),
    )


_HANDLE, _TEXT = ctypes.c_void_p, ctypes.c_char_p
_FUNCTIONS: dict[str, tuple[Any, ...]] = {  # what it returns, then what it takes
    "pcap_open_dead": (_HANDLE, ctypes.c_int, ctypes.c_int),
    "pcap_open_offline": (_HANDLE, _TEXT, _TEXT),
    "pcap_datalink": (ctypes.c_int, _HANDLE),
    "pcap_next_ex": (
        ctypes.c_int,
        _HANDLE,
        ctypes.POINTER(ctypes.POINTER(Header)),
        ctypes.POINTER(ctypes.c_void_p),
    ),
    "pcap_compile": (
        ctypes.c_int,
        _HANDLE,
        ctypes.POINTER(Program),
        _TEXT,
        ctypes.c_int,
        ctypes.c_uint,
    ),
    "pcap_freecode": (None, ctypes.POINTER(Program)),
    "pcap_geterr": (_TEXT, _HANDLE),
    "pcap_close": (None, _HANDLE),
}


@cache
def load(what: str) -> ctypes.CDLL:
    """Load it with its functions declared; ELIBACC where it is missing, which `what` cannot do."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        raise FalError(
            errno.ELIBACC, f"{what} need {LIBRARY}, which is not here: apt-get install libpcap0.8"
        ) from None
    for name, (returned, *taken) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = returned, taken
    return library


def words(library: ctypes.CDLL, handle: int) -> str:
    """Return libpcap's own words for what went wrong."""
    return " ".join(library.pcap_geterr(handle).decode(errors="replace").split())
