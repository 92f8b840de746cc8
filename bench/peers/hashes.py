"""The hashes of others, over arrays of flows: what PF_RING and receive-side scaling do."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]


class Flows(NamedTuple):
    """n flows of TCP.  Addresses: (n, 1) words of IPv4, (n, 4) of IPv6; ports: n; host order."""

    source: Words
    destination: Words
    source_port: Words
    destination_port: Words


TCP = 6
SYMMETRIC = bytes.fromhex("6d5a" * 20)  # Woo and Park's key


def additive(flows: Flows) -> Words:
    """PF_RING's: VLAN (none here), protocol, all words of both addresses, both ports, added up."""
    ends = [flows.source, flows.destination]
    words: Words = np.concatenate(ends, axis=1).sum(axis=1, dtype=np.uint32)
    words += flows.source_port + flows.destination_port + np.uint32(TCP)
    return words


def toeplitz(flows: Flows, key: bytes = SYMMETRIC) -> Words:
    """RSS's: of each bit of the input that is set, the 32 bits of the key from its place on."""
    ports = np.stack([flows.source_port, flows.destination_port], axis=1).astype(">u2")
    ends = np.concatenate([flows.source, flows.destination], axis=1).astype(">u4")
    inputs = np.concatenate([ends.view(np.uint8), ports.view(np.uint8)], axis=1)
    bits: NDArray[Any] = np.unpackbits(inputs, axis=1).astype(bool)
    number, size = int.from_bytes(key, "big"), 8 * len(key)
    windows = [number >> (size - 32 - i) & 0xFFFFFFFF for i in range(bits.shape[1])]
    chosen = np.where(bits, np.array(windows, np.uint32), np.uint32(0))
    found: Words = np.bitwise_xor.reduce(chosen, axis=1)
    return found
