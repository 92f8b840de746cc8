"""How many frames and descriptor slots a poller has, and who may still have some.

All pollers of a device are alike, and a socket's ring lies at the same place in each one's arena.

One slot of a ring is one frame, since a worker that stops keeps what lies in its ring.  Two stuck
members of different groups can hold disjoint frames, so nothing less than the plain sum will do:

    frames >= sum over queues (R + D + B) + T + sum over all sockets of C
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from fal.bindings import ffi, lib
from fal.errors import FalError

RX_RING: int = lib.FAL_RX_RING  # R
BURST: int = lib.FAL_BURST  # B
TX_FRAMES: int = lib.FAL_TX_FRAMES  # T
DRIVER_RING = 0  # D: a backend counts it within the R that it holds
SLOT = ffi.sizeof("struct fal_desc")
HEAD = ffi.sizeof("struct fal_ring") // SLOT  # a ring's head takes so many slots


def reserved(queues: int) -> int:
    """Frames that the device and the transmitter may hold: all of the bound but the sockets'."""
    return queues * (RX_RING + DRIVER_RING + BURST) + TX_FRAMES


def default_frames(queues: int) -> int:
    rings: int = lib.FAL_DEFAULT_RINGS * lib.FAL_DEFAULT_RING
    return reserved(queues) + rings


def ring_slots(frames: int, queues: int) -> int:
    """Slots for every ring that the frames allow (a last page's frames too), and their heads."""
    heads: int = lib.FAL_MAX_SOCKETS * HEAD
    return max(0, frames - reserved(queues)) + (2 << 20) // 2048 + heads


@dataclass
class Admission:
    """The rings of each arena: which sockets have them, and where (in slots).  Pure."""

    frames: int
    queues: int
    slots: int
    taken: dict[int, tuple[int, int]] = field(default_factory=dict)  # socket -> (first, capacity)

    def admit(self, socket: int, capacity: int) -> int:
        """Give a socket its ring; returns its first slot.  ENOSPC beyond the bound."""
        quotas = sum(ring for _, ring in self.taken.values())
        room = self.frames - reserved(self.queues) - quotas
        if capacity > room:
            raise FalError(
                errno.ENOSPC,
                f"no frames for a ring of {capacity}: of {self.frames} frames"
                f" {reserved(self.queues)} are the device's and {quotas} the sockets',"
                f" {max(room, 0)} are left"
                " (take a smaller ring, or start fal-poller with more --frames)",
            )
        end = 0
        for first, ring in sorted(self.taken.values()):
            if first - end >= capacity + HEAD:
                break
            end = first + HEAD + ring
        if end + HEAD + capacity > self.slots:
            raise FalError(
                errno.ENOSPC,
                f"no {capacity} slots for a ring in one piece: rings of other sizes lie between"
                " (take a smaller ring, or start fal-poller with more --frames)",
            )
        self.taken[socket] = (end, capacity)
        return end

    def release(self, socket: int) -> None:
        del self.taken[socket]
