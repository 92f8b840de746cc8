"""Mixed traffic: both directions of 500 flows, IPv4 and IPv6, TCP and UDP, some with a VLAN tag.

Usage: traffic.py DEVICE SECONDS PACKETS_PER_SECOND
"""

import random
import socket
import struct
import sys
import time


def frame(source: bytes, destination: bytes, ports: tuple[int, int], vlan: int, tcp: bool) -> bytes:
    """Make an Ethernet frame: IPv4 or IPv6 by the addresses' length."""
    data = bytes(18)
    if tcp:
        segment = struct.pack(">HHIIBBHHH", *ports, 0, 0, 0x50, 0x10, 8192, 0, 0) + data
    else:
        segment = struct.pack(">HHHH", *ports, 8 + len(data), 0) + data
    protocol = 6 if tcp else 17
    if len(source) == 4:
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, protocol, 0)
        kind = 0x0800
    else:
        header = struct.pack(">IHBB", 6 << 28, len(segment), protocol, 64)
        kind = 0x86DD
    tag = struct.pack(">HH", 0x8100, vlan) if vlan else b""
    macs = b"\2\0\0\0\0\2\2\0\0\0\0\1"
    packet = macs + tag + struct.pack(">H", kind) + header + source + destination + segment
    return packet.ljust(60, b"\0")


def mixed_flows(count: int) -> list[bytes]:
    rng, frames = random.Random(1), []
    for _ in range(count):
        size = rng.choice((4, 4, 4, 16))
        a, b = rng.randbytes(size), rng.randbytes(size)
        x, y = rng.randrange(1024, 65536), rng.choice((53, 80, 443))
        vlan, tcp = rng.choice((0, 0, 100)), rng.random() < 0.7
        frames += [frame(a, b, (x, y), vlan, tcp), frame(b, a, (y, x), vlan, tcp)]
    return frames


def main() -> None:
    device, seconds, rate = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind((device, 0))
    frames, sent, start = mixed_flows(500), 0, time.monotonic()
    while (now := time.monotonic() - start) < seconds:
        while sent < now * rate:
            s.send(frames[sent % len(frames)])
            sent += 1
        time.sleep(0.001)
    print(sent)


main()
