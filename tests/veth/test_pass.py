"""--pass: what matches goes on to the host, all else to the workers; nothing to both or to none."""

import socket
import struct
import time

import pytest
from support import assert_books, eventually, received, run, send_slowly, udp

import fal
from fal import bpf
from fal.bindings import lib
from fal.frames import ethernet, ip

SO_RCVBUFFORCE = 33  # asm-generic/socket.h
EXPRESSIONS = [
    "arp or icmp or port 22",
    "not (arp or icmp or port 22)",
    "len > 100 and len <= 300",
    "ip[8] < 64 or tcp[13] & 2 != 0 or udp[2:2] % 7 = 3",
    "vlan and (port 22 or arp)",
    "net 10.0.0.0/8 and greater 60",
    "",
]


def frames():
    """Return packets of many kinds, each another."""
    made = []
    for port in (22, 53, 80, 5000, 5001, 5002, 5003, 5004):
        for protocol in (1, 6, 17):
            for vlan in (None, 7):
                for n in (0, 60, 250):
                    there = struct.pack(">HHHH", 1000 + n, port, 8 + n, 0) + bytes(n)
                    back = struct.pack(">HHHH", port, 1000, 8 + n, 0) + bytes(n)
                    made += [
                        ethernet(ip("10.0.0.1", "10.0.0.2", protocol, there), vlan),
                        ethernet(ip("fd00::1", "fd00::2", protocol, back), vlan),
                    ]
    arp = b"\xff" * 6 + b"\2\0\0\0\0\1\x08\x06"
    made += [arp + bytes([n]).ljust(46, b"\0") for n in range(10)]
    made += [arp[:12] + b"\x81\0\0\7" + arp[12:] + bytes([n] * 46) for n in range(10)]
    made += [made[0][:n] for n in range(15, 34)]  # cut within the headers
    return list(dict.fromkeys(made))


def matches(program, frame):
    return bool(program) and bool(lib.fal_bpf_run(program, frame, len(frame), len(frame)))


@pytest.mark.parametrize("mode", ["generic", "native"])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_matches_is_the_host_s(make_veth, start_poller, mode, expression):
    veth = make_veth()
    poller = start_poller(
        *(veth.device, "--mode", mode, "--pass", expression), namespace=veth.inside
    )
    assert poller.ready["mode"] == mode
    program = bpf.native(bpf.compile(expression)) if expression else None
    with veth.inside.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as host:
        host.bind((veth.device, 3))
        host.settimeout(5)
        host.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
        with fal.open(poller.device) as s, fal.open(poller.device, group=1) as member:
            ours, theirs = [], []
            for frame in frames():
                (theirs if matches(program, frame) else ours).append(frame)
            assert ours
            assert bool(theirs) == bool(expression)
            send_slowly_mixed(veth, ours, theirs, s)
            assert [frame for _, frame in received(s)] == ours
            assert [frame for _, frame in received(member)] == ours
            # generic: the stack pulls a tag out of the bytes into the socket's ancillary data
            got = [host.recv(2048) for _ in theirs]
            assert [untagged(frame) for frame in got] == [untagged(frame) for frame in theirs]
            host.settimeout(0.05)
            with pytest.raises(TimeoutError):
                host.recv(2048)
        report = poller.look()
        assert_books(report)
        assert report["link_received"] == len(ours)


def untagged(frame):
    return frame[:12] + frame[16:] if frame[12:14] == b"\x81\0" else frame


def send_slowly_mixed(veth, ours, theirs, witness):
    for frame in theirs[: len(theirs) // 2]:
        veth.send(frame)
    send_slowly(veth, ours, witness)
    for frame in theirs[len(theirs) // 2 :]:
        veth.send(frame)


def test_a_flow_of_both(make_veth, start_poller):
    """In turn, many: none is mistaken for the one before it."""
    veth = make_veth()
    poller = start_poller(veth.device, "--pass", "udp dst port 53", namespace=veth.inside)
    with fal.open(poller.device) as s:
        for i in range(1000):
            veth.send(udp(("10.0.0.1", i), ("10.0.0.2", 53 + i % 2)))
            time.sleep(0.0002)
        eventually(lambda: s.stats().recv == 500)
        assert {int.from_bytes(frame[36:38]) for _, frame in received(s)} == {54}


def test_what_cannot_be_passed(make_veth, start_poller):
    veth = make_veth()
    for bad, why in [
        ("port", "filter 'port': "),
        ("ip and arp", "rejects all packets"),
        ("ip protochain 6", "backwards"),
    ]:
        poller = start_poller(veth.device, "--pass", bad, namespace=veth.inside, ready=False)
        assert why in poller.refused()
    done = run("fal-poller", "x", "--backend", "null", "--pass", "arp")
    assert done.returncode == 2
    assert "--pass" in done.stderr
