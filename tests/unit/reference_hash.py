# SPDX-License-Identifier: BSD-3-Clause
"""The flow hash once more, in plain Python, after docs/fanout.md and not after the C code.

Run as a program, it prints docs/hash-vectors.json.
"""

import json
from collections.abc import Iterator
from typing import NamedTuple

SEED = int.from_bytes(b"FAL-hash", "big")
OTHER_SEED = 0x0123456789ABCDEF
PI = 0x243F6A8885A308D3  # the first 64 bits of its fraction
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd
MASK = 2**64 - 1

TAGS, LABELS, FRAME = (0x8100, 0x88A8), (0x8847, 0x8848), 0x6558
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
ICMP, IPIP, TCP, UDP, SIX, GRE, ICMP6, SCTP = 1, 4, 6, 17, 41, 47, 58, 132
HOPS, ROUTING, FRAGMENT, AH, OPTIONS = 0, 43, 44, 51, 60
EXTENSIONS = (HOPS, ROUTING, FRAGMENT, AH, OPTIONS)
WITH_PORTS = (TCP, UDP, SCTP)
ERRORS = {ICMP: (IPV4, (3, 4, 5, 11, 12)), ICMP6: (IPV6, (1, 2, 3, 4))}
VXLAN, GENEVE, GTPU = 4789, 6081, 2152
MAX_LAYERS, MAX_EXTENSIONS = 16, 8

# The bits of fal_fanout.hash, and what the words of the vectors come to.
ADDRESSES, PORTS, PROTOCOL, VLAN, MACS, TCP_ALONE, INNER, QUOTED = (1 << i for i in range(8))
FLOW = ADDRESSES | PORTS | PROTOCOL
WORDS = {
    "hash": FLOW,
    "flow": FLOW | VLAN,
    "flow_2_tuple": ADDRESSES,
    "flow_4_tuple": ADDRESSES | PORTS,
    "flow_tcp_5_tuple": FLOW | TCP_ALONE,
    "inner_flow": FLOW | VLAN | INNER,
    "steer_link": MACS,
    "steer_vlan": VLAN,
    "hash+inner": FLOW | INNER,
    "hash+icmp": FLOW | QUOTED,
    "hash+inner+icmp": FLOW | INNER | QUOTED,
}


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def mix(a: int, b: int) -> int:
    upper, lower = divmod(a * b, 2**64)
    return ((lower ^ upper) + 2 * a + 4 * b) & MASK


def combine(one: int, other: int, kind: int, key: int) -> int:
    low, high = sorted((one, other))
    upper, lower = divmod(mix(low ^ key, high ^ key) * (GOLDEN + 2 * kind), 2**64)
    return (upper ^ lower) >> 32


class Packet(NamedTuple):
    """What counts of an IP packet."""

    ethertype: int
    source: bytes
    destination: bytes
    protocol: int
    payload: bytes
    fragment: bool  # and not to be taken for the whole


def ip_packet(ethertype: int, layer: bytes, whole: bool) -> Packet | None:
    if ethertype == IPV4 and len(layer) >= 20 and layer[0] >> 4 == 4 and layer[0] & 15 >= 5:
        more, offset = layer[6] & 0x20, big(layer[6:8]) & 0x1FFF
        fragment = bool(offset or (more and not whole))
        payload = layer[(layer[0] & 15) * 4 :]
        return Packet(IPV4, layer[12:16], layer[16:20], layer[9], payload, fragment)
    if ethertype == IPV6 and len(layer) >= 40 and layer[0] >> 4 == 6:
        protocol, rest, fragment = layer[6], layer[40:], False
        for _ in range(MAX_EXTENSIONS):
            if protocol not in EXTENSIONS or len(rest) < 8 or fragment:
                break
            size = {FRAGMENT: 8, AH: (rest[1] + 2) * 4}.get(protocol, (rest[1] + 1) * 8)
            if size > len(rest):
                break
            if protocol == FRAGMENT:
                fragment = bool(big(rest[2:4]) & 0xFFF8 or (rest[3] & 1 and not whole))
            protocol, rest = rest[0], rest[size:]
        return Packet(IPV6, layer[8:24], layer[24:40], protocol, rest, fragment)
    return None


def version_type(layer: bytes) -> int:
    return {4: IPV4, 6: IPV6}.get(layer[0] >> 4 if layer else 0, 0)


