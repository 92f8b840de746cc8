"""`fal captop`: workers that count, to see what a device delivers and who gets it.

The workers are processes (or threads), each with a socket of its own in one group.  What they count
lies in memory that they share with this process, one row a worker.
"""

from __future__ import annotations

import argparse
import errno
import json
import math
import mmap
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import psutil

import fal
from fal import ending, runtime, status
from fal.arguments import at_least, cpu_list
from fal.bindings import lib
from fal.ending import Wanted
from fal.errors import FalError
from fal.gen import positive

CONTEXT = multiprocessing.get_context("fork")  # the rows are shared with children alone
PATIENCE = 0.1  # seconds: how late a worker without packets may notice that it is to end
STARTING, COUNTING, ENDED = range(3)
# What one worker counts, all since it began; `if_dropped` is of the whole device.
ROW = np.dtype(
    [
        (name, "u8")
        for name in ("state", "packets", "bytes", "filtered", "ring_dropped", "if_dropped")
    ]
)
FIGURES = ("packets", "bytes", "filtered", "ring_dropped")


def bare_name(device: str) -> str:
    """Return what to open: a bare NAME is a fal-poller's where one of that name runs."""
    if ":" not in device:
        for directory in runtime.directories():
            with suppress(OSError):
                segment = status.open_existing(directory, device)
                running = segment.running
                segment.close()
                if running:
                    return f"fal:{device}"
    return device


# ---- a worker ------------------------------------------------------------------------------------


class Words:
    """What goes from this process to its workers and back; the last row's state ends them."""

    def __init__(self, workers: int) -> None:
        self.rows: Any = np.frombuffer(mmap.mmap(-1, (workers + 1) * ROW.itemsize), ROW)
        self.failures = CONTEXT.SimpleQueue()
        self.parent = os.getpid()

    def end(self) -> None:
        self.rows[-1]["state"] = ENDED

    @property
    def ended(self) -> bool:
        """Whether the workers are to end: also when this process was killed."""
        ours = self.parent in (os.getpid(), os.getppid())
        return bool(self.rows[-1]["state"] == ENDED or not ours)


def count(row: Any, s: fal.Socket, words: Words) -> None:
    """Count until told to end, and then what lies in the ring at that moment."""
    begin = s.stats()

    def note(batch: fal.Batch) -> fal.Stats:
        row["packets"] += len(batch)
        row["bytes"] += int(batch.heads["len"].sum())
        stats = s.stats()
        row["filtered"], row["ring_dropped"] = s.counters()["filtered"], stats.drop
        row["if_dropped"] = stats.ifdrop - begin.ifdrop
        return stats

    row["state"] = COUNTING
    for batch in s.batches(timeout=PATIENCE):
        recv = note(batch).recv
        if words.ended:
            with suppress(EOFError):  # the source is over
                while row["packets"] + row["filtered"] < recv:
                    if not (batch := s.recv_batch(timeout=PATIENCE)):
                        break
                    note(batch)
            break
    row["filtered"] = s.counters()["filtered"]  # also after the last that matched


def work(words: Words, number: int, cpu: int | None, opened: Callable[[], fal.Socket]) -> None:
    row = words.rows[number]
    try:
        if cpu is not None:
            psutil.Process(threading.get_native_id()).cpu_affinity([cpu])
        with opened() as s:
            count(row, s, words)
    except OSError as e:
        words.failures.put((e.errno, str(e)))
    finally:
        row["state"] = ENDED


# ---- what it prints -----------------------------------------------------------------------------


def line(who: str, cpu: str, figures: dict[str, int], seconds: float) -> str:
    rate, bits = figures["packets"] / seconds, 8 * figures["bytes"] / seconds
    return (
        f"{who:>8} {cpu:>4} {figures['packets']:>14,} {rate:>13,.0f}/s {bits / 1e6:>11,.1f} Mbit/s"
        f" {figures['ring_dropped']:>12,} dropped"
    )


class Counting:
    """Looks at the rows: at what was counted between two looks, and in all."""

    def __init__(self, words: Words, cpus: list[int | None]) -> None:
        self.rows, self.cpus = words.rows[:-1], cpus
        self.begin = self.at = time.monotonic()
        self.before = np.zeros_like(self.rows)

    def sample(self) -> dict[str, Any]:
        """Return what was counted since the sample before; "at" is the seconds since the begin."""
        now, rows = time.monotonic(), self.rows.copy()
        workers = [
            {name: int(row[name] - old[name]) for name in FIGURES}
            for row, old in zip(rows, self.before, strict=True)
        ]
        times = {"at": round(now - self.begin, 3), "seconds": round(now - self.at, 3)}
        self.at, self.before = now, rows
        return {**times, "workers": workers}

    def total(self) -> dict[str, Any]:
        """Return what was counted in all.

        The rings' drops are summed over all sockets; the interface's are one figure, which each
        socket has since its own begin.
        """
        workers = [{name: int(row[name]) for name in FIGURES} for row in self.rows]
        return {
            "seconds": round(time.monotonic() - self.begin, 3),
            "captured": sum(w["packets"] for w in workers),
            "filtered": sum(w["filtered"] for w in workers),
            "ring_dropped": sum(w["ring_dropped"] for w in workers),
            "if_dropped": int(self.rows["if_dropped"].max()),
            "workers": workers,
        }

    def show(self, figures: dict[str, Any]) -> None:
        workers, seconds = figures["workers"], max(figures["seconds"], 1e-3)
        for i, (cpu, counted) in enumerate(zip(self.cpus, workers, strict=True)):
            print(line(str(i), "-" if cpu is None else str(cpu), counted, seconds))
        if len(workers) > 1:
            together = {name: sum(w[name] for w in workers) for name in FIGURES}
            print(line("all", "", together, seconds))
        print(flush=True)


