"""Programs in the manner of some that are not installed, over FAL and the kernel: patterns.c."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from apps.crowd import preloaded
from apps.programs import NUMBERED, NUMBERS
from support import Poller, Veth, ended, eventually, run

UDP = "udp dst port 5000"
# Those that read all that they want and end.
PLAIN = (
    *("select_and_one", "select_and_next_ex", "epoll_level"),
    *("epoll_level_of_three", "epoll_level_of_all", "epoll_edge", "loop", "dispatch_of_one"),
    *("next", "opens_twice", "opens_again", "forks", "drops_after", "incoming_only"),
    *("break_in_callback", "counts"),
)


@pytest.fixture(scope="module")
def patterns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the programs as their authors would; others than root run them, too."""
    directory = tmp_path_factory.mktemp("patterns")
    for above in (directory, directory.parent, directory.parent.parent):
        above.chmod(0o755)
    source, made = Path(__file__).with_name("patterns.c"), directory / "patterns"
    options = ("-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror")
    done = run("cc", *options, source, "-o", made, "-lpcap")
    assert (done.returncode, done.stderr) == (0, "")
    return made


class Pattern:
    """A process that runs one, with what it starts."""

    def __init__(self, command: list[str], here: Path) -> None:
        self.output = here
        with here.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, start_new_session=True
            )

    @property
    def lines(self) -> list[str]:
        return self.output.read_text().splitlines()

    def wait_for(self, line: str, times: int = 1) -> Pattern:
        eventually(lambda: self.lines.count(line) >= times or self.process.poll() is not None, 20)
        assert self.lines.count(line) >= times, self.lines
        return self

    def tell(self, number: int) -> None:
        self.process.send_signal(number)

    def result(self) -> list[str]:
        """Return all lines, once it has ended as it should."""
        assert ended(self.process, 20) == 0, self.lines
        return self.lines

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture(scope="module", params=["fal", "kernel"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Veth, Poller | None]]:
    veth, poller = Veth(), None
    if request.param == "fal":
        env = os.environ | {"FAL_RUNTIME_DIR": str(tmp_path_factory.mktemp("run"))}
        words = (veth.device, "--hugepages", "off")
        poller = Poller(*words, namespace=veth.inside, env=env).wait_ready()
    yield veth, poller
    if poller:
        poller.stop()
    veth.delete()


@pytest.fixture
def start(
    patterns: Path, place: tuple[Veth, Poller | None], tmp_path: Path
) -> Iterator[Callable[..., Pattern]]:
    """Start one, and wait until it is ready: start("loop", count=3, PCAP_GROUP="1")."""
    veth, poller = place
    config = tmp_path / "pcap.conf"
    config.write_text("rx_slots = 512\n")  # there are many at one time
    started: list[Pattern] = []

    def start(name: str, count: int = 128, timeout: int = 100, **env: str) -> Pattern:
        device = poller.device if poller else veth.device
        if poller:
            env |= {"FAL_RUNTIME_DIR": poller.env["FAL_RUNTIME_DIR"], "PCAP_CONFIG": str(config)}
        command = ["env", *(f"{k}={v}" for k, v in preloaded(**env).items()), str(patterns)]
        command += [name, device, str(count), UDP, str(timeout)]
        output = tmp_path / f"{name}-{len(started)}"
        started.append(Pattern(veth.inside.command(*command), output))
        return started[-1]

    yield start
    for pattern in started:
        pattern.kill()


def packets(lines: Iterable[str]) -> list[int]:
    """Return the numbers of the packets that these lines are about."""
    return [int(line.split()[1]) for line in lines if line.startswith("packet")]


def test_each_reads_all(place, start) -> None:
    """All at one time, each in no group."""
    veth, _ = place
    started = {name: start(name) for name in PLAIN}
    for pattern in started.values():
        pattern.wait_for("ready")
    veth.send(*NUMBERED[:192])  # nothing that none wants is left over, and counted as received
    for name, pattern in started.items():
        said = pattern.result()
        assert packets(said) == sorted(NUMBERS), name
        if name == "counts":
            assert said[-2] == "recv 128 drop 0 ifdrop 0"


def number_of_members(poller: Poller, group: int, started: bool) -> int:
    groups = [g for g in poller.look()["groups"] if g["id"] == group]
    return sum(m["started"] == started for g in groups for m in g["members"])


