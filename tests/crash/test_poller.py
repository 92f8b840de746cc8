"""fal-poller dies, stops, and lives long (promise 4)."""

from __future__ import annotations

import errno
import gc
import json
import os
import select
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from crash.pages import HUGE_PAGES, free_huge_pages
from support import BIN, assert_books, eventually, ip, udp

import fal
from fal.bindings import lib


def mapped() -> int:
    """Mappings of ours of anything of FAL's."""
    return Path("/proc/self/maps").read_text().count("memfd:fal")


def has_program(veth) -> bool:
    (link,) = json.loads(ip("-n", veth.inside.name, "-j", "link", "show", veth.device))
    return "xdp" in link


def recv_batch(s):
    s.recv_batch()


def iterate(s):
    for _ in s:
        pass


def batches(s):
    for _ in s.batches(timeout=60):
        pass


def wait_by_select(s):
    while select.select([s], [], [], 60)[0]:  # it may be readable once too often
        s.recv_batch(timeout=0)


def wait_by_poll(s):
    p = select.poll()
    p.register(s, select.POLLIN)
    while p.poll(60000):
        s.recv_batch(timeout=0)


def join(s):
    s.join(99)


BLOCKING = (recv_batch, iterate, batches, wait_by_select, wait_by_poll, join)


class Caller(threading.Thread):
    """A thread in a call that can only end by an error; `ended` is when it did."""

    def __init__(self, socket, call):
        super().__init__(daemon=True)
        self.socket, self.call = socket, call
        self.start()

    def run(self):
        try:
            self.call(self.socket)
        except OSError as e:
            self.error, self.ended = e, time.monotonic()


@pytest.mark.timeout(200)
def test_the_poller_killed_a_hundred_times(hugepages, make_veth, start_poller, start_worker):
    veth = make_veth()
    words = (veth.device, "--frames", "8192", "--hugepages", "on")
    frame = udp(("10.0.0.1", 1), ("10.0.0.2", 2))
    gc.collect()  # what earlier tests left in cycles would go at any time, and hide a leak
    before = mapped()
    for i in range(100):
        poller = start_poller(*words, namespace=veth.inside)  # with the same name, at once
        assert poller.ready["page_size"] == str(2 << 20)
        # Threads of one process, and a process of its own.
        worker = start_worker(poller, 42, ring=64)
        sockets = [fal.open(poller.device, ring=64) for _ in BLOCKING]
        if i % 2:  # some have read before, some never
            veth.send(frame)
            for s in sockets:
                assert len(s.recv_batch(timeout=10)) == 1
        callers = [Caller(s, call) for s, call in zip(sockets[:-1], BLOCKING[:-1], strict=True)]
        assert has_program(veth)
        time.sleep(0.002)
        poller.process.send_signal(signal.SIGSTOP)  # so that the join is in flight
        os.waitpid(poller.pid, os.WUNTRACED)
        callers.append(Caller(sockets[-1], BLOCKING[-1]))
        time.sleep(0.002)
        began = time.monotonic()
        poller.process.kill()
        for c in callers:
            c.join(5)
            assert isinstance(c.error, fal.PollerGone), c.call
            assert c.error.errno == errno.ECONNRESET
            assert c.ended - began < 1, c.call
        assert worker.result(5) == (i % 2, errno.ECONNRESET)
        poller.wait()
        eventually(lambda: not has_program(veth))
        for s in sockets:
            with pytest.raises(fal.PollerGone):
                s.recv_batch(timeout=0)  # for ever
            s.close()
        eventually(lambda: free_huge_pages() >= HUGE_PAGES)
        assert mapped() <= before
        assert poller.look()["state"] == "crashed"
    done = subprocess.run([BIN / "fal", "stat", poller.name], capture_output=True, text=True)
    assert done.returncode == 0
    assert "crashed" in done.stdout
    with pytest.raises(fal.FalError, match="is gone") as caught:
        fal.open(poller.device)
    assert caught.value.errno == errno.ECONNREFUSED


