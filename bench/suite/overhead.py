"""What fal-poller and its rings add to AF_XDP: two workers that share the traffic by hash, beside a
bare loop that reads the same socket and drops the packets.

Neither has huge pages.  The source has one core; poller and workers, or the loop, which never
sleeps, the other.  The core
of the source is the limit: it does the kernel's part of receiving, too, with one copy into the
pool.  What FAL adds shows only where it comes to more than the other core has left.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from captured import by_fal, captured
from trials import Case, Rival, play, results
from veth import pair

GOALS = {"socket": ">=0.95", "xdp": ">=0.85"}
IDLE = ("spin", "adaptive")


def run(quick: bool) -> list[dict[str, Any]]:
    seconds, rounds = (0.05, 1) if quick else (0.4, 7)
    found = []
    for source in ["socket"] if quick else GOALS:
        for idle in IDLE[:1] if quick else IDLE:
            options = ("--hugepages", "off", "--idle", idle)
            traffic: dict[str, Any] = {"source": source, "sizes": "64", "seconds": seconds}
            with pair() as veth:
                ours = Rival("fal", partial(by_fal, veth, 2, "hash", *options, **traffic))
                bare = partial(captured, veth, "xsk_bare", 1, veth.device, **traffic)
                case = Case(
                    f"{source}/{idle}", ours, [Rival("bare", bare)], GOALS[source], unit="Mpps"
                )
                found += results(play(case, rounds))
    return found
