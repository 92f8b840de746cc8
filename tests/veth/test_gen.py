"""`fal gen`: what it says it sent arrives, and it says clearly what it cannot do."""

import json
import os
import signal
import socket
import struct
import subprocess
import time

import pytest
from captures import write_pcap, write_pcapng
from support import BIN, eventually, ip, run

from fal import traffic
from fal.sender import VIA
from fal.traffic import Mix

SOL_PACKET, PACKET_STATISTICS, ETH_P_ALL = 263, 6, 3
every_way = pytest.mark.parametrize("via", ["socket", "af_xdp", "xdp"])


class Listener:
    """A packet socket at the inner end, with room for some thousand packets."""

    def __init__(self, veth):
        with veth.inside.entered():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
        self.socket.bind((veth.device, ETH_P_ALL))
        self.socket.setblocking(False)

    def frames(self):
        found = []
        try:
            while True:
                found.append(self.socket.recv(65536))
        except BlockingIOError:
            return found

    def count(self):
        """Return how many came since it was asked before."""
        return struct.unpack("II", self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[0]


@pytest.fixture
def listener(make_veth):
    veth = make_veth()
    listener = Listener(veth)
    listener.veth = veth
    yield listener
    listener.socket.close()


def switch_gro_on(veth):
    """Have the inner end take frames from XDP."""
    command = veth.inside.command("ethtool", "-K", veth.device, "gro", "on")
    subprocess.run(command, check=True)


def gen(veth, *words, code=0):
    done = subprocess.run(
        veth.outside.command(str(BIN / "fal"), "gen", veth.peer, *words),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return done


def sent(veth, *words):
    return json.loads(gen(veth, *words, "--json").stdout)


@every_way
def test_what_is_made_arrives(listener, via):
    mix = Mix(flows=50, sizes="64-1500", ipv6=0.5, fragments=0.1, tunnels=0.3, seed=9)
    words = [w for key in ("flows", "sizes", "ipv6", "fragments", "tunnels", "seed")
             for w in (f"--{key}", str(getattr(mix, key)))]  # fmt: skip
    switch_gro_on(listener.veth)
    report = sent(listener.veth, *words, "--count", "5000", "--rate", "50000", "--via", via)
    made = traffic.made(mix)
    expected = [made[i % len(made)] for i in range(5000)]
    assert listener.frames() == expected
    assert (report["sent"], report["failed"], report["failures"]) == (5000, 0, {})
    assert report["bytes"] == sum(map(len, expected))


def test_a_capture_file(listener, tmp_path):
    made = traffic.made(Mix(flows=3, sizes="imix"))[:50]
    packets = [(i, frame, 1514) for i, frame in enumerate(made)]
    path = write_pcap(tmp_path / "x.pcap", packets)
    for file in (path, write_pcapng(tmp_path / "x", packets)):
        assert sent(listener.veth, "--pcap", str(file), "--loop", "3")["sent"] == 150
        assert listener.frames() == made * 3
    assert sent(listener.veth, "--pcap", str(path), "--loop", "3", "--count", "70")["sent"] == 70
    assert listener.frames() == (made * 2)[:70]
    assert sent(listener.veth, "--pcap", str(path), "--loop", "0", "--count", "170")["sent"] == 170
    assert listener.frames() == (made * 4)[:170]
    content = path.read_bytes()
    for wrong, word in (
        (content[:-1], "after 49 packets: truncated dump file"),
        (b"hello", "unknown file format"),
        (content[:24], "no packet"),
        (content[:20] + b"\x71\0\0\0", "113, not Ethernet"),
    ):
        path.write_bytes(wrong)
        error = gen(listener.veth, "--pcap", str(path), code=1).stderr
        assert error.startswith(f"fal: {path}: ")
        assert word in error
    error = gen(listener.veth, "--pcap", f"{path}x", code=1).stderr
    assert error == f"fal: {path}x: No such file or directory\n"
    write_pcap(path, [(0, bytes(13))])
    error = gen(listener.veth, "--pcap", str(path), code=1).stderr
    assert error == "fal: a frame of 13 bytes: no Ethernet header in it\n"


def test_rates_and_ends(listener):
    report = sent(listener.veth, "--rate", "2000", "--seconds", "1")
    assert 0.8 * 2000 < report["sent"] <= 2000
    assert listener.count() == report["sent"]
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            listener.veth.outside.command(str(BIN / "fal"), "gen", listener.veth.peer, "--json"),
            stdout=subprocess.PIPE,
        )
        eventually(listener.count)
        time.sleep(0.2)
        process.send_signal(number)
        report = json.loads(process.communicate(timeout=10)[0])
        assert process.returncode == 0
        assert report["failed"] == 0
        assert 0 < listener.count() <= report["sent"]
    line = gen(listener.veth, "--count", "10").stdout
    assert line.startswith("sent 10 in 0.00 s: ")
    assert line.endswith("failed 0\n")


@every_way
def test_what_cannot_be_sent(listener, via):
    veth = listener.veth
    switch_gro_on(veth)
    done = gen(veth, "--sizes", "1600", "--count", "10", "--via", via, code=1)
    assert "failed 10 (10 Message too long)" in done.stdout
    report = sent(veth, "--sizes", "1000-1600", "--count", "1000", "--via", via)
    assert report["sent"] + report["failed"] == 1000
    assert report["failures"] == {"EMSGSIZE": report["failed"]}
    assert 0.1 < report["failed"] / 1000 < 0.2  # 86 sizes of 601 are too long
    assert listener.count() == report["sent"]
    assert report["bytes"] == sum(map(len, listener.frames()))
    ip("-n", veth.outside.name, "link", "set", veth.peer, "down")
    done = gen(veth, "--count", "10", "--via", via, code=1)
    assert done.stdout.startswith("sent 0 ")
    assert done.stderr == f"fal: {veth.peer} is down (ip link set {veth.peer} up)\n"


def test_af_xdp_counts_what_the_device_refuses(make_veth):
    """The other end goes down and comes up on the way: as the device's own counters say."""
    veth = make_veth()

    def counted():
        (link,) = json.loads(ip("-n", veth.outside.name, "-s", "-j", "link", "show", veth.peer))
        return link["stats64"]["tx"]

    process = subprocess.Popen(
        veth.outside.command(
            *(str(BIN / "fal"), "gen", veth.peer, "--via", "af_xdp"),
            *("--rate", "20000", "--sizes", "100-200", "--json"),
        ),
        stdout=subprocess.PIPE,
    )
    eventually(lambda: counted()["packets"] > 500)
    for state, what in (("down", "dropped"), ("up", "packets")):
        ip("-n", veth.inside.name, "link", "set", veth.device, state)
        before = counted()[what]
        eventually(lambda what=what, before=before: counted()[what] > before + 500)
    process.terminate()
    report = json.loads(process.communicate(timeout=10)[0])
    assert report["failures"] == {"ENOBUFS": report["failed"]}
    assert {
        "packets": report["sent"],
        "bytes": report["bytes"],
        "dropped": report["failed"],
    }.items() <= counted().items()


def test_af_xdp_leaves_the_host_its_packets(listener):
    """And it needs a queue that no other AF_XDP socket has."""
    veth = listener.veth
    with veth.outside.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as host:
        host.bind((veth.peer, ETH_P_ALL))
        host.settimeout(5)
        process = subprocess.Popen(
            veth.outside.command(
                *(str(BIN / "fal"), "gen", veth.peer, "--via", "af_xdp", "--rate", "1000")
            ),
            stdout=subprocess.DEVNULL,
        )
        eventually(listener.count)
        mine = b"\xff" * 12 + b"\x08\x06" + b"to the host" + bytes(40)
        listener.socket.send(mine)
        while host.recv(2048) != mine:
            pass
        line = gen(veth, "--via", "af_xdp", "--count", "1", code=1).stderr
        assert line.startswith(f"fal: queue 0 of {veth.peer} belongs to another AF_XDP socket: ")
        assert "--via socket" in line
        process.terminate()
        assert process.wait(10) == 0


def test_long_frames(make_veth):
    veth = make_veth(mtu=9000)
    listener = Listener(veth)
    report = sent(veth, "--via", "af_xdp", "--sizes", "4000-4096", "--count", "200")
    assert (report["sent"], report["failed"]) == (200, 0)
    frames = listener.frames()
    assert report["bytes"] == sum(map(len, frames))
    assert {len(frame) for frame in frames} <= set(range(4000, 4097))
    ip("-n", veth.outside.name, "link", "set", veth.peer, "mtu", "4082")
    line = gen(veth, "--via", "af_xdp", "--sizes", "4100", "--vlan", "1", code=1).stderr
    assert line.startswith("fal: a frame of 4100 bytes: AF_XDP sends at most 4096 ")
    switch_gro_on(veth)
    report = sent(veth, "--via", "xdp", "--sizes", "3400-3408", "--count", "200")
    assert (report["sent"], report["failed"]) == (200, 0)
    frames = listener.frames()
    assert report["bytes"] == sum(map(len, frames))
    assert {len(frame) for frame in frames} == set(range(3400, 3409))
    line = gen(veth, "--via", "xdp", "--sizes", "3409", code=1).stderr
    assert line.startswith("fal: a frame of 3409 bytes: an XDP frame has at most 3408 ")
    listener.socket.close()


def test_xdp_frames_that_the_other_end_does_not_take(listener):
    """They are lost without a word of the kernel's: at first that ends it, later it is counted."""
    veth = listener.veth
    done = gen(veth, "--via", "xdp", "--count", "1000", code=1)
    assert done.stdout.startswith("sent 0 ")
    line = f"fal: {veth.peer} takes no XDP frames: of a veth pair the other end must be up, with "
    assert done.stderr.startswith(line)
    switch_gro_on(veth)
    process = subprocess.Popen(
        veth.outside.command(
            *(str(BIN / "fal"), "gen", veth.peer, "--via", "xdp"),
            *("--rate", "20000", "--sizes", "100-200", "--json"),
        ),
        stdout=subprocess.PIPE,
    )
    arrived = 0

    def some_arrived():
        nonlocal arrived
        arrived += (more := listener.count())
        return more

    eventually(some_arrived)
    for state in ("down", "up"):
        # What lies in the device when it goes down is lost, and what comes before the listener,
        # too, hears that it is up: so nothing may come.
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        time.sleep(0.05)
        ip("-n", veth.inside.name, "link", "set", veth.device, state)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.2)
        some_arrived()
    eventually(some_arrived)
    process.terminate()
    report = json.loads(process.communicate(timeout=10)[0])
    some_arrived()
    assert report["failures"] == {"ENXIO": report["failed"]}
    assert report["failed"] > 500
    assert report["sent"] == arrived
    listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # that it was down
    assert report["bytes"] == sum(map(len, listener.frames()))


