"""Our ring of descriptors beside DPDK's rte_ring, between two pinned processes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

from trials import Case, Rival, Trial, play, program, results

BATCHES = (1, 8, 32, 64)
RINGS = ("ring_fal", "ring_rte", "ring_rte_zc")
PAUSES = (0, 8, 32)  # that a side makes when it finds the ring full, or empty


def trial(ring: str, batch: int, pauses: tuple[int, int], seconds: float) -> Trial:
    done = program(ring, batch, *pauses, seconds)
    return Trial(done["rate"] / 1e6, done["off"], {"pauses": pauses})


def rival(ring: str, batch: int, seconds: float, tried: Sequence[int]) -> Rival:
    """One whose producer and consumer pause as suits it best of what is tried."""
    pauses = max(
        product(tried, tried), key=lambda pauses: trial(ring, batch, pauses, seconds / 2).value
    )
    return Rival(ring, partial(trial, ring, batch, pauses, seconds))


def run(quick: bool) -> list[dict[str, Any]]:
    seconds, rounds = (0.01, 1) if quick else (0.1, 25)
    pauses = PAUSES[:1] if quick else PAUSES
    found = []
    for batch in BATCHES:
        rivals = [rival(ring, batch, seconds, pauses) for ring in RINGS]
        case = Case(str(batch), rivals[0], rivals[1:], ">=1.15" if batch >= 8 else "", unit="M/s")
        found += results(play(case, rounds))
    return found
