"""The frames of a capture file: classic pcap, of either byte order, micro- or nanoseconds."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

from fal.errors import FalError

MAGICS = (0xA1B2C3D4, 0xA1B23C4D)  # micro-, nanoseconds
PCAPNG = b"\x0a\x0d\x0d\x0a"
ETHERNET = 1
HEADER, RECORD = 24, 16  # bytes


def read(path: Path) -> list[bytes]:
    """Return all frames, as much of each as was captured."""

    def wrong(what: str) -> FalError:
        return FalError(errno.EINVAL, f"{path}: {what}")

    try:
        data = path.read_bytes()
    except OSError as e:
        raise FalError(e.errno, f"{path}: {e.strerror}") from None
    if data[:4] == PCAPNG:
        raise wrong(f"pcapng (make a pcap file of it: tcpdump -r {path} -w NEW)")
    for order in "<>":
        if len(data) >= HEADER and struct.unpack_from(f"{order}I", data)[0] in MAGICS:
            break
    else:
        raise wrong("no pcap file")
    if (kind := struct.unpack_from(f"{order}I", data, 20)[0] & 0xFFFF) != ETHERNET:
        raise wrong(f"its link type is {kind}, not Ethernet ({ETHERNET})")
    record, at = struct.Struct(f"{order}8xI4x"), HEADER
    found: list[bytes] = []
    while at < len(data):
        (length,) = record.unpack_from(data, at) if at + RECORD <= len(data) else (len(data),)
        at += RECORD
        if at + length > len(data):
            raise wrong(f"cut off in packet {len(found) + 1}")
        found.append(data[at : at + length])
        at += length
    if not found:
        raise wrong("no packet in it")
    return found