def inside_gtpu(gtp: bytes) -> tuple[int, bytes]:
    if gtp[0] >> 4 != 3 or gtp[1] != 255:
        return 0, b""
    end, following = 8, 0
    if gtp[0] & 7:
        if len(gtp) < 12:
            return 0, b""
        end, following = 12, gtp[11] if gtp[0] & 4 else 0
    for _ in range(MAX_EXTENSIONS):
        if not following:
            break
        size = gtp[end] * 4 if end < len(gtp) else 0
        if not size or end + size > len(gtp):
            return 0, b""
        end += size
        following = gtp[end - 1]
    return (0, b"") if following else (version_type(gtp[end:]), gtp[end:])


def inside(packet: Packet, fields: int) -> tuple[int, bytes]:
    """Return ethertype and bytes of what a packet carries or quotes; 0: nothing of interest."""
    protocol, payload = packet.protocol, packet.payload
    if fields & QUOTED and protocol in ERRORS and len(payload) >= 8:
        ethertype, errors = ERRORS[protocol]
        if payload[0] in errors:
            return ethertype, payload[8:]
    if not fields & INNER:
        return 0, b""
    if protocol in (IPIP, SIX):
        return (IPV4 if protocol == IPIP else IPV6), payload
    if protocol == GRE and len(payload) >= 4 and not big(payload[:2]) & 0x4007:
        optional = [bit for bit in (0x80, 0x20, 0x10) if payload[0] & bit]
        return big(payload[2:4]), payload[4 + 4 * len(optional) :]
    if protocol == UDP and len(payload) >= 16:
        port, tunnel = big(payload[2:4]), payload[8:]
        if port == VXLAN and tunnel[0] & 8:
            return FRAME, tunnel[8:]
        if port == GENEVE and tunnel[0] >> 6 == 0:
            return big(tunnel[2:4]), tunnel[8 + (tunnel[0] & 63) * 4 :]
        if port == GTPU:
            return inside_gtpu(tunnel)
    return 0, b""


def packet_hash(packet: Packet, fields: int, vlan: int, key: int) -> int:
    protocol, ports = packet.protocol, (0, 0)
    counts = not fields & TCP_ALONE or protocol == TCP
    complete = not packet.fragment and len(packet.payload) >= 4
    if fields & PORTS and counts and protocol in WITH_PORTS and complete:
        ports = number(packet.payload[0:2]), number(packet.payload[2:4])
    ends = []
    for address, port in zip((packet.source, packet.destination), ports, strict=True):
        if packet.ethertype == IPV4:
            ends.append(number(address) + (port << 32))
        else:
            ends.append(mix(number(address[:8]) ^ key, number(address[8:]) ^ key) + port & MASK)
    kind = vlan << 24 | packet.ethertype << 8 | (protocol if fields & PROTOCOL and counts else 0)
    return combine(*ends, kind, key)


def flow_hash(frame: bytes, seed: int = SEED, fields: int = FLOW, whole: bool = False) -> int:
    """Return the hash; whole: of a first fragment, that of its datagram in one piece."""
    key = seed ^ PI
    if len(frame) < 12:
        return 0
    macs = number(frame[0:6]), number(frame[6:12])
    vlan, value = 0, None
    ethertype, layer = (big(frame[12:14]), frame[14:]) if len(frame) >= 14 else (0, b"")
    if fields & VLAN and ethertype in TAGS and len(layer) >= 4:
        vlan = big(layer[:2]) & 0xFFF
    if not fields & ADDRESSES:
        return combine(*(macs if fields & MACS else (0, 0)), vlan << 24, key)

    for _ in range(MAX_LAYERS):
        if ethertype in TAGS and len(layer) >= 4:
            ethertype, layer = big(layer[2:4]), layer[4:]
        elif ethertype == FRAME and len(layer) >= 14:
            ethertype, layer = big(layer[12:14]), layer[14:]
        elif ethertype in LABELS and len(layer) > 4:
            bottom, below = layer[2] & 1, layer[4:]
            if not bottom:
                layer = below
            elif below[0] >> 4 == 0:
                ethertype, layer = FRAME, below[4:]
            elif version_type(below):
                ethertype, layer = version_type(below), below
            else:
                break
        elif packet := ip_packet(ethertype, layer, whole):
            value = packet_hash(packet, fields, vlan, key)
            ethertype, layer = (0, b"") if packet.fragment else inside(packet, fields)
        else:
            break
    if value is None:
        kind = ethertype if ethertype >= 0x600 else 0  # below it is a length
        return combine(*macs, vlan << 24 | kind << 8, key)
    return value


# ---- frames --------------------------------------------------------------------------------------

MAC_A, MAC_B = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")
A4, B4 = bytes([10, 0, 0, 1]), bytes([192, 0, 2, 80])
A6 = bytes.fromhex("20010db8000000000000000000000001")
B6 = bytes.fromhex("20010db8000100000000000000000080")


