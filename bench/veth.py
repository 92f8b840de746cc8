"""A veth pair between two namespaces, and what runs on it: gone when their blocks end, whatever
ends them.

    with pair(queues=2) as veth, poller(veth, "--cpus", "1"):
        ...  # programs that are started here reach the fal-poller as fal:falb0
        report = gen(veth, "--seconds", "1", "--sizes", "64", cpu=0)
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from trials import TOOLS

COUNTER = itertools.count()


@dataclass(frozen=True)
class Veth:
    """`device` in the namespace `inside` is to be captured on, `peer` in `outside` to send on."""

    inside: str
    outside: str
    device: str = "falb0"
    peer: str = "falb1"


def run(*words: object) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench: {' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout


def within(namespace: str, *words: object, cpu: int | None = None) -> list[str]:
    """Return the command that runs a command there, on that CPU."""
    pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
    return ["ip", "netns", "exec", namespace, *pinned, *map(str, words)]


@contextmanager
def pair(queues: int = 1, mtu: int = 1500, gro: bool = False) -> Iterator[Veth]:
    """gro: at the device, so that it takes frames from XDP without an XDP program, too."""
    names = [f"fal-test-{os.getpid()}-bench-{next(COUNTER)}" for _ in range(2)]
    veth = Veth(*names)
    q = ("numtxqueues", queues, "numrxqueues", queues)
    with ExitStack() as stack:
        for name in names:
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "delete", name)
        inner, outer = (veth.device, "netns", veth.inside), (veth.peer, "netns", veth.outside)
        run("ip", "link", "add", *inner, *q, "type", "veth", "peer", "name", *outer, *q)
        for namespace, device in ((veth.inside, veth.device), (veth.outside, veth.peer)):
            # no packets but ours: neither IPv6's router solicitations nor ARP
            run(*within(namespace, "sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=1"))
            run("ip", "-n", namespace, "link", "set", device, "mtu", mtu, "arp", "off", "up")
        if gro:
            run(*within(veth.inside, "ethtool", "-K", veth.device, "gro", "on"))
        yield veth


@contextmanager
def started(command: list[str], ready: str, **how: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command once it has said (stderr) a line with `ready` in it; SIGTERM ends it."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **how)
    assert process.stderr
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if ready in line:
                break
        else:
            raise SystemExit(f"bench: {command} ended: {''.join(said).strip()}")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()


def told(process: subprocess.Popen[str]) -> Any:
    """Return what a program of bench/ that has its end prints: JSON."""
    said, why = process.communicate(timeout=60)
    if process.returncode:
        raise SystemExit(f"bench: {process.args!r} failed: {why.strip() or process.returncode}")
    return json.loads(said)


@contextmanager
def served(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a fal-poller; programs that are started in the block find it."""
    before = os.environ.get("FAL_RUNTIME_DIR")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        os.environ["FAL_RUNTIME_DIR"] = directory
        if before is None:
            stack.callback(os.environ.pop, "FAL_RUNTIME_DIR")
        else:
            stack.callback(os.environ.__setitem__, "FAL_RUNTIME_DIR", before)
        yield stack.enter_context(started(command, "fal-poller: ready "))


@contextmanager
def poller(veth: Veth, *words: object) -> Iterator[subprocess.Popen[str]]:
    """Serve the device."""
    command = within(veth.inside, TOOLS / "fal-poller", veth.device, *words)
    with served(command) as process:
        yield process


def gen(veth: Veth, *words: object, cpu: int) -> dict[str, Any]:
    """Send, and return what `fal gen` reports."""
    command = within(veth.outside, TOOLS / "fal", "gen", veth.peer, "--json", *words, cpu=cpu)
    report: dict[str, Any] = json.loads(run(*command))
    return report
