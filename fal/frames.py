"""Ethernet frames made from addresses and ports: pure functions, all checksums right.

A `packet` is IPv4 or IPv6 and what it carries; a `frame` is Ethernet and a packet, without the
frame check sequence.  Both are bytes in network order.
"""

from __future__ import annotations

import socket
import struct

Endpoint = tuple[str, int]  # address, IPv4 or IPv6 with a ':', and port

MACS = b"\2\0\0\0\0\2\2\0\0\0\0\1"  # destination, source
SHORTEST = 60  # bytes: what Ethernet pads to
TCP, UDP, GRE = 6, 17, 47
IPV4_IN_IP, IPV6_IN_IP, IPV6_FRAGMENT = 4, 41, 44
VLAN, ETHERNET_IN_IP = 0x8100, 0x6558
VXLAN_PORT, GENEVE_PORT, GTP_U_PORT = 4789, 6081, 2152
TUNNEL_ID = 7  # VNI or TEID


def checksum(data: bytes) -> int:
    """Return the Internet checksum: 65536 is 1 modulo 65535, so that one division adds it all."""
    return -int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF


def address(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def ethertype(packet: bytes) -> int:
    return 0x86DD if packet[0] >> 4 == 6 else 0x0800


# ---- layers ------------------------------------------------------------------------------------


def ip(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    """Make a packet, IPv4 or IPv6 as the addresses are."""
    ends = address(source) + address(destination)
    if len(ends) == 32:
        return struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + ends + payload
    return _ipv4(struct.pack(">HHH", 20 + len(payload), 0, 0), protocol, ends) + payload


def _ipv4(length_and_fragment: bytes, protocol: int, ends: bytes) -> bytes:
    """Make a header of 20 bytes."""
    first = b"\x45\0" + length_and_fragment + bytes((64, protocol))
    return first + struct.pack(">H", checksum(first + ends)) + ends


def _with_checksum(segment: bytes, at: int, protocol: int, source: str, destination: str) -> bytes:
    """Fill in the checksum of a segment, over the pseudo header, too."""
    pseudo = address(source) + address(destination) + struct.pack(">HI", protocol, len(segment))
    found = checksum(pseudo + segment)
    if protocol == UDP and found == 0:
        found = 0xFFFF  # 0 would say that there is none
    return segment[:at] + struct.pack(">H", found) + segment[at + 2 :]


def udp_packet(source: Endpoint, destination: Endpoint, payload: bytes = b"") -> bytes:
    header = struct.pack(">HHHH", source[1], destination[1], 8 + len(payload), 0)
    segment = _with_checksum(header + payload, 6, UDP, source[0], destination[0])
    return ip(source[0], destination[0], UDP, segment)


def tcp_packet(source: Endpoint, destination: Endpoint, payload: bytes = b"") -> bytes:
    """Make a packet in the middle of a connection: ACK and PSH, no options."""
    ports = source[1], destination[1]
    header = struct.pack(">HHIIBBHHH", *ports, 1, 1, 0x50, 0x18, 8192, 0, 0)
    segment = _with_checksum(header + payload, 16, TCP, source[0], destination[0])
    return ip(source[0], destination[0], TCP, segment)


def ethernet(packet: bytes, vlan: int | None = None) -> bytes:
    """Make a frame, padded to Ethernet's shortest."""
    tag = b"" if vlan is None else struct.pack(">HH", VLAN, vlan)
    frame = MACS + tag + struct.pack(">H", ethertype(packet)) + packet
    return frame.ljust(SHORTEST, b"\0")


def udp(
    source: Endpoint, destination: Endpoint, payload: bytes = b"", vlan: int | None = None
) -> bytes:
    return ethernet(udp_packet(source, destination, payload), vlan)


def tcp(
    source: Endpoint, destination: Endpoint, payload: bytes = b"", vlan: int | None = None
) -> bytes:
    return ethernet(tcp_packet(source, destination, payload), vlan)


# ---- fragments ---------------------------------------------------------------------------------


def fragments(packet: bytes, at: int, identification: int) -> tuple[bytes, bytes]:
    """Cut a packet in two, `at` bytes of its payload into the first: a multiple of 8, not all.

    The IPv4 or IPv6 header must be without options or extensions.
    """
    header = 40 if ethertype(packet) == 0x86DD else 20
    parts = packet[header : header + at], packet[header + at :]
    made = []
    for part, offset, more in zip(parts, (0, at), (True, False), strict=True):
        if header == 40:
            fields = struct.pack(">BBHI", packet[6], 0, offset | more, identification)
            ends = packet[8:40]
            fixed = struct.pack(">IHBB", 6 << 28, len(fields + part), IPV6_FRAGMENT, 64)
            made.append(fixed + ends + fields + part)
        else:
            where = struct.pack(">HHH", 20 + len(part), identification, offset // 8 | more << 13)
            made.append(_ipv4(where, packet[9], packet[12:20]) + part)
    return made[0], made[1]


# ---- tunnels: the inner packet, and the outer ends; the ports matter only to those over UDP ------


def ip_in_ip(packet: bytes, source: Endpoint, destination: Endpoint) -> bytes:
    inner = IPV6_IN_IP if ethertype(packet) == 0x86DD else IPV4_IN_IP
    return ip(source[0], destination[0], inner, packet)


def gre(packet: bytes, source: Endpoint, destination: Endpoint) -> bytes:
    header = struct.pack(">HH", 0, ethertype(packet))
    return ip(source[0], destination[0], GRE, header + packet)


def vxlan(packet: bytes, source: Endpoint, destination: Endpoint) -> bytes:
    header = struct.pack(">II", 8 << 24, TUNNEL_ID << 8)
    outer = destination[0], VXLAN_PORT
    return udp_packet(source, outer, header + ethernet(packet))


def geneve(packet: bytes, source: Endpoint, destination: Endpoint) -> bytes:
    header = struct.pack(">HHI", 0, ETHERNET_IN_IP, TUNNEL_ID << 8)
    outer = destination[0], GENEVE_PORT
    return udp_packet(source, outer, header + ethernet(packet))


def gtp_u(packet: bytes, source: Endpoint, destination: Endpoint) -> bytes:
    header = struct.pack(">BBHI", 0x30, 255, len(packet), TUNNEL_ID)
    return udp_packet((source[0], GTP_U_PORT), (destination[0], GTP_U_PORT), header + packet)


TUNNELS = (ip_in_ip, gre, vxlan, geneve, gtp_u)
