"""FAL, the Fan-out Abstraction Layer: live traffic, spread over many workers.

    import fal

    with fal.open("fal:eth0", group=42, fanout="hash") as s:
        for ts, data in s:
            ...

Start `fal-poller eth0` first; run as many workers as there are CPUs to spare.
"""

from __future__ import annotations

from importlib.metadata import version as _version

from fal.bindings import ffi as _ffi
from fal.bindings import lib as _lib
from fal.bpf import Program
from fal.errors import FalError, PollerGone, c_string
from fal.socket import Batch, Socket, Stats

__version__ = _version("pcap-fal")
__all__ = ["Batch", "FalError", "PollerGone", "Socket", "Stats", "flow_hash", "open"]

HASH_SEED: int = _lib.FAL_HASH_SEED


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
    """Open a socket on "fal:NAME" and take traffic from now on.

    group: 0..65535, shared with the other workers of the group; None: everything.
    fanout: "hash" (a flow meets one worker), "lb" (in turn) or "cbpf"; None: as the group is.
    snaplen: bytes of a packet to give at most.
    timeout: seconds that receiving waits at most; None: for ever (iterating goes on all the same).
    ring: packets that may lie unread, a power of two.
    filter: a pcap expression: this socket receives what matches; see Socket.setfilter.
    group_filter: one, too: what it does not match is for no member; None: as the group is.
    program: of "cbpf", a list of (code, jt, jf, k); its verdict modulo members picks the member.

    FalError, with its errno: ENOENT or ECONNREFUSED no such fal-poller; EINVAL a bad argument, or
    the group has another mode or filter; ENOSPC its frames, sockets or groups are in use.
    """
    return Socket(device, group, fanout, snaplen, timeout, ring, group_filter, filter, program)


def flow_hash(
    data: bytes | bytearray | memoryview, mode: str = "hash", seed: int = HASH_SEED
) -> int:
    """Return the 32-bit flow hash of an Ethernet frame, as fal-poller computes it."""
    if _lib.fal_mode_parse(c_string(mode)) != _lib.FAL_MODE_HASH:
        raise FalError(22, f"mode '{mode}' does not hash (known: hash)")
    if not 0 <= seed < 1 << 64:
        raise FalError(22, f"seed {seed}: 0 to 2**64 - 1")
    flow, frame = _ffi.new("struct fal_flow *"), _ffi.from_buffer(data)
    _lib.fal_flow(frame, len(frame), seed, flow)  # in bytes, whatever the items of `data` are
    return int(flow.hash)