# ---- the command ---------------------------------------------------------------------------------


class Workers:
    """The processes or threads; those that die are missed in what is told at the end."""

    def __init__(self, words: Words, threads: bool) -> None:
        self.words, self.all = words, list[Any]()
        self.kind: Any = threading.Thread if threads else CONTEXT.Process

    def start(self, number: int, cpu: int | None, opened: Callable[[], fal.Socket]) -> None:
        arguments = self.words, number, cpu, opened
        self.all.append(self.kind(target=work, args=arguments, daemon=True))
        self.all[-1].start()

    @property
    def running(self) -> bool:
        """Whether some count and none has failed."""
        return self.words.failures.empty() and any(w.is_alive() for w in self.all)

    @property
    def starting(self) -> bool:
        return self.running and any(
            row["state"] == STARTING and w.is_alive()
            for row, w in zip(self.words.rows, self.all, strict=False)
        )

    def end(self) -> None:
        self.words.end()
        for worker in self.all:
            worker.join()

    def failure(self) -> FalError | None:
        """Return why one of them ended before it was told to."""
        if not self.words.failures.empty():
            return FalError(*self.words.failures.get())
        for i, row in enumerate(self.words.rows[:-1]):
            if row["state"] != ENDED:
                return FalError(errno.ECHILD, f"worker {i} was killed; what it counted is above")
        return None


def count_all(
    workers: Workers,
    counting: Counting,
    seconds: float | None,
    wanted: Wanted,
    each: Callable[[Any], None],
) -> None:
    """Give a sample every second until time is up, the end is wanted, or no worker runs."""
    end = math.inf if seconds is None else counting.begin + seconds
    tick = counting.begin
    while workers.running and tick < end:
        tick = min(tick + 1.0, end)
        if wanted(tick - time.monotonic()):
            break
        each(counting.sample())


def run(options: argparse.Namespace) -> int:
    device, group, fanout = bare_name(options.device), options.group, options.fanout
    if group is None:  # one of our own
        group, fanout = os.getpid() & lib.FAL_MAX_GROUP_ID, fanout or "hash"
    cpus = [options.cpus[i % len(options.cpus)] for i in range(options.workers)]
    words = Words(options.workers)
    workers = Workers(words, options.threads)

    def opened() -> fal.Socket:
        return fal.open(device, group=group, fanout=fanout, filter=options.filter)

    with ending.held() as wanted:
        try:
            for i, cpu in enumerate(cpus):
                workers.start(i, cpu, opened)
            while workers.starting and not wanted(0.01):
                pass
            if not workers.running and (failure := workers.failure()):
                raise failure
            counting = Counting(words, cpus)
            samples: list[dict[str, Any]] = []
            each = samples.append if options.json else counting.show
            count_all(workers, counting, options.seconds, wanted, each)
        finally:
            workers.end()
    each(counting.sample())
    total = counting.total()
    if options.json:
        about = {"device": device, "group": group, "fanout": fanout, "cpus": cpus}
        print(json.dumps({**about, **total, "samples": samples}, indent=2))
    else:
        print("in all")
        counting.show(total)
        print(
            f"captured {total['captured']:,}; filtered {total['filtered']:,};"
            f" dropped in rings {total['ring_dropped']:,},"
            f" by the interface {total['if_dropped']:,}",
            flush=True,
        )
    if failure := workers.failure():
        raise failure
    return 0


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "captop",
        help="count packets with many workers",
        description="Count the packets of a device with workers of one group: every second, for"
        " each worker, packets, rate, bandwidth (of frames, without preamble and check sequence)"
        " and drops of its ring; in the end the sums. Ctrl-C ends it.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    about = "fal:NAME; a NAME alone is that where it runs, else the kernel's device"
    add("device", metavar="DEVICE", help=about)
    add("--workers", type=at_least(1, lib.FAL_GROUP_MEMBERS), default=1, metavar="N", help="(1)")
    add("--threads", action="store_true", help="threads of one process instead of processes")
    add("--cpus", type=cpu_list, default=[None], metavar="LIST", help="for the workers, in turn")
    add("--group", type=at_least(0, lib.FAL_MAX_GROUP_ID), metavar="G", help="(one of its own)")
    add("--fanout", metavar="MODE", help="of the group (as it is; hash for a new one)")
    add(
        "--filter", metavar="EXPR", help="count what matches: a pcap expression, run by each worker"
    )
    add("--seconds", type=positive, metavar="S", help="end after so long")
    add("--json", action="store_true", help="one object at the end, with a sample a second")
    parser.set_defaults(run=run)
