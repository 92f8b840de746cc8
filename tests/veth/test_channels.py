"""The channels of a real device: a veth has some that receive and some that send."""

import errno
import json
import sys

import pytest
from support import NOBODY, run

from fal import FalError, channels
from fal.libpcap import FAL_LIBRARY as LIBRARY


def queues(veth):
    """How many the kernel has, by its own account."""
    names = run(*veth.inside.command("ls", f"/sys/class/net/{veth.device}/queues")).stdout.split()
    return tuple(sum(name.startswith(kind) for name in names) for kind in ("rx-", "tx-"))


def test_set_and_get(make_veth):
    veth = make_veth(queues=4)
    with veth.inside.entered():
        before = channels.get(veth.device)
        assert before[:2] == queues(veth)
        assert channels.set(veth.device, rx=3, tx=2)
        assert channels.get(veth.device) == (3, 2, 0, 0)
        assert queues(veth) == (3, 2)
        assert not channels.set(veth.device, rx=3, tx=2), "it is so already"
        assert channels.set(veth.device, rx=1), "and tx as it was"
        assert channels.get(veth.device) == (1, 2, 0, 0)
        assert channels.set(veth.device, rx=4, tx=4)
        assert queues(veth) == (4, 4)
        assert not channels.set(veth.device), "nothing is asked for"


def test_what_cannot_be_had(make_veth):
    veth = make_veth(queues=4)
    device = veth.device
    most = "4 rx, 4 tx at most"
    with veth.inside.entered():
        before = channels.get(device)
        for wanted, why in (
            ({"combined": 2}, f"{device} cannot have 2 combined channels: {most}"),
            ({"other": 1}, f"{device} cannot have 1 other channels: {most}"),
            ({"rx": 2, "tx": 5}, f"{device} cannot have 5 tx channels: {most}"),
            ({"rx": -1}, "a number of channels is an int from 0: "),
            ({"rx": 2**32}, "a number of channels is an int from 0: "),
            ({"rx": 0}, f"the driver of {device} refuses to have 0 rx, "),
        ):
            with pytest.raises(FalError) as e:
                channels.set(device, **wanted)
            assert (e.value.errno, str(e.value)[: len(why)]) == (errno.EINVAL, why)
        assert channels.get(device) == before
        with pytest.raises(FalError, match="the driver of lo counts no channels") as e:
            channels.get("lo")
        assert e.value.errno == errno.EOPNOTSUPP
        for name in ("nosuch0", "", "a-name-too-long-for-a-device"):
            with pytest.raises(FalError, match=f"no device {name} ") as e:
                channels.set(name, rx=1)
            assert e.value.errno == errno.ENODEV


PROGRAM = """
from fal import FalError, channels
import sys
try:
    print(eval(sys.argv[1]))
except FalError as e:
    print(e.errno, e)
"""


def said(veth, expression, *through):
    """What the expression comes to in a process of the namespace, which has its own /sys."""
    command = veth.inside.command(*through, sys.executable, "-Pc", PROGRAM, expression)
    done = run(*command)
    assert done.stderr == ""
    return done.stdout.rstrip()


def test_it_has_no_interrupts(make_veth):
    veth = make_veth(queues=2)
    why = f"{errno.EOPNOTSUPP} {veth.device} is no hardware: its channels have no interrupts"
    assert said(veth, f"channels.affinity('{veth.device}', 0)") == why
    assert said(veth, f"channels.set_affinity('{veth.device}', 0, [0])") == why


def test_who_may(make_veth):
    veth = make_veth(queues=2)
    set_one = f"channels.set('{veth.device}', rx=1)"
    needs = f"{errno.EPERM} setting the channels of {veth.device} needs CAP_NET_ADMIN"
    assert said(veth, set_one, *NOBODY) == needs
    assert said(veth, f"channels.get('{veth.device}')[:2]", *NOBODY) == str(queues(veth))
    assert said(veth, set_one) == "True"


# ---- by configuration --------------------------------------------------------------------------

