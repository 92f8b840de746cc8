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
from fal import modes
from fal.bindings import ffi, lib

HERE = Path(__file__).parent
VECTORS = json.loads((HERE.parents[1] / "docs" / "hash-vectors.json").read_text())

_spec = importlib.util.spec_from_file_location("reference_hash", HERE / "reference_hash.py")
assert _spec
assert _spec.loader
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)
CASES = reference.cases()
WORDS = reference.WORDS

words = st.sampled_from(sorted(WORDS))
seeds = st.integers(0, 2**64 - 1)
address4, address6 = st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)
port = st.integers(0, 65535)


def flow(frame: bytes, seed: int = lib.FAL_HASH_SEED, fields: int = lib.FAL_HASH_FLOW):
    out = ffi.new("struct fal_flow *", {"hash": 1, "vlan_tci": 2, "flags": 0xFFFF})
    lib.fal_flow(frame, len(frame), seed, fields, out)
    return out


def test_bits() -> None:
    assert lib.FAL_HASH_FLOW == reference.FLOW
    names = ["ADDRESSES", "PORTS", "PROTOCOL", "VLAN", "MACS", "TCP", "INNER", "ICMP"]
    assert [getattr(lib, f"FAL_HASH_{name}") for name in names] == [1 << i for i in range(8)]


def test_default_seed() -> None:
    assert reference.SEED == lib.FAL_HASH_SEED


def test_vectors_are_those_of_the_reference() -> None:
    """Made by: python tests/unit/reference_hash.py > docs/hash-vectors.json"""
    assert list(reference.vectors()) == VECTORS


@pytest.mark.parametrize("vector", VECTORS, ids=range(len(VECTORS)))
def test_vector(vector: dict) -> None:
    frame = bytes.fromhex(vector["frame"])
    assert fal.flow_hash(frame, vector["mode"], vector["seed"]) == vector["hash"]


def test_words_come_to_the_same_fields() -> None:
    assert {word: modes.parse(word).hash for word in WORDS} == WORDS


def test_flow_hash_of_a_fragment() -> None:
    """As if it were the first piece of its datagram to come."""
    for version in ("IPv4", "IPv6"):
        first, later = (CASES[f"{version} UDP, {which} fragment"] for which in ("first", "later"))
        assert fal.flow_hash(first, "hash+defrag") == fal.flow_hash(CASES[f"{version} UDP"])
        assert fal.flow_hash(later, "hash+defrag") == fal.flow_hash(later)
        assert fal.flow_hash(first, "hash|rollover") == fal.flow_hash(later)


@pytest.mark.parametrize("word", WORDS)
def test_every_truncation(word: str) -> None:
    for frame in CASES.values():
        for length in range(len(frame) + 1):
            expected = reference.flow_hash(frame[:length], fields=WORDS[word])
            assert flow(frame[:length], fields=WORDS[word]).hash == expected


@given(st.sampled_from(sorted(CASES)), words, st.data(), seeds)
def test_damaged(name: str, word: str, data: st.DataObject, seed: int) -> None:
    """Any bytes of any case overwritten, and some taken out or put in."""
    frame = bytearray(CASES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame)))
        frame[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    out = flow(bytes(frame), seed, WORDS[word])
    assert out.hash == reference.flow_hash(bytes(frame), seed, WORDS[word])
    if out.flags & lib.FAL_FLOW_FIRST:
        assert out.whole == reference.flow_hash(bytes(frame), seed, WORDS[word], whole=True)


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
            "16 tags: by MACs",
            0x07D0,
            lib.FAL_FLOW_VLAN | lib.FAL_FLOW_8021AD | lib.FAL_FLOW_UNPARSED,
        ),
    ],
)
def test_tag_and_flags(name: str, tci: int, flags: int) -> None:
    out = flow(CASES[name])
    assert (out.vlan_tci, out.flags) == (tci, flags)


def value(name: str, word: str = "hash") -> int:
    return flow(CASES[name], fields=WORDS[word]).hash


def test_what_counts_and_what_does_not() -> None:
    assert value("IPv4 TCP behind options") == value("IPv4 TCP")
    assert value("IPv6 UDP behind all headers") == value("IPv6 UDP")
    assert value("IPv6, eight headers") == value("IPv6 UDP") != value("IPv6, nine headers")
    for name in CASES:
        if name.endswith(": as without"):
            plain = next(p for p in ("IPv4 TCP", "IPv4 UDP", "IPv6 UDP") if p in name)
            assert value(name) == value(plain), name
    for version in ("IPv4", "IPv6"):
        fragments = [name for name in CASES if "fragment" in name and version in name]
        assert len({value(name) for name in fragments}) == 1
        assert len(fragments) == 3
    different = ["IPv4 TCP", "IPv4 UDP", "IPv4 SCTP", "IPv4 ICMP: no ports", "IPv4, ports cut"]
    assert len({value(name) for name in different}) == len(different)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("name", reference.tunnels(back=False))
def test_tunnels(name: str, back: bool) -> None:
    """Inside, both directions meet each other and the flow that is in no tunnel."""
    carried = "IPv6 UDP" if "IPv6 UDP" in name else "IPv4 TCP"
    name += ", back" * back
    assert value(name, "hash+inner") == value(carried)
    assert value(name) != value(carried)
    assert value(name) == value(name, "hash+icmp")


