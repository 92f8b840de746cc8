"""Odd packets through the parser: who meets whom, made from the RFCs and not from flow.c."""

from __future__ import annotations

import itertools

import packets
import pytest
from captures import write_pcap
from support import NULL, eventually

import fal
from fal.bindings import ffi, lib

WORDS = ("hash", "hash+icmp", "hash+inner", "hash+inner+icmp")
BITS = {"inner": lib.FAL_HASH_INNER, "icmp": lib.FAL_HASH_ICMP}


def flow(frame: bytes, word: str = "hash", length: int | None = None):
    """Parse a frame, or its first `length` bytes with the others lying behind them."""
    out = ffi.new("struct fal_flow *")
    bits = lib.FAL_HASH_FLOW | sum(BITS[flag] for flag in word.split("+")[1:])
    caplen = len(frame) if length is None else length
    lib.fal_flow(frame, caplen, lib.FAL_HASH_SEED, bits, out)
    return out


def cases(of):
    return [
        pytest.param(word, *case, id=f"{word}: {case[0]}") for word in WORDS for case in of(word)
    ]


@pytest.mark.parametrize(("word", "_", "frames"), cases(packets.meetings))
def test_meet(word, _, frames):
    assert len({fal.flow_hash(frame, word) for frame in frames}) == 1


@pytest.mark.parametrize(("word", "_", "one", "other"), cases(packets.partings))
def test_part(word, _, one, other):
    assert fal.flow_hash(one, word) != fal.flow_hash(other, word)


@pytest.mark.parametrize(
    ("word", "whole", "pieces"),
    [pytest.param(*case[1:], id=case[0]) for case in packets.datagrams()],
)
def test_defrag(word, whole, pieces):
    """In any order they stay together; where the first comes first, with their flow."""
    for order in itertools.permutations(pieces):
        table = ffi.new("struct fal_defrag *")
        hashes = {lib.fal_defrag(table, 0, flow(piece, word), 1) for piece in order}
        assert len(hashes) == 1
        if order[0] == pieces[0]:
            assert hashes == {flow(whole, word).hash}


HASHES = (
    *WORDS,
    *("flow", "flow_2_tuple", "flow_4_tuple", "flow_tcp_5_tuple", "inner_flow", "steer_vlan"),
    *("steer_link", "hash+rollover"),
)
OTHERS = ("lb", "rnd", "rollover", "qm", "cpu", "hash+defrag", "hash+inner+icmp+defrag+rollover")


def test_through_a_poller(start_poller, tmp_path):
    """The corpus, whole and damaged, from a file: every group gets all, each as its word says."""
    frames = [f for f in packets.frames().values() if f] + [f for f in packets.damaged(1, 500) if f]
    path = write_pcap(tmp_path / "odd.pcap", list(enumerate(frames)))
    words = (*HASHES, *OTHERS)
    poller = start_poller(str(path), *NULL[2:], "--wait", str(2 * len(words) + 1))
    everything = fal.open(poller.device, ring=1024)
    groups = [
        [fal.open(poller.device, group=i, fanout=word, ring=1024) for _ in range(2)]
        for i, word in enumerate(words)
    ]
    got = {s: [] for s in itertools.chain([everything], *groups)}
    left = set(got)

    def look():
        """None may be left behind: a replay without loss waits for the last."""
        for s in list(left):
            try:
                while batch := s.recv_batch(timeout=0):
                    got[s] += zip(batch.meta["hash"].tolist(), map(bytes, batch), strict=True)
            except EOFError:
                left.remove(s)
        return not left

    eventually(look, 20)
    assert [data for _, data in got[everything]] == frames
    for word, members in zip(words, groups, strict=True):
        both = [got[s] for s in members]
        assert sorted(data for mine in both for _, data in mine) == sorted(frames), word
        if word in HASHES:
            assert all(h == fal.flow_hash(data, word) for mine in both for h, data in mine)
        if word in HASHES[:-1]:
            assert not {h for h, _ in both[0]} & {h for h, _ in both[1]}, word
    for s in got:
        s.close()
    assert poller.wait() == 0


@pytest.mark.parametrize("word", WORDS)
def test_every_length(word):
    """What lies behind the end does not count."""
    for frame in packets.frames().values():
        for length in range(len(frame) + 1):
            out, more = flow(frame[:length], word), flow(frame + b"\xff" * 8, word, length)
            assert (out.hash, out.flags) == (more.hash, more.flags)
            assert length >= 12 or (out.hash, out.flags) == (0, lib.FAL_FLOW_UNPARSED)


def test_both_directions_meet_at_every_length():
    for name, frames in packets.meetings("hash"):
        there, back = frames[-2:]
        if "fragments" in name:
            continue
        for length in range(len(there) + 1):
            assert flow(there[:length]).hash == flow(back[:length]).hash, (name, length)
