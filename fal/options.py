"""The command line of fal-poller."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fal import status
from fal.arguments import Version, at_least, cpu_list, number_list, sizes
from fal.bindings import lib

BACKENDS = ("af_xdp", "null", "pcap", "tpacket")
# Options that mean nothing to the other backends.
ONLY_FOR = {
    "mode": ("af_xdp",),
    "pass": ("af_xdp",),
    "queues": ("af_xdp",),
    "wait": ("null", "pcap"),
    "count": ("null", "pcap"),
    "flows": ("null",),
    "sizes": ("null",),
    "seed": ("null",),
    "rate": ("pcap",),
    "loop": ("pcap",),
}
IDLE = {"spin": lib.FAL_IDLE_SPIN, "adaptive": lib.FAL_IDLE_ADAPTIVE, "sleep": lib.FAL_IDLE_SLEEP}
HUGEPAGES = {
    "off": lib.FAL_HUGEPAGES_OFF,
    "try": lib.FAL_HUGEPAGES_TRY,
    "on": lib.FAL_HUGEPAGES_ON,
}
LONGEST = 4096  # bytes of a packet made in memory
EXAMPLES = f"""examples:
  fal-poller eth0                           all queues, AF_XDP, native mode where the driver can
  fal-poller eth0 --cpus 2 --idle spin      lowest latency: CPU 2 is busy all the time
  fal-poller eth0 --cpus 2,3                two pollers, each with every second queue
  fal-poller eth0 --queues 0-3 --name dmz   some queues; workers open fal:dmz
  fal-poller try --backend null --wait 2 --count 1000000
                                            made-up packets, no privilege, once two sockets started
  fal-poller eth0 --backend tpacket         any device, and the host keeps its packets
  fal-poller trace.pcap --wait 4            a capture file to fal:trace, once four sockets started
  fal-poller trace.pcap --rate capture --loop 0
                                            at its own pace, over and over

defaults and limits:
  a socket's ring holds {lib.FAL_DEFAULT_RING} packets, or what the socket asks for:
  {lib.FAL_MIN_RING} to {lib.FAL_MAX_RING}; the pool holds {lib.FAL_DEFAULT_RINGS} default rings
  besides the device's part (see --frames); at most {lib.FAL_MAX_SOCKETS} sockets,
  {lib.FAL_MAX_GROUPS} groups, {lib.FAL_GROUP_MEMBERS} members a group,
  {lib.FAL_MAX_QUEUES} queues, {lib.FAL_MAX_POLLERS} pollers
