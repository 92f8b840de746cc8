"""The null backend's made-up packets: what the options ask for, the same for the same seed."""

import struct
from collections import Counter

from support import NULL, udp

import fal


def made(start_poller, count, *words):
    """Return the first packets of a poller, one behind the other."""
    poller = start_poller("x", *NULL, "--wait", "1", "--count", str(count), *words)
    with fal.open(poller.device, ring=16384) as s:
        got = [data for _, data in s]
    assert poller.wait() == 0
    assert len(got) == count
    return got


def parse(frame):
    """Return (flow, number) and check every length and checksum on the way."""
    at, vlan = 14, None
    if frame[12:14] == b"\x81\x00":
        at, vlan = 18, struct.unpack(">H", frame[14:16])[0] & 0xFFF
        assert 1 <= vlan <= 4094
    ip = frame[at:]
    if frame[at - 2 : at] == b"\x08\x00":
        assert ip[0] == 0x45
        total = sum(struct.unpack(">10H", ip[:20]))
        assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
        protocol, ends, l4 = ip[9], ip[12:20], ip[20:]
        assert int.from_bytes(ip[2:4]) == len(ip)
    else:
        assert frame[at - 2 : at] == b"\x86\xdd"
        assert ip[0] == 0x60
        protocol, ends, l4 = ip[6], ip[8:40], ip[40:]
        assert int.from_bytes(ip[4:6]) == len(l4)
    if protocol == 17:
        assert int.from_bytes(l4[4:6]) == len(l4)
        payload = l4[8:]
    else:
        assert (protocol, l4[12]) == (6, 0x50)
        payload = l4[20:]
    assert payload[8:].strip(b"\0") == b""
    return (vlan, len(ends), protocol, ends, l4[:4]), int.from_bytes(payload[:8], "little")


def test_plain(start_poller):
    for i, frame in enumerate(made(start_poller, 300)):
        wanted = udp((f"10.0.0.{i % 64 + 1}", 10000 + i % 64), ("10.1.0.1", 53), bytes(18))
        wanted = (
            wanted[:24] + frame[24:26] + wanted[26:40] + bytes(2) + struct.pack("<Q", i) + bytes(10)
        )
        assert frame == wanted
        assert parse(frame)[1] == i


def test_drawn_flows(start_poller):
    frames = made(start_poller, 8000, "--flows", "4000")
    flows, numbers = zip(*map(parse, frames), strict=True)
    assert list(numbers) == list(range(8000))
    assert flows[:4000] == flows[4000:]
    assert len(set(flows)) == 4000
    for share, of in (
        (1 / 4, [ends == 32 for _, ends, *_ in flows]),
        (7 / 10, [protocol == 6 for _, _, protocol, *_ in flows]),
        (1 / 8, [vlan is not None for vlan, *_ in flows]),
    ):
        assert abs(sum(of) / 8000 - share) < 0.03
    assert len({fal.flow_hash(frame) for frame in frames}) > 3990
    assert min(map(len, frames)) == 60


def test_the_same_for_the_same_seed(start_poller):
    words = ("--sizes", "64-1514", "--seed")
    first, again, other = (made(start_poller, 2000, *words, seed) for seed in ("7", "7", "8"))
    assert first == again
    assert [parse(frame)[0] for frame in first] != [parse(frame)[0] for frame in other]
    assert [len(frame) for frame in first] != [len(frame) for frame in other]
    assert len({parse(frame)[0] for frame in first}) == 64


def test_sizes(start_poller):
    size = [len(frame) for frame in made(start_poller, 10000, "--sizes", "100-1100")]
    assert (min(size), max(size)) == (100, 1100)
    assert abs(sum(size) / 10000 - 600) < 20
    assert {len(frame) for frame in made(start_poller, 1000, "--sizes", "1514")} == {1514}
    assert {len(frame) for frame in made(start_poller, 1000, "--sizes", "90")} == {90}

    frames = made(start_poller, 12000, "--sizes", "imix")
    found = Counter(len(frame) for frame in frames)
    assert abs(found[590] - 4000) < 300
    assert abs(found[1514] - 1000) < 200
    for frame in frames:  # a small one takes what its headers take
        parse(frame)
    assert set(found) <= {60, 62, 66, 70, 74, 82, 86, 590, 1514}

    frames = made(start_poller, 100, "--sizes", "4096", "--frame-size", "4096")
    assert {len(frame) for frame in frames} == {4096}
    line = start_poller("x", *NULL, "--sizes", "2049", ready=False).refused()
    assert "2049 bytes do not fit into frames of 2048" in line
