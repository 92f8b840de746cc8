"""The frames of a capture file: whatever libpcap reads, pcap and pcapng."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from fal import libpcap
from fal.errors import FalError, c_string


def read(path: Path) -> list[bytes]:
    """Return all frames, as much of each as was captured."""
    found = list(_frames(path))
    if not found:
        raise _wrong(path, "no packet in it")
    return found


def _wrong(path: Path, what: str) -> FalError:
    return FalError(errno.EINVAL, f"{path}: {what}")


def _frames(path: Path) -> Iterator[bytes]:
    library, ffi = libpcap.load("capture files"), libpcap.ffi()
    text = ffi.new("char[]", libpcap.TEXT_SIZE)
    file = library.pcap_open_offline_with_tstamp_precision(
        c_string(os.fspath(path)), libpcap.NANOSECONDS, text
    )
    if not file:
        raise _wrong(path, libpcap.line(text).removeprefix(f"{path}: "))
    header, data, count = ffi.new("struct pcap_pkthdr **"), ffi.new("unsigned char **"), 0
    try:
        if (kind := library.pcap_datalink(file)) != libpcap.DLT_EN10MB:
            raise _wrong(path, f"its link type is {kind}, not Ethernet ({libpcap.DLT_EN10MB})")
        while (result := library.pcap_next_ex(file, header, data)) == 1:
            yield ffi.buffer(data[0], header[0].caplen)[:]
            count += 1
        if result != libpcap.END:
            raise _wrong(path, f"after {count} packets: {libpcap.words(library, file)}")
    finally:
        library.pcap_close(file)
