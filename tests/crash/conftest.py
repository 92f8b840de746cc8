"""Workers written in C, which start in a millisecond: they can be killed a thousand times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crash.pages import reserved
from crash.siege import Siege
from support import Poller, Veth, Worker, compiled


@pytest.fixture(scope="session")
def worker_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("worker") / "worker"
    return compiled(Path(__file__).with_name("worker.c"), program, "-O2")


@pytest.fixture
def start_worker(worker_program: Path, runtime: Path) -> Iterator[Callable[..., Worker]]:
    """Start C workers: start_worker(poller, 42, "hash", how="hold")."""
    started: list[Worker] = []

    def start(poller: Poller, *words: object, **options: object) -> Worker:
        started.append(Worker(worker_program, poller, *words, **options))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()


@pytest.fixture
def hugepages() -> Iterator[None]:
    with reserved():
        yield


@pytest.fixture
def siege(
    request: pytest.FixtureRequest,
    make_veth: Callable[..., Veth],
    start_poller: Callable[..., Poller],
    start_worker: Callable[..., Worker],
    tmp_path: Path,
) -> Siege:
    """Besiege fal-poller in the way that the test names (a veth pair in native mode), with room."""
    way, room = getattr(request, "param", ("native", 40960))
    return Siege(way, make_veth, start_poller, start_worker, tmp_path, room)
