"""Capture files, written byte by byte: of (ns, packet) or (ns, packet, length on the wire)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

Packets = Sequence[tuple[int, bytes] | tuple[int, bytes, int]]
ETHERNET = 1


def whole(packets: Packets) -> Iterable[tuple[int, bytes, int]]:
    for ns, data, *length in packets:
        yield ns, data, length[0] if length else len(data)


def write_pcap(path: Path, packets: Packets, nano: bool = True, link: int = ETHERNET) -> Path:
    """Write the classic format, with stamps in nanoseconds or microseconds."""
    magic, unit = (0xA1B23C4D, 1) if nano else (0xA1B2C3D4, 1000)
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", magic, 2, 4, 0, 0, 262144, link))
        for ns, data, length in whole(packets):
            seconds, rest = divmod(ns, 10**9)
            file.write(struct.pack("<IIII", seconds, rest // unit, len(data), length) + data)
    return path


def block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + size + body + size


def write_pcapng(path: Path, packets: Packets) -> Path:
    """Write pcapng: one section, one interface, stamps in nanoseconds."""
    resolution = struct.pack("<HHB3x", 9, 1, 9)  # if_tsresol: 10^-9
    parts = [
        block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)),
        block(1, struct.pack("<HHI", ETHERNET, 0, 262144) + resolution + bytes(4)),
    ]
    for ns, data, length in whole(packets):
        head = struct.pack("<IIIII", 0, ns >> 32, ns & 0xFFFFFFFF, len(data), length)
        parts.append(block(6, head + data))
    path.write_bytes(b"".join(parts))
    return path


def read_pcap(path: Path) -> tuple[tuple[int, ...], list[tuple[int, bytes, int]]]:
    """Read the classic format, as far as it is written: the header's seven fields, the packets."""
    data = path.read_bytes()
    if len(data) < 24:
        return (), []
    header = struct.unpack_from("<IHHiIII", data)
    unit, packets, at = 1 if header[0] == 0xA1B23C4D else 1000, [], 24
    while at + 16 <= len(data):
        seconds, rest, caplen, length = struct.unpack_from("<IIII", data, at)
        if at + 16 + caplen > len(data):
            break
        packets.append((seconds * 10**9 + rest * unit, data[at + 16 : at + 16 + caplen], length))
        at += 16 + caplen
    return header, packets
