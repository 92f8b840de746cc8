"""The paper's examples, as it prints them (its slips in shell mended), with unmodified tcpdump."""

from __future__ import annotations

import os
import subprocess
from collections import Counter

import pcapcalls
import pytest
from support import eventually, udp

FRAMES = [udp(("10.0.0.1", 1000 + n % 32), ("10.0.0.2", 9)) for n in range(200)]
WHOLE = Counter(f"10.0.0.1.{1000 + n % 32}" for n in range(len(FRAMES)))


@pytest.fixture
def veths(make_veth):
    return [make_veth(), make_veth()]


@pytest.fixture
def pollers(veths, start_poller):
    return [start_poller(v.device, namespace=v.inside) for v in veths]


@pytest.fixture
def tcpdump(tmp_path):
    """Start tcpdump once it listens: tcpdump("fal:eth0", PCAP_GROUP="42")."""
    processes = []

    def start(device, *, config=None, listens=True, **variables):
        env = os.environ | variables | {"LD_PRELOAD": str(pcapcalls.LIBRARY)}
        if config:
            file = tmp_path / "pcap.conf"
            file.write_text(config)
            env["PCAP_CONFIG"] = str(file)
        words = ["tcpdump", "-n", "-l", "--immediate-mode", "-s", "256", "-i", device]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(words, env=env, text=True, **pipes))
        while listens and "listening on" not in (line := processes[-1].stderr.readline()):
            assert line
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_started(poller, **groups):
    """Wait until each of these groups has so many members: wait_started(poller, g42=2)."""

    def there():
        members = {
            f"g{g['id']}": sum(m["number"] is not None for m in g["members"])
            for g in poller.look()["groups"]
        }
        return members == groups

    eventually(there)


def sources(process):
    """Ask a tcpdump to end; returns how often each source is in its lines."""
    process.terminate()
    said, _ = process.communicate(timeout=10)
    return Counter(line.split()[2] for line in said.split("\n") if line)


def send(veth, poller):
    """Return when all is read."""
    veth.send(*FRAMES)

    def read():
        groups = poller.look()["groups"]
        return all(g["received"] >= len(FRAMES) for g in groups) and not any(
            m["in_ring"] for g in groups for m in g["members"]
        )

    eventually(read)


def test_two_sessions_in_a_group(veths, pollers, tcpdump):
    """PCAP_FANOUT="round_robin" PCAP_GROUP=42 tcpdump -i eth3, twice."""
    variables = {"PCAP_FANOUT": "round_robin", "PCAP_GROUP": "42"}
    both = [tcpdump(pollers[0].device, **variables) for _ in range(2)]
    wait_started(pollers[0], g42=2)
    send(veths[0], pollers[0])
    one, two = map(sources, both)
    assert one.total() == two.total() == len(FRAMES) // 2
    assert one + two == WHOLE


def test_variables_go_before_the_file(veths, pollers, tcpdump):
    """PCAP_FANOUT="rnd" PCAP_GROUP=3 foo, whatever the file says."""
    config = "def_group = 11\ncaplen = 64\nrx_slots = 8192\nfanout = hash\n"
    process = tcpdump(pollers[0].device, config=config, PCAP_FANOUT="rnd", PCAP_GROUP="3")
    wait_started(pollers[0], g3=1)
    assert pollers[0].group(3)["mode"] == "rnd"
    assert [m["ring"] for m in pollers[0].group(3)["members"]] == [8192]
    send(veths[0], pollers[0])
    assert sources(process) == WHOLE


def test_a_group_of_a_device(veths, pollers, tcpdump):
    """PCAP_DEF_GROUP=42 PCAP_GROUP_eth0=11 tcpdump -n -i fal:eth0^eth1."""
    one, two = (v.device for v in veths)
    process = tcpdump(f"fal:{one}^{two}", PCAP_DEF_GROUP="42", **{f"PCAP_GROUP_{one}": "11"})
    wait_started(pollers[0], g11=1)
    wait_started(pollers[1], g42=1)
    for veth, poller in zip(veths, pollers, strict=True):
        send(veth, poller)
    assert sources(process) == WHOLE + WHOLE


def test_virtual_devices(veths, pollers, tcpdump):
    """group_eth0 = 11, group_eth0:1 = 23: one device under two groups."""
    device = veths[0].device
    config = f"group_{device} = 11\ngroup_{device}:1 = 23\n"
    both = [tcpdump(f"fal:{device}{n}", config=config) for n in ("", ":1")]
    wait_started(pollers[0], g11=1, g23=1)
    send(veths[0], pollers[0])
    assert [sources(process) for process in both] == [WHOLE, WHOLE]


