"""What FAL comes to on larger machines: a model fitted to measured costs, checked against others.

Prints the tables of docs/scaling.md, from docs/benchmarks/scale.json: nanoseconds a packet, which
`make bench B=scale && make bench-report` measures anew (bench/suite/scale.py says what each is).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from suite.scale import AF_XDP, POLLER, WORKER, families
from trials import ROOT

from fal.bindings import lib

DOCS = ROOT / "docs"
POINTS = Path("benchmarks/scale.json")
IMIX = (60 * 7 + 590 * 4 + 1514) / 12  # bytes without the check sequence
SIZES = {"64 B": 64 - 4, "IMIX": IMIX, "1514 B": 1514}
WIRE = 4 + 20  # bytes more on the wire: check sequence, preamble, gap
LINE = 64
GBITS = (100, 400)

# Assumed, not measured here.
DRIVER = 40.0  # ns a packet: a NIC's driver and XDP program (24 million dropped by one core)
MEMORY = 200.0  # GB/s of a socket with eight channels of DDR5-4800, of 307 on paper
CORES = 64  # of a host

Points = dict[str, float]


@dataclass(frozen=True)
class Shape:
    """Workers are of each group."""

    size: float
    workers: int
    groups: int

    @property
    def name(self) -> str:
        size = "IMIX" if self.size == IMIX else f"{self.size:.0f} B"
        return f"{size}, {self.workers} workers, groups: {self.groups}"

    @property
    def key(self) -> str:
        size = 0 if self.size == IMIX else int(self.size)
        return POLLER.format(size, self.workers, self.groups)

    def features(self) -> tuple[float, ...]:
        return 1, self.workers * self.groups, self.groups - 1, self.size - LINE


FITTED = [Shape(64, n, 1) for n in (1, 2, 8, 16)]
FITTED += [Shape(64, 2, 2), Shape(64, 2, 4), Shape(1514, 2, 1)]
CHECKED = [Shape(64, 4, 1), Shape(64, 4, 3), Shape(590, 4, 1), Shape(1514, 8, 1), Shape(IMIX, 4, 2)]
WOKEN = [(8, 1), (2, 4), (4, 2)]


class Model:
    """Linear in rings, groups and bytes."""

    def __init__(self, points: Points) -> None:
        self.points = points
        rows = np.array([shape.features() for shape in FITTED])
        costs = np.array([points[shape.key] for shape in FITTED])
        fit: list[float] = np.linalg.lstsq(rows, costs, rcond=None)[0].tolist()
        self.base, self.ring, self.group, self.byte = fit
        head, whole = points[WORKER.format(64, 64)], points[WORKER.format(1514, 1514)]
        self.read = (whole - head) / (1514 - 64)  # of a byte
        self.packet = head - 64 * self.read

    def made(self, shape: Shape) -> float:
        """Of a poller over packets made in memory, in ns a packet."""
        fit = (self.base, self.ring, self.group, self.byte)
        return sum(cost * n for cost, n in zip(fit, shape.features(), strict=True))

    def af_xdp(self, workers: int, groups: int) -> float:
        """Of a poller on AF_XDP: one measured point, and the growth of those made in memory."""
        grown = self.ring * (workers * groups - 2) + self.group * (groups - 1)
        return self.points[AF_XDP.format(2, 1)] + grown

    def worker(self, read: float) -> float:
        """Of a worker that reads so many bytes of a packet."""
        return self.packet + self.read * read


# ---- tables --------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def fit(m: Model) -> str:
    rows = [
        ("packets made in memory, of 64 bytes: making, hash, hand-over", f"{m.base:.1f}"),
        ("a ring (a worker in a group)", f"{m.ring:.2f}"),
        ("a further group", f"{m.group:.1f}"),
        ("a further byte that is made (FAL reads none of them)", f"{m.byte:.4f}"),
        ("AF_XDP, two workers, packets cold: measured", f"{m.af_xdp(2, 1):.1f}"),
        ("worker: a packet", f"{m.packet:.1f}"),
        ("worker: a byte that it reads", f"{m.read:.4f}"),
    ]
    return table(("cost", "ns"), rows)


def check(m: Model) -> str:
    points = m.points
    found = [(f"made, {s.name}", m.made(s), points[s.key]) for s in CHECKED]
    found += [
        (
            f"AF_XDP, {w} workers, groups: {g}",
            m.af_xdp(w, g),
            points[AF_XDP.format(w, g)],
        )
        for w, g in WOKEN
    ]
    found += [
        ("two pollers, each (as one alone)", points["pollers/1"], points["pollers/2"]),
        ("worker, 590 B, all read", m.worker(590), points[WORKER.format(590, 590)]),
        ("worker, 1514 B, 64 read", m.worker(64), points[WORKER.format(1514, 64)]),
    ]
    rows = [
        (name, f"{said:.1f}", f"{was:.1f}", f"{100 * (said / was - 1):+.0f} %")
        for name, said, was in found
    ]
    return table(("not fitted to", "predicted, ns", "measured, ns", "off by"), rows)


def rate(gbits: float, size: float) -> float:
    """Packets a nanosecond at line rate."""
    return gbits / 8 / (size + WIRE)


def traffic(size: float, read: float, groups: int) -> float:
    """Bytes of memory a packet moves, where no cache holds it from one to the next: its lines and
    that of its stamp written and read, descriptors of 16 and 32 bytes written and read."""
    lines, seen = ceil(size / LINE) + 1, ceil(min(read, size) / LINE) + 1
    return LINE * (lines + seen) + 2 * (16 + 32 * groups)


def many(count: float, most: int) -> str:
    return f"{ceil(count)}" + (f" (more than {most})" if ceil(count) > most else "")


def needed(m: Model) -> str:
    """At line rate: how many of each."""
    rows = []
    for gbits in GBITS:
        for name, size in SIZES.items():
            r = rate(gbits, size)
            work = [r * m.worker(64), r * m.worker(size), r * (m.worker(64) + 1000)]
            pollers = r * m.af_xdp(max(2, ceil(work[0])), 1)
            rows.append(
                (
                    f"{gbits} Gb/s, {name}",
                    f"{1000 * r:.1f}",
                    f"{ceil(r * DRIVER)}",
                    many(pollers, lib.FAL_MAX_POLLERS),
                    *(many(w, lib.FAL_MAX_SOCKETS) for w in work),
                    f"{r * traffic(size, size, 1):.0f}",
                )
            )
    head = ("line rate", "million packets/s", "driver", "pollers", "workers: heads")
    return table((*head, "every byte", "1 us a packet", "memory, GB/s"), rows)


def host(m: Model) -> str:
    """What one of CORES comes to, divided as the costs are."""
    rows = []
    for name, size in SIZES.items():
        for work, read, more in (("heads", 64, 0), ("every byte", size, 0), ("1 us", 64, 1000)):
            ns = DRIVER + m.af_xdp(CORES // 2, 1) + m.worker(read) + more
            cores, memory = CORES / ns, MEMORY / traffic(size, read, 1)
            r = min(cores, memory)
            limit = "cores" if cores < memory else "memory"
            gbits = r * 8 * (size + WIRE)
            rows.append((name, work, f"{1000 * r:.0f}", f"{gbits:.0f}", limit))
    return table(("packets", "workers", "million/s", "Gb/s", "limit"), rows)


def quota() -> str:
    """GiB of frames for all rings."""
    rows = []
    for pollers, workers in ((1, 4), (4, 16), (8, 32), (16, 64), (32, 64)):
        rings = (4096, 1024, 256)
        frames = [
            pollers
            * (lib.FAL_RX_RING + lib.FAL_BURST + lib.FAL_TX_FRAMES + workers * ring)
            * lib.FAL_DEFAULT_FRAME_SIZE
            / 2**30
            for ring in rings
        ]
        rows.append((f"{pollers}", f"{workers}", *(f"{f:.2f}" for f in frames)))
    head = ("pollers", "workers", "rings of 4096: GiB", "of 1024", "of 256")
    return table(head, rows)


def tables(points: Points) -> dict[str, str]:
    m = Model(points)
    return {
        "fit": fit(m),
        "check": check(m),
        "needed": needed(m),
        "host": host(m),
        "quota": quota(),
    }


# ---- the document --------------------------------------------------------------------------------


def points(report: dict[str, Any]) -> Points:
    """Return what run.py wrote of `scale`, at one distance of the cores, near if it can be.

    A point is what its ratio to the first of its kind comes to, since ratios do not drift.
    """
    for where in ("near", "far"):
        ratios: dict[str, tuple[str, float]] = {}
        firsts: dict[str, list[float]] = {}
        for r in report["results"]:
            point, _, distance = r["case"].rpartition("/")
            if distance == where:
                ratios[point] = r["peer"], r["ratio"]["median"]
                firsts.setdefault(r["peer"], []).append(r["values"][r["peer"]]["median"])
        found = {name: median(values) for name, values in firsts.items()}
        found |= {name: ratio * found[first] for name, (first, ratio) in ratios.items()}
        if {point.name for kind in families(0, 0) for point in kind} <= found.keys():
            return {name: round(value, 2) for name, value in found.items()}
    raise SystemExit(
        "bench-report: the cores' distance changed while scale was measured, so that"
        " docs/scaling.md stays as it is: make bench B=scale"
    )


def load(docs: Path) -> Points:
    found: Points = json.loads((docs / POINTS).read_text())
    return found


def write(report: dict[str, Any], docs: Path) -> None:
    """Keep what run.py wrote of `scale`, and put the tables into scaling.md, each where a comment
    names it."""
    (docs / POINTS).write_text(json.dumps(points(report), indent=1) + "\n")
    page = docs / "scaling.md"
    text = page.read_text()
    for name, made in tables(load(docs)).items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        text = before + mark + made + rest[rest.index("<!-- end -->") :]
    page.write_text(text)


def main() -> int:
    print(*tables(load(DOCS)).values(), sep="\n", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
