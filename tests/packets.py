"""Odd packets, made from the RFCs, and which of them must meet one worker.

`frames()` is the corpus: every frame by its name.  `meetings()` says, for a fan-out word, what must
have one hash: the two directions of a flow, and the flow on its own with the same flow in whatever
it is wrapped.  `partings()` says what must not: else all would meet by being overlooked.

All wrapped flows are one: TCP or UDP between A port 40000 and B port 443.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address

IPV4, IPV6, ARP, MPLS, FRAME = 0x0800, 0x86DD, 0x0806, 0x8847, 0x6558  # ethertypes
ICMP, IPIP, TCP, UDP, SIT, GRE, ICMPV6, SCTP = 1, 4, 6, 17, 41, 47, 58, 132  # IP protocols
HOPS, ROUTING, FRAGMENT, AH, NONE, OPTIONS = 0, 43, 44, 51, 59, 60  # IPv6 extension headers

A4, B4, OUTER4 = "10.0.0.1", "192.0.2.80", ("172.16.0.1", "172.16.9.9")
A6, B6, OUTER6 = "2001:db8::1", "2001:db8:1::80", ("fd00::1", "fd00::9:9")
ROUTER4, ROUTER6 = "203.0.113.7", "2001:db8:ffff::7"

# ---- layers ------------------------------------------------------------------------------------


def ether(kind: int, payload: bytes, back: bool = False, tags: bytes = b"") -> bytes:
    """Make a frame; shorter than 60 bytes it is padded, as on the wire."""
    macs = [b"\2\0\0\0\0\x0a", b"\2\0\0\0\0\x0b"]
    frame = b"".join(macs[::-1] if back else macs) + tags + struct.pack(">H", kind) + payload
    return frame.ljust(60, b"\0")


def tag(vlan: int, kind: int = 0x8100) -> bytes:
    return struct.pack(">HH", kind, vlan)


def ipv4(
    ends: tuple[str, str],
    protocol: int,
    payload: bytes,
    options: bytes = b"",
    identification: int = 0,
    fragment: int = 0,
) -> bytes:
    """`fragment`: the flags and the offset, as they are in the header."""
    words, length = 5 + len(options) // 4, 20 + len(options) + len(payload)
    head = struct.pack(">BBHHHBBH", 64 + words, 0, length, identification, fragment, 9, protocol, 0)
    return head + b"".join(ip_address(end).packed for end in ends) + options + payload


def ipv6(ends: tuple[str, str], following: int, payload: bytes) -> bytes:
    head = struct.pack(">IHBB", 6 << 28, len(payload), following, 9)
    return head + b"".join(ip_address(end).packed for end in ends) + payload


def ip(ends: tuple[str, str], protocol: int, payload: bytes) -> tuple[int, bytes]:
    """Return the ethertype and the packet, of whichever version the addresses are."""
    six = ":" in ends[0]
    return (IPV6, ipv6(ends, protocol, payload)) if six else (IPV4, ipv4(ends, protocol, payload))


def extension(following: int, size: int = 8) -> bytes:
    """Hop-by-hop options, routing and destination options look alike: PadN fills them."""
    return struct.pack(">BBBB", following, size // 8 - 1, 1, size - 4).ljust(size, b"\0")


def authentication(following: int) -> bytes:  # RFC 4302: the length is in words, less two
    return struct.pack(">BBHII", following, 4, 0, 77, 1) + bytes(12)


def fragment_header(following: int, offset: int, more: int, identification: int) -> bytes:
    return struct.pack(">BBHI", following, 0, offset << 3 | more, identification)


def segment(protocol: int, source: int, destination: int, payload: bytes = b"") -> bytes:
    ports = struct.pack(">HH", source, destination)
    if protocol == TCP:
        return ports + struct.pack(">IIHHHH", 1, 2, 5 << 12 | 16, 9000, 0, 0) + payload
    if protocol == SCTP:
        return ports + bytes(8) + payload
    return ports + struct.pack(">HH", 8 + len(payload), 0) + payload


def label(value: int, bottom: bool) -> bytes:
    return struct.pack(">I", value << 12 | bottom << 8 | 64)


def gre(kind: int, payload: bytes, *, checksum=False, key=False, sequence=False) -> bytes:
    """RFC 2784, and 2890 for the key and the sequence number."""
    flags = checksum << 15 | key << 13 | sequence << 12
    return struct.pack(">HH", flags, kind) + bytes(4 * (checksum + key + sequence)) + payload


def vxlan(frame: bytes) -> bytes:  # RFC 7348; the source port is of the inner flow, so it varies
    return segment(UDP, 50000 + frame[-1], 4789, b"\x08\0\0\0\0\0\x2a\0" + frame)


def geneve(kind: int, payload: bytes, options: bytes = b"") -> bytes:  # RFC 8926
    head = struct.pack(">BBHI", len(options) // 4, 0, kind, 42 << 8)
    return segment(UDP, 51000 + payload[-1], 6081, head + options + payload)


def gtpu(packet: bytes, *, sequence: bool = False, extensions: int = 0) -> bytes:
    """3GPP TS 29.281; `extensions`: PDU session containers (0x85), of 1, 2, … words."""
    optional = b""
    if sequence or extensions:
        optional = b"\0\7\0" + (b"\x85" if extensions else b"\0")
        for i in range(extensions):
            following = b"\x85" if i + 1 < extensions else b"\0"
            optional += bytes([i + 1]) + bytes(4 * i + 2) + following
    flags = 0x30 | (4 if extensions else 0) | (2 if sequence else 0)
    head = struct.pack(">BBHI", flags, 255, len(optional) + len(packet), 0xABCD)
    return segment(UDP, 2152, 2152, head + optional + packet)


def error(quoted: bytes, kind: int = 3) -> bytes:
    """An ICMP or ICMPv6 error, which quotes the packet that it is about."""
    return struct.pack(">BBHI", kind, 1, 0, 0) + quoted


# ---- one flow, in many guises --------------------------------------------------------------------


class Flow:
    """TCP or UDP between A and B; called, it gives the packet of a direction."""

    def __init__(self, six: bool, protocol: int = TCP, ports: tuple[int, int] = (40000, 443)):
        self.six, self.protocol, self.ports = six, protocol, ports
        self.kind = IPV6 if six else IPV4
        self.name = f"IPv{6 if six else 4} {'TCP' if protocol == TCP else 'UDP'}"

    def ends(self, back: bool) -> tuple[str, str]:
        a, b = (A6, B6) if self.six else (A4, B4)
        return (b, a) if back else (a, b)

    def segment(self, back: bool, payload: bytes = b"data") -> bytes:
        a, b = self.ports
        return segment(self.protocol, *((b, a) if back else (a, b)), payload)

    def packet(self, back: bool) -> bytes:
        return ip(self.ends(back), self.protocol, self.segment(back))[1]

    def frame(self, back: bool) -> bytes:
        return ether(self.kind, self.packet(back), back)


def outside(six: bool, protocol: int, payload: bytes, back: bool) -> bytes:
    ends = OUTER6 if six else OUTER4
    return ether(*ip(ends[::-1] if back else ends, protocol, payload), back)


Guise = Callable[[Flow, bool], bytes]  # (flow, back) -> frame

# What is stepped over whatever the word: tags, labels, options.
PLAIN: dict[str, Guise] = {
    "802.1Q": lambda f, back: ether(f.kind, f.packet(back), back, tag(100)),
    "802.1ad": lambda f, back: ether(f.kind, f.packet(back), back, tag(7, 0x88A8)),
    "QinQ": lambda f, back: ether(f.kind, f.packet(back), back, tag(7, 0x88A8) + tag(100)),
    "three tags": lambda f, back: ether(f.kind, f.packet(back), back, tag(7, 0x88A8) + tag(1) * 2),
    "one label": lambda f, back: ether(MPLS, label(18 + back, True) + f.packet(back), back),
    "three labels": lambda f, back: ether(
        MPLS, label(18, False) + label(7, False) + label(99 + back, True) + f.packet(back), back
    ),
    "tag, label": lambda f, back: ether(MPLS, label(18, True) + f.packet(back), back, tag(100)),
    "multicast label": lambda f, back: ether(0x8848, label(18, True) + f.packet(back), back),
    "pseudowire": lambda f, back: ether(
        MPLS, label(18, False) + label(19, True) + bytes(4) + f.frame(back), back
    ),
}
OPTIONS4: dict[str, Guise] = {
    f"{size} bytes of options": lambda f, back, size=size: ether(
        IPV4, ipv4(f.ends(back), f.protocol, f.segment(back), b"\1" * size), back
    )
    for size in (4, 8, 40)
}


def behind(*headers: tuple[int, int]) -> Guise:
    """Extension headers (number, size), one behind the other."""

    def make(f: Flow, back: bool) -> bytes:
        following, rest = f.protocol, f.segment(back)
        for number, size in reversed(headers):
            if number == AH:
                rest = authentication(following) + rest
            elif number == FRAGMENT:  # an "atomic fragment" (RFC 6946): it is a whole datagram
                rest = fragment_header(following, 0, 0, 5) + rest
            else:
                rest = extension(following, size) + rest
            following = number
        return ether(IPV6, ipv6(f.ends(back), following, rest), back)

    return make


EXTENSIONS6: dict[str, Guise] = {
    "hop-by-hop": behind((HOPS, 8)),
    "a large hop-by-hop": behind((HOPS, 256)),
    "routing": behind((ROUTING, 24)),
    "destination options": behind((OPTIONS, 16)),
    "authentication": behind((AH, 24)),
    "an atomic fragment": behind((FRAGMENT, 8)),
    "an atomic fragment, options": behind((FRAGMENT, 8), (OPTIONS, 8)),
    "all of them": behind(
        (HOPS, 8), (OPTIONS, 8), (ROUTING, 8), (FRAGMENT, 8), (AH, 24), (OPTIONS, 8)
    ),
}


def tunnels(six: bool) -> dict[str, Guise]:
    """Return what `+inner` looks into, over IPv4 or IPv6."""

    def over(protocol: int, make: Callable[[Flow, bool], bytes]) -> Guise:
        return lambda f, back: outside(six, protocol, make(f, back), back)

    return {
        "IP in IP": lambda f, back: outside(six, SIT if f.six else IPIP, f.packet(back), back),
        "GRE": over(GRE, lambda f, back: gre(f.kind, f.packet(back))),
        "GRE, keyed": over(GRE, lambda f, back: gre(f.kind, f.packet(back), key=True)),
        "GRE, all fields": over(
            GRE,
            lambda f, back: gre(f.kind, f.packet(back), checksum=True, key=True, sequence=True),
        ),
        "GRE, a frame": over(GRE, lambda f, back: gre(FRAME, f.frame(back), key=True)),
        "GRE, a label": over(
            GRE, lambda f, back: gre(MPLS, label(18 + back, True) + f.packet(back))
        ),
        "VXLAN": over(UDP, lambda f, back: vxlan(f.frame(back))),
        "VXLAN, tagged": over(
            UDP, lambda f, back: vxlan(ether(f.kind, f.packet(back), back, tag(5)))
        ),
        "Geneve": over(UDP, lambda f, back: geneve(FRAME, f.frame(back))),
        "Geneve, options": over(UDP, lambda f, back: geneve(FRAME, f.frame(back), bytes(252))),
        "Geneve, IP": over(UDP, lambda f, back: geneve(f.kind, f.packet(back))),
        "GTP-U": over(UDP, lambda f, back: gtpu(f.packet(back))),
        "GTP-U, numbered": over(UDP, lambda f, back: gtpu(f.packet(back), sequence=True)),
        "GTP-U, extensions": over(UDP, lambda f, back: gtpu(f.packet(back), extensions=2)),
        "GRE in GRE": over(
            GRE, lambda f, back: gre(*ip(OUTER4, GRE, gre(f.kind, f.packet(back))), key=True)
        ),
        "GTP-U in VXLAN": over(
            UDP, lambda f, back: vxlan(outside(False, UDP, gtpu(f.packet(back)), back))
        ),
    }


def quoted(kind: int, size: int | None = None) -> Guise:
    """The error that a router on the way sends to the flow's sender."""

    def make(f: Flow, back: bool) -> bytes:
        router, sender = (ROUTER6 if f.six else ROUTER4), f.ends(back)[0]
        packet = f.packet(back)[:size]
        return ether(*ip((router, sender), ICMPV6 if f.six else ICMP, error(packet, kind)), back)

    return make