# A program with a libpcap of ours, in a /dev of its own, where it is syslogd, too.
OPENER = """
import ctypes, json, os, socket, sys
from fal import channels
library, device = sys.argv[1:]
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind("/dev/log")
log.setblocking(False)
pcap = ctypes.CDLL(library)
pcap.pcap_create.restype = ctypes.c_void_p
pcap.pcap_geterr.restype = ctypes.c_char_p

def opened(name):
    p = ctypes.c_void_p(pcap.pcap_create(name.encode(), ctypes.create_string_buffer(256)))
    status = pcap.pcap_activate(p)
    said = pcap.pcap_geterr(p).decode() if status else ""
    pcap.pcap_close(p)
    lines = []
    while True:
        try:
            lines.append(log.recv(1000).decode().split(": ", 1)[1])
        except BlockingIOError:
            return status, said, lines, channels.get(device)

first = opened(device)
channels.set(device, rx=4)
print(json.dumps([first, opened(device), opened("tpacket:" + device)]))
"""


def opened(veth, monkeypatch, file, **environment):
    """Open the device thrice; for each time: status, error, lines of the log, channels after."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PCAP_CONFIG", str(file))
    program = ("exec", sys.executable, "-Pc", '"$0"', '"$@"')
    command = " ".join(("mount -t tmpfs tmpfs /dev &&", *program))
    words = ("unshare", "-m", "sh", "-c", command, OPENER, LIBRARY, veth.device)
    done = run(*veth.inside.command(*map(str, words)))
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_configured(make_veth, monkeypatch, tmp_path):
    veth = make_veth(queues=4)
    file = tmp_path / "pcap.conf"
    lines = ("rx_channels@{0} = 3", "tx_channels@{0} = 2", "rx_channels@{0}1 = 1")
    file.write_text("\n".join(lines).format(veth.device))
    first, second, third = opened(veth, monkeypatch, file)
    line = f"{file}:2:{len('tx_channels@') + len(veth.device) + 4}: {veth.device} has 3 rx, 2 tx,"
    status, said, lines, after = first
    assert (status, said, after) == (0, "", [3, 2, 0, 0])
    assert len(lines) == 1
    assert lines[0].startswith(line)
    assert second == third == [0, "", [], [4, 2, 0, 0]], "once a process"


def test_configured_as_it_is(make_veth, monkeypatch, tmp_path):
    """PCAP_CHANNEL_: those that receive; nothing is set, and nothing said, that is so already."""
    veth = make_veth(queues=4)
    with veth.inside.entered():
        channels.set(veth.device, rx=2, tx=2)
    file = tmp_path / "pcap.conf"
    file.write_text(f"rx_channels@{veth.device} = 3\n")
    named = {f"PCAP_CHANNEL_{veth.device}": "2"}
    assert opened(veth, monkeypatch, file, **named)[0] == [0, "", [], [2, 2, 0, 0]]


def test_configured_in_vain(make_veth, monkeypatch, tmp_path):
    veth = make_veth(queues=4)
    file = tmp_path / "pcap.conf"
    file.write_text(f"\ncombined_channels@{veth.device} = 2\nirq@{veth.device}.0 = 0\n")
    column = len(f"combined_channels@{veth.device} = ") + 1
    why = f"{file}:2:{column}: {veth.device} cannot have 2 combined channels: 4 rx, 4 tx at most"
    for status, said, lines, _ in opened(veth, monkeypatch, file):
        assert (status, said, lines) == (-1, why, [])
    file.write_text(f"rx_channels@{veth.device} = 2\nirq@{veth.device}.0 = 0\n")
    first, second, _ = opened(veth, monkeypatch, file)
    column = len(f"irq@{veth.device}.0 = ") + 1
    why = f"{file}:2:{column}: {veth.device} is no hardware: its channels have no interrupts"
    assert (first[:2], first[3][0]) == ([-1, why], 2)
    assert (second[:2], second[3][0]) == ([-1, why], 2), "what failed is tried again"
