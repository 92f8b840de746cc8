"""Workers that stop and workers that die (promises 3, 4 and 5)."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from statistics import median

import pytest
from support import Traffic, assert_books, eventually, quiet

from fal import status
from fal.bindings import lib


@pytest.fixture
def before_others():
    """Run this test, and what it starts, before all else on this machine: it measures times."""
    os.setpriority(os.PRIO_PROCESS, 0, -10)
    yield
    os.setpriority(os.PRIO_PROCESS, 0, 0)


def members(report, group=42):
    return {m["pid"]: m for g in report["groups"] if g["id"] == group for m in g["members"]}


WAYS = [("generic", 1, 1), ("native", 4, 2), ("tpacket", 1, 1)]


@pytest.mark.parametrize("served", WAYS, indirect=True)
def test_a_stopped_worker_costs_nobody_a_packet(served, start_worker):
    veth, poller = served
    victim, *fellows = (start_worker(poller, 42, "hash", ring=1024) for _ in range(3))
    others = [start_worker(poller, 7, "lb"), start_worker(poller)]
    rings = len(poller.look()["cpus"])
    with Traffic(veth, 10000) as traffic:
        eventually(lambda: members(poller.look())[victim.pid]["consumed"])
        victim.signal(signal.SIGSTOP)
        # Its quota in the ring of each poller, and no more, however much more comes.
        eventually(lambda: members(poller.look())[victim.pid]["in_ring"] >= 1024 * rings)
        full = members(poller.look())[victim.pid]
        eventually(lambda: members(poller.look())[victim.pid]["dropped"] > full["dropped"] + 1000)
        before = members(poller.look())[victim.pid]
        assert before["in_ring"] == 1024 * rings
        victim.signal(signal.SIGCONT)
        goal = before["consumed"] + 2000
        eventually(lambda: members(poller.look())[victim.pid]["consumed"] > goal)
    eventually(lambda: poller.look()["link_received"] >= traffic.sent)
    report = eventually(lambda: quiet(poller))
    assert_books(report)
    assert report["if_dropped"] == 0
    stopped = members(report)[victim.pid]
    assert [members(report)[w.pid]["dropped"] for w in fellows] == [0, 0]
    assert report["groups"][1]["drops"] == {"ring_full": stopped["dropped"], "no_member": 0}
    assert members(report, 7)[others[0].pid]["consumed"] == traffic.sent
    assert report["sockets"][0]["consumed"] == traffic.sent
    assert report["sockets"][0]["dropped"] == report["groups"][0]["drops"]["ring_full"] == 0


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("rounds", [1000, pytest.param(20000, marks=pytest.mark.long)])
def test_a_worker_killed_a_thousand_times(before_others, start_poller, start_worker, rounds):
    """Under a flood: each time its frames and its flows are others' within 100 ms."""
    poller = start_poller("flood", "--backend", "null", "--frames", "16384", "--hugepages", "off")
    idle = eventually(lambda: poller.look()["frames_free"])
    eventually(lambda: poller.look()["frames_free"] == idle)
    survivors = {start_worker(poller, 42, "hash", ring=512, how=1000).pid for _ in range(2)}
    times = []
    for i in range(rounds):
        victim = start_worker(poller, 42, ring=256, how=("hold", 300)[i % 2])
        while members(poller.look())[victim.pid]["in_ring"] < 256:
            time.sleep(0.001)
        victim.signal(signal.SIGKILL)
        began = looked = time.monotonic()
        while victim.pid in members(report := poller.look()):
            assert looked - began < 0.1, "100 ms after its death it still is a member"
            time.sleep(0.001)
            looked = time.monotonic()
        times.append(looked - began)
        victim.kill()
        (group,) = report["groups"]
        assert_books(report)
        assert {m["pid"] for m in group["members"]} == survivors
        assert group["gone"]["abandoned"] > 0
        # Every frame is in the pool, in a survivor's ring, or in the hands of the source.
        held = (
            report["frames"] - report["frames_free"] - sum(m["in_ring"] for m in group["members"])
        )
        assert 0 <= held <= lib.FAL_BURST
        # From then on all is the survivors'.
        while (later := poller.look()["groups"][0])["received"] == group["received"]:
            time.sleep(0.001)
        assert later["gone"] == group["gone"]
        assert sum(m["delivered"] + m["dropped"] for m in later["members"]) - sum(
            m["delivered"] + m["dropped"] for m in group["members"]
        ) == (later["received"] - group["received"])
        assert later["drops"]["no_member"] == group["drops"]["no_member"]
    assert median(times) < 0.02
    assert group["gone"]["abandoned"] >= 500 * 256
    for w in survivors:
        os.kill(w, signal.SIGKILL)
    eventually(lambda: not poller.look()["groups"])
    eventually(lambda: poller.look()["frames_free"] == idle)
    segment = status.open_existing(Path(poller.env["FAL_RUNTIME_DIR"]), poller.name)
    now = segment.poller(0)
    assert not any(m.socket for m in now.member)
    assert not any(g.live for g in now.group)
    segment.close()


@pytest.mark.parametrize("served", WAYS, indirect=True)
def test_others_lose_nothing_by_a_death(served, start_worker):
    """On a device: with every kill some packets are abandoned, and nobody else misses any."""
    veth, poller = served
    idle = poller.look()["frames_free"]
    fellows = [start_worker(poller, 42, "hash") for _ in range(2)]
    other, alone = start_worker(poller, 7, "lb"), start_worker(poller)
    with Traffic(veth, 10000) as traffic:
        for i in range(60):
            victim = start_worker(poller, 42, ring=128, how=("hold", "read")[i % 2])
            eventually(lambda: members(poller.look())[victim.pid]["delivered"])  # noqa: B023
            if i % 3 == 0:
                victim.signal(signal.SIGSTOP)
            victim.kill()
            eventually(lambda: len(members(poller.look())) == 2)
    eventually(lambda: poller.look()["link_received"] >= traffic.sent)
    report = eventually(lambda: quiet(poller))
    assert_books(report)
    assert report["if_dropped"] == 0
    lb, hashed = report["groups"]
    assert members(report, 7)[other.pid]["consumed"] == lb["received"] == traffic.sent
    assert report["sockets"][0]["pid"] == alone.pid
    assert [members(report)[w.pid]["dropped"] for w in fellows] == [0, 0]
    assert hashed["received"] == traffic.sent
    assert hashed["gone"]["abandoned"] > 0
    for w in (*fellows, other, alone):
        w.kill()
    eventually(lambda: poller.look()["frames_free"] == idle)