ERRORS4: dict[str, Guise] = {f"ICMP {kind}": quoted(kind) for kind in (3, 4, 5, 11, 12)} | {
    "ICMP 3, quoting 28 bytes": quoted(3, 28)
}
ERRORS6: dict[str, Guise] = {f"ICMPv6 {kind}": quoted(kind) for kind in (1, 2, 3, 4)}

# ---- fragments ---------------------------------------------------------------------------------


def split(
    kind: int, ends: tuple[str, str], protocol: int, whole: bytes, first: int = 32
) -> list[bytes]:
    """Make three fragments of a datagram's payload; `first`: bytes in the first."""
    cuts = [whole[:first], whole[first : first + 16], whole[first + 16 :]]
    made, offset = [], 0
    for cut in cuts:
        more, place = cut is not cuts[-1], offset // 8
        if kind == IPV6:
            packet = ipv6(ends, FRAGMENT, fragment_header(protocol, place, more, 5) + cut)
        else:
            packet = ipv4(ends, protocol, cut, b"", 5, more << 13 | place)
        made.append(ether(kind, packet))
        offset += len(cut)
    return made


def pieces(f: Flow, back: bool) -> list[bytes]:
    return split(f.kind, f.ends(back), f.protocol, f.segment(back, bytes(range(200, 248))))


