"""Workers written in C, which start in a millisecond: they can be killed a thousand times."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crash.pages import reserved
from crash.siege import Siege
from support import Poller, Veth, Worker

import fal


@pytest.fixture(scope="session")
def worker_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build worker.c as a user of libfal would: with what its .pc file says."""
    program = tmp_path_factory.mktemp("worker") / "worker"
    pc = Path(fal.__file__).parent / "lib" / "pkgconfig"
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libfal"],
        env=os.environ | {"PKG_CONFIG_PATH": str(pc)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    source = Path(__file__).with_name("worker.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", source, "-o", program, *flags], check=True)
    return program


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
