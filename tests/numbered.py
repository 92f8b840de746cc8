"""Numbered packets: traffic that a test can take stock of while it flows.

A process of its own sends them (`Numbered` starts it), never more than WINDOW ahead of the poller,
so that none is lost before it, nor AHEAD of what the test looked at, so that no ring of twice that
is full because the test was slow.  Packet n belongs to flow n modulo flows.

Usage: numbered.py DEVICE NAME FLOWS RATE FILE; FILE holds three words: sent, may send, stop.
"""

from __future__ import annotations

import mmap
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from support import Poller, Veth, udp

import fal
from fal import runtime, status

WINDOW, AHEAD = 256, 4000
NUMBER = 42  # where it lies in a packet


def frame_of(flow: int) -> bytes:
    """Make a flow's packet, number 0."""
    return udp((f"10.1.{flow >> 8 & 255}.{flow & 255}", 1024 + flow), ("10.2.0.1", 53), bytes(18))


def numbers(batch: fal.Batch) -> Any:
    """Return the numbers of all packets of a batch."""
    at = batch.meta["offset"].astype(np.int64)[:, None] + np.arange(NUMBER, NUMBER + 8)
    return batch.data[at].view(">u8").ravel().astype(np.int64)


class Numbered:
    """Traffic that flows until the end of the `with`."""

    def __init__(self, veth: Veth, poller: Poller, path: Path, flows: int, rate: int) -> None:
        path.write_bytes(bytes(24))
        with path.open("r+b") as file:
            self.words = memoryview(mmap.mmap(file.fileno(), 24)).cast("Q")
        words = [sys.executable, __file__, veth.peer, poller.name, str(flows), str(rate), str(path)]
        self.process = subprocess.Popen(veth.outside.command(*words), env=poller.env)

    @property
    def sent(self) -> int:
        """How many are sent, or are being sent: what bears this number comes later."""
        assert self.process.poll() is None or self.words[2], "the sender died"
        self.words[1] = self.words[0] + AHEAD
        return self.words[0]

    def stop(self) -> int:
        """Return how many were sent in all."""
        self.words[2] = 1
        assert self.process.wait(10) == 0
        return self.sent

    def __enter__(self) -> Numbered:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def main() -> None:
    device, name, flows, rate, path = sys.argv[1:]
    frames = [bytearray(frame_of(flow)) for flow in range(int(flows))]
    segment = status.open_existing(runtime.own_directory(), name)
    pollers = segment.view.poller[0 : segment.view.pollers]
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sender.bind((device, 0))
    with open(path, "r+b") as file:
        words = memoryview(mmap.mmap(file.fileno(), 24)).cast("Q")
    number, start = 0, time.monotonic()
    while not words[2]:
        due = int((time.monotonic() - start) * int(rate))
        received = sum(p.received + p.if_dropped for p in pollers)
        for n in range(number, min(due, words[1], received + WINDOW)):
            words[0] = number = n + 1
            frame = frames[n % len(frames)]
            struct.pack_into(">Q", frame, NUMBER, n)
            sender.send(frame)
        time.sleep(0.001)


if __name__ == "__main__":
    main()