# ---- the corpus ----------------------------------------------------------------------------------

FLOWS = [Flow(six, protocol) for six in (False, True) for protocol in (TCP, UDP)]


def guises(f: Flow, word: str) -> dict[str, Guise]:
    """Return what a word makes look like the flow itself."""
    found = PLAIN | (EXTENSIONS6 if f.six else OPTIONS4)
    if "inner" in word:
        found |= tunnels(False) | {f"{name}, over IPv6": g for name, g in tunnels(True).items()}
    if "icmp" in word:
        found |= ERRORS6 if f.six else ERRORS4
    return found


def meetings(word: str) -> Iterator[tuple[str, list[bytes]]]:
    """Yield (name, frames that must have one hash) for "hash", "hash+inner", …"""
    for f in FLOWS:
        yield f.name, [f.frame(False), f.frame(True)]
        for name, guise in guises(f, word).items():
            yield f"{f.name}, {name}", [f.frame(False), guise(f, False), guise(f, True)]
        yield f"{f.name}, fragments", pieces(f, False) + pieces(f, True)
    if "inner" in word and "icmp" in word:
        for f in FLOWS[:2]:
            tunnel = gre(f.kind, f.packet(False))
            refused = error(ipv4(OUTER4, GRE, tunnel))
            frame = ether(IPV4, ipv4((ROUTER4, OUTER4[0]), ICMP, refused))
            yield f"{f.name}, ICMP about a tunnel", [f.frame(True), frame]
    for six in (False, True):
        there = ip((A6, B6) if six else (A4, B4), SCTP, segment(SCTP, 5000, 6000))
        back = ip((B6, A6) if six else (B4, A4), SCTP, segment(SCTP, 6000, 5000))
        yield f"SCTP over {there[0]:04x}", [ether(*there), ether(*back, back=True)]
    yield "ARP", [ether(ARP, bytes(28)), ether(ARP, b"\1" * 28, back=True)]
    yield (
        "LLC, whatever its length",
        [
            ether(length, bytes([0x42, 0x42, 3]) + bytes(length), length == 38)
            for length in (38, 39)
        ],
    )


