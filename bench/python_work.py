"""What the Python programs of the benchmark share: the work, the clock, the report.

The work is to count packets by protocol and destination port; all are IPv4 without options, and
untagged.  A counter for each pair of them is a cell of a table, since that is the fastest there is:
for packets one at a time struct and lists, for many at a time numpy.
"""

from __future__ import annotations

import json
import time
from struct import Struct
from typing import Any

import numpy as np
import numpy.typing as npt

PROTOCOL, PORT = 23, 36  # where they lie in a frame
PROTOCOLS, PORTS = 256, 65536

protocol_and_port = Struct(f">{PROTOCOL}xB{PORT - PROTOCOL - 1}xH").unpack_from


def table() -> list[list[int]]:
    return [[0] * PORTS for _ in range(PROTOCOLS)]


class Table:
    """The same for numpy."""

    def __init__(self) -> None:
        self.cells = np.zeros(PROTOCOLS * PORTS, np.int64)

    def count(self, data: npt.NDArray[np.uint8], at: npt.NDArray[Any]) -> None:
        """Count the packets that begin at these even offsets of data."""
        at = at.astype(np.intp)
        cell = data[at + PROTOCOL].astype(np.int64)
        cell *= PORTS
        cell += data.view(">u2")[at + PORT >> 1]
        np.add.at(self.cells, cell, 1)

    def rows(self) -> list[list[int]]:
        """Return what table() is; of a protocol that was not met, nothing."""
        rows = self.cells.reshape(PROTOCOLS, PORTS)
        return [row.tolist() if row.any() else [] for row in rows]


class Clock:
    """Runs within its blocks."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> None:
        self._begun = time.perf_counter(), time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._begun[0]
        self.cpu += time.thread_time() - self._begun[1]


def report(clock: Clock, **found: object) -> None:
    """Print what the benchmark reads."""
    print(json.dumps({"seconds": clock.wall, "cpu": clock.cpu} | found))


def counted(rows: list[list[int]]) -> dict[str, int]:
    """Return the counters that are not 0, by "PROTOCOL/PORT"."""
    met = ((i, row) for i, row in enumerate(rows) if any(row))  # fast: few are
    return {f"{i}/{k}": n for i, row in met for k, n in enumerate(row) if n}
