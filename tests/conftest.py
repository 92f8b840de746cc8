"""Fixtures: each takes down what it set up, also after a failure, and says what was left behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Poller, Veth, ip


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the test a directory of control sockets of its own; nothing may be left anywhere."""
    directory = tmp_path / "run"
    directory.mkdir()
    monkeypatch.setenv("FAL_RUNTIME_DIR", str(directory))
    yield directory
    from fal import status

    for name in status.names(directory):  # of pollers that the test killed
        segment = status.open_existing(directory, name)
        assert not segment.running, f"fal-poller {name} was left running"
        segment.remove()
        segment.close()


@pytest.fixture
def start_poller(runtime: Path) -> Iterator[Callable[..., Poller]]:
    """Start fal-pollers: start_poller("DEV", "--backend", "null", …, namespace=…)."""
    started: list[Poller] = []

    def start(*words: str, ready: bool = True, **how: Any) -> Poller:
        poller = Poller(*words, env=dict(os.environ), **how)
        started.append(poller)
        return poller.wait_ready() if ready else poller

    yield start
    for poller in started:
        poller.stop()


@pytest.fixture
def make_veth() -> Iterator[Callable[..., Veth]]:
    """Make veth pairs: make_veth(queues=4, mtu=1500)."""
    made: list[Veth] = []

    def make(queues: int = 1, mtu: int = 1500) -> Veth:
        made.append(Veth(queues, mtu))
        return made[-1]

    yield make
    for veth in made:
        veth.delete()


MODES = ("generic", "native")
WAYS = [(mode, queues, pollers) for mode in MODES for queues, pollers in ((1, 1), (4, 1), (4, 2))]
WAYS += [("tpacket", 1, 1), ("tpacket", 2, 2)]  # a queue is a socket


@pytest.fixture(params=WAYS, ids=["-".join(map(str, way)) for way in WAYS])
def served(
    request: pytest.FixtureRequest,
    make_veth: Callable[..., Veth],
    start_poller: Callable[..., Poller],
) -> tuple[Veth, Poller]:
    """Serve a veth pair, in every way that AF_XDP has there, and by packet socket."""
    mode, queues, pollers = request.param
    veth = make_veth(queues=queues)
    cpus = ("--cpus", ",".join(map(str, range(pollers))))
    words = ("--backend", "tpacket") if mode == "tpacket" else ("--mode", mode)
    poller = start_poller(veth.device, *words, *cpus, namespace=veth.inside)
    runs = "copy" if mode == "tpacket" else mode
    assert (poller.ready["mode"], poller.ready["queues"]) == (runs, str(queues))
    return veth, poller


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    assert f"fal-test-{os.getpid()}-" not in ip("netns", "list")
