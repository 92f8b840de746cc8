# SPDX-License-Identifier: BSD-3-Clause
"""Modes that depend on rings and on chance, through a whole poller over packets made in memory."""

import pytest
from support import NULL, assert_books, eventually, number

import fal


@pytest.fixture
def delivered(start_poller):
    """Have `count` packets steered to members with these rings, of which none reads before."""

    def delivered(fanout, count, *rings, words=()):
        options = ("--wait", str(len(rings)), "--count", str(count), *words)
        poller = start_poller("made", *NULL, *options)
        group = [fal.open(poller.device, group=1, fanout=fanout, ring=ring) for ring in rings]
        report = eventually(lambda: (r := poller.look())["link_received"] == count and r)
        assert_books(report)
        assert report["groups"][0]["mode"] == fanout
        got = []
        for s in group:
            got.append([number(packet) for packet in s.recv_batch(timeout=0)])
            s.close()
        assert poller.wait() == 0
        return got, report["groups"][0]["drops"]["ring_full"]

    return delivered


def test_rollover_fills_one_after_the_other(delivered):
    """Each up to three quarters; the last one, when all are, to its end."""
    got, dropped = delivered("rollover", 700, 256, 256, 256)
    assert got[0] == list(range(192)) + list(range(640, 700))[: len(got[0]) - 192]
    assert [len(packets) for packets in got] == [252, 192, 256]
    assert got[1] == list(range(192, 384))
    assert dropped == 0


def test_rollover_as_a_flag(delivered):
    """A member without room gives to others, up to three quarters of their rings."""
    got, dropped = delivered("lb+rollover", 300, 64, 1024)
    assert [len(packets) for packets in got] == [64, 236]
    assert got[0] == list(range(1, 128, 2))
    assert dropped == 0
    got, dropped = delivered("lb+rollover", 1000, 64, 256)
    assert [len(packets) for packets in got] == [64, 256]
    assert dropped == 1000 - 64 - 256


def test_without_the_flag(delivered):
    got, dropped = delivered("lb", 300, 64, 1024)
    assert [len(packets) for packets in got] == [64, 150]
    assert dropped == 86


def test_rnd_is_even_and_repeatable(delivered):
    got, dropped = delivered("rnd", 1000, *[1024] * 4)
    assert dropped == 0
    assert all(abs(len(packets) - 250) < 6 * 14 for packets in got)  # 14: standard deviation
    assert delivered("rnd", 1000, *[1024] * 4)[0] == got
    assert delivered("rnd", 1000, *[1024] * 4, words=("--hash-seed", "1"))[0] != got
