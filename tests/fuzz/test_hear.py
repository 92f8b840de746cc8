"""What clients say to the control thread, made up by hypothesis: each is answered or cut off."""

from __future__ import annotations

import contextlib

import pytest
from crash.hostile import REQUEST, Hostile, request, text
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support import NULL, eventually

import fal
from fal.bindings import lib

words = st.integers(0, 2**32 - 1)
requests = st.builds(
    request,
    kind=st.integers(1, 6) | words,
    group=st.sampled_from([-1, 0, 42, 65535, 65536]) | st.integers(-(2**31), 2**31 - 1),
    mode=st.sampled_from([b"", b"hash", b"lb", b"LB"]) | st.binary(max_size=64),
    ring=st.sampled_from([0, 64, 1024]) | words,
    version=st.just(lib.FAL_PROTOCOL_VERSION) | words,
    id=st.integers(0, 2**64 - 1),
)
openings = st.builds(request, kind=st.just(lib.FAL_OPEN), ring=st.just(64), group=st.just(42))
cut = st.builds(lambda message, end: message[:end], requests, st.integers(0, REQUEST - 1))
programs = st.lists(st.binary(min_size=8, max_size=8), max_size=5).map(b"".join)
filtered = st.builds(
    lambda filter, program, wrong, kind: (
        request(
            kind,
            group=7,
            mode=b"cbpf",
            ring=64,
            filter=len(filter) // 8,
            program=(len(program) // 8 + wrong) % 2**32,
        )
        + filter
        + program
    ),
    programs,
    programs,
    st.sampled_from([0, 0, 1, 2**32 - 1]),
    st.sampled_from([lib.FAL_OPEN, lib.FAL_JOIN]),
)
messages = openings | requests | filtered | requests | cut | st.binary(max_size=200)
# Who says what: several at a time, on connections of their own.
conversations = st.lists(st.tuples(st.integers(0, 3), messages), max_size=30)


def say(h: Hostile, message: bytes) -> bool:
    """Return whether the connection stands; the answer must be one of a kind that there is."""
    try:
        h.send(message)
        reply = h.reply()
    except OSError:
        return False
    if reply is None:
        return False
    kind = int.from_bytes(message[:4], "little")
    assert reply.type in (kind, lib.FAL_BYE)
    assert reply.code >= 0
    assert (reply.code == 0) == (text(reply) == "")
    return True


@pytest.mark.timeout(600)
@pytest.mark.parametrize("examples", [800, pytest.param(7000, marks=pytest.mark.long)])
def test_what_clients_say(start_poller, examples):
    poller = start_poller("x", *NULL, "--wait", "256")  # no packets: they are no matter here
    idle = poller.look()["frames_free"]

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(conversations)
    def talk(conversation):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Hostile(poller)) for _ in range(4)]
            stands = [True] * 4
            for who, message in conversation:
                stands[who] = stands[who] and say(clients[who], message)
        assert poller.process.poll() is None

    talk()
    eventually(lambda: not poller.look()["sockets"] and not poller.look()["groups"], 10)
    assert poller.look()["frames_free"] == idle
    with contextlib.ExitStack() as stack:  # all that there is can be had again
        for _ in range(lib.FAL_DEFAULT_RINGS):
            stack.enter_context(fal.open(poller.device))
    assert poller.stop() == 0
    assert len(poller.lines) == 1, poller.lines
