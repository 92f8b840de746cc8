"""What the tests share: namespaces, processes, packets.  It is taken down again, whatever fails."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import fcntl
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import fal
from fal.frames import udp

BIN = Path(sys.executable).parent
COUNTER = itertools.count()
libc = ctypes.CDLL(None, use_errno=True)


def eventually(condition: Callable[[], Any], seconds: float = 5.0) -> Any:
    """Wait until the condition holds and return its value; AssertionError after so many seconds."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.005)
    return value


def ended(process: subprocess.Popen[Any], seconds: float) -> int:
    """Wait for the end of a process, and no longer: Popen.wait looks 20 times a second."""
    if process.poll() is None:
        fd = os.pidfd_open(process.pid)
        select.select([fd], [], [], seconds)
        os.close(fd)
    return process.wait(1)  # one that is traced has ended a moment before its parent may know


def ip(*words: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


def run(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, of ours where it is one of ours: whatever its exit status."""
    command = [BIN / words[0] if (BIN / words[0]).exists() else words[0], *words[1:]]
    return subprocess.run(
        command, **({"capture_output": True, "text": True, "timeout": 60} | options)
    )


def compiled(source: Path, made: Path, *options: str, compiler: str = "cc") -> Path:
    """Build a C program as a user of libfal would, by what its .pc file says; returns `made`."""
    pc = Path(fal.__file__).parent / "lib/pkgconfig/libfal.pc"
    flags = run("pkg-config", "--cflags", "--libs", pc).stdout.split()
    done = run(compiler, "-Wall", "-Werror", *options, source, "-o", made, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    return made


@contextlib.contextmanager
def side_by_side(
    request: pytest.FixtureRequest, run: Callable[[Any, Path], Any]
) -> Iterator[Callable[[Any], Any]]:
    """Run every `case` that is asked of this module's tests, as many at a time as there are cores.

    For what needs no quiet machine; each has a directory of its own.  All are done before the first
    test begins, since tests change the environment, which is no business of a thread that starts a
    program.  Gives a function that has a case's result.
    """
    tests = [item for item in request.session.items if item.path == request.path]
    cases = [t.callspec.params["case"] for t in tests if "case" in getattr(t, "fixturenames", [])]
    directories = request.getfixturevalue("tmp_path_factory")
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        done = {case: pool.submit(run, case, directories.mktemp("case")) for case in cases}
    yield lambda case: done[case].result()


@contextlib.contextmanager
def huge_pages_kept() -> Iterator[Path]:
    """Give the file that says how many huge pages are reserved; as before at the end.

    The number is the machine's: under a lock, else two runs at a time restore each other's.
    """
    lock = os.open("/sys/kernel/mm/hugepages", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        reserved = Path("/proc/sys/vm/nr_hugepages")
        before = reserved.read_text()
        try:
            yield reserved
        finally:
            reserved.write_text(before)
    finally:
        os.close(lock)


class Namespace:
    """A network namespace of our own, named fal-test-…."""

    def __init__(self) -> None:
        self.name = f"fal-test-{os.getpid()}-{next(COUNTER)}"
        ip("netns", "add", self.name)

    def delete(self) -> None:
        ip("netns", "delete", self.name, check=False)

    def command(self, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *words]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be in it, with this thread: a socket made here stays in it."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            assert libc.setns(there, 0x40000000) == 0
            yield
        finally:
            assert libc.setns(own, 0x40000000) == 0
            os.close(own)
            os.close(there)


class Veth:
    """A veth pair between two namespaces: fal-poller is to serve `device` in `inside`."""

    def __init__(self, queues: int = 1, mtu: int = 1500) -> None:
        self.inside, self.outside = Namespace(), Namespace()
        number = next(COUNTER)
        self.device, self.peer = f"falt{number}", f"falp{number}"
        q = ("numtxqueues", str(queues), "numrxqueues", str(queues))
        ip(
            *("link", "add", self.device, "netns", self.inside.name, *q, "type", "veth"),
            *("peer", "name", self.peer, "netns", self.outside.name, *q),
        )
        for ns, dev in ((self.inside, self.device), (self.outside, self.peer)):
            # no packets but ours: neither IPv6's router solicitations nor ARP
            no_ipv6 = f"net.ipv6.conf.{dev}.disable_ipv6=1"
            subprocess.run(ns.command("sysctl", "-qw", no_ipv6), check=True)
            ip("-n", ns.name, "link", "set", dev, "mtu", str(mtu), "arp", "off", "up")
        eventually(lambda: "LOWER_UP" in ip("-n", self.inside.name, "link", "show", self.device))
        self.sender = self.packet_socket()

    def packet_socket(self) -> socket.socket:
        """Return a packet socket on the outer end."""
        with self.outside.entered():
            s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        s.bind((self.peer, 0))
        return s

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self.sender.send(frame)

    def use_queue(self, queue: int) -> None:
        """Have the outer end, of four queues, send all its packets on one (XPS)."""
        for q in range(4):
            cpus = f"{(1 << (os.cpu_count() or 1)) - 1 if q == queue else 0:x}"
            path = f"/sys/class/net/{self.peer}/queues/tx-{q}/xps_cpus"
            command = self.outside.command("sh", "-c", f"echo {cpus} > {path}")
            subprocess.run(command, check=True)

    def delete(self) -> None:
        self.sender.close()
        self.inside.delete()
        self.outside.delete()


class Poller:
    """A fal-poller; `ready` is its ready line as a dict once it has come."""

    def __init__(
        self,
        *words: str,
        namespace: Namespace | None = None,
        env: dict[str, str],
        through: Sequence[str] = (),
    ) -> None:
        """`through`: a command that starts it, such as setpriv."""
        command = [*through, str(BIN / "fal-poller"), *words]
        self.process = subprocess.Popen(
            namespace.command(*command) if namespace else command,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            start_new_session=True,
        )
        self.env = env
        self.lines: list[str] = []
        self.ready: dict[str, str] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            if line.startswith("fal-poller: ready "):
                name, *facts = line.split()[2:]
                self.ready = {"name": name} | dict(fact.split("=", 1) for fact in facts)
            self.lines.append(line.rstrip("\n"))

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def name(self) -> str:
        return self.ready["name"]

    @property
    def device(self) -> str:
        """What a worker opens."""
        return f"fal:{self.name}"

    def wait_ready(self) -> Poller:
        eventually(lambda: self.ready or self.process.poll() is not None, 20)
        assert self.ready, self.lines
        return self

    def wait(self, seconds: float = 10) -> int:
        code = ended(self.process, seconds)
        self._reader.join(5)
        if self.process.stderr:
            self.process.stderr.close()
        return code

    def refused(self) -> str:
        """Return the one line that it ended with, instead of getting ready."""
        assert self.wait(20) == 1, self.lines
        (line,) = self.lines
        assert line.startswith("fal-poller: "), line
        return line

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.wait()
            raise

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def stat(self) -> dict[str, Any]:
        """Return its part of `fal stat --json`."""
        done = subprocess.run(
            [str(BIN / "fal"), "stat", self.name, "--json"],
            env=self.env,
            check=True,
            capture_output=True,
            text=True,
        )
        (report,) = json.loads(done.stdout)["pollers"]
        return report

    def look(self) -> dict[str, Any]:
        """Return the same, read in this process: within a millisecond or two."""
        from fal import stat, status

        segment = status.open_existing(Path(self.env["FAL_RUNTIME_DIR"]), self.name)
        try:
            return stat.report(segment)
        finally:
            segment.close()

    def group(self, number: int) -> dict[str, Any]:
        (group,) = (g for g in self.look()["groups"] if g["id"] == number)
        return group


class Worker:
    """A process that runs worker.c (see there what it can be told); it is started when made."""

    def __init__(
        self,
        program: Path,
        poller: Poller,
        group: int = -1,
        mode: str = "-",
        ring: int = 4096,
        how: str | int = "read",
        count: int = 0,
    ) -> None:
        words = (poller.device, group, mode, ring, how, count)
        self.process = subprocess.Popen(
            [program, *map(str, words)], stdout=subprocess.PIPE, env=poller.env
        )
        assert self.process.stdout
        self.said = self.process.stdout.readline().decode().strip()
        assert self.said == "started", self.said

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()

    def result(self, seconds: float = 10) -> tuple[int, int]:
        """Wait for its end; returns how many packets it had, and the errno that ended it."""
        ended(self.process, seconds)
        assert self.process.stdout
        packets, code = self.process.stdout.read().split()
        return int(packets), int(code)


class Traffic:
    """A thread that sends: `flows` of UDP in turn, at an even rate, until it is stopped."""

    def __init__(self, veth: Veth, rate: int = 10000, flows: int = 64) -> None:
        self.sent = 0
        self._frames = [udp(("10.0.0.1", 1000 + i), ("10.0.0.2", 53)) for i in range(flows)]
        self._veth, self._rate = veth, rate
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        begin = time.monotonic()
        while not self._stopped.wait(0.001):
            due = min(int((time.monotonic() - begin) * self._rate), self.sent + 200)
            while self.sent < due:
                self._veth.sender.send(self._frames[self.sent % len(self._frames)])
                self.sent += 1

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()


def assert_books(report: dict[str, Any]) -> None:
    """Check that every packet of a `fal stat --json` is accounted for."""
    for g in report["groups"]:
        assert g["received"] == g["filtered"] + g["delivered"] + sum(g["drops"].values()), g
        members = [*g["members"], g["gone"] | {"in_ring": 0}]
        assert g["delivered"] == sum(m["delivered"] for m in members), g
        for m in members:
            assert m["delivered"] == m["consumed"] + m["in_ring"] + m["abandoned"], g
            assert m["in_ring"] >= 0, g
    for m in report["sockets"]:
        assert m["delivered"] == m["consumed"] + m["in_ring"] + m["abandoned"], m


# ---- workers ------------------------------------------------------------------------------------


def received(s: fal.Socket) -> list[tuple[Any, bytes]]:
    """Return (descriptor, bytes) of all that lies in the ring; a source may be over by then."""
    got: list[tuple[Any, bytes]] = []
    with contextlib.suppress(EOFError):
        while batch := s.recv_batch(timeout=0):
            got += zip(batch.meta.copy(), map(bytes, batch), strict=True)
    return got


def assert_spread(
    groups: Sequence[Sequence[list[tuple[Any, bytes]]]], frames: Sequence[bytes], pollers: int
) -> None:
    """Check what came, as `received`, of frames that are all different.

    `groups`: the one socket in no group; the members of a group in mode hash; of one in mode lb.
    """
    queue = {data: int(meta["queue"]) for meta, data in groups[0][0]}

    def in_order(some: Iterable[bytes]) -> list[bytes]:
        """Sort by flow and queue (the sender's kernel chose it), and keep the order within."""
        return sorted(some, key=lambda data: (fal.flow_hash(data), queue[data]))

    for members in groups:
        assert Counter(data for got in members for _, data in got) == Counter(frames)
        for got in members:
            mine = {data for _, data in got}
            sent = [data for data in frames if data in mine]
            assert in_order(data for _, data in got) == in_order(sent)
    flows = [{fal.flow_hash(data) for _, data in got} for got in groups[1]]
    assert all(flows)
    assert sum(map(len, flows)) == len(set().union(*flows))  # none at two members
    shares = [len(got) for got in groups[2]]
    assert max(shares) - min(shares) <= pollers  # each takes turns of its own


def quiet(poller: Poller) -> dict[str, Any] | None:
    """Return the report of a poller once its workers have read everything; None before."""
    report = poller.look()
    members = report["sockets"] + [m for g in report["groups"] for m in g["members"]]
    return None if any(m["in_ring"] for m in members) else report


def send_slowly(veth: Veth, frames: Sequence[bytes], witness: fal.Socket) -> list[int]:
    """Send a few at a time: what is lost before the poller is no matter of these tests.

    `witness` is a socket in no group.  Returns when each was sent, in nanoseconds.
    """
    times: list[int] = []
    before = witness.stats().recv
    for i in range(0, len(frames), 100):
        for frame in frames[i : i + 100]:
            times.append(time.time_ns())
            veth.send(frame)
        eventually(lambda: witness.stats().recv - before >= len(times))
    return times


# Nobody, but that the interpreter may lie in a directory of root's.
READ = "-all,+dac_read_search"
NOBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={READ}"),
    *(f"--ambient-caps={READ}", f"--bounding-set={READ}"),
)

# fal-poller's options for packets made in memory, without a word about huge pages.
NULL = ("--backend", "null", "--hugepages", "off")


def number(packet: bytes | memoryview) -> int:
    """Which of the null backend's packets this is."""
    return int.from_bytes(packet[42:50], "little")