def delivered(poller: Poller, to: Pattern) -> int:
    sockets = poller.look()["sockets"]
    return sum(m["delivered"] for m in sockets if m["pid"] == to.process.pid)


@pytest.mark.parametrize("place", ["fal"], indirect=True)
def test_opened_twice_and_read_once(place, start) -> None:
    """The handle that nobody reads takes no traffic from its group."""
    veth, poller = place
    one = start("opens_twice", PCAP_GROUP="3").wait_for("ready")
    eventually(lambda: number_of_members(poller, 3, started=True) == 1)
    assert number_of_members(poller, 3, started=False) == 1
    veth.send(*NUMBERED)
    assert packets(one.result()) == sorted(NUMBERS)


@pytest.mark.parametrize("place", ["fal"], indirect=True)
def test_asked_while_no_packet_matches(place, start) -> None:
    """Who polls for packets and for questions answers though packets come that do not match."""
    veth, poller = place
    one = start("beside_another", count=1, timeout=0).wait_for("ready")
    for n in range(1, 4):
        veth.send(NUMBERED[64])
        eventually(lambda n=n: delivered(poller, one) == n)
        one.process.stdin.write(b"?\n")
        one.process.stdin.flush()
        one.wait_for("answer", n)
    veth.send(NUMBERED[0])
    lines = one.result()
    assert packets(lines) == [0]
    assert int(lines[-1].removeprefix("empty ")) <= 6  # readable once too often, at most


EMPTY = (
    "select_and_one",
    "select_and_next_ex",
    "epoll_level",
    "epoll_level_of_three",
    "epoll_edge",
)


def test_no_spinning(place, start) -> None:
    """A descriptor is not readable for ever without a packet: once too often after one, at most."""
    veth, _ = place
    started = [start(name, count=20) for name in EMPTY]
    for pattern in started:
        pattern.wait_for("ready")
    for n in range(20):
        veth.send(NUMBERED[n])
        for pattern in started:
            pattern.wait_for(f"packet {n:06} end")
    for pattern in started:
        assert int(pattern.result()[-1].removeprefix("empty ")) <= 20, pattern.lines


@pytest.mark.parametrize("name", ["break_in_handler", "break_in_thread"])
def test_broken_from_outside(place, start, name) -> None:
    """The loop ends without another packet.  (Without a time-out libpcap waits for 256 KiB.)"""
    veth, poller = place
    one = start(name, timeout=0 if poller else 100).wait_for("ready")
    veth.send(NUMBERED[0])
    one.wait_for("packet 000000 end")
    one.tell(signal.SIGUSR1)
    assert one.result() == ["ready", "packet 000000 end", "loop -2", "empty 0"]


def test_broken_in_the_callback(place, start) -> None:
    veth, _ = place
    one = start("break_in_callback", count=20).wait_for("ready")
    veth.send(*NUMBERED[:20])
    lines = one.result()
    assert lines[4] == "loop -2 after 3"
    assert packets(lines) == list(range(20))


def test_another_filter(place, start) -> None:
    veth, _ = place
    one = start("another_filter", count=20).wait_for("ready")
    veth.send(*NUMBERED[:10])
    one.wait_for("another filter")
    veth.send(*NUMBERED[10:74])
    assert packets(one.result()) == [*range(10), *range(64, 74)]


def test_sends(place, start) -> None:
    veth, _ = place
    with veth.packet_socket() as s:
        s.bind((veth.peer, 3))  # ETH_P_ALL
        s.settimeout(5)
        one = start("sends", count=5).wait_for("ready")
        veth.send(*NUMBERED[:5])
        got = []
        while len(got) < 5:
            data, address = s.recvfrom(2048)
            if address[2] != socket.PACKET_OUTGOING:
                got.append(data)
        assert got == NUMBERED[:5]
        one.result()


@pytest.mark.parametrize("place", ["fal"], indirect=True)
def test_not_root_when_it_activates(place, start) -> None:
    """Who may not use the control socket is told so; who may, captures."""
    veth, poller = place
    directory = Path(poller.env["FAL_RUNTIME_DIR"])
    (lines,) = [start("drops_before").result()]
    assert lines[0].startswith("-8 "), lines
    assert "group" in lines[0], lines
    for path in (directory / f"{poller.name}.sock", directory):
        os.chown(path, -1, 65534)
    directory.chmod(0o750)
    one = start("drops_before").wait_for("ready")
    veth.send(*NUMBERED)
    assert packets(one.result()) == sorted(NUMBERS)
