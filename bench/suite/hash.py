"""The flow hash: how even a load it makes, and what it costs.

Load is that of the fullest worker over the mean, the worst of groups of 2 to 64, with 20,000 flows
of TCP that count once each.  Ours is the poller's hash and its table of buckets; the ids of members
are drawn anew each round, as are the networks, servers and ports of a pattern.  The peers are given
`hash % workers`, which suits them better than a NIC's table of 128 entries would.

By chance alone 1.2 is not rare; a peer that comes to 1 counts as its pattern does.

Cost is that of parse, hash and descriptor, with packets in the cache: the mix of `fanout`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers.hashes import TCP, Flows, Words, additive, toeplitz
from trials import Case, Rival, Trial, instructions, play, program, results

from fal.bindings import ffi, lib

FLOWS = 20_000
WORKERS = range(2, 65)
EVEN = "<=1.35"
CHEAP = "<=70"  # instructions a packet

# ---- patterns: flow i, of a network, a server and a port that are drawn -------------------------

I = np.arange(FLOWS, dtype=np.uint32)  # noqa: E741
NET6 = 0x20010DB8
PORT = np.uint32(0xFFFF)


def column(value: Any) -> Words:
    return np.broadcast_to(np.asarray(value, np.uint32), FLOWS)


def flows4(source: Any, destination: Any, source_port: Any, destination_port: Any) -> Flows:
    ends = column(source)[:, None], column(destination)[:, None]
    ports = column(source_port) & PORT, column(destination_port) & PORT
    return Flows(*ends, *ports)


def flows6(source: list[Any], destination: list[Any], ports: tuple[int, int]) -> Flows:
    """Of the addresses: words 1, 2 and 3."""
    one, other = (np.stack([column(w) for w in (NET6, *end)], 1) for end in (source, destination))
    return Flows(one, other, column(ports[0]), column(ports[1]))


def at_random(r: Random) -> Flows:
    draw = np.random.default_rng(r.getrandbits(64)).integers
    return flows4(*(draw(0, 2**32, FLOWS, np.uint32) for _ in range(4)))


def patterns(r: Random) -> dict[str, Callable[[], Flows]]:
    net, other_net = (10 << 24) + (r.getrandbits(7) << 17), (172 << 24) + (r.getrandbits(7) << 17)
    server, port, service = r.getrandbits(32), 1024 + r.randrange(20000), r.randrange(1024)
    low, high = I & 255, I >> 8
    server6 = [r.getrandbits(32), 0, r.getrandbits(8)]
    return {
        "random": partial(at_random, r),
        "clients": lambda: flows4(net + I, server, port, service),
        "clients-and-ports": lambda: flows4(net + I, server, port + I, service),
        "ports": lambda: flows4(net, server, port + I, service),
        "scan": lambda: flows4(server, net + I, port, service),
        "mirrored": lambda: flows4(net + I, other_net + I, port, port),
        "swapped": lambda: flows4(
            net + 256 * low + high, net + 256 * high + low, port + high, port + low
        ),
        "grid": lambda: flows4(net + I % 200, other_net + I // 200, service, service),
        "subnets": lambda: flows4((I << 14) + 1, server, port, service),
        "ipv6-hosts": lambda: flows6([0, 0, 1 + I], server6, (port, service)),
        "ipv6-networks": lambda: flows6([I << 4, 0, 1], server6, (port, service)),
        "ipv6-mirrored": lambda: flows6([I, 0, I], [I + 2**16, 0, I], (port, port)),
        "ipv6-grid": lambda: flows6([1, 0, I % 200], [2, 0, I // 200], (service, service)),
    }


# ---- who gets them -------------------------------------------------------------------------------

Members = NDArray[Any]  # of each flow, the number of its worker


def frames_of(flows: Flows) -> NDArray[np.uint8]:
    """Ethernet, IP and the ports of TCP."""
    six = flows.source.shape[1] == 4
    at, front = (22, (0x86, 0xDD, 0x60)) if six else (26, (0x08, 0x00, 0x45))
    frames = np.zeros((FLOWS, 64), np.uint8)
    frames[:, 12:15] = front
    frames[:, 20 if six else 23] = TCP
    for part, kind in (flows[:2], ">u4"), ([port[:, None] for port in flows[2:]], ">u2"):
        raw = np.concatenate(part, axis=1).astype(kind).view(np.uint8)
        frames[:, at : at + raw.shape[1]] = raw
        at += raw.shape[1]
    return frames


def our_hash(flows: Flows) -> Words:
    frames, packets = frames_of(flows), ffi.new("struct fal_desc[]", FLOWS)
    for i, packet in enumerate(packets):
        packet.offset, packet.caplen = i * 64, 64
    where = ffi.from_buffer("uint8_t[]", frames)
    assert lib.fal_flows(where, packets, FLOWS, lib.FAL_HASH_SEED) == 0  # all are parsed
    return np.array([packet.hash for packet in packets], np.uint32)


def by_buckets(hashes: Words, n: int, r: Random) -> Members:
    table = ffi.new("uint8_t[]", lib.FAL_BUCKETS)
    assert lib.fal_buckets_build([r.getrandbits(64) for _ in range(n)], n, table) == 0
    members: Members = np.frombuffer(ffi.buffer(table), np.uint8)[hashes >> lib.FAL_BUCKET_SHIFT]
    return members


def by_modulo(hashes: Words, n: int, _: Random) -> Members:
    return hashes % np.uint32(n)


Hash = Callable[[Flows], Words]
Steer = Callable[[Words, int, Random], Members]
RIVALS: dict[str, tuple[Hash, Steer]] = {
    "fal": (our_hash, by_buckets),
    "PF_RING's": (additive, by_modulo),
    "symmetric Toeplitz": (toeplitz, by_modulo),
}


def rival(name: str, pattern: str) -> Rival:
    hash_of, steer = RIVALS[name]
    rounds = count()  # in the same round all rivals get the same flows

    def trial() -> Trial:
        r = Random(f"{pattern} {next(rounds)}")
        hashes = hash_of(patterns(r)[pattern]())
        return Trial(max(np.bincount(steer(hashes, n, r)).max() * n / FLOWS for n in WORKERS))

    return Rival(name, trial)


def run(quick: bool) -> list[dict[str, Any]]:
    found = []
    for pattern in patterns(Random(0)):
        ours, *peers = (rival(name, pattern) for name in RIVALS)
        case = Case(pattern, ours, peers, EVEN, lower=True, unit="of the mean", absolute=True)
        found += results(play(case, 1 if quick else 7, lambda: ""))
    counted = Rival("fal", lambda: Trial(instructions("hash", 1)))
    timed = Rival("fal", lambda: Trial(program("hash", 1 if quick else 50, cpu=0)["ns"]))
    cost = Case("instructions", counted, [], CHEAP, True, "instructions", absolute=True)
    time = Case("ns", timed, [], "", True, "ns", absolute=True)
    found += results(play(cost, 1, lambda: ""))  # the same each time
    return found + results(play(time, 1 if quick else 7, lambda: ""))
