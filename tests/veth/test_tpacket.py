"""The tpacket backend, where it differs from AF_XDP: the host keeps its packets, both ways."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from support import NOBODY, eventually, ip, received, run, send_slowly, udp

import fal
from fal.bindings import lib

TPACKET = ("--backend", "tpacket")
OUTGOING, TRUNCATED = lib.FAL_DESC_OUTGOING, lib.FAL_DESC_TRUNCATED
FRAMES = [udp(("10.0.0.1", 1000 + i), ("10.0.0.2", 53)) for i in range(100)]


@pytest.fixture
def veth(make_veth):
    return make_veth()


@pytest.fixture
def host(veth):
    """A packet socket of the host's on the device."""
    with veth.inside.entered():
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind((veth.device, 3))
    s.settimeout(5)
    yield s
    s.close()


def test_the_host_keeps_its_packets(veth, host, start_poller):
    poller = start_poller(veth.device, *TPACKET, namespace=veth.inside)
    with fal.open(poller.device) as s:
        send_slowly(veth, FRAMES, s)
        assert [frame for _, frame in received(s)] == FRAMES
    assert [host.recv(2048) for _ in FRAMES] == FRAMES
    assert poller.look()["if_dropped"] == 0


def test_both_directions_meet_one_worker(veth, host, start_poller):
    poller = start_poller(veth.device, *TPACKET, namespace=veth.inside)
    back = [udp(("10.0.0.2", 53), ("10.0.0.1", 1000 + i)) for i in range(100)]
    with fal.open(poller.device, group=1) as a, fal.open(poller.device, group=1) as b:
        for there, again in zip(FRAMES, back, strict=True):
            veth.send(there)
            host.send(again)
        eventually(lambda: a.stats().recv + b.stats().recv == 200)
        for s in (a, b):
            got = received(s)
            incoming = {frame for meta, frame in got if not meta["flags"] & OUTGOING}
            outgoing = {frame for meta, frame in got if meta["flags"] & OUTGOING}
            assert incoming
            assert {FRAMES[back.index(frame)] for frame in outgoing} == incoming


@pytest.mark.parametrize("cpus", ["0", "0,1"])
def test_on_the_loopback_device_each_packet_comes_once(veth, start_poller, cpus):
    ip("-n", veth.inside.name, "link", "set", "lo", "up")
    poller = start_poller("lo", *TPACKET, "--cpus", cpus, namespace=veth.inside)
    with (
        fal.open(poller.device) as s,
        veth.inside.entered(),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        payloads = [bytes([i]) * 100 for i in range(50)]
        for payload in payloads:
            sender.sendto(payload, ("127.0.0.1", 9))
        eventually(lambda: s.stats().recv >= 50)
        time.sleep(0.1)
        got = [frame for _, frame in received(s)]
    assert [frame[42:] for frame in got if frame[23] == 17] == payloads


def test_longer_than_a_frame(make_veth, start_poller):
    veth = make_veth(mtu=9000)
    frames = [udp(("10.0.0.1", n), ("10.0.0.2", 1), os.urandom(n - 42)) for n in (2048, 2049, 9000)]
    for size in (2048, 4096):
        poller = start_poller(
            *(veth.device, *TPACKET, "--frame-size", str(size)), namespace=veth.inside
        )
        with fal.open(poller.device) as s:
            send_slowly(veth, frames, s)
            for (meta, data), frame in zip(received(s), frames, strict=True):
                assert data == frame[:size]
                assert meta["len"] == len(frame)
                assert bool(meta["flags"] & TRUNCATED) == (len(frame) > size)
        assert poller.stop() == 0


def test_what_finds_no_room_is_counted(veth, start_poller):
    """A stopped poller empties no block."""
    poller = start_poller(veth.device, *TPACKET, namespace=veth.inside)
    with fal.open(poller.device, ring=16384) as s:
        os.kill(poller.pid, signal.SIGSTOP)
        frame, sent = udp(("10.0.0.1", 1), ("10.0.0.2", 2), bytes(1400)), 14000
        before = time.time_ns()
        veth.send(*[frame] * sent)
        after = time.time_ns()
        time.sleep(0.1)
        os.kill(poller.pid, signal.SIGCONT)
        eventually(lambda: poller.look()["link_received"] == sent)
        report = poller.look()
        assert report["if_dropped"] > 0
        assert report["queues"][0]["received"] == sent - report["if_dropped"]
        eventually(lambda: s.stats().ifdrop == report["if_dropped"])
        stamps = [int(meta["ts_ns"]) for meta, _ in received(s)]  # of the arrival
        assert before < stamps[0] < stamps[-1] < after
        assert stamps == sorted(stamps)


def cpu_ticks(poller):
    fields = Path(f"/proc/{poller.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_device_that_is_down(veth, start_poller):
    ip("-n", veth.inside.name, "link", "set", veth.device, "down")
    poller = start_poller(veth.device, *TPACKET, "--idle", "sleep", namespace=veth.inside)
    with fal.open(poller.device) as s:
        before = cpu_ticks(poller)
        for _ in range(4):
            ip("-n", veth.inside.name, "link", "set", veth.device, "up")
            ip("-n", veth.inside.name, "link", "set", veth.device, "down")
            time.sleep(0.3)
        assert cpu_ticks(poller) - before < 50  # of 120: a pending error does not keep it awake
        ip("-n", veth.inside.name, "link", "set", veth.device, "up")
        eventually(lambda: "LOWER_UP" in ip("-n", veth.outside.name, "link", "show", veth.peer))
        send_slowly(veth, FRAMES, s)
        assert [frame for _, frame in received(s)] == FRAMES


def test_what_cannot_be_had(veth, start_poller, runtime):
    def refused(*words, **how):
        return start_poller(*words, *TPACKET, namespace=veth.inside, ready=False, **how).refused()

    assert "no device nosuch0" in refused("nosuch0")
    assert "no device" in refused("x" * 40)
    ip("-n", veth.inside.name, "tuntap", "add", "tun7", "mode", "tun")
    assert "tun7 is no Ethernet device" in refused("tun7")
    (runtime / ".lock").unlink()
    os.chown(runtime, 65534, 65534)
    assert "CAP_NET_RAW" in refused(veth.device, through=NOBODY)
    for option in (("--queues", "0"), ("--count", "1"), ("--rate", "max", "--loop", "2")):
        assert "is for --backend" in run("fal-poller", "x", *TPACKET, *option).stderr