def test_modes_of_groups(veths, pollers, tcpdump):
    """group_eth0 = 2, group_eth3 = 3; fanout@2 = hash, fanout@3 = rnd; and a filter, ours."""
    one, two = (v.device for v in veths)
    config = f"group_{one} = 2\ngroup_{two} = 3\nfanout@2 = hash\nfanout@3 = rnd\n"
    config += "filter@3 = udp src port 1007\n"
    process = tcpdump(f"fal:{one}^{two}", config=config)
    wait_started(pollers[0], g2=1)
    wait_started(pollers[1], g3=1)
    assert pollers[0].group(2)["mode"] == "hash"
    assert pollers[1].group(3)["mode"] == "rnd"
    for veth, poller in zip(veths, pollers, strict=True):
        send(veth, poller)
    name = "10.0.0.1.1007"
    assert sources(process) == WHOLE + Counter({name: WHOLE[name]})


def test_pfq_lang_is_pfqs(pollers, tcpdump):
    """The paper's file for PFQ: an engine that does not understand it says so."""
    config = "def_group = 11\ncaplen = 64\nrx_slots = 131072\n"
    config += "> main = do\n>     tcp\n>     steer_flow\n"
    process = tcpdump(pollers[0].device, config=config, listens=False)
    said, error = process.communicate(timeout=10)
    assert (said, process.returncode) == ("", 1)
    assert "pcap.conf:4:" in error
    assert "PFQ" in error


def test_a_wrong_file_fails_every_activation(pollers, tcpdump):
    """With file, line and column; also of a device that it does not name."""
    for device in (pollers[0].device, "lo"):
        process = tcpdump(device, config="group = 1\n\ncaplen\n", listens=False)
        _, error = process.communicate(timeout=10)
        assert process.returncode == 1
        assert "pcap.conf:3:" in error


EXPLICIT = """
import sys, pcapcalls as pcap
p = pcap.opened(sys.argv[1])
try:
    p.fanout(9, None)
except pcap.PcapError as e:
    print(e.words)
p.nonblocking().read()
sys.stdin.read()
"""


@pytest.mark.parametrize("by", ["fal", "kernel"])
def test_a_program_that_says_it_itself(veths, pollers, by, tmp_path):
    """Before the first read it beats configuration on a fal-poller's; after activation not here.

    What configuration says of the group that it names holds all the same.
    """
    config = tmp_path / "pcap.conf"
    filtered = "filter@9 = udp src port 1007\n" if by == "fal" else ""
    config.write_text(f"group = 7\nfanout@9 = lb\n{filtered}")
    veth, poller = veths[0], pollers[0]
    device = poller.device if by == "fal" else veth.device
    process = pcapcalls.started(veth.inside, EXPLICIT, device, config)
    try:
        if by == "fal":
            wait_started(poller, g9=1)
            assert poller.group(9)["mode"] == "lb"
            veth.send(*FRAMES)
            eventually(lambda: poller.group(9)["filtered"] == len(FRAMES) - WHOLE["10.0.0.1.1007"])
        said, _ = process.communicate("", timeout=10)
    finally:
        process.kill()
    assert said == ("" if by == "fal" else "already in group 7\n")


def lines(process, many):
    """Read so many lines; returns how often each source is in them."""
    return Counter(process.stdout.readline().split()[2] for _ in range(many))


def test_the_kernel_shares_by_variables(veths, tcpdump):
    """The same two sessions over a plain device, and another group beside them."""
    veth, variables = veths[0], {"PCAP_FANOUT": "lb", "PCAP_GROUP": "42"}
    with veth.inside.entered():
        both = [tcpdump(veth.device, **variables) for _ in range(2)]
        other = tcpdump(veth.device, PCAP_GROUP="43")
    half, whole = len(FRAMES) // 2, len(FRAMES)
    veth.send(*FRAMES)
    one, two, every = lines(both[0], half), lines(both[1], half), lines(other, whole)
    assert one + two == every == WHOLE
    assert not any(map(sources, (*both, other)))  # and no more


def test_not_configured_is_not_touched(veths, tcpdump):
    """Each session gets everything, as without us."""
    with veths[0].inside.entered():
        both = [tcpdump(veths[0].device) for _ in range(2)]
    veths[0].send(*FRAMES)
    assert [lines(process, len(FRAMES)) for process in both] == [WHOLE, WHOLE]
    assert not any(map(sources, both))
