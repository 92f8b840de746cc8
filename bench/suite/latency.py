"""From send() to the worker's hands: veth, AF_XDP native, frames of 60 bytes that carry their time.

The sender has CPU 0, the poller CPU 1.  The worker is on the poller's CPU (`same`), or on the
sender's (`other`: there are but two); libpcap's reader is where ours is.  It waits as programs do
(`sleep`: fal_wait, which spins 50 us first; poll) or looks again and again (`spin`).

The poller spins (`--idle spin`, which is for low latency, and takes its CPU whole); `adaptive`
tells what it is where that sleeps, too: 1000 packets a second lie too far apart for its 50 us of
spinning, so that the poller and then the worker are woken, where libpcap's reader is alone.

With `spin` libpcap's reader has its CPU for itself, where ours takes turns with the poller
(`same`), or the two leave no CPU to whatever else runs (`other`).

A round counts in which all frames arrived, on all sides, and few were sent late.

Peers: libpcap in immediate mode (TPACKET_V2), and, for the record, without (TPACKET_V3, 1 ms).
"""

from __future__ import annotations

import json
import subprocess
from functools import partial
from itertools import product
from typing import Any

from trials import PROGRAMS, Case, Rival, Trial, of, play, results
from veth import Veth, pair, poller, started, told, within
from veth import run as run_command

RATES = {"1k": 1000, "100k": 100_000}  # packets a second
PLACES = {"same": 1, "other": 0}  # the worker's CPU
WAITS = {"sleep": ("sleep", "spin"), "spin": ("spin", "spin"), "adaptive": ("sleep", "adaptive")}
PERCENTILES = ("p50", "p99", "p99.9")
GOAL = {"same-sleep-1k/p99": "<=0.8"}
LATE = 0.05  # the share of frames that may go out late in a round that counts; none may be lost


def trial(veth: Veth, reader: list[object], cpu: int, count: int, rate: int) -> Trial:
    """Send, with the reader on that CPU."""
    command = within(veth.inside, *reader, cpu=cpu)
    with started(command, "ready", stdout=subprocess.PIPE) as process:
        sender = within(veth.outside, PROGRAMS / "latency_send", veth.peer, count, rate, cpu=0)
        sent = json.loads(run_command(*sender))
        found: dict[str, Any] = told(process)
    itself = found["arrived"] == count and sent["late"] < LATE
    return Trial(found["p50"], 0 if itself else 1, found)


def ours(veth: Veth, idle: str, wait: str, cpu: int, count: int, rate: int) -> Trial:
    with poller(veth, "--cpus", 1, "--idle", idle):
        reader = [PROGRAMS / "latency_fal", f"fal:{veth.device}", count, wait]
        return trial(veth, reader, cpu, count, rate)


def libpcap(veth: Veth, version: str, wait: str, cpu: int, count: int, rate: int) -> Trial:
    reader = [PROGRAMS / "latency_pcap", veth.device, count, wait, version]
    return trial(veth, reader, cpu, count, rate)


def run(quick: bool) -> list[dict[str, Any]]:
    seconds, rounds = (0.1, 1) if quick else (1.5, 5)
    settings = list(product(RATES.items(), PLACES.items(), WAITS.items()))
    found = []
    with pair() as veth:
        for (label, rate), (place, cpu), (how, (wait, idle)) in settings[:: 5 if quick else 1]:
            name = f"{place}-{how}-{label}"
            about = cpu, int(seconds * rate), rate
            mine = Rival("fal", partial(ours, veth, idle, wait, *about))
            peers = [
                Rival(f"libpcap {v}", partial(libpcap, veth, v, wait, *about)) for v in ("v2", "v3")
            ]
            done = play(Case(name, mine, peers, lower=True, unit="us"), rounds)
            for which in PERCENTILES:
                found += results(of(done, which, GOAL.get(f"{name}/{which}", "")))
    return found
