"""The frames of a capture file: whatever libpcap reads, pcap and pcapng."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from fal import libpcap
from fal.errors import FalError, c_string

END = -2  # of pcap_next_ex


def read(path: Path) -> list[bytes]:
    """Return all frames, as much of each as was captured."""
    found = list(_frames(path))
    if not found:
        raise _wrong(path, "no packet in it")
    return found


def _wrong(path: Path, what: str) -> FalError:
    return FalError(errno.EINVAL, f"{path}: {what}")


def _frames(path: Path) -> Iterator[bytes]:
    library, text = libpcap.load("capture files"), ctypes.create_string_buffer(libpcap.TEXT_SIZE)
    file = library.pcap_open_offline(c_string(os.fspath(path)), text)
    if not file:
        why = text.value.decode(errors="replace")
        raise _wrong(path, why.removeprefix(f"{path}: "))
    header, data, count = ctypes.POINTER(libpcap.Header)(), ctypes.c_void_p(), 0
    try:
        if (kind := library.pcap_datalink(file)) != libpcap.DLT_EN10MB:
            raise _wrong(path, f"its link type is {kind}, not Ethernet ({libpcap.DLT_EN10MB})")
        while (result := library.pcap_next_ex(file, header, data)) == 1:
            yield ctypes.string_at(data.value or 0, header.contents.caplen)
            count += 1
        if result != END:
            raise _wrong(path, f"after {count} packets: {libpcap.words(library, file)}")
    finally:
        library.pcap_close(file)
