# SPDX-License-Identifier: BSD-3-Clause
"""The flow hash: C against the reference in Python, and both against docs/hash-vectors.json."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fal
from fal.bindings import ffi, lib

HERE = Path(__file__).parent
VECTORS = json.loads((HERE.parents[1] / "docs" / "hash-vectors.json").read_text())

_spec = importlib.util.spec_from_file_location("reference_hash", HERE / "reference_hash.py")
assert _spec
assert _spec.loader
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)
CASES = reference.cases()

seeds = st.integers(0, 2**64 - 1)
address4, address6 = st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)
port = st.integers(0, 65535)


def flow(frame: bytes, seed: int = lib.FAL_HASH_SEED):
    out = ffi.new("struct fal_flow *", {"hash": 1, "vlan_tci": 2, "flags": 0xFFFF})
    lib.fal_flow(frame, len(frame), seed, out)
    return out


def test_default_seed() -> None:
    assert reference.SEED == lib.FAL_HASH_SEED


def test_vectors_are_those_of_the_reference() -> None:
    """Made by: python tests/unit/reference_hash.py > docs/hash-vectors.json"""
    assert list(reference.vectors()) == VECTORS


@pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
def test_vector(vector: dict) -> None:
    assert flow(bytes.fromhex(vector["frame"]), vector["seed"]).hash == vector["hash"]


@pytest.mark.parametrize("name", CASES)
def test_every_truncation(name: str) -> None:
    frame = CASES[name]
    for length in range(len(frame) + 1):
        assert flow(frame[:length]).hash == reference.flow_hash(frame[:length])


@given(st.sampled_from(sorted(CASES)), st.data(), seeds)
def test_damaged(name: str, data: st.DataObject, seed: int) -> None:
    """Any byte of any case overwritten."""
    frame = bytearray(CASES[name])
    if frame:
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    assert flow(bytes(frame), seed).hash == reference.flow_hash(bytes(frame), seed)


@given(address4, address4, port, port, st.integers(0, 255), seeds)
def test_symmetric_ipv4(a: bytes, b: bytes, p: int, q: int, protocol: int, seed: int) -> None:
    header = bytes([0x45]) + bytes(8) + bytes([protocol, 0, 0])
    there = bytes(12) + b"\x08\x00" + header + a + b + reference.layer4(p, q)
    back = bytes(12) + b"\x08\x00" + header + b + a + reference.layer4(q, p)
    expected = reference.flow_hash(there, seed)
    assert flow(there, seed).hash == flow(back, seed).hash == expected


@given(address6, address6, port, port, st.integers(0, 255), seeds)
def test_symmetric_ipv6(a: bytes, b: bytes, p: int, q: int, protocol: int, seed: int) -> None:
    header = bytes([0x60, 0, 0, 0, 0, 0, protocol, 64])
    there = bytes(12) + b"\x86\xdd" + header + a + b + reference.layer4(p, q)
    back = bytes(12) + b"\x86\xdd" + header + b + a + reference.layer4(q, p)
    expected = reference.flow_hash(there, seed)
    assert flow(there, seed).hash == flow(back, seed).hash == expected


@pytest.mark.parametrize(
    ("name", "tci", "flags"),
    [
        ("IPv4 TCP", 0, 0),
        ("802.1Q, IPv4 TCP: as without", 0x2064, lib.FAL_FLOW_VLAN),
        ("802.1ad, IPv6 UDP: as without", 0x07D0, lib.FAL_FLOW_VLAN | lib.FAL_FLOW_8021AD),
        ("QinQ, IPv4 UDP, back: as without", 0x07D0, lib.FAL_FLOW_VLAN | lib.FAL_FLOW_8021AD),
        ("IPv4, ports cut", 0, 0),
        ("IPv4, bad version", 0, lib.FAL_FLOW_UNPARSED),
        ("IPv6, header cut", 0, lib.FAL_FLOW_UNPARSED),
        ("tag cut", 0, lib.FAL_FLOW_UNPARSED),
        ("ARP", 0, lib.FAL_FLOW_UNPARSED),
        ("nothing", 0, lib.FAL_FLOW_UNPARSED),
        (
            "three tags: by MACs",
            0x07D0,
            lib.FAL_FLOW_VLAN | lib.FAL_FLOW_8021AD | lib.FAL_FLOW_UNPARSED,
        ),
    ],
)
def test_tag_and_flags(name: str, tci: int, flags: int) -> None:
    out = flow(CASES[name])
    assert (out.vlan_tci, out.flags) == (tci, flags)


def test_what_counts_and_what_does_not() -> None:
    value = {name: reference.flow_hash(frame) for name, frame in CASES.items()}
    assert value["802.1Q, IPv4 TCP: as without"] == value["IPv4 TCP"]
    assert value["IPv4 TCP behind options"] == value["IPv4 TCP"]
    fragments = [name for name in CASES if "fragment" in name and "IPv4" in name]
    assert len({value[name] for name in fragments}) == 1
    different = ["IPv4 TCP", "IPv4 UDP", "IPv4 SCTP", "IPv4 ICMP: no ports", "IPv4, ports cut"]
    assert len({value[name] for name in different}) == len(different)


def test_the_items_of_a_buffer_do_not_matter() -> None:
    frame = CASES["IPv4 TCP"].ljust(64, b"\0")
    whole = fal.flow_hash(frame)
    assert whole == fal.flow_hash(bytearray(frame)) == fal.flow_hash(memoryview(frame).cast("H"))
    assert whole == fal.flow_hash(np.frombuffer(frame, np.uint32))
    for mode in ("lb", "", "\udcff", "\ud800"):
        with pytest.raises(fal.FalError):
            fal.flow_hash(frame, mode)