def test_a_stopped_poller_only_pauses(make_veth, start_poller, start_worker):
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)
    worker = start_worker(poller, 42, count=1500)
    frame = udp(("10.0.0.1", 1), ("10.0.0.2", 2))
    with fal.open(poller.device) as s:
        for _ in range(3):
            poller.process.send_signal(signal.SIGSTOP)
            os.waitpid(poller.pid, os.WUNTRACED)  # it takes effect a moment later
            veth.send(*[frame] * 500)  # the device's ring holds them
            assert not select.select([s], [], [], 0.3)[0]
            assert len(s.recv_batch(timeout=0.1)) == 0
            assert poller.look()["state"] == "running"
            poller.process.send_signal(signal.SIGCONT)
            got = 0
            while got < 500:
                got += len(s.recv_batch(timeout=10))
            s.recv_batch(timeout=0)
        assert worker.result() == (1500, 0)
        eventually(lambda: poller.look()["sockets"][0]["consumed"] == 1500)
        assert_books(poller.look())
        assert poller.look()["if_dropped"] == 0
    assert poller.stop() == 0


def test_nothing_gathers_in_the_poller(start_poller):
    """Descriptors, mappings and memory are the same after two hundred that came and went."""
    poller = start_poller("flood", "--backend", "null", "--frames", "16384")
    proc = Path(f"/proc/{poller.pid}")

    def rounds(n):
        for i in range(n):
            with fal.open(poller.device, group=i % 3, ring=64 << i % 5) as s:
                s.recv_batch(timeout=1)
                s.leave()
                s.join(1000 + i)
                if i % 10 == 0:
                    with pytest.raises(fal.FalError, match="unknown fan-out mode"):
                        fal.open(poller.device, group=1, fanout="nonsense")

    def state():
        eventually(lambda: not poller.look()["groups"] and not poller.look()["sockets"])
        status = (proc / "status").read_text()
        return (
            len(os.listdir(proc / "fd")),
            len((proc / "maps").read_text().splitlines()),
            int(status.split("VmRSS:")[1].split()[0]),
        )

    rounds(50)
    descriptors, maps, memory = state()
    rounds(200)
    eventually(lambda: state()[0] <= descriptors)  # some are closed a moment later
    _, maps2, memory2 = state()
    assert maps2 <= maps + 3  # malloc's
    assert memory2 <= memory + 1024  # KiB


# ---- admission -----------------------------------------------------------------------------------


def test_the_bound_reached_with_all_members_stuck(make_veth, start_poller):
    """Disjoint frames in every ring, none read: one member more still loses nothing."""
    veth = make_veth()
    poller = start_poller(veth.device, "--frames", "8192", namespace=veth.inside)
    frame = udp(("10.0.0.1", 1), ("10.0.0.2", 2))
    frames = int(poller.ready["frames"])
    reserved = lib.FAL_RX_RING + lib.FAL_BURST + lib.FAL_TX_FRAMES
    live = fal.open(poller.device, group=0, ring=256)
    room, sent, stuck = frames - reserved - 256, 0, []

    def send(n):
        nonlocal sent
        for _ in range(n // 64):
            veth.send(*[frame] * 64)
            sent += 64
            got = 0
            while got < 64:
                got += len(live.recv_batch(timeout=10))
        live.recv_batch(timeout=0)

    while room >= 64:
        ring = min(1024, 1 << room.bit_length() - 1)
        stuck.append(fal.open(poller.device, group=len(stuck) + 1, ring=ring))
        room -= ring
        send(ring)  # it fills up with what the earlier ones have no room for any more
    full = poller.look()
    assert all(m["in_ring"] == m["ring"] for g in full["groups"][1:] for m in g["members"])
    quotas = sum(m["ring"] for g in full["groups"] for m in g["members"])
    with pytest.raises(fal.FalError) as caught:
        fal.open(poller.device, ring=64)
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value).startswith(
        f"no frames for a ring of 64: of {frames} frames {reserved} are the device's"
        f" and {quotas} the sockets', {room} are left"
    )
    send(6400)
    eventually(lambda: poller.look()["groups"][0]["members"][0]["consumed"] == sent)
    report = poller.look()
    assert_books(report)
    assert report["if_dropped"] == report["groups"][0]["members"][0]["dropped"] == 0
    assert live.stats() == (sent, 0, 0)
    for s in (live, *stuck):
        s.close()
    eventually(lambda: poller.look()["frames_free"] == frames - lib.FAL_RX_RING)
