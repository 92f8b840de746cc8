"""`fal run` with tcpdump over fal-poller: alone and as copies, which end as they should."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter

import pytest
from support import BIN, eventually

import fal
from fal import pcapfile
from fal.frames import udp

FRAMES = [
    udp(("10.0.0.1", 1000 + i % 64), ("10.0.0.2", 53), b"%06d" % i) for i in range(640)
]  # 64 flows


def frames_of(path):
    """Return what tcpdump wrote, which may be a header alone."""
    return pcapfile.read(path) if path.stat().st_size > 24 else []


class Run:
    """`fal run` of tcpdump: each copy writes a file."""

    def __init__(self, poller, where, words, device, n):
        where.mkdir(exist_ok=True)
        numbers = ("-n", str(n)) if n > 1 else ()
        name = "{i}.pcap" if n > 1 else "0.pcap"
        self.files = [where / f"{i}.pcap" for i in range(n)]
        self.process = subprocess.Popen(
            [
                *(BIN / "fal", "run", *numbers, *words, "--", "tcpdump", "-Z", "root", "-U", "-n"),
                *("-i", device or poller.device, "-w", where / name),
            ],
            stderr=subprocess.PIPE,
            text=True,
            env=poller.env,
        )

    def ended(self, number=signal.SIGINT):
        """End it; returns its exit code, what it said and the frames in each file."""
        self.process.send_signal(number)
        said = self.process.communicate(timeout=20)[1]
        return self.process.returncode, said, [frames_of(f) for f in self.files]


@pytest.fixture
def poller(make_veth, start_poller):
    veth = make_veth()
    poller = start_poller(veth.device, namespace=veth.inside)
    poller.veth = veth
    return poller


@pytest.fixture
def start(poller, tmp_path):
    """Start `fal run` with these options, of `n` copies."""
    started = []

    def start(*words, device="", n=1):
        started.append(Run(poller, tmp_path / str(len(started)), words, device, n))
        return started[-1]

    yield start
    for one in started:  # of a test that failed
        one.process.kill()
        one.process.communicate()


def joined(poller, count):
    """Wait for so many members that are steered to; returns their processes."""

    def look():
        groups = (g["members"] for g in poller.look()["groups"])
        pids = [m["pid"] for group in groups for m in group if m["started"] and not m["left"]]
        return pids if len(pids) == count else None

    return eventually(look, 20)


def read_all(poller, count):
    """Whether so many were delivered to the group, and are read."""
    g = poller.group(7)
    waiting = sum(m["in_ring"] for m in g["members"])
    return g["delivered"] == count and not waiting


def test_alone(poller, start):
    """By a name of fal-poller's; and by the plain one, whose driver and group are options."""
    one = start()
    other = start("--driver", "fal", "--group", "7", "--caplen", "40", device=poller.name)
    joined(poller, 1)
    eventually(lambda: [s for s in poller.look()["sockets"] if s["started"]])
    poller.veth.send(*FRAMES)
    eventually(lambda: read_all(poller, len(FRAMES)))
    eventually(lambda: poller.look()["sockets"][0]["consumed"] == len(FRAMES))
    for tcpdump, length in ((one, None), (other, 40)):
        code, said, (frames,) = tcpdump.ended()
        assert code == 0
        assert f"{len(FRAMES)} packets captured" in said
        assert frames == [frame[:length] for frame in FRAMES]


def test_copies_share(poller, start):
    """Each packet once; each flow at one copy; of two copies each has some."""
    copies = start("--group", "7", "--fanout", "hash", n=2)
    joined(poller, 2)
    assert poller.group(7)["mode"] == "hash"
    poller.veth.send(*FRAMES)
    eventually(lambda: read_all(poller, len(FRAMES)))
    code, said, files = copies.ended()
    assert code == 0
    assert said.endswith("fal run: 2 copies: 2 exit 0\n")
    assert Counter(files[0] + files[1]) == Counter(FRAMES)
    first, second = ({fal.flow_hash(frame) for frame in frames} for frames in files)
    assert first
    assert second
    assert not first & second


def test_a_killed_copy_leaves_its_share_to_the_others(poller, start):
    copies = start("--group", "7", n=3)
    pids = joined(poller, 3)
    os.kill(pids[1], signal.SIGKILL)
    joined(poller, 2)
    poller.veth.send(*FRAMES)
    eventually(lambda: read_all(poller, len(FRAMES)))
    code, said, files = copies.ended(signal.SIGTERM)
    assert code == 128 + signal.SIGKILL
    assert said.endswith("fal run: 3 copies: 1 signal 9 (Killed), 2 exit 0\n")
    assert Counter(frame for frames in files for frame in frames) == Counter(FRAMES)
    assert sum(map(bool, files)) == 2


def test_killed_itself(poller):
    """The group is gone, tcpdump having changed its user: what the kernel could do would not do."""
    process = subprocess.Popen(
        [BIN / "fal", "run", "-n", "2", "--group", "7", "--", "tcpdump", "-i", poller.device],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=poller.env,
    )
    pids = joined(poller, 2)
    for pid in pids:
        assert os.stat(f"/proc/{pid}").st_uid != 0
    process.kill()
    process.communicate(timeout=10)
    eventually(lambda: not poller.look()["groups"])
