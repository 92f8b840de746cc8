"""`fal gen`: sends made traffic, or that of a capture file, on a network device.

What is sent is made before, one buffer and a table into it, so that a turn of the loop is one
sendmmsg(2) of many frames.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fal import ending, pcapfile, traffic
from fal.arguments import at_least
from fal.ending import Wanted
from fal.errors import FalError

BURST = 256  # frames a call; more was no faster
# struct iovec and struct mmsghdr of a 64-bit Linux: padding is in the wide fields.
IOVEC = np.dtype([("base", "u8"), ("length", "u8")])
MMSGHDR = np.dtype(
    [(name, "u8") for name in ("name", "name_length", "vector", "vectors")]
    + [(name, "u8") for name in ("control", "control_length", "flags", "sent")]
)
SHORTEST_PAUSE, LONGEST_PAUSE = 0.001, 0.05  # seconds
LOST = (errno.ENOBUFS, errno.EMSGSIZE)  # of one frame; what else can happen ends it all

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


class Sender:
    """Sends a list of frames on a device, over and over.

    `sent` and `failed` count frames, `failed` by errno; `sent_bytes` is without preamble and FCS.
    """

    def __init__(self, device: str, frames: Sequence[bytes]) -> None:
        """EPERM without CAP_NET_RAW; ENODEV: no such device."""
        self.device, self.next = device, 0
        self.sent, self.sent_bytes, self.failed = 0, 0, Counter[int]()
        self._socket = packet_socket(device)
        lengths = np.array([len(frame) for frame in frames], np.uint64)
        self._ends = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        self._data = np.frombuffer(b"".join(frames), np.uint8)
        self._vectors = np.empty(len(frames), IOVEC)
        self._vectors["base"] = self._data.ctypes.data + self._ends[:-1].astype(np.uint64)
        self._vectors["length"] = lengths
        self._messages = np.zeros(len(frames), MMSGHDR)
        self._messages["vector"] = self._vectors.ctypes.data + IOVEC.itemsize * np.arange(
            len(frames), dtype=np.uint64
        )
        self._messages["vectors"] = 1

    def send(self, most: int) -> bool:
        """Send at most so many, with one call; False: there is no room now."""
        count = min(most, BURST, len(self._messages) - self.next)
        at = self._messages.ctypes.data + self.next * MMSGHDR.itemsize
        done = _libc.sendmmsg(self._socket.fileno(), at, count, socket.MSG_DONTWAIT)
        if done < 0:
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EINTR):
                return False
            if code not in LOST:
                raise self._stuck(code)
            self.failed[code] += 1
            done = 1
        else:
            self.sent += done
            self.sent_bytes += int(self._ends[self.next + done] - self._ends[self.next])
        self.next = (self.next + done) % len(self._messages)
        return True

    def _stuck(self, code: int) -> FalError:
        if code == errno.ENETDOWN:
            return FalError(code, f"{self.device} is down (ip link set {self.device} up)")
        return FalError(code, f"cannot send on {self.device}: {os.strerror(code)}")

    def close(self) -> None:
        self._socket.close()


def packet_socket(device: str) -> socket.socket:
    try:
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)  # protocol 0: it receives nothing
    except PermissionError:
        raise FalError(
            errno.EPERM, f"sending on {device} needs CAP_NET_RAW (run it as root)"
        ) from None
    try:
        s.bind((device, 0))
    except OSError as e:
        s.close()
        there = ", ".join(name for _, name in socket.if_nameindex())
        why = f"no device {device} (there are: {there})"
        raise FalError(e.errno, why if e.errno == errno.ENODEV else str(e.strerror)) from None
    return s


def transmit(
    sender: Sender, options: argparse.Namespace, count: int | None, begin: float, wanted: Wanted
) -> None:
    """Send until `count` or the time is reached or the end wanted; begin: by time.monotonic()."""
    rate, seconds = options.rate, options.seconds
    while True:
        elapsed = time.monotonic() - begin
        done = sender.sent + sum(sender.failed.values())
        left = BURST if count is None else count - done
        if left <= 0 or (seconds is not None and elapsed >= seconds):
            return
        pause = 0.0
        if rate is not None and (due := int(elapsed * rate) - done) < 1:
            pause = min((done + 1) / rate - elapsed, LONGEST_PAUSE)
        elif not sender.send(left if rate is None else min(left, due)):
            pause = SHORTEST_PAUSE
        if wanted(pause):
            return


def report(sender: Sender, seconds: float) -> dict[str, Any]:
    return {
        "device": sender.device,
        "sent": sender.sent,
        "bytes": sender.sent_bytes,
        "failed": sum(sender.failed.values()),
        "failures": {errno.errorcode[code]: n for code, n in sender.failed.items()},
        "seconds": round(seconds, 6),
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


def share(text: str) -> float:
    try:
        if 0 <= float(text) <= 1:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"'{text}' is no share: 0 to 1")


def positive(text: str) -> float:
    try:
        if 0 < float(text) < float("inf"):
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")


def sizes(text: str) -> str:
    try:
        traffic.sizes_of(text)
    except FalError as e:
        raise argparse.ArgumentTypeError(str(e)) from None
    return text


def run(options: argparse.Namespace) -> int:
    mix = {
        key: value
        for key in traffic.Mix.__dataclass_fields__
        if (value := getattr(options, key)) is not None
    }
    count: int | None = options.count
    if options.pcap is None:
        if options.loop:
            options.usage("--loop is for --pcap")
        frames = traffic.made(traffic.Mix(**mix))
    else:
        if mix:
            options.usage(f"--{next(iter(mix))} is for made traffic, not for --pcap")
        frames = pcapfile.read(options.pcap)
        whole = len(frames) * (options.loop or 1)
        count = whole if count is None else min(count, whole)
    sender = Sender(options.device, frames)
    with ending.held() as wanted:
        begin = time.monotonic()
        try:
            transmit(sender, options, count, begin, wanted)
        finally:
            r = report(sender, time.monotonic() - begin)
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
    number = at_least(1, (1 << 63) - 1)
    add("device", metavar="DEVICE")
    add("--rate", type=positive, metavar="PPS", help="frames a second (default: flat out)")
    add("--count", type=number, metavar="N", help="end after N frames")
    add("--seconds", type=positive, metavar="S", help="end after so long")
    add("--json", action="store_true", help="for programs")
    made = parser.add_argument_group("made traffic: IPv4 and IPv6, TCP and UDP, both directions")
    add = made.add_argument
    add("--flows", type=at_least(1, 1 << 20), metavar="N", help=f"({default.flows})")
    add("--sizes", type=sizes, metavar="N|N-M|imix", help=f"bytes of a frame ({default.sizes})")
    add("--seed", type=int, metavar="N", help=f"the same one: the same frames ({default.seed})")
    add("--ipv6", type=share, metavar="SHARE", help="of the flows that are IPv6, 0 to 1 (0)")
    add("--vlan", type=share, metavar="SHARE", help="of the flows that have a VLAN tag (0)")
    add("--tunnels", type=share, metavar="SHARE", help="of the flows that are in a tunnel (0)")
    add("--fragments", type=share, metavar="SHARE", help="of the packets that are cut in two (0)")
    add = parser.add_argument_group("traffic of a capture file").add_argument
    add("--pcap", type=Path, metavar="FILE", help="send its frames instead")
    add("--loop", type=number, metavar="N", help="so many times (1)")
    parser.set_defaults(run=run, usage=parser.error)