def tag(ethertype: int, tci: int) -> bytes:
    return ethertype.to_bytes(2, "big") + tci.to_bytes(2, "big")


def ether(ethertype: int, payload: bytes, tags: bytes = b"", back: bool = False) -> bytes:
    macs = MAC_B + MAC_A if back else MAC_A + MAC_B
    return macs + tags + ethertype.to_bytes(2, "big") + payload


def layer4(source: int, destination: int) -> bytes:
    return source.to_bytes(2, "big") + destination.to_bytes(2, "big") + bytes(4)


def ipv4(
    protocol: int = TCP,
    source: int = 40000,
    destination: int = 443,
    fragment: int = 0x4000,  # do not fragment
    options: bytes = b"",
    back: bool = False,
) -> bytes:
    ends, numbers = (A4, B4), (source, destination)
    if back:
        ends, numbers = ends[::-1], numbers[::-1]
    rest = options + layer4(*numbers)
    return (
        bytes([0x45 + len(options) // 4, 0])
        + (20 + len(rest)).to_bytes(2, "big")
        + bytes(2)
        + fragment.to_bytes(2, "big")
        + bytes([64, protocol, 0, 0])
        + b"".join(ends)
        + rest
    )


def ipv6(
    protocol: int = TCP, source: int = 40000, destination: int = 443, back: bool = False
) -> bytes:
    ends, numbers = (A6, B6), (source, destination)
    if back:
        ends, numbers = ends[::-1], numbers[::-1]
    return bytes([0x60, 0, 0, 0, 0, 8, protocol, 64]) + b"".join(ends) + layer4(*numbers)


def outer(protocol: int, payload: bytes, back: bool = False, six: bool = False) -> bytes:
    """A frame with a tunnel's packet: its addresses are not those of what it carries."""
    ends = (A6[::-1], B6[::-1]) if six else (A4[::-1], B4[::-1])
    ends = ends[::-1] if back else ends
    if six:
        head = bytes([0x60, 0, 0, 0]) + len(payload).to_bytes(2, "big") + bytes([protocol, 64])
    else:
        size = (20 + len(payload)).to_bytes(2, "big")
        head = bytes([0x45, 0]) + size + bytes([0, 0, 0x40, 0, 64, protocol, 0, 0])
    return ether(IPV6 if six else IPV4, head + b"".join(ends) + payload, back=back)


def udp(port: int, payload: bytes) -> bytes:
    """To a tunnel's port, from one that differs in both directions, as tunnels do."""
    source = 50000 + sum(payload) % 1000
    return layer4(source, port)[:4] + (8 + len(payload)).to_bytes(2, "big") + bytes(2) + payload


def gre(ethertype: int, payload: bytes, flags: int = 0, optional: bytes = b"") -> bytes:
    return flags.to_bytes(2, "big") + ethertype.to_bytes(2, "big") + optional + payload


def extension(following: int, words: int = 0) -> bytes:
    return bytes([following, words]) + bytes(6 + 8 * words)


def extended(first: int, headers: bytes, protocol: int, back: bool = False) -> bytes:
    """IPv6 with extension headers; the last one says that `protocol` follows."""
    packet = ipv6(protocol, back=back)
    return packet[:6] + bytes([first]) + packet[7:40] + headers + packet[40:]


def fragment6(offset: int, more: int, following: int = UDP) -> bytes:
    return bytes([following, 0]) + (offset << 3 | more).to_bytes(2, "big") + bytes([0, 0, 7, 7])


def label(bottom: int) -> bytes:
    return bytes([0, 1, 0x40 + bottom, 64])


def error(kind: int, quoted: bytes) -> bytes:
    return bytes([kind, 0]) + bytes(6) + quoted


def tunnels(back: bool) -> dict[str, bytes]:
    """The packet of "IPv4 TCP" (its names say where: of "IPv6 UDP"), carried in every way."""
    four, six = ipv4(back=back), ipv6(UDP, back=back)
    frame = ether(IPV4, four, back=back)
    tagged = ether(IPV4, four, tag(0x8100, 0x2064), back=back)
    vxlan, gtp = bytes([8, 0, 0, 0, 0, 0, 7, 0]), b"\x30\xff" + bytes(6)
    geneve = bytes([2, 0, 0x65, 0x58, 0, 0, 7, 0]) + bytes(8)
    gtp_extended = b"\x34\xff" + bytes(9) + b"\x85" + b"\x01\x10\x09\xc0" + b"\x02" + bytes(7)
    cases = {
        "GRE": outer(GRE, gre(IPV4, four), back),
        "GRE, checksum, key, sequence": outer(GRE, gre(IPV4, four, 0xB000, bytes(12)), back),
        "GRE, IPv6 UDP": outer(GRE, gre(IPV6, six), back),
        "NVGRE": outer(GRE, gre(FRAME, frame, 0x2000, bytes(4)), back),
        "VXLAN": outer(UDP, udp(VXLAN, vxlan + frame), back),
        "VXLAN, tagged": outer(UDP, udp(VXLAN, vxlan + tagged), back),
        "VXLAN over IPv6": outer(UDP, udp(VXLAN, vxlan + frame), back, six=True),
        "Geneve, options": outer(UDP, udp(GENEVE, geneve + frame), back),
        "GTP-U": outer(UDP, udp(GTPU, gtp + four), back),
        "GTP-U, extension headers": outer(UDP, udp(GTPU, gtp_extended + four), back),
        "GTP-U, IPv6 UDP": outer(UDP, udp(GTPU, gtp + six), back),
        "IP-in-IP": outer(IPIP, four, back),
        "6in4, IPv6 UDP": outer(SIX, six, back),
        "4in6": outer(IPIP, four, back, six=True),
        "6in6, IPv6 UDP": outer(SIX, six, back, six=True),
    }
    cases["GRE in VXLAN"] = outer(UDP, udp(VXLAN, vxlan + cases["GRE"]), back)
    return {name + ", back" * back: frame for name, frame in cases.items()}


def quoted() -> dict[str, bytes]:
    """ICMP errors about the packets of "IPv4 TCP" and "IPv6 UDP", and about a tunnel's."""
    return {
        "ICMP error": outer(ICMP, error(3, ipv4())),
        "ICMP error about the way back": outer(ICMP, error(11, ipv4(back=True))),
        "ICMPv6 error, IPv6 UDP": outer(ICMP6, error(2, ipv6(UDP)), six=True),
        "ICMP error about GRE": outer(ICMP, error(3, outer(GRE, gre(IPV4, ipv4()))[14:]), True),
    }


def cases() -> dict[str, bytes]:
    """Return each case of the definition, named."""
    q, ad, arp = tag(0x8100, 0x2064), tag(0x88A8, 0x07D0), ether(ARP, bytes(28))
    return {
        "IPv4 TCP": ether(IPV4, ipv4()),
        "IPv4 TCP, back": ether(IPV4, ipv4(back=True), back=True),
        "IPv4 UDP": ether(IPV4, ipv4(UDP)),
        "IPv4 UDP, back": ether(IPV4, ipv4(UDP, back=True), back=True),
        "IPv4 SCTP": ether(IPV4, ipv4(SCTP)),
        "IPv4 ICMP: no ports": ether(IPV4, ipv4(ICMP)),
        "IPv4 TCP, equal ports": ether(IPV4, ipv4(source=179, destination=179)),
        "IPv4 TCP behind options": ether(IPV4, ipv4(options=bytes([1]) * 8)),
        "IPv4 UDP, first fragment": ether(IPV4, ipv4(UDP, fragment=0x2000)),
        "IPv4 UDP, later fragment": ether(IPV4, ipv4(UDP, fragment=0x20B9)),
        "IPv4 UDP, last fragment, back": ether(IPV4, ipv4(UDP, fragment=0x0172, back=True)),
        "IPv4, bad version": ether(IPV4, b"\x55" + ipv4()[1:]),
        "IPv4, bad header length": ether(IPV4, b"\x44" + ipv4()[1:]),
        "IPv4, ports cut": ether(IPV4, ipv4())[:37],
        "IPv4, options cut": ether(IPV4, ipv4(options=bytes(8)))[:40],
        "IPv4, header cut": ether(IPV4, ipv4())[:33],
        "IPv6 TCP": ether(IPV6, ipv6()),
        "IPv6 TCP, back": ether(IPV6, ipv6(back=True), back=True),
        "IPv6 UDP": ether(IPV6, ipv6(UDP)),
        "IPv6 ICMPv6: no ports": ether(IPV6, ipv6(58)),
        "IPv6 UDP behind all headers": ether(
            IPV6,
            extended(
                HOPS,
                extension(OPTIONS, 1)
                + extension(ROUTING)
                + extension(AH, 2)
                + extension(FRAGMENT, 2)[:16]
                + fragment6(0, 0),
                UDP,
                back=True,
            ),
            back=True,
        ),
        "IPv6, eight headers": ether(IPV6, extended(HOPS, extension(0) * 7 + extension(UDP), UDP)),
        "IPv6, nine headers": ether(IPV6, extended(HOPS, extension(0) * 8 + extension(UDP), UDP)),
        "IPv6, header beyond the end": ether(IPV6, extended(HOPS, extension(UDP, 9)[:24], UDP)),
        "IPv6 UDP, first fragment": ether(IPV6, extended(FRAGMENT, fragment6(0, 1), UDP)),
        "IPv6 UDP, later fragment": ether(IPV6, extended(FRAGMENT, fragment6(9, 1), UDP)),
        "IPv6 UDP, last fragment, back": ether(
            IPV6, extended(HOPS, extension(FRAGMENT) + fragment6(9, 0), UDP, back=True), back=True
        ),
        "IPv6, ports cut": ether(IPV6, ipv6())[:57],
        "IPv6, header cut": ether(IPV6, ipv6())[:53],
        "802.1Q, IPv4 TCP: as without": ether(IPV4, ipv4(), q),
        "802.1ad, IPv6 UDP: as without": ether(IPV6, ipv6(UDP), ad),
        "QinQ, IPv4 UDP, back: as without": ether(IPV4, ipv4(UDP, back=True), ad + q, back=True),
        "three tags, IPv4 TCP: as without": ether(IPV4, ipv4(), ad + q + q),
        "15 tags, IPv4 TCP: as without": ether(IPV4, ipv4(), ad + 14 * q),
        "16 tags: by MACs": ether(IPV4, ipv4(), ad + 15 * q),
        "tag cut": ether(IPV4, ipv4(), q)[:17],
        "MPLS, IPv4 TCP: as without": ether(0x8847, label(0) + label(1) + ipv4()),
        "MPLS, IPv6 UDP, back: as without": ether(
            0x8848, label(1) + ipv6(UDP, back=True), q, back=True
        ),
        "pseudowire, IPv4 TCP: as without": ether(
            0x8847, label(1) + bytes(4) + ether(IPV4, ipv4(back=True), q, back=True)
        ),
        "MPLS, neither: by MACs": ether(0x8847, label(1) + b"\x10" + bytes(40)),
        "MPLS, no bottom: by MACs": ether(0x8847, label(0) * 9),
        "ARP": arp,
        "ARP, back": ether(ARP, bytes(28), back=True),
        "802.3 with LLC: by MACs": ether(38, b"\x42\x42\x03" + bytes(35)),
        "802.3 with LLC, another length, back": ether(40, b"\x42\x42\x03" + bytes(37), back=True),
        "MACs alone": MAC_A + MAC_B,
        "less than MACs": (MAC_A + MAC_B)[:11],
        "nothing": b"",
        **tunnels(back=False),
        **tunnels(back=True),
        **quoted(),
        "VXLAN, ARP: by the tunnel": outer(UDP, udp(VXLAN, bytes([8] + 7 * [0]) + arp)),
        "GRE, version 1: by the tunnel": outer(GRE, gre(IPV4, ipv4(), 1)),
        "GTP', not GTP-U: by the tunnel": outer(UDP, udp(GTPU, b"\x20\xff" + bytes(6) + ipv4())),
        "ICMP echo": outer(ICMP, error(8, ipv4())),
    }


def vectors() -> Iterator[dict[str, object]]:
    """Return what docs/hash-vectors.json holds: each case, and some again: deeper, otherwise."""
    frames = cases()
    asked = [(name, "hash", SEED) for name in frames]
    asked += [(name, "hash+inner", SEED) for back in (False, True) for name in tunnels(back)]
    asked += [(name, "hash+icmp", SEED) for name in quoted()]
    asked += [(name, "hash+inner+icmp", SEED) for name in (*quoted(), "GRE", "ICMP echo")]
    asked += [(name, "hash+inner", SEED) for name in frames if "by the tunnel" in name]
    various = ("IPv4 TCP", "IPv6 UDP", "QinQ, IPv4 UDP, back: as without", "VXLAN, tagged", "ARP")
    asked += [(name, word, SEED) for name in various for word in WORDS if "hash" not in word]
    seeded = ("IPv4 TCP", "IPv4 TCP, back", "IPv6 UDP", "ARP", "nothing")
    asked += [(name, "hash", OTHER_SEED) for name in seeded]
    for name, word, seed in asked:
        value = flow_hash(frames[name], seed, WORDS[word])
        yield {"frame": frames[name].hex(), "mode": word, "seed": seed, "hash": value}


if __name__ == "__main__":
    print("[\n " + ",\n ".join(map(json.dumps, vectors())) + "\n]")
