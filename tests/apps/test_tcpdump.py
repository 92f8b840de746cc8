"""tcpdump: word for word as without our library where nothing is configured; and over replays."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from apps.crowd import preloaded
from apps.programs import TRAFFIC
from captures import read_pcap, write_pcap
from support import Poller, Veth

OFFLINE = [
    "--version",
    "-h",
    "--no-such-option",
    "-D",
    "-d udp dst port 5000",
    "-dd -s 96 vlan and host 10.0.0.1",
    "-ddd -i {device} ip6 or tcp[13] & 2 != 0",
    "-d -y RAW port 53",
    "-d port",
    "-r {file}",
    "-r {file} -n -e -x -tttt",
    "-r {file} -n -A -v -# -c 7 port 5001",
    "-r {file} -n -XX --time-stamp-precision=nano -tt arp or tcp",
    "-r {file} -w - udp dst port 5000",
    "-r {file} -w - -s 40 --time-stamp-precision=nano",
    "-r {file} no such word",
    "-r {file} --count",
    "-r {nowhere}",
    "-r {text}",
    "-r {broken} -n",
    "-L -i {device}",
    "-L -i lo",
    "-L -i {nowhere}",
    "-J -i {device}",
    "-i {nowhere}",
    "-i fal",
    "-i {device} -c 1 port foo bar",
    "-i {device} -y IEEE802_11 -c 1",
    "-i {device} -y nonsense",
    "-i {device} -j nonsense",
    "-i {device} -I -c 1",
    "-i {device} -Q nonsense",
    "-i {device} -s -1",
    "-i {device} -B nonsense",
]
# Each ends by itself: of TRAFFIC so many match.  Without time stamps, which differ.
LIVE = [
    "-i {device} -t -n -c 128 -q udp dst port 5000",
    "-i {device} -t -n -c 20 -e -x udp src port 2007 or src port 2008 or arp[17] < 13",
    "-i {device} -t -n -c 128 -s 50 -XX dst port 5001",
    "-i {device} -t -n -c 128 --immediate-mode -s 200 -v udp dst port 5000",
    "-i {device} -t -n -c 128 -B 8192 -l udp dst port 5000",
    "-i {device} -t -n -c 128 -y EN10MB -p -Q in udp dst port 5000",
    "-i {device} -t -n -c 128 -j host --time-stamp-precision=nano udp dst port 5000",
    "-i {device} -t -n -c 128 -j adapter udp dst port 5000",
    "-i any -t -n -c 128 udp dst port 5000",
    "-i {device} -t -n -c 384",
]

Pair = tuple["subprocess.Popen[bytes]", "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def veth() -> Iterator[Veth]:
    veth = Veth()
    yield veth
    veth.delete()


@pytest.fixture
def facts(veth: Veth, tmp_path: Path) -> dict[str, object]:
    packets = [(10**18 + 1001 * n, frame) for n, frame in enumerate(TRAFFIC)]
    whole = write_pcap(tmp_path / "whole.pcap", packets)
    (tmp_path / "broken.pcap").write_bytes(whole.read_bytes()[:-7])
    (tmp_path / "text").write_text("no capture file\n")
    files = {"file": whole, "broken": tmp_path / "broken.pcap", "text": tmp_path / "text"}
    return files | {"device": veth.device, "nowhere": "falnowhere"}


@pytest.fixture
def both(veth: Veth, facts: dict[str, object]) -> Iterator[Callable[[str], Pair]]:
    """Start tcpdump without and with our library: both("-D")."""
    started: list[subprocess.Popen[bytes]] = []

    def start(line: str) -> Pair:
        words = ["tcpdump", *(word.format_map(facts) for word in line.split())]
        for environment in ({}, preloaded()):
            command = ["env", *(f"{k}={v}" for k, v in environment.items()), *words]
            started.append(
                subprocess.Popen(
                    veth.inside.command(*command), stdout=subprocess.PIPE, stderr=subprocess.PIPE
                )
            )
        return started[-2], started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ends(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes, int]:
    return *process.communicate(timeout=20), process.returncode


def test_offline(both: Callable[[str], Pair]) -> None:
    for line in OFFLINE:
        without, ours = map(ends, both(line))
        assert ours == without, line
        assert without[0] or without[1], line


def test_live(veth: Veth, both: Callable[[str], Pair]) -> None:
    started = [(line, both(line)) for line in LIVE]
    said: dict[int, bytes] = {}
    for line, pair in started:
        for p in pair:
            said[p.pid] = b""
            while b"listening on" not in said[p.pid]:
                assert p.stderr
                said[p.pid] += (more := p.stderr.readline())
                assert more, (line, said[p.pid])
    veth.send(*TRAFFIC)
    for line, pair in started:
        without, ours = map(ends, pair)
        assert ours == without, line
        assert said[pair[1].pid] == said[pair[0].pid], line
        assert without[2] == 0, line
        assert without[0], line


@pytest.mark.parametrize(
    ("options", "magic", "unit", "snaplen"),
    [
        ((), 0xA1B2C3D4, 1000, 262144),
        (("--time-stamp-precision=nano",), 0xA1B23C4D, 1, 262144),
        (("-s", "60"), 0xA1B2C3D4, 1000, 60),
    ],
    ids=["micro", "nano", "snaplen"],
)
def test_what_a_replay_gives_is_the_file(
    start_poller: Callable[..., Poller],
    tmp_path: Path,
    options: tuple[str, ...],
    magic: int,
    unit: int,
    snaplen: int,
) -> None:
    """Alone, and as two that share it; each ends when the file does."""
    sent = [(10**18 + 1_000_001 * n, frame) for n, frame in enumerate(TRAFFIC)]
    played = write_pcap(tmp_path / "played.pcap", sent)
    poller = start_poller(str(played), "--wait", "3", "--hugepages", "off")
    started = []
    for n, environment in enumerate(({}, {"PCAP_GROUP": "1"}, {"PCAP_GROUP": "1"})):
        env = os.environ | preloaded(**environment)
        words = ["tcpdump", "-i", poller.device, "-Z", "root", "-w", tmp_path / f"{n}", *options]
        started.append(subprocess.Popen(words, env=env, stderr=subprocess.PIPE))
    said = [ends(p) for p in started]
    assert [code for _, _, code in said] == [0, 0, 0], said
    files = [read_pcap(tmp_path / f"{n}") for n in range(3)]
    assert {header for header, _ in files} == {(magic, 2, 4, 0, 0, snaplen, 1)}
    alone, *shared = [packets for _, packets in files]
    expected = [(ns // unit * unit, data[:snaplen], len(data)) for ns, data in sent]
    assert alone == expected
    assert sorted(shared[0] + shared[1]) == expected
    assert all(shared)
    for (_, err, _), packets in zip(said, (alone, *shared), strict=True):
        assert f"\n{len(packets)} packets captured\n".encode() in err
