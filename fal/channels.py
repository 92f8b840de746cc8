"""The channels of a device (its hardware queues), and the CPUs that serve their interrupts.

    from fal import channels

    channels.set("eth0", combined=2)
    channels.set_affinity("eth0", 0, [2])  # what comes in on channel 0 is CPU 2's
    channels.set_affinity("eth0", 1, [3])

Changes are the device's: they stay when the process ends.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any, NamedTuple

from fal.bindings import ffi, lib
from fal.errors import FalError, c_string, checked

ROOT = b""  # put before /proc and /sys


class Channels(NamedTuple):
    """How many there are, by what they do; `combined` ones receive and send."""

    rx: int
    tx: int
    other: int
    combined: int


BITS = Channels(
    rx=lib.PCAP_RX_CHANNELS,
    tx=lib.PCAP_TX_CHANNELS,
    other=lib.PCAP_OTHER_CHANNELS,
    combined=lib.PCAP_COMBINED_CHANNELS,
)
KINDS = {kind: bit for kind, bit in BITS._asdict().items() if kind != "other"}


def get(device: str) -> Channels:
    """Return how many there are now.  FalError: ENODEV, EOPNOTSUPP (its driver counts none)."""
    found, err = ffi.new("struct pcap_channels *"), ffi.new("struct fal_error *")
    checked(lib.fal_channels_get(c_string(device), found, err), err)
    return Channels(found.rx_count, found.tx_count, found.other_count, found.combined_count)


def set(
    device: str,
    *,
    rx: int | None = None,
    tx: int | None = None,
    combined: int | None = None,
    other: int | None = None,
) -> bool:
    """Set what is given, in one request; returns whether anything was another before.

    FalError: as get; EINVAL (none of this kind, or not so many), EPERM, what the driver says.
    """
    wanted = Channels(rx=rx, tx=tx, combined=combined, other=other)  # type: ignore[arg-type]
    which = sum(bit for bit, count in zip(BITS, wanted, strict=True) if count is not None)
    err = ffi.new("struct fal_error *")
    try:
        native = ffi.new("struct pcap_channels *", [count or 0 for count in wanted])
    except (TypeError, OverflowError) as e:
        raise FalError(errno.EINVAL, f"a number of channels is an int from 0: {e}") from None
    return bool(checked(lib.fal_channels_set(c_string(device), native, which, err), err))


def _channel(device: str, channel: int, kind: str) -> tuple[Any, ...]:
    """Return the arguments that name a channel to C.  FalError (EINVAL)."""
    if kind not in KINDS:
        raise FalError(errno.EINVAL, f"no channel is '{kind}' (known: {', '.join(KINDS)})")
    try:
        number = ffi.new("unsigned int *", channel)[0]
    except (TypeError, OverflowError) as e:
        raise FalError(errno.EINVAL, f"a channel's number is an int from 0: {e}") from None
    return ROOT, c_string(device), number, KINDS[kind]


def irqs(device: str, channel: int, kind: str = "combined") -> tuple[int, ...]:
    """Return the interrupts by which a channel receives ("rx"), sends ("tx"), or both.

    FalError: ENODEV, EOPNOTSUPP (no hardware, or none is known), ENOENT (none of this channel).
    """
    found, err = ffi.new("unsigned int[]", lib.FAL_CHANNEL_IRQS), ffi.new("struct fal_error *")
    named = _channel(device, channel, kind)
    count = checked(lib.fal_channel_irqs(*named, found, err), err)
    return tuple(found[0:count])


def affinity(device: str, channel: int, kind: str = "combined") -> frozenset[int]:
    """Return the CPUs that serve a channel's interrupts.  FalError: as irqs."""
    cpus, err = ffi.new("struct fal_cpus *"), ffi.new("struct fal_error *")
    checked(lib.fal_channel_getaffinity(*_channel(device, channel, kind), cpus, err), err)
    return frozenset(
        64 * i + bit for i, word in enumerate(cpus.word) for bit in range(64) if word >> bit & 1
    )


def set_affinity(device: str, channel: int, cpus: Iterable[int], kind: str = "combined") -> bool:
    """Have these CPUs serve a channel's interrupts; returns whether others did before.

    FalError: as irqs; EINVAL, ERANGE (none of them is online, or there are not so many), EACCES,
    EIO (the kernel has placed the interrupts for good), EBUSY (irqbalance).
    """
    err, native = ffi.new("struct fal_error *"), ffi.new("struct fal_cpus *")
    for cpu in cpus:
        if not 0 <= cpu < lib.FAL_MAX_CPUS:
            raise FalError(errno.EINVAL, f"no CPU {cpu}: from 0 to {lib.FAL_MAX_CPUS - 1}")
        native.word[cpu // 64] |= 1 << cpu % 64
    named = _channel(device, channel, kind)
    return bool(checked(lib.fal_channel_setaffinity(*named, native, err), err))