def test_xdp_frames_flat_out(make_veth, start_poller):
    """What was sent arrived, however fast; each frame with its own length."""
    veth = make_veth()
    poller = start_poller(veth.device, "--mode", "native", namespace=veth.inside)
    words = ("--via", "xdp", "--count", "500000", "--sizes", "64-1514", "--flows", "3000")
    report = sent(veth, *words)
    assert report["sent"] + report["failed"] == 500000
    assert report["failures"] in ({}, {"ENOBUFS": report["failed"]})

    def arrived():
        stat = poller.look()
        return stat["link_received"] == report["sent"]

    eventually(arrived)


def test_the_limit():
    done = run(BIN / "fal", "gen", "--limit", "--seconds", "0.1", "--sizes", "100", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    for report in json.loads(done.stdout).values():
        assert report["device"] == "sink"
        assert 100 * report["sent"] == report["bytes"] > 0
    lines = run(BIN / "fal", "gen", "--limit", "--seconds", "0.1").stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[via, "sent"] for via in VIA]


def test_the_limit_ends_when_it_is_told_to():
    """With the way that runs; the others are not tried any more."""
    words = (BIN / "fal", "gen", "--limit", "--seconds", "60")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    own = os.readlink("/proc/self/ns/net")
    eventually(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != own)
    time.sleep(0.5)  # until it sends
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=10)
    (line,) = out.splitlines()
    assert (process.returncode, line.split()[:2]) == (0, ["socket", "sent"])


