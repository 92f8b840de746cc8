"""FAL, the Fan-out Abstraction Layer: live traffic, spread over many workers.

    import fal

    with fal.open("fal:eth0", group=42, fanout="hash") as s:
        for ts, data in s:
            ...

Start `fal-poller eth0` first; run as many workers as there are CPUs to spare.  Or open "eth0",
without a poller: then the kernel captures and spreads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fal.bindings import ffi as _ffi
from fal.bindings import lib as _lib
from fal.bpf import Program
from fal.errors import FalError, PollerGone
from fal.modes import parse as _parse

if TYPE_CHECKING:
    from fal.socket import Batch, Socket, Stats

__version__: str
__all__ = ["Batch", "FalError", "PollerGone", "Socket", "Stats", "flow_hash", "open"]

HASH_SEED: int = _lib.FAL_HASH_SEED


def __getattr__(name: str) -> Any:
    """Load what takes long when it is first asked for: numpy longer than all of fal-poller."""
    if name == "__version__":
        from importlib.metadata import version

        return version("pcap-fal")
    if name not in ("Batch", "Socket", "Stats"):
        raise AttributeError(f"module 'fal' has no attribute '{name}'")
    from fal import socket

    return getattr(socket, name)


def open(
    device: str,
    *,
    group: int | None = None,
    fanout: str | None = None,
    snaplen: int = 262144,
    timeout: float | None = None,
    ring: int = 4096,
    group_filter: str | None = None,
    filter: str | None = None,
    program: Program | None = None,
) -> Socket:
    """Open a socket on a device, and take traffic from now on.

    device: "fal:NAME", what a fal-poller serves, or several, "fal:A^B"; "tpacket:eth0" or "eth0",
        what the kernel captures there, and spreads by its own fan-out.
    group: 0..65535, shared with the other workers of the group; None: everything.
    fanout: "hash" (a flow's packets meet one worker), "lb" (in turn), or any other that `fal modes`
        lists, with flags: "hash+rollover"; None: as the group is.
    snaplen: bytes of a packet to give at most.
    timeout: seconds that receiving waits at most; None: for ever (iterating goes on all the same).
    ring: packets that may lie unread, a power of two.
    filter: a pcap expression: this socket receives what matches; see Socket.setfilter.
    group_filter: one, too: what it does not match is for no member; None: as the group is.
    program: of "cbpf", a list of (code, jt, jf, k); its verdict modulo members picks the member.

    FalError, with its errno: ENOENT or ECONNREFUSED no such fal-poller; ENODEV no such device;
    EPERM no right to capture there; EINVAL a bad argument, or the group has another mode or filter;
    EOPNOTSUPP what cannot be had there; ENOSPC its frames, sockets or groups are in use.
    """
    from fal.socket import Socket

    return Socket(device, group, fanout, snaplen, timeout, ring, group_filter, filter, program)


def flow_hash(
    data: bytes | bytearray | memoryview, mode: str = "hash", seed: int = HASH_SEED
) -> int:
    """Return the 32-bit flow hash of an Ethernet frame, as fal-poller computes it.

    mode: a word that hashes, with flags ("flow_2_tuple", "hash+inner"), as in `fal modes`.
    With "defrag", that of a fragment which is the first of its datagram to come.
    """
    fanout = _parse(mode)
    if fanout.mode != _lib.FAL_MODE_HASH:
        raise FalError(22, f"mode '{mode}' does not hash (see `fal modes`)")
    if not 0 <= seed < 1 << 64:
        raise FalError(22, f"seed {seed}: 0 to 2**64 - 1")
    flow, frame = _ffi.new("struct fal_flow *"), _ffi.from_buffer(data)
    # in bytes, whatever the items of `data` are
    _lib.fal_flow(frame, len(frame), seed, fanout.hash, flow)
    if fanout.flags & _lib.FAL_FANOUT_DEFRAG and flow.flags & _lib.FAL_FLOW_FIRST:
        return int(flow.whole)
    return int(flow.hash)
