"""Made traffic: both directions of many flows, of chosen sizes and kinds.  The same seed gives the
same frames.
"""

from __future__ import annotations

import errno
import random
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fal import frames
from fal.errors import FalError
from fal.frames import Endpoint

LONGEST = 65535
PACKETS = 4096  # made at least, so that a few flows show all sizes, too
IMIX = ((60, 590, 1514), (7, 4, 1))  # sizes and their shares
PORTS = (53, 80, 443, 8080)
VLANS = 4094
BLANK = bytes(18)  # with so much in it, no frame is padded

Build = Callable[[Endpoint, Endpoint, bytes], bytes]


@dataclass(frozen=True)
class Mix:
    """What traffic is to be like; the shares are from 0 to 1.

    ipv6, vlan and tunnels are shares of the flows, fragments one of the packets, each of which is
    sent in two pieces.
    """

    flows: int = 1000
    sizes: str = "64"  # bytes of a frame: N, N-M or "imix"; more where its headers need more
    seed: int = 1
    ipv6: float = 0.0
    vlan: float = 0.0
    fragments: float = 0.0
    tunnels: float = 0.0


def size_range(text: str, longest: int) -> tuple[int, int]:
    """Return the least and the most of "64" or "64-1514", (0, 0) of "imix"; EINVAL for others."""
    if text == "imix":
        return 0, 0
    if match := re.fullmatch(r"(\d+)(?:-(\d+))?", text, re.ASCII):
        low, high = int(match[1]), int(match[2] or match[1])
        if frames.SHORTEST <= low <= high <= longest:
            return low, high
    raise FalError(
        errno.EINVAL,
        f"'{text}' is neither 'imix' nor sizes from {frames.SHORTEST} to {longest}"
        " (write 64 or 64-1514)",
    )


def sizes_of(text: str) -> Callable[[random.Random], int]:
    """Return what draws sizes; EINVAL for what is none."""
    low, high = size_range(text, LONGEST)
    if not high:
        return lambda draw: draw.choices(*IMIX)[0]
    return lambda draw: draw.randint(low, high)


class Flow:
    """Two ends, and how a packet from one to the other is made."""

    def __init__(self, draw: random.Random, mix: Mix) -> None:
        six = draw.random() < mix.ipv6
        self.ends = self._ends(draw, six)
        self.vlan = draw.randint(1, VLANS) if draw.random() < mix.vlan else None
        self.packet: Build = frames.tcp_packet if draw.random() < 0.7 else frames.udp_packet
        if draw.random() < mix.tunnels:
            self.packet = self._tunnelled(draw)
        self.overhead = len(frames.ethernet(self.packet(*self.ends, BLANK), self.vlan)) - len(BLANK)

    @staticmethod
    def _ends(draw: random.Random, six: bool) -> tuple[Endpoint, Endpoint]:
        """Draw a client and a server, both of private address ranges."""
        if six:
            family, network = socket.AF_INET6, b"\xfd" + bytes(7)
        else:
            family, network = socket.AF_INET, b"\x0a"
        size = (16 if six else 4) - len(network)
        client, server = (
            socket.inet_ntop(family, network + draw.randbytes(size)) for _ in range(2)
        )
        return (client, draw.randint(1024, 65535)), (server, draw.choice(PORTS))

    def _tunnelled(self, draw: random.Random) -> Build:
        inner, tunnel = self.packet, draw.choice(frames.TUNNELS)
        outer = dict(zip(self.ends, self._ends(draw, six=False), strict=True))

        def packet(source: Endpoint, destination: Endpoint, payload: bytes) -> bytes:
            return tunnel(inner(source, destination, payload), outer[source], outer[destination])

        return packet

    def frames(self, draw: random.Random, size: int, back: bool, cut: bool) -> list[bytes]:
        """Make a packet: one frame, or the two pieces that it is cut into."""
        source, destination = reversed(self.ends) if back else self.ends
        payload = draw.randbytes(max(size - self.overhead, 8 if cut else 0))
        packet = self.packet(source, destination, payload)
        pieces: Sequence[bytes] = (packet,)
        if cut:
            header = 40 if frames.ethertype(packet) == 0x86DD else 20
            half = max(8, (len(packet) - header) // 16 * 8)
            pieces = frames.fragments(packet, half, draw.getrandbits(16))
        return [frames.ethernet(piece, self.vlan) for piece in pieces]


def made(mix: Mix) -> list[bytes]:
    """Make the frames: round after round, in each all flows in another order, there and back."""
    draw, size = random.Random(mix.seed), sizes_of(mix.sizes)
    flows = [Flow(draw, mix) for _ in range(mix.flows)]
    found: list[bytes] = []
    for _ in range(max(1, PACKETS // (2 * mix.flows))):
        draw.shuffle(flows)
        for flow in flows:
            for back in (False, True):
                found += flow.frames(draw, size(draw), back, draw.random() < mix.fragments)
    return found
