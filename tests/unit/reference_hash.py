# SPDX-License-Identifier: BSD-3-Clause
"""The flow hash once more, in plain Python, after docs/fanout.md and not after the C code.

Run as a program, it prints docs/hash-vectors.json.
"""

import json
from collections.abc import Iterator

SEED = int.from_bytes(b"FAL-hash", "big")
OTHER_SEED = 0x0123456789ABCDEF
PI = 0x243F6A8885A308D3  # the first 64 bits of its fraction
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd
MASK = 2**64 - 1

TAGS = (0x8100, 0x88A8)
IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
TCP, UDP, SCTP, ICMP = 6, 17, 132, 1
WITH_PORTS = (TCP, UDP, SCTP)


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def mix(a: int, b: int) -> int:
    upper, lower = divmod(a * b, 2**64)
    return ((lower ^ upper) + 2 * a + 4 * b) & MASK


def combine(one: int, other: int, kind: int, key: int) -> int:
    low, high = sorted((one, other))
    upper, lower = divmod(mix(low ^ key, high ^ key) * (GOLDEN + 2 * kind), 2**64)
    return (upper ^ lower) >> 32


def ports(protocol: int, layer: bytes) -> tuple[int, int]:
    if protocol not in WITH_PORTS or len(layer) < 4:
        return 0, 0
    return number(layer[0:2]), number(layer[2:4])


def flow_hash(frame: bytes, seed: int = SEED) -> int:
    key = seed ^ PI
    if len(frame) < 12:
        return 0
    ethertype, layer = 0, b""
    if len(frame) >= 14:
        ethertype, layer = int.from_bytes(frame[12:14], "big"), frame[14:]
        for _ in range(2):
            if ethertype in TAGS and len(layer) >= 4:
                ethertype, layer = int.from_bytes(layer[2:4], "big"), layer[4:]

    if ethertype == IPV4 and len(layer) >= 20 and layer[0] >> 4 == 4 and layer[0] & 15 >= 5:
        protocol, fragment = layer[9], int.from_bytes(layer[6:8], "big") & 0x3FFF
        source, destination = ports(protocol, b"" if fragment else layer[(layer[0] & 15) * 4 :])
        one = number(layer[12:16]) + (source << 32)
        other = number(layer[16:20]) + (destination << 32)
        return combine(one, other, IPV4 * 256 + protocol, key)

    if ethertype == IPV6 and len(layer) >= 40 and layer[0] >> 4 == 6:
        protocol = layer[6]
        source, destination = ports(protocol, layer[40:])
        one = mix(number(layer[8:16]) ^ key, number(layer[16:24]) ^ key) + source
        other = mix(number(layer[24:32]) ^ key, number(layer[32:40]) ^ key) + destination
        return combine(one & MASK, other & MASK, IPV6 * 256 + protocol, key)

    return combine(number(frame[0:6]), number(frame[6:12]), ethertype * 256, key)


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


def cases() -> dict[str, bytes]:
    """Return each case of the definition, named."""
    q, ad = tag(0x8100, 0x2064), tag(0x88A8, 0x07D0)
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
        "IPv6, fragment header: not stepped over": ether(IPV6, ipv6(44)),
        "IPv6, ports cut": ether(IPV6, ipv6())[:57],
        "IPv6, header cut": ether(IPV6, ipv6())[:53],
        "802.1Q, IPv4 TCP: as without": ether(IPV4, ipv4(), q),
        "802.1ad, IPv6 UDP: as without": ether(IPV6, ipv6(UDP), ad),
        "QinQ, IPv4 UDP, back: as without": ether(IPV4, ipv4(UDP, back=True), ad + q, back=True),
        "three tags: by MACs": ether(IPV4, ipv4(), ad + q + q),
        "tag cut": ether(IPV4, ipv4(), q)[:17],
        "ARP": ether(ARP, bytes(28)),
        "ARP, back": ether(ARP, bytes(28), back=True),
        "MACs alone": MAC_A + MAC_B,
        "less than MACs": (MAC_A + MAC_B)[:11],
        "nothing": b"",
    }


def vectors() -> Iterator[dict[str, object]]:
    """Return what docs/hash-vectors.json holds: each case once, some with another seed too."""
    for frame in cases().values():
        yield {"frame": frame.hex(), "mode": "hash", "seed": SEED, "hash": flow_hash(frame)}
    for name in ("IPv4 TCP", "IPv4 TCP, back", "IPv6 UDP", "ARP", "nothing"):
        frame = cases()[name]
        value = flow_hash(frame, OTHER_SEED)
        yield {"frame": frame.hex(), "mode": "hash", "seed": OTHER_SEED, "hash": value}


if __name__ == "__main__":
    print("[\n " + ",\n ".join(map(json.dumps, vectors())) + "\n]")
