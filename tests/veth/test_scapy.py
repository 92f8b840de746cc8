"""scapy's sniff over FalL2ListenSocket: every packet once, to the byte, and the loop's own ways."""

import errno
import logging
import select
import socket
import subprocess
import sys
import time

import pytest
from scapy.config import conf
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether
from scapy.sendrecv import AsyncSniffer, sniff
from scapy.supersocket import SimpleSocket, SuperSocket
from support import eventually, udp

import fal
from fal.scapy import FalL2ListenSocket

FLOWS = 40
FRAMES = [
    udp(("10.0.0.1", 1000 + n % FLOWS), ("10.0.0.2", 53), n.to_bytes(8, "big")) for n in range(300)
]
ARP = b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x08\x06" + bytes(46)
STEP = 1e-6  # seconds: more than a float is off


@pytest.fixture(params=["fal", "tpacket"])
def veth_and_name(request, make_veth, start_poller):
    """A veth pair, and its inner end's name: served by fal-poller, or the kernel's."""
    veth = make_veth()
    if request.param == "tpacket":
        return veth, f"tpacket:{veth.device}"
    return veth, start_poller(veth.device, "--mode", "generic", namespace=veth.inside).device


@pytest.fixture
def served_one(make_veth, start_poller):
    veth = make_veth()
    return veth, start_poller(veth.device, "--mode", "generic", namespace=veth.inside)


@pytest.fixture
def listen(veth_and_name):
    """Open sockets on it, which are closed afterwards."""
    veth, name = veth_and_name
    made = []

    def listen(**how):
        with veth.inside.entered():
            made.append(FalL2ListenSocket(name, **how))
        return made[-1]

    yield listen
    for s in made:
        s.close()


def flow(p):
    return int(p[UDP].sport)


def test_bytes_order_once(veth_and_name, listen):
    veth, _ = veth_and_name
    s, times = listen(), []

    def send():
        times.append(time.time())
        veth.send(*FRAMES)
        times.append(time.time())

    got = sniff(opened_socket=s, count=len(FRAMES), timeout=20, started_callback=send)
    assert [p.original for p in got] == FRAMES
    assert {type(p) for p in got} == {Ether}
    stamps = [float(p.time) for p in got]
    assert stamps == sorted(stamps)
    assert times[0] - STEP < stamps[0] < stamps[-1] < times[1] + STEP
    assert list(sniff(opened_socket=s, timeout=0.1)) == []


def test_a_group_shares_by_flow(veth_and_name, listen):
    veth, _ = veth_and_name
    sockets = [listen(group=7, fanout="hash"), listen(group=7)]
    sniffers = [AsyncSniffer(opened_socket=s) for s in sockets]
    for sniffer in sniffers:
        sniffer.start()
    eventually(lambda: all(hasattr(sniffer, "continue_sniff") for sniffer in sniffers))
    veth.send(*FRAMES)
    eventually(lambda: sum(sniffer.count for sniffer in sniffers) >= len(FRAMES))
    one, other = (sniffer.stop() for sniffer in sniffers)
    assert sorted(p.original for p in [*one, *other]) == sorted(FRAMES)
    assert min(len(one), len(other)) > 0
    assert not {*map(flow, one)} & {*map(flow, other)}


def test_filters(veth_and_name, listen, monkeypatch):
    veth, _ = veth_and_name
    monkeypatch.setattr(conf, "except_filter", "udp src port 1001")
    sockets = {
        "filter": listen(filter="udp src port 1000 or udp src port 1001"),
        "nofilter": listen(filter="udp src port 1001", nofilter=1),
        "type": listen(type=0x0806),
        "all": listen(),
    }
    veth.send(*FRAMES[:2], ARP)
    got = {}
    for name, s in sockets.items():
        found = sniff(opened_socket=s, timeout=0.3)  # tpacket: until its block is full, 32 ms
        got[name] = [p.original for p in found]
    assert got == {
        "filter": FRAMES[:1],
        "nofilter": FRAMES[1:2],
        "type": [ARP],
        "all": [FRAMES[0], ARP],
    }


def test_the_loops_own_ways(veth_and_name, listen, capsys):
    """count, store, prn, lfilter, stop_filter: what a sniff leaves, the next one has."""
    veth, _ = veth_and_name
    s, seen = listen(), []
    veth.send(*FRAMES)
    got = sniff(opened_socket=s, count=5, timeout=20)
    got += sniff(opened_socket=s, stop_filter=lambda p: flow(p) == 1010, timeout=20)
    assert [p.original for p in got] == FRAMES[:11]
    found = sniff(
        opened_socket=s,
        count=20,
        timeout=20,
        store=False,
        prn=lambda p: seen.append(p.original) or "printed",
        lfilter=lambda p: flow(p) % 2 == 0,
    )
    assert len(found) == 0
    assert seen == FRAMES[12:51:2]
    assert capsys.readouterr().out == "printed\n" * 20
    assert [s.recv().original for _ in FRAMES[51:]] == FRAMES[51:]


