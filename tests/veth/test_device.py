"""What becomes of a device, and what a fal-poller needs of it."""

import ctypes
import errno
import os
import socket
import struct
import threading
import time

import pytest
from support import eventually, ip, received, send_slowly, udp

import fal

MODES = ("generic", "native")
FRAMES = [udp(("10.0.0.1", 1000 + i), ("10.0.0.2", 53)) for i in range(200)]


def link_of(namespace, device):
    return ip("-n", namespace.name, "-d", "link", "show", "dev", device)


# ---- its life --------------------------------------------------------------------------------


def test_down_and_up(served):
    veth, poller = served
    ends = (veth.inside, veth.device), (veth.outside, veth.peer)
    with fal.open(poller.device) as s:
        send_slowly(veth, FRAMES, s)
        for namespace, device in ends:
            ip("-n", namespace.name, "link", "set", device, "down")
            time.sleep(0.1)
            ip("-n", namespace.name, "link", "set", device, "up")
            eventually(lambda: all("LOWER_UP" in link_of(*end) for end in ends))
            send_slowly(veth, FRAMES, s)
        assert sorted(frame for _, frame in received(s)) == sorted(3 * FRAMES)
    assert poller.look()["if_dropped"] == 0
    assert poller.stop() == 0


def remove(veth):
    ip("-n", veth.inside.name, "link", "delete", veth.device)


def remove_peer(veth):
    ip("-n", veth.outside.name, "link", "delete", veth.peer)


def move(veth):
    ip("-n", veth.inside.name, "link", "set", veth.device, "netns", veth.outside.name)


@pytest.mark.parametrize(
    "served", [("generic", 4, 1), ("native", 4, 2), ("tpacket", 2, 2)], indirect=True
)
@pytest.mark.parametrize("lose", [remove, remove_peer, move])
def test_the_device_goes(served, lose):
    """Workers get what lies in their rings, then ENODEV, whether they wait or come later."""
    veth, poller = served
    with fal.open(poller.device, group=1) as late, fal.open(poller.device) as waiting:
        send_slowly(veth, FRAMES, waiting)
        received(waiting)
        caught = []

        def wait():
            try:
                waiting.recv_batch(timeout=10)
            except fal.FalError as e:
                caught.append((e, time.monotonic()))

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        lost_at = time.monotonic()
        lose(veth)
        thread.join(15)
        ((error, at),) = caught
        assert isinstance(error, fal.PollerGone)
        assert error.errno == errno.ENODEV
        assert at - lost_at < 2

        assert poller.wait() == 1
        assert poller.lines[-2].startswith("fal-poller: ready "), "one line when it goes"
        assert f"{veth.device} is gone" in poller.lines[-1]

        got = []
        with pytest.raises(fal.PollerGone) as raised:
            got.extend(frame for _, frame in late)
        assert raised.value.errno == errno.ENODEV
        assert sorted(got) == sorted(FRAMES)
        with pytest.raises(fal.PollerGone):
            late.leave()


# ---- whose it is -------------------------------------------------------------------------------


def test_two_on_one_device(make_veth, start_poller, monkeypatch, tmp_path):
    veth = make_veth()
    first = start_poller(veth.device, namespace=veth.inside)

    def second(*words):
        return start_poller(*words, namespace=veth.inside, ready=False).refused()

    line = second(veth.device)  # the name is taken
    assert f"runs already (pid {first.pid})" in line
    assert "--name" in line
    line = second(veth.device, "--name", "other")
    assert "taken by another fal-poller" in line
    assert first.ready["pid"] in line
    with fal.open(first.device) as s:  # it has not been harmed
        send_slowly(veth, FRAMES, s)
        assert len(received(s)) == len(FRAMES)

    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setenv("FAL_RUNTIME_DIR", str(elsewhere))
    for mode in MODES:
        assert "taken by another fal-poller" in second(veth.device, "--mode", mode)


class ForeignProgram:
    """An XDP program of somebody else's: it lets all packets pass."""

    def __init__(self, veth, flags):
        pass_all = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 2, 0x95, 0, 0, 0)  # r0 = XDP_PASS; exit
        code, licence = ctypes.create_string_buffer(pass_all), ctypes.create_string_buffer(b"GPL")
        self.program = self.bpf(
            5,  # BPF_PROG_LOAD
            struct.pack(
                "<IIQQIIQII16s",
                *(6, 2, ctypes.addressof(code), ctypes.addressof(licence)),
                *(0, 0, 0, 0, 0, b"stranger"),
            ),
        )
        with veth.inside.entered():
            index = socket.if_nametoindex(veth.device)
            # BPF_LINK_CREATE, BPF_XDP
            self.link = self.bpf(28, struct.pack("<IIII", self.program, index, 37, flags))

    @staticmethod
    def bpf(command, attributes):
        fd = ctypes.CDLL(None, use_errno=True).syscall(321, command, attributes, len(attributes))
        assert fd >= 0, os.strerror(ctypes.get_errno())
        return fd

    def remove(self):
        os.close(self.link)
        os.close(self.program)


@pytest.mark.parametrize(("mode", "flags"), [("generic", 2), ("native", 4)])
def test_a_foreign_program(make_veth, start_poller, mode, flags):
    veth = make_veth()
    foreign = ForeignProgram(veth, flags)
    for wanted in MODES:
        line = start_poller(
            *(veth.device, "--mode", wanted), namespace=veth.inside, ready=False
        ).refused()
        assert "stranger" in line
        assert mode in line
        assert f"ip link set dev {veth.device} xdp" in line
    foreign.remove()
    assert start_poller(veth.device, namespace=veth.inside).stop() == 0


# ---- what cannot be had ------------------------------------------------------------------------


def test_what_cannot_be_had(make_veth, start_poller):
    veth = make_veth(queues=4)
    ip("-n", veth.inside.name, "link", "set", "lo", "up")

    def refused(*words):
        return start_poller(*words, namespace=veth.inside, ready=False).refused()

    line = refused("nosuch0")
    assert "no device nosuch0" in line
    assert veth.device in line, "it says which there are"

    line = refused(veth.device, "--queues", "0,9")
    assert "no queue 9" in line
    assert "it has 4" in line

    line = refused("lo")
    assert "MTU of lo, 65536," in line
    assert "--frame-size 4096" in line

    ip("-n", veth.inside.name, "link", "set", "lo", "mtu", "1500")
    line = refused("lo", "--mode", "native")
    assert "the driver of lo refuses" in line
    assert "--mode generic" in line
    poller = start_poller("lo", namespace=veth.inside)  # auto: there is no native mode
    assert poller.ready["mode"] == "generic"
    assert poller.stop() == 0
    poller = start_poller(veth.device, namespace=veth.inside)  # auto: there is
    assert poller.ready["mode"] == "native"
