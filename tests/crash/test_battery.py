"""The battery: each act, over every source of packets, with one poller and with two.

The acts come in turn while packets come all the time.  After each the books are exact, and at the
end the honest have missed nothing.  Most have a longer form in the other files, over fewer ways.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from crash.hostile import REQUEST, Hostile, Sender, cut_off, fill_wake_sockets, request, text
from crash.siege import WAYS, Siege
from support import assert_books, eventually

import fal
from fal.bindings import lib

SMALL = 64  # slots of an offender's ring


def group(siege: Siege, number: int) -> dict[str, Any]:
    return siege.poller.group(number)


def full(siege: Siege, number: int, pid: int) -> bool:
    """Whether a member that does not read has all that it may have: its rings, and no more."""
    held = siege.members(number)[pid]["in_ring"]
    assert held <= SMALL * siege.pollers
    return bool(held == SMALL * siege.pollers)


def stands_still(siege: Siege) -> bool:
    before = siege.poller.look()["link_received"]
    time.sleep(0.05)
    return bool(siege.poller.look()["link_received"] == before)


def stops(siege: Siege) -> None:
    worker = siege.start_worker(siege.poller, 9, ring=SMALL)
    eventually(lambda: siege.members(9)[worker.pid]["consumed"])
    worker.signal(signal.SIGSTOP)
    eventually(lambda: full(siege, 9, worker.pid))
    if siege.lossless:  # it holds the replay up: nobody loses a packet by it
        eventually(lambda: stands_still(siege))
    else:
        siege.goes_on()
        eventually(lambda: siege.members(9)[worker.pid]["dropped"])
    consumed = siege.members(9)[worker.pid]["consumed"]
    worker.signal(signal.SIGCONT)
    eventually(lambda: siege.members(9)[worker.pid]["consumed"] > consumed + SMALL)
    worker.kill()
    siege.goes_on()


def is_killed(siege: Siege) -> None:
    for _ in range(3):
        before = group(siege, 42)["gone"]["abandoned"]
        worker = siege.start_worker(siege.poller, 42, ring=SMALL, how="hold")
        eventually(lambda: full(siege, 42, worker.pid))  # noqa: B023
        worker.kill()
        eventually(lambda: worker.pid not in siege.members())  # noqa: B023
        assert group(siege, 42)["gone"]["abandoned"] == before + SMALL * siege.pollers


def comes_and_goes(siege: Siege) -> None:
    with fal.open(siege.poller.device, ring=SMALL) as s:
        for number in (42, 7, 1000, 42):
            s.join(number)
            assert len(s.recv_batch(timeout=5))
            s.leave()
            assert len(s.recv_batch(timeout=5))


def sends_garbage(siege: Siege) -> None:
    for length in (1, REQUEST - 1, REQUEST, REQUEST + 1, 1000):
        with Hostile(siege.poller) as h:
            h.send(random.randbytes(length))
            said = h.last_word()
            assert said.startswith("protocol version" if length >= REQUEST else "a request of")
    for kind in (lib.FAL_START, lib.FAL_JOIN, lib.FAL_TRANSMIT, 99):
        with Hostile(siege.poller) as h:
            assert h.ask(kind).code == errno.EPROTO
    with Hostile(siege.poller).open(ring=SMALL) as h:  # and never reads an answer
        h.control.setblocking(False)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
            while True:
                with contextlib.suppress(BlockingIOError):
                    h.send(request(lib.FAL_JOIN, group=-5))


def breaks_its_cursors(siege: Siege) -> None:
    """In each poller's ring alone: ahead of the producer, and backwards."""
    for poller in range(siege.pollers):
        for wrong in (lambda producer: producer + 10000, lambda _: -1):
            with Hostile(siege.poller).open(group=42, ring=SMALL) as h:
                eventually(lambda: h.producers[poller])  # noqa: B023
                h.set_consumer(wrong(h.producers[poller]), poller)
                eventually(lambda: cut_off(h))