"""


# ---- what options take ---------------------------------------------------------------------------


def queue_list(text: str) -> list[int]:
    return [] if text == "all" else number_list(text)


def poller_cpus(text: str) -> list[int]:
    cpus = cpu_list(text)
    if len(cpus) > lib.FAL_MAX_POLLERS:
        raise argparse.ArgumentTypeError(f"'{text}': at most {lib.FAL_MAX_POLLERS} CPUs")
    return cpus


def hash_seed(text: str) -> int:
    if text == "random":
        return int.from_bytes(os.urandom(8))
    with suppress(ValueError):
        if 0 <= int(text, 0) < 1 << 64:
            return int(text, 0)
    raise argparse.ArgumentTypeError(f"'{text}' is neither 'random' nor a number below 2**64")


def packet_rate(text: str) -> int:
    if text in ("max", "capture"):
        return int(lib.FAL_RATE_MAX if text == "max" else lib.FAL_RATE_CAPTURE)
    if not text.isdecimal() or not 1 <= int(text) <= 10**9:
        raise argparse.ArgumentTypeError(
            f"'{text}' is neither 'max', 'capture' nor a number from 1 to {10**9}"
        )
    return int(text)


def poller_name(text: str) -> str:
    if not status.NAME.fullmatch(text) or len(text) >= lib.FAL_NAME_SIZE:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no name: letters, digits and _-+.:@, at most {lib.FAL_NAME_SIZE - 1}"
        )
    return text


# ---- the options ---------------------------------------------------------------------------------


def add_general(add: Any) -> None:
    add("device", metavar="DEV", help="network device, or capture file (null: any word)")
    add("--version", action=Version, nargs=0, help="show the version and end")
    add(
        "--backend",
        choices=BACKENDS,
        help="how packets are fetched (af_xdp; pcap where DEV is a file)",
    )
    add(
        "--name",
        type=poller_name,
        help="what workers call it: fal:NAME (default: DEV; of a file its name less suffix)",
    )
    add(
        "--hash-seed",
        type=hash_seed,
        default=lib.FAL_HASH_SEED,
        metavar="N|random",
        help="random: nobody outside can aim at one worker (default: fixed, so results repeat)",
    )


def add_resources(add: Any) -> None:
    add(
        "--cpus",
        type=poller_cpus,
        metavar="LIST",
        help="CPUs of the pollers, one each; queues are dealt out to them in turn"
        " (default: one poller, on an unused CPU)",
    )
    add(
        "--idle",
        choices=IDLE,
        default="adaptive",
        help="without packets: spin, sleep, or spin 50 us and then sleep (adaptive)",
    )
    add(
        "--frames",
        type=at_least(1, 1 << 26),
        metavar="N",
        help="size of each poller's pool in packets (default: device's part and"
        f" {lib.FAL_DEFAULT_RINGS} rings of {lib.FAL_DEFAULT_RING}, in whole huge pages)",
    )
    add(
        "--frame-size",
        type=int,
        choices=(2048, 2112, 4096),
        default=lib.FAL_DEFAULT_FRAME_SIZE,
        help="bytes that a packet, or a piece of it, has (2048); with AF_XDP 256 of them are the"
        " kernel's, and 2112 is never zero copy",
    )
    add("--hugepages", choices=HUGEPAGES, default="try", help="for the pool (try)")


def add_network(add: Any) -> None:
    add(
        "--promisc",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="receive what is for others, too (on)",
    )
    add(
        "--mode",
        choices=("auto", "native", "generic"),
        default="auto",
        help="AF_XDP: native is the driver's own; auto takes it where there is one (auto)",
    )
    add(
        "--queues",
        type=queue_list,
        default=[],
        metavar="all|LIST",
        help="AF_XDP: which to fetch (all)",
    )
    add(
        "--pass",
        metavar="EXPR",
        default="",
        help="AF_XDP: leave to the host what matches, a pcap expression such as 'arp or port 22'",
    )


def add_finite(add: Any) -> None:
    add(
        "--wait",
        type=at_least(1, lib.FAL_MAX_SOCKETS),
        metavar="N",
        help="begin when N sockets are started (null: at once; pcap: 1)",
    )
    add(
        "--count",
        type=at_least(1, (1 << 63) - 1),
        default=0,
        metavar="N",
        help="end after N packets, once the workers have read them",
    )
    add(
        "--rate",
        type=packet_rate,
        default=0,
        metavar="max|capture|PPS",
        help="pcap: flat out, waiting for room in every ring; as it was captured, or PPS packets a"
        " second, losing what finds no room (max)",
    )
    add(
        "--loop",
        type=at_least(0, (1 << 63) - 1),
        default=1,
        metavar="N",
        help="pcap: read the file N times; 0: for ever (1)",
    )
    add(
        "--flows",
        type=at_least(1, 1_000_000),
        metavar="N",
        help="null: draw N flows of IPv4 and IPv6, TCP and UDP, some tagged (with --sizes or"
        " --seed: 64; without all three: 64 of UDP over IPv4)",
    )
    add(
        "--sizes",
        type=sizes(LONGEST),
        metavar="N|N-M|imix",
        help="null: bytes of a packet, without the checksum of Ethernet (60); imix: 60, 590 and"
        " 1514, 7 to 4 to 1",
    )
    add(
        "--seed",
        type=at_least(0, (1 << 64) - 1),
        metavar="N",
        help="null: the same packets for the same seed (0)",
    )


def backend_for(device: str) -> str:
    """Choose what fetches packets where nothing is said: a network device goes before a file."""
    path = Path(device)
    is_file = path.is_file() or path.suffix in (".pcap", ".pcapng")
    devices = (name for _, name in socket.if_nameindex())
    return "pcap" if is_file and device not in devices else "af_xdp"


def complete(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Check what hangs together, and choose what was not said."""
    if options.backend is None:
        options.backend = backend_for(options.device)
    is_file = options.backend == "pcap"
    if options.name is None:
        try:
            options.name = poller_name(Path(options.device).stem if is_file else options.device)
        except argparse.ArgumentTypeError as e:
            parser.error(f"{e} (give a --name)")
    if not is_file and not 0 < len(os.fsencode(options.device)) < lib.FAL_NAME_SIZE:
        parser.error(f"DEV has 1 to {lib.FAL_NAME_SIZE - 1} bytes")
    for option, backends in ONLY_FOR.items():
        given = getattr(options, option) != parser.get_default(option)
        if given and options.backend not in backends:
            parser.error(f"--{option} is for --backend {' and '.join(backends)}")
    if options.wait is None:
        options.wait = 1 if is_file else 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fal-poller",
        description="Fetch the packets of one device, and spread them over the workers that join.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_general(parser.add_argument)
    add_resources(parser.add_argument_group("pollers and their memory").add_argument)
    add_network(parser.add_argument_group("network devices").add_argument)
    add_finite(parser.add_argument_group("capture files, and packets made in memory").add_argument)
    options = parser.parse_args(argv)
    complete(parser, options)
    return options