def refused(code, *words, through=()):
    done = run(*through, BIN / "fal", "gen", *words)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    return done.stderr.splitlines()[-1]


def test_refusals():
    line = refused(1, "nosuch0")
    assert line.startswith("fal: no device nosuch0 (there are: lo")
    line = refused(1, "lo", through=("setpriv", "--bounding-set=-net_raw"))
    assert line == "fal: sending on lo needs CAP_NET_RAW (run it as root)"
    line = refused(1, "lo", "--via", "xdp", through=("setpriv", "--bounding-set=-sys_admin"))
    assert line.startswith("fal: sending XDP frames needs CAP_SYS_ADMIN ")
    for words in (
        ("lo",),
        ("--rate", "9"),
        ("--count", "9"),
        ("--via", "xdp"),
        ("--pcap", "x", "--loop", "2"),
    ):
        assert "--limit goes without " in refused(2, *words, "--limit")
    for words, message in (
        (("--sizes", "9"), "--sizes: '9' is neither 'imix'"),
        (("--rate", "0"), "'0' is not a number above 0"),
        (("--rate", "fast"), "'fast'"),
        (("--vlan", "1.5"), "'1.5' is no share"),
        (("--flows", "0"), "'0'"),
        (("--loop", "2"), "--loop is for --pcap"),
        (("--pcap", "x", "--seed", "1"), "--seed is for made traffic"),
    ):
        assert message in refused(2, "lo", *words)