def datagrams() -> Iterator[tuple[str, str, bytes, list[bytes]]]:
    """Yield (name, word, the flow in one piece, a datagram of it in pieces) for `defrag`."""
    for f in FLOWS:
        yield f.name, "hash", f.frame(True), pieces(f, False)
        if f.six:  # options that the first piece alone has
            payload = extension(f.protocol) + f.segment(False, bytes(60))
            made = split(IPV6, f.ends(False), OPTIONS, payload)
            yield f"{f.name}, options", "hash", f.frame(True), made
        tunnel = gre(f.kind, f.packet(False) + bytes(60))
        made = split(IPV4, OUTER4, GRE, tunnel, 96)
        yield f"{f.name} in GRE", "hash+inner", f.frame(True), made
        made = split(IPV6, OUTER6, UDP, vxlan(f.frame(False) + bytes(60)), 96)
        yield f"{f.name} in VXLAN over IPv6", "hash+inner", f.frame(True), made


def partings(word: str) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield (name, frame, frame) that must not have one hash: other ports, in the same guise."""
    for f in FLOWS:
        other = Flow(f.six, f.protocol, (40001, 443))
        for name, guise in guises(f, word).items():
            yield f"{f.name}, {name}", guise(f, False), guise(other, False)


def malformed() -> Iterator[tuple[str, bytes]]:
    """Yield (name, frame) that no parser likes."""
    f4, f6 = FLOWS[0], FLOWS[2]
    yield "nothing", b""
    yield "an IPv4 header of 60 bytes, 20 there", ether(IPV4, b"\x4f" + f4.packet(False)[1:20])
    yield "an IPv4 header of 16 bytes", ether(IPV4, b"\x44" + f4.packet(False)[1:])
    yield "IPv4 that says 6", ether(IPV4, f6.packet(False))
    yield "IPv6 that says 4", ether(IPV6, f4.packet(False))
    yield "tags without end", ether(0x8100, struct.pack(">HH", 1, 0x8100) * 40)
    yield "labels without bottom", ether(MPLS, label(1, False) * 40)
    yield "a bottom and nothing", ether(MPLS, b"")[:14] + label(1, True)
    yield "headers without end", ether(IPV6, ipv6((A6, B6), HOPS, extension(HOPS) * 40))
    yield "a header of 2048 bytes", ether(IPV6, ipv6((A6, B6), HOPS, b"\x06\xff" + bytes(6)))
    yield "GRE with source routes", outside(False, GRE, b"\x40\0\x08\0" + f4.packet(False), False)
    yield "PPTP", outside(False, GRE, b"\x20\x01\x88\x0b" + bytes(8), False)
    yield "VXLAN without a frame", outside(False, UDP, vxlan(b"\1"), False)
    yield "Geneve, options cut", outside(False, UDP, geneve(FRAME, b"\1", bytes(252))[:40], False)
    yield (
        "GTP-U, an extension of no length",
        outside(False, UDP, gtpu(bytes(8), extensions=1), True),
    )
    packet = f4.packet(False)
    for _ in range(40):
        packet = ipv4(OUTER4, IPIP, packet)
    yield "forty times IP in IP", ether(IPV4, packet)
    for _ in range(20):
        packet = error(ipv4(OUTER4, ICMP, packet))
    yield "errors about errors", ether(IPV4, ipv4(OUTER4, ICMP, packet))


def frames() -> dict[str, bytes]:
    """Return the whole corpus."""
    found = {}
    for name, made in meetings("hash+inner+icmp"):
        found |= {f"{name} {i}": frame for i, frame in enumerate(made)}
    found |= {
        f"{name}, piece {i}": frame
        for name, _, _, made in datagrams()
        for i, frame in enumerate(made)
    }
    return found | dict(malformed())


def damaged(seed: int, count: int) -> Iterator[bytes]:
    """Yield frames of the corpus with some bytes overwritten and an end cut off."""
    draw, corpus = random.Random(seed), [bytearray(f) for f in frames().values() if f]
    for _ in range(count):
        frame = bytearray(draw.choice(corpus))
        for _ in range(draw.randrange(4)):
            frame[draw.randrange(min(len(frame), 100))] = draw.randrange(256)
        yield bytes(frame[: draw.randrange(len(frame) + 1)])
