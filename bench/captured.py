"""Trials on a veth pair: a source sends flat out on one core, workers read on the other.

All workers do the same (bench/workers.h): they read the first cache line of every packet and its
length.  What counts is how many packets they had for each second of sending.

A round counts in which the source was not off its CPU.  The other one is shared, by poller and
workers, so that nobody can say what others took of it.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

from trials import PROGRAMS, Trial
from veth import Veth, gen, poller, started, told, within

from fal import stat, status

SENDER, WORKERS = 0, 1  # CPUs; a poller is on that of the workers
SETTLE = 0.1  # seconds, until what was sent last is read
NETWORK = 10  # all sources of fal gen are in 10/8


def captured(
    veth: Veth, name: str, workers: int, *words: object, source: str, sizes: str, seconds: float
) -> Trial:
    """Send by that source, and return what workers of that program had: million a second."""
    program = (PROGRAMS / name, WORKERS, workers, *words)
    how = {"stdout": subprocess.PIPE}
    with started(within(veth.inside, *program), "ready\n", **how) as process:
        sending = ("--via", source, "--sizes", sizes, "--seconds", seconds)
        sent = gen(veth, *sending, cpu=SENDER)
        time.sleep(SETTLE)
        process.terminate()
        had = told(process)
    packets = sum(had["packets"])
    if had["sum"] != NETWORK * packets:
        raise SystemExit(f"bench: {name} had other packets than those of the source: {had}")
    if not 0 < packets <= sent["sent"] or had["bytes"] > sent["bytes"]:
        raise SystemExit(f"bench: {name} had {had} of {sent}")
    if packets == sent["sent"] and had["bytes"] != sent["bytes"]:
        raise SystemExit(f"bench: {name} had {had['bytes']} bytes of {sent['bytes']}")
    more = {
        "sent": sent["packets_per_second"] / 1e6,
        "share": packets / sent["sent"],
        "dropped": had["dropped"],
    }
    off = 1 - sent["cpu_seconds"] / sent["seconds"]
    return Trial(packets / sent["seconds"] / 1e6, off if seconds >= 0.2 else 0.0, more)


def by_fal(veth: Veth, workers: int, mode: str, *options: object, **traffic: Any) -> Trial:
    """Let a fal-poller with these options fetch the packets."""
    with poller(veth, "--cpus", WORKERS, *options):
        trial = captured(veth, "capture_fal", workers, f"fal:{veth.device}", mode, **traffic)
        segment = status.open_existing(Path(os.environ["FAL_RUNTIME_DIR"]), veth.device)
        try:
            trial.more.update(if_dropped=stat.report(segment)["if_dropped"])
        finally:
            segment.close()
    return trial