def breaks_its_bell(siege: Siege) -> None:
    """It is armed at all times and never hears; its end of the wake socket is shut, or fills up."""
    with contextlib.ExitStack() as stack:
        members = [Hostile(siege.poller).open(group=9 + i, ring=SMALL) for i in range(3)]
        hostiles = [stack.enter_context(h) for h in members]
        for h in hostiles:
            os.set_blocking(h.wake_fd, True)
        for how, h in zip((socket.SHUT_RD, socket.SHUT_RDWR), hostiles, strict=False):
            with socket.socket(fileno=os.dup(h.wake_fd)) as shut:
                shut.shutdown(how)
        fill_wake_sockets(hostiles, 0.1)
        siege.goes_on()


def breaks_its_transmit_area(siege: Siege) -> None:
    with Hostile(siege.poller).open(ring=SMALL, group=9) as h:
        if siege.poller.ready["backend"] == "pcap":
            assert text(h.ask(lib.FAL_TRANSMIT)) == "nothing can be sent on this device"
            return
        sender, lengths = Sender(h), (0, 13, 4097, 2**31, 2**32 - 1)
        failed = siege.poller.look()["send_failed"]
        for i, length in enumerate(lengths):
            sender.area.length[i] = length
            sender.area.producer = i + 1
        os.write(sender.wake_fd, bytes(4096))
        eventually(lambda: siege.poller.look()["send_failed"] == failed + len(lengths))
        sender.area.producer = len(lengths) + lib.FAL_TX_SLOTS + 1
        os.write(sender.wake_fd, b"x")
        reply = eventually(h.reply)
        assert (reply.type, reply.code) == (lib.FAL_BYE, errno.EPROTO), text(reply)


ACTS: tuple[Callable[[Siege], None], ...] = (
    stops,
    is_killed,
    comes_and_goes,
    sends_garbage,
    breaks_its_cursors,
    breaks_its_bell,
    breaks_its_transmit_area,
)
over_all_ways = pytest.mark.parametrize(
    "siege", [(way, 1024) for way in WAYS], indirect=True, ids=WAYS
)


@over_all_ways
def test_what_workers_do(siege):
    with siege:
        for act in ACTS:
            act(siege)
            assert_books(siege.poller.look())
            siege.goes_on()


def of_others(siege: Siege) -> list[dict[str, Any]]:
    groups = siege.poller.look()["groups"]
    return [m for g in groups if g["id"] >= 1000 for m in g["members"]]


@over_all_ways
def test_all_frames_are_taken(siege):
    """To the last ring that is admitted, each of a group of its own, and nobody reads them."""
    with siege, contextlib.ExitStack() as stack:
        room, stuck = siege.room, 0
        while room >= SMALL:
            ring = min(512, 1 << room.bit_length() - 1)
            stack.enter_context(fal.open(siege.poller.device, group=1000 + stuck, ring=ring))
            room, stuck = room - ring, stuck + 1
        with pytest.raises(fal.FalError, match=f"a ring of {SMALL}: .*, {room} are left") as caught:
            fal.open(siege.poller.device, ring=SMALL)
        assert caught.value.errno == errno.ENOSPC
        if siege.lossless:
            eventually(lambda: any(m["in_ring"] == m["ring"] for m in of_others(siege)))
        else:
            eventually(
                lambda: all(m["in_ring"] == m["ring"] * siege.pollers for m in of_others(siege))
            )
            siege.goes_on()


@over_all_ways
def test_the_poller_is_killed(siege):
    """All are told within a second, whatever they wait in; the next of the name starts at once."""
    told = []

    def wait(s: fal.Socket) -> None:
        with pytest.raises(fal.PollerGone, check=lambda e: e.errno == errno.ECONNRESET):
            for _ in s:
                pass
        told.append(time.monotonic())

    with siege.sending(), fal.open(siege.poller.device, group=42, ring=SMALL) as s:
        siege.goes_on()
        waiting = threading.Thread(target=wait, args=(s,))
        waiting.start()
        killed = time.monotonic()
        siege.poller.kill()
        waiting.join(5)
        assert told[0] - killed < 1
        assert {w.result(5)[1] for w in siege.workers} == {errno.ECONNRESET}
        again = siege.start()
        with contextlib.ExitStack() as stack:
            device, new = again.device, range(len(siege.workers))
            for t in [stack.enter_context(fal.open(device, ring=SMALL)) for _ in new]:
                assert len(t.recv_batch(timeout=5))
    assert again.stop() == 0