def test_select_asks_the_kernel_once_a_batch(veth_and_name, listen, monkeypatch):
    veth, _ = veth_and_name
    s, ready = listen(), FalL2ListenSocket.select
    assert ready([s], 0) == []
    assert s.nonblock_recv() is None
    veth.send(*FRAMES[:10])
    assert select.select([s], [], [], 5)[0] == [s]
    if not s.iface.startswith("tpacket"):
        eventually(lambda: s._socket.stats().recv == 10)
    asked, real = [], SuperSocket.select
    monkeypatch.setattr(SuperSocket, "select", lambda *a: asked.append(a) or real(*a))
    got = []
    while len(got) < 10 and ready([s], 5) == [s]:
        got.append(s.recv_raw(30))
        assert len(got) == 10 or select.select([s], [], [], 0)[0] == [s]  # whoever asks
    assert [(kind, data) for kind, data, _ in got] == [(Ether, data[:30]) for data in FRAMES[:10]]
    assert len(asked) == 1
    assert ready([s], 0) == []  # also where the descriptor is readable once too often
    veth.send(FRAMES[10])
    assert ready([s], 5) == [s]
    assert s.nonblock_recv().original == FRAMES[10]


def test_names(served_one):
    """By iface= alone; several; with a class; what does not run or is refused."""
    veth, poller = served_one
    for how in (
        {"iface": poller.device},
        {"iface": [poller.device]},
        {"iface": {poller.device: "label"}},
        {"iface": poller.device, "L2socket": FalL2ListenSocket, "filter": "udp", "group": 4},
    ):
        send = {"started_callback": lambda: veth.send(*FRAMES)}
        got = sniff(count=len(FRAMES), timeout=20, **how, **send)
        assert [p.original for p in got] == FRAMES
        label = "label" if isinstance(how["iface"], dict) else poller.device
        assert {p.sniffed_on for p in got} == {label}
        eventually(lambda: not poller.look()["sockets"] and not poller.look()["groups"])
    with pytest.raises(ValueError, match="fal:nobody"):
        sniff(iface="fal:nobody", timeout=1)
    for code, how in [
        (errno.ENOENT, {"iface": "fal:nobody"}),
        (errno.EOPNOTSUPP, {"iface": poller.device, "monitor": True}),
        (errno.EINVAL, {"iface": poller.device, "filter": "flew"}),
        (errno.EINVAL, {"iface": poller.device, "fanout": "hash"}),
    ]:
        with pytest.raises(fal.FalError) as raised:
            FalL2ListenSocket(**how)
        assert raised.value.errno == code
    poller.kill()
    with pytest.raises(fal.FalError) as raised:
        sniff(iface=poller.device, timeout=1)
    assert raised.value.errno == errno.ECONNREFUSED


PROGRAM = """
import sys
from scapy.all import conf, sniff
from fal.scapy import FalL2ListenSocket
conf.L2listen = FalL2ListenSocket
def started():
    print("started", flush=True)
got = sniff(iface=sys.argv[1], count=300, timeout=20, promisc=False, started_callback=started)
print(b"".join(p.original for p in got).hex())
"""


def test_all_interfaces_by_conf(make_veth):
    veth = make_veth()
    command = veth.inside.command(sys.executable, "-W", "error", "-Pc", PROGRAM, veth.device)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sniffer:
        assert sniffer.stdout.readline() == "started\n"
        veth.send(*FRAMES)
        assert sniffer.stdout.read().strip() == b"".join(FRAMES).hex()


def test_stopping(served_one):
    """A timeout is one; a sniffer that waits can be stopped."""
    _, poller = served_one
    begin = time.monotonic()
    assert list(sniff(iface=poller.device, timeout=0.3)) == []
    assert 0.3 <= time.monotonic() - begin < 5
    sniffer = AsyncSniffer(iface=poller.device)
    sniffer.start()
    eventually(lambda: poller.look()["sockets"])
    eventually(lambda: hasattr(sniffer, "continue_sniff"))
    assert list(sniffer.stop()) == []
    eventually(lambda: not poller.look()["sockets"])


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_end_of_the_poller(served_one, end, caplog):
    """After the last packet.  A crash is said."""
    veth, poller = served_one
    with FalL2ListenSocket(poller.device) as s, FalL2ListenSocket(poller.device) as direct:
        veth.send(*FRAMES[:3])
        eventually(lambda: poller.look()["sockets"][0]["delivered"] == 3)
        getattr(poller, end)()
        with caplog.at_level(logging.WARNING, "scapy"):
            got = sniff(opened_socket=s, timeout=20)
        assert [p.original for p in got] == FRAMES[:3]
        assert ("died" in caplog.text) == (end == "kill")
        assert [direct.recv().original for _ in range(3)] == FRAMES[:3]
        with pytest.raises(fal.PollerGone if end == "kill" else EOFError):
            direct.recv()


def test_sending(served_one):
    veth, poller = served_one
    with veth.outside.entered():
        peer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    peer.settimeout(5)
    with peer, FalL2ListenSocket(poller.device) as s:
        peer.bind((veth.peer, 0x0800))
        frame = Ether(FRAMES[0])
        before = time.time()
        assert s.send(frame) == len(FRAMES[0])
        assert before <= frame.sent_time <= time.time()
        assert peer.recv(2000) == FRAMES[0]
        with pytest.raises(fal.FalError) as raised:
            s.send(Ether(bytes(9000)))
        assert raised.value.errno == errno.EMSGSIZE
    s.close()
    with pytest.raises(fal.FalError):
        s.fileno()


def test_beside_a_socket_of_scapys_own(served_one):
    """In one select with others, each is heard."""
    veth, poller = served_one
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, FalL2ListenSocket(poller.device) as s:
        theirs = SimpleSocket(other)
        one.send(b"hello")
        got = sniff(
            opened_socket={s: "fal", theirs: "other"},
            count=4,
            timeout=20,
            started_callback=lambda: veth.send(*FRAMES[:3]),
        )
        theirs.close()
    assert sorted(p.sniffed_on for p in got) == ["fal"] * 3 + ["other"]
