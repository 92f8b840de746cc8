"""Made frames: their checksums by the schoolbook, their shape, and that a seed repeats them."""

import random
import struct
from collections import Counter

import pytest

import fal
from fal import frames, traffic
from fal.traffic import Mix

ENDS4 = ("10.0.0.1", 1000), ("10.0.0.2", 53)
ENDS6 = ("fd00::1", 1000), ("fd00::2", 53)
EVERYTHING = Mix(flows=400, sizes="64-1514", ipv6=0.4, vlan=0.3, fragments=0.2, tunnels=0.4, seed=3)


def word_sum(data):
    """RFC 1071, word by word: 0xffff over data that holds its checksum."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) // 2 * 2]))
    total += data[-1] << 8 if len(data) % 2 else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def right(packet):
    """Check all checksums of a packet, and of what it carries; returns the protocols met."""
    if packet[0] >> 4 == 6:
        header, protocol, ends = 40, packet[6], packet[8:40]
        assert struct.unpack(">H", packet[4:6])[0] == len(packet) - 40
        whole = protocol != frames.IPV6_FRAGMENT
    else:
        header, protocol, ends = 20, packet[9], packet[12:20]
        assert struct.unpack(">H", packet[2:4])[0] == len(packet)
        assert word_sum(packet[:20]) == 0xFFFF
        whole = not struct.unpack(">H", packet[6:8])[0] & 0x3FFF
    payload = packet[header:]
    if not whole:
        return [protocol, "fragment"]
    if protocol in (frames.TCP, frames.UDP):
        assert word_sum(ends + struct.pack(">HI", protocol, len(payload)) + payload) == 0xFFFF
    inner = b""
    if protocol == frames.UDP:
        assert payload[6:8] != b"\0\0"
        port = struct.unpack(">H", payload[2:4])[0]
        if port in (frames.VXLAN_PORT, frames.GENEVE_PORT):
            return [protocol, port, *right(trimmed(payload[16:]))]
        if port == frames.GTP_U_PORT:
            assert struct.unpack(">H", payload[10:12])[0] == len(payload) - 16
            return [protocol, port, *right(payload[16:])]
    elif protocol == frames.GRE:
        assert payload[2:4] == (b"\x86\xdd" if payload[4] >> 4 == 6 else b"\x08\0")
        inner = payload[4:]
    elif protocol in (frames.IPV4_IN_IP, frames.IPV6_IN_IP):
        assert (protocol == frames.IPV6_IN_IP) == (payload[0] >> 4 == 6)
        inner = payload
    return [protocol, *(right(inner) if inner else ())]


def trimmed(frame):
    """Return the packet of a frame, without padding."""
    at = 18 if frame[12:14] == b"\x81\0" else 14
    kind, packet = frame[at - 2 : at], frame[at:]
    if kind == b"\x86\xdd":
        return packet[: 40 + struct.unpack(">H", packet[4:6])[0]]
    assert kind == b"\x08\0"
    return packet[: struct.unpack(">H", packet[2:4])[0]]


@pytest.mark.parametrize("ends", [ENDS4, ENDS6])
@pytest.mark.parametrize("make", [frames.udp, frames.tcp])
def test_checksums(ends, make):
    draw = random.Random(1)
    for length in range(70):
        frame = make(*ends, draw.randbytes(length), 100 if length % 2 else None)
        assert len(frame) >= frames.SHORTEST
        assert right(trimmed(frame)) == [frames.UDP if make is frames.udp else frames.TCP]


def test_a_udp_checksum_is_never_0():
    """0 would say that there is none: where the sum comes to it, 0xffff stands."""
    for number in range(65536):
        packet = frames.udp_packet(*ENDS4, number.to_bytes(2, "big"))
        if packet[26:28] == b"\xff\xff":
            break
    assert word_sum(packet[12:20] + struct.pack(">HI", 17, 10) + packet[20:]) == 0xFFFF
    assert packet[26:28] == b"\xff\xff"


@pytest.mark.parametrize("ends", [ENDS4, ENDS6])
def test_fragments_come_together_again(ends):
    packet = frames.udp_packet(*ends, bytes(range(100)))
    first, second = frames.fragments(packet, 48, 7)
    header = 20 if ends is ENDS4 else 48
    assert first[header:] + second[header:] == packet[20 if ends is ENDS4 else 40 :]
    right(first)
    right(second)
    if ends is ENDS4:
        assert (first[4:8], second[4:8]) == (b"\0\7\x20\0", b"\0\7\0\6")
    else:
        assert (first[40:48], second[40:48]) == (b"\x11\0\0\1\0\0\0\7", b"\x11\0\0\x30\0\0\0\7")


def test_a_mix_is_what_was_asked_for():
    made = traffic.made(EVERYTHING)
    met = Counter(word for frame in made for word in set(right(trimmed(frame))))
    wanted = {frames.TCP, frames.UDP, frames.GRE, frames.IPV4_IN_IP, frames.IPV6_IN_IP, "fragment"}
    assert wanted <= set(met)
    assert {frames.VXLAN_PORT, frames.GENEVE_PORT, frames.GTP_U_PORT} <= set(met)
    tagged = sum(frame[12:14] == b"\x81\0" for frame in made)
    assert 0.2 < tagged / len(made) < 0.4
    assert 0.2 < met["fragment"] / len(made) < 0.5  # two pieces for one packet
    assert len(made) > traffic.PACKETS * 0.9
    assert max(map(len, made)) <= 1514


def test_a_plain_mix_is_plain_and_symmetric():
    made = traffic.made(Mix(flows=100))
    assert {len(frame) for frame in made} == {64}
    assert {tuple(right(trimmed(frame))) for frame in made} == {(6,), (17,)}
    assert len({fal.flow_hash(frame) for frame in made}) == 100
    ends = {(frame[26:30], frame[30:34]) for frame in made}
    assert ends == {(b, a) for a, b in ends}


def test_the_seed_repeats():
    assert traffic.made(EVERYTHING) == traffic.made(EVERYTHING)
    assert traffic.made(Mix(seed=1)) != traffic.made(Mix(seed=2))


def test_imix():
    counts = Counter(map(len, traffic.made(Mix(sizes="imix"))))
    shares = [counts[size] / sum(counts.values()) for size in traffic.IMIX[0]]
    assert shares == pytest.approx([7 / 12, 4 / 12, 1 / 12], abs=0.04)


@pytest.mark.parametrize("text", ["", "x", "64-", "-64", "59", "100-64", "64-65536", "6٤"])
def test_sizes_that_are_none(text):
    with pytest.raises(fal.FalError, match=f"'{text}'"):
        traffic.made(Mix(sizes=text))
