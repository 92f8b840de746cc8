"""`fal gen`: sends made traffic, or that of a capture file, on a network device.

What is sent is made before, so that a turn of the loop is one call for many frames.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fal import ending, pcapfile, sink, traffic
from fal.arguments import at_least
from fal.ending import Wanted
from fal.errors import FalError
from fal.sender import VIA, Sender

SHORTEST_PAUSE, LONGEST_PAUSE = 0.001, 0.05  # seconds


def transmit(
    sender: Sender, options: argparse.Namespace, count: int | None, begin: float, wanted: Wanted
) -> None:
    """Send until `count` or the time is reached or the end wanted; begin: by time.monotonic()."""
    rate, seconds = options.rate, options.seconds
    while True:
        elapsed = time.monotonic() - begin
        done = sender.sent + sum(sender.failed.values())
        left = sender.burst if count is None else count - done
        if left <= 0 or (seconds is not None and elapsed >= seconds):
            return
        pause = 0.0
        if rate is not None and (due := int(elapsed * rate) - done) < 1:
            pause = min((done + 1) / rate - elapsed, LONGEST_PAUSE)
        elif not sender.send(left if rate is None else min(left, due)):
            pause = SHORTEST_PAUSE
        if wanted(pause):
            return


def now() -> tuple[float, float]:
    """Return two times in seconds: of the clock, and of the CPU that this thread had."""
    return time.monotonic(), time.thread_time()


def report(sender: Sender, begin: tuple[float, float]) -> dict[str, Any]:
    seconds, cpu_seconds = (after - before for before, after in zip(begin, now(), strict=True))
    return {
        "device": sender.device,
        "sent": sender.sent,
        "bytes": sender.sent_bytes,
        "failed": sum(sender.failed.values()),
        "failures": {errno.errorcode[code]: n for code, n in sender.failed.items()},
        "seconds": round(seconds, 6),
        "cpu_seconds": round(cpu_seconds, 6),
        "packets_per_second": round(sender.sent / max(seconds, 1e-9), 1),
        "bits_per_second": round(8 * sender.sent_bytes / max(seconds, 1e-9), 1),
    }


def show(r: dict[str, Any]) -> str:
    why = ", ".join(f"{n:,} {os.strerror(getattr(errno, e))}" for e, n in r["failures"].items())
    return (
        f"sent {r['sent']:,} in {r['seconds']:.2f} s: {r['packets_per_second']:,.0f} packets/s,"
        f" {r['bits_per_second'] / 1e6:,.1f} Mbit/s; failed {r['failed']:,}"
        + (f" ({why})" if why else "")
    )


# ---- the command ---------------------------------------------------------------------------------


def number(fits: Callable[[float], bool], fault: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        with suppress(ValueError):
            if fits(float(text)):
                return float(text)
        raise argparse.ArgumentTypeError(f"'{text}' is {fault}")

    return parse


share = number(lambda x: 0 <= x <= 1, "no share: 0 to 1")
positive = number(lambda x: 0 < x < float("inf"), "not a number above 0")


def frames_of(options: argparse.Namespace) -> list[bytes]:
    """Make, or read, what is to be sent."""
    mix = {
        key: value
        for key in traffic.Mix.__dataclass_fields__
        if (value := getattr(options, key)) is not None
    }
    if options.pcap is None:
        if options.loop is not None:
            options.usage("--loop is for --pcap")
        try:
            return traffic.made(traffic.Mix(**mix))
        except FalError as e:
            options.usage(f"argument --sizes: {e}")
    if mix:
        options.usage(f"--{next(iter(mix))} is for made traffic, not for --pcap")
    return pcapfile.read(options.pcap)


def show_limits(options: argparse.Namespace, frames: list[bytes]) -> int:
    """Show how fast each way is alone."""
    device, reports = sink.enter(), {}
    options.seconds = options.seconds or 1.0
    with ending.held() as wanted:
        for via, way in VIA.items():
            if wanted(0):
                break
            sender = way(device, frames)
            begin = now()
            transmit(sender, options, None, begin[0], wanted)
            reports[via] = report(sender, begin)
            sender.close()
            if not options.json:
                print(f"{via:8}{show(reports[via])}", flush=True)
    if options.json:
        print(json.dumps(reports, indent=2))
    return 0


def run(options: argparse.Namespace) -> int:
    if options.limit:
        for name in ("device", "rate", "count", "via", "loop"):
            if getattr(options, name) is not None:
                word = "DEVICE" if name == "device" else f"--{name}"
                options.usage(f"--limit goes without {word}: it tries each way, flat out")
    if not options.limit and options.device is None:
        options.usage("the following arguments are required: DEVICE")
    frames = frames_of(options)
    if options.limit:
        return show_limits(options, frames)
    count: int | None = options.count
    if options.pcap is not None and options.loop != 0:
        whole = len(frames) * (options.loop or 1)
        count = whole if count is None else min(count, whole)
    sender = VIA[options.via or "socket"](options.device, frames)
    with ending.held() as wanted:
        begin = now()
        try:
            transmit(sender, options, count, begin[0], wanted)
        finally:
            r = report(sender, begin)
            print(json.dumps(r, indent=2) if options.json else show(r), flush=True)
            sender.close()
    return 0 if sender.sent else 1


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "gen",
        help="send made traffic on a network device",
        description="Send made traffic, or that of a capture file, on a network device: until"
        " Ctrl-C where neither --count nor --seconds nor --pcap sets an end.",
        epilog="Sizes are of frames without the 4 bytes of their check sequence; a frame is longer"
        f" where its headers need it. imix is {', '.join(map(str, traffic.IMIX[0]))} bytes,"
        f" {':'.join(map(str, traffic.IMIX[1]))}.",
        allow_abbrev=False,
    )
    add, default = parser.add_argument, traffic.Mix()
    count = at_least(1, (1 << 63) - 1)
    add("device", metavar="DEVICE", nargs="?")
    add("--rate", type=positive, metavar="PPS", help="frames a second (default: flat out)")
    add("--count", type=count, metavar="N", help="end after N frames")
    add("--seconds", type=positive, metavar="S", help="end after so long")
    add(
        "--via",
        choices=VIA,
        help="a packet socket, AF_XDP, or XDP frames from within the kernel: each faster than the"
        " one before (socket)",
    )
    add(
        "--limit",
        action="store_true",
        help="say how fast each way is alone with such traffic: it sends for a second (or"
        " --seconds) to a device of its own that drops all; wants no DEVICE",
    )
    add("--json", action="store_true", help="for programs")
    made = parser.add_argument_group("made traffic: IPv4 and IPv6, TCP and UDP, both directions")
    add = made.add_argument
    add("--flows", type=at_least(1, 1 << 20), metavar="N", help=f"({default.flows})")
    add("--sizes", metavar="N|N-M|imix", help=f"bytes of a frame ({default.sizes})")
    add("--seed", type=int, metavar="N", help=f"the same one: the same frames ({default.seed})")
    add("--ipv6", type=share, metavar="SHARE", help="of the flows that are IPv6, 0 to 1 (0)")
    add("--vlan", type=share, metavar="SHARE", help="of the flows that have a VLAN tag (0)")
    add("--tunnels", type=share, metavar="SHARE", help="of the flows that are in a tunnel (0)")
    add("--fragments", type=share, metavar="SHARE", help="of the packets that are cut in two (0)")
    add = parser.add_argument_group("traffic of a capture file").add_argument
    add("--pcap", type=Path, metavar="FILE", help="send its frames instead")
    add(
        "--loop",
        type=at_least(0, (1 << 31) - 1),
        metavar="N",
        help="so many times; 0: for ever (1)",
    )
    parser.set_defaults(run=run, usage=parser.error)