@pytest.mark.parametrize("name", reference.quoted())
def test_icmp_errors(name: str) -> None:
    """An error meets the flow that caused it."""
    word = "hash+inner+icmp" if "GRE" in name else "hash+icmp"
    assert value(name, word) == value("IPv6 UDP" if "IPv6 UDP" in name else "IPv4 TCP")
    assert value(name) == value(name, "hash+inner") != value(name, word)


def test_what_cannot_be_looked_into() -> None:
    """Goes by what is around it."""
    for name in CASES:
        if "by the tunnel" in name or name == "ICMP echo":
            assert value(name, "hash+inner+icmp") == value(name)
            assert not flow(CASES[name], fields=WORDS["hash+inner+icmp"]).flags


def test_fields() -> None:
    """What a word leaves out does not count, and what it names does."""
    frames = {name: reference.ether(reference.IPV4, packet, tags) for name, packet, tags in FIELDS}
    counting = {
        "hash": {"port", "protocol"},
        "flow": {"port", "protocol", "vlan", "other vlan"},
        "flow_2_tuple": set(),
        "flow_4_tuple": {"port"},
        "flow_tcp_5_tuple": {"port", "protocol"},
        "steer_vlan": {"vlan", "other vlan"},
        "steer_link": set(),
    }
    for word, fields in counting.items():
        values = {name: flow(f, fields=WORDS[word]).hash for name, f in frames.items()}
        assert {name for name in values if values[name] != values["plain"]} == fields, word
        assert len({values[name] for name in fields}) == len(fields)
    udp = [value(name, "flow_tcp_5_tuple") for name in ("IPv4 UDP", "IPv4 SCTP", "IPv4, ports cut")]
    assert udp[0] == udp[1] == value("IPv4 TCP", "flow_2_tuple") != udp[2]
    assert value("IPv4 TCP", "steer_link") == value("ARP", "steer_link") != value("ARP")


FIELDS = [
    ("plain", reference.ipv4(), b""),
    ("port", reference.ipv4(source=40001), b""),
    ("protocol", reference.ipv4(reference.UDP), b""),
    ("vlan", reference.ipv4(), reference.tag(0x8100, 0x2064)),
    ("other vlan", reference.ipv4(), reference.tag(0x8100, 0x2065)),
    ("priority alone", reference.ipv4(), reference.tag(0x8100, 0x2000)),
]


def test_fragments() -> None:
    """Pieces of one datagram tell that they are, and the first what it would be as a whole."""
    for version, plain in (("IPv4", "IPv4 UDP"), ("IPv6", "IPv6 UDP")):
        first = flow(CASES[f"{version} UDP, first fragment"])
        later = flow(CASES[f"{version} UDP, later fragment"])
        back = flow(CASES[f"{version} UDP, last fragment, back"])
        assert first.flags == lib.FAL_FLOW_FRAGMENT | lib.FAL_FLOW_FIRST
        assert later.flags == back.flags == lib.FAL_FLOW_FRAGMENT
        assert first.datagram == later.datagram != back.datagram
        assert first.whole == value(plain) != first.hash
    assert not flow(CASES["IPv6 UDP behind all headers"]).flags


def test_the_whole_has_its_headers_behind_the_fragment_header() -> None:
    headers = reference.fragment6(0, 1, reference.OPTIONS) + reference.extension(reference.UDP)
    packet = reference.extended(reference.FRAGMENT, headers, reference.UDP)
    first = flow(reference.ether(reference.IPV6, packet))
    assert first.whole == value("IPv6 UDP")


@given(st.integers(0, 2**16 - 1), address4, address4)
def test_datagrams_differ(identification: int, a: bytes, b: bytes) -> None:
    def datagram(number: int, source: bytes, destination: bytes, protocol: int = 17) -> int:
        head = (
            bytes([0x45, 0, 0, 0]) + number.to_bytes(2, "big") + bytes([0, 9, 64, protocol, 0, 0])
        )
        return flow(reference.ether(reference.IPV4, head + source + destination)).datagram

    one = datagram(identification, a, b)
    assert one == datagram(identification, a, b)
    assert one != datagram(identification ^ 1, a, b)
    assert one != datagram(identification, a, b, 6)
    assert a == b or one != datagram(identification, b, a)


def test_a_tunnel_in_pieces() -> None:
    """All go by the tunnel's ends; with the ports, as the whole would, only by `whole`."""
    frame = bytearray(CASES["GRE"])
    frame[20] = 0x20  # more fragments
    first = flow(bytes(frame), fields=WORDS["hash+inner"])
    assert first.hash == value("GRE")
    assert first.whole == value("IPv4 TCP")


def test_the_items_of_a_buffer_do_not_matter() -> None:
    frame = CASES["IPv4 TCP"].ljust(64, b"\0")
    whole = fal.flow_hash(frame)
    assert whole == fal.flow_hash(bytearray(frame)) == fal.flow_hash(memoryview(frame).cast("H"))
    assert whole == fal.flow_hash(np.frombuffer(frame, np.uint32))
    for mode in ("lb", "", "\udcff", "\ud800"):
        with pytest.raises(fal.FalError):
            fal.flow_hash(frame, mode)
