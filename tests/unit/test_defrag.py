# SPDX-License-Identifier: BSD-3-Clause
"""Real fragments, in every order: all pieces of a datagram go by one hash."""

import itertools

import pytest

from fal.bindings import ffi, lib

PORTS, LATER = (40000).to_bytes(2, "big") + (53).to_bytes(2, "big"), b"\xff" * 4
MACS = bytes(12)


def piece4(identification: int, offset: int, more: int) -> bytes:
    word = (more << 13 | offset).to_bytes(2, "big")
    head = b"\x45\0\0\x1c" + identification.to_bytes(2, "big") + word + b"\x40\x11\0\0"
    ends = bytes([10, 0, 0, 1, 10, 0, 0, 2])
    return MACS + b"\x08\0" + head + ends + (LATER if offset else PORTS) + bytes(4)


def piece6(identification: int, offset: int, more: int) -> bytes:
    header = b"\x11\0" + (offset << 3 | more).to_bytes(2, "big") + identification.to_bytes(4, "big")
    ends = bytes(range(32))
    packet = b"\x60\0\0\0\0\x10\x2c\x40" + ends + header
    return MACS + b"\x86\xdd" + packet + (LATER if offset else PORTS) + bytes(4)


def flow(frame: bytes):
    out = ffi.new("struct fal_flow *")
    lib.fal_flow(frame, len(frame), 1, lib.FAL_HASH_FLOW, out)
    return out


@pytest.mark.parametrize("piece", [piece4, piece6])
def test_every_order(piece) -> None:
    table = ffi.new("struct fal_defrag *")
    whole, alone = flow(piece(0, 0, 0)).hash, flow(piece(0, 5, 1)).hash
    assert whole != alone
    pieces = [(0, 1), (5, 1), (9, 0)]
    for identification, order in enumerate(itertools.permutations(pieces)):
        flows = [flow(piece(identification, *which)) for which in order]
        hashes = {lib.fal_defrag(table, 0, f, 1) for f in flows}
        assert hashes == {whole if order[0] == (0, 1) else alone}
    assert table.evicted == 0
