"""A long time of everything at once: joins, leaves, moves, kills and stops, under traffic.

With two pollers, filters, and frames sent the other way.  Not one packet may be unaccounted for at
the end, nor a frame missing from the pools.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time

import pytest
from support import Traffic, assert_books, eventually, received, udp

import fal

GROUPS = {1: "hash", 2: "lb", 3: "rnd", 4: "hash+rollover"}  # each has a member that stays
FILTERED = 5  # a group with a filter, whose member that stays is a socket of ours
HALF = "udp[0:2] & 1 = 0"  # every second flow of the traffic
FRAMES = [udp(("10.0.0.2", 53), ("10.0.0.1", 1000), bytes(size)) for size in (18, 500, 1400)]
COMERS = 8  # at most, beside those that stay


class Crowd:
    """Workers that come and go: processes that are killed, and sockets of ours that move."""

    def __init__(self, poller, start_worker):
        self.poller, self.start_worker = poller, start_worker
        self.draw = random.Random(7)
        self.processes, self.sockets = [], []
        self.injected = 0

    def turn(self):
        draw = self.draw
        if len(self.processes) + len(self.sockets) < COMERS:
            draw.choice((self.come, self.open))()
        draw.choice((self.kill, self.kill, self.stop, self.move, self.move, self.close))()
        for s in self.sockets:  # some are read to the end, some in part, some not
            for _ in range(draw.choice((0, 0, 1, 100))):
                if not s.recv_batch(64, timeout=0):
                    break
            self.send(s)

    def send(self, s):
        frames = self.draw.choices(FRAMES, k=self.draw.choice((0, 1, 50)))
        self.injected += s.inject_many(frames)

    def come(self):
        how = self.draw.choice(("read", "hold", 500))
        ring = 64 << self.draw.randrange(5)
        worker = self.start_worker(self.poller, self.draw.choice([-1, *GROUPS]), ring=ring, how=how)
        self.processes.append(worker)

    def open(self):
        s = fal.open(self.poller.device, ring=64 << self.draw.randrange(5))
        s.setfilter(self.draw.choice((None, HALF)))
        self.sockets.append(s)

    def kill(self):
        if self.processes:
            self.processes.pop(self.draw.randrange(len(self.processes))).kill()

    def stop(self):
        if self.processes:
            number = self.draw.choice((signal.SIGSTOP, signal.SIGCONT))
            self.draw.choice(self.processes).signal(number)

    def move(self):
        for s in self.sockets:
            with contextlib.suppress(fal.FalError):  # EBUSY: too many groups of it lie unread
                s.join(self.draw.choice([*GROUPS, FILTERED])) if s.group is None else s.leave()

    def close(self):
        if self.sockets:
            with self.sockets.pop(self.draw.randrange(len(self.sockets))) as s:
                self.send(s)

    def leave(self):
        while self.processes:
            self.kill()
        while self.sockets:
            self.close()

    def end(self):
        """All go, in the end one of each group with packets that it has not read."""
        self.leave()
        groups = [*GROUPS, FILTERED]
        self.processes = [self.start_worker(self.poller, g, ring=64, how="hold") for g in groups]
        pids = {worker.pid for worker in self.processes}

        def unread():
            report = self.poller.look()
            return [m for g in report["groups"] for m in g["members"] if m["pid"] in pids]

        eventually(lambda: len(unread()) == len(pids) and all(m["in_ring"] for m in unread()))
        self.leave()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seconds", [10, pytest.param(600, marks=pytest.mark.long)])
def test_soak(make_veth, start_poller, start_worker, seconds):
    veth = make_veth(queues=4)
    poller = start_poller(veth.device, "--cpus", "0,1", namespace=veth.inside)
    idle = poller.look()["frames_free"]
    staying = [start_worker(poller, group, mode) for group, mode in GROUPS.items()]
    filtered = fal.open(poller.device, group=FILTERED, group_filter=HALF)
    alone = start_worker(poller)
    crowd = Crowd(poller, start_worker)
    with Traffic(veth, 5000) as traffic:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            crowd.turn()
            received(filtered)
            assert_books(poller.look())
            time.sleep(crowd.draw.uniform(0, 0.2))
        crowd.end()
    sent = traffic.sent

    def settled():
        received(filtered)
        report = poller.look()
        everyone = [*(m for g in report["groups"] for m in g["members"]), *report["sockets"]]
        here = len(everyone) == len(staying) + 2 and not any(m["in_ring"] for m in everyone)
        return report if here and report["link_received"] >= sent else None

    report = eventually(settled, 20)
    assert_books(report)
    assert report["link_received"] == sent
    assert all(cpu["received"] for cpu in report["cpus"])
    arrived = sent - report["if_dropped"]
    assert [g["id"] for g in report["groups"]] == [*GROUPS, FILTERED]
    assert [g["received"] for g in report["groups"]] == [arrived] * (len(GROUPS) + 1)
    for g in report["groups"]:  # those who stay have lost nothing by those who come and go
        assert g["drops"]["no_member"] == 0
        assert g["members"][0]["dropped"] == g["members"][0]["abandoned"] == 0
        assert g["gone"]["abandoned"] > 0
    if not report["if_dropped"]:  # the flows take turns
        assert [g["filtered"] for g in report["groups"]] == [0] * len(GROUPS) + [sent // 2]
    (m,) = report["sockets"]
    assert (m["pid"], m["consumed"], m["dropped"]) == (alone.pid, arrived, 0)
    assert report["sent"] + report["send_failed"] == crowd.injected > 0
    filtered.close()
    for worker in [*staying, alone]:
        worker.kill()
    eventually(lambda: not poller.look()["groups"] and not poller.look()["sockets"])
    eventually(lambda: poller.look()["frames_free"] == idle)
    assert poller.stop() == 0
