"""Sends a list of frames on a network device, over and over, many with one call.

By a packet socket; through AF_XDP, which leaves out the queueing discipline and the taps; or as XDP
frames, which leave out sockets altogether.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fal.bindings import ffi, lib
from fal.errors import FalError, checked

# struct iovec and struct mmsghdr of a 64-bit Linux: padding is in the wide fields.
IOVEC = np.dtype([("base", "u8"), ("length", "u8")])
MMSGHDR = np.dtype(
    [(name, "u8") for name in ("name", "name_length", "vector", "vectors")]
    + [(name, "u8") for name in ("control", "control_length", "flags", "sent")]
)
LOST = (errno.ENOBUFS, errno.EMSGSIZE)  # of one frame; what else can happen ends it all
SIOCGIFFLAGS, SIOCGIFMTU, IFF_UP = 0x8913, 0x8921, 1
HEADER = 18  # bytes of Ethernet's and a tag, which the MTU does not count

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


class Sender(ABC):
    """What both ways have in common.

    `sent` and `failed` count frames, `failed` by errno; `sent_bytes` is without preamble and FCS.
    """

    burst = 256  # frames a call; more was no faster

    def __init__(self, device: str, frames: Sequence[bytes]) -> None:
        """EPERM without CAP_NET_RAW; ENODEV: no such device."""
        self.device = device
        self.sent, self.sent_bytes, self.failed = 0, 0, Counter[int]()
        self._lengths = np.array([len(frame) for frame in frames], np.uint64)
        self._ends = np.concatenate((np.zeros(1, np.uint64), np.cumsum(self._lengths)))
        self._data = np.frombuffer(b"".join(frames), np.uint8)
        if (shortest := self._lengths.min()) < lib.FAL_MIN_SEND:
            raise FalError(errno.EINVAL, f"a frame of {shortest} bytes: no Ethernet header in it")
        self._socket = packet_socket(device)

    @abstractmethod
    def send(self, most: int) -> bool:
        """Send at most so many, with one call; False: there is no room now."""

    def _stuck(self, code: int) -> FalError:
        if code == errno.ENETDOWN:
            return FalError(code, f"{self.device} is down (ip link set {self.device} up)")
        return FalError(code, f"cannot send on {self.device}: {os.strerror(code)}")

    def close(self) -> None:
        self._socket.close()


class PacketSender(Sender):
    """By a packet socket."""

    def __init__(self, device: str, frames: Sequence[bytes]) -> None:
        super().__init__(device, frames)
        self._next = 0
        self._vectors = np.empty(len(frames), IOVEC)
        self._vectors["base"] = self._data.ctypes.data + self._ends[:-1]
        self._vectors["length"] = self._lengths
        self._messages = np.zeros(len(frames), MMSGHDR)
        self._messages["vector"] = self._vectors.ctypes.data + IOVEC.itemsize * np.arange(
            len(frames), dtype=np.uint64
        )
        self._messages["vectors"] = 1

    def send(self, most: int) -> bool:
        count = min(most, self.burst, len(self._messages) - self._next)
        at = self._messages.ctypes.data + self._next * MMSGHDR.itemsize
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
            self.sent_bytes += int(self._ends[self._next + done] - self._ends[self._next])
        self._next = (self._next + done) % len(self._messages)
        return True


class NativeSender(Sender):
    """What the two ways in C have in common."""

    longest: int  # bytes that a frame of these may have
    says: str  # who says so

    def __init__(self, device: str, frames: Sequence[bytes]) -> None:
        """EMSGSIZE: frames that only others can send."""
        super().__init__(device, frames)
        with self._socket:
            mtu = asked(self._socket, device, SIOCGIFMTU)
        longest = self._lengths[self._lengths <= mtu + HEADER].max(initial=0)
        if longest > self.longest:
            raise FalError(
                errno.EMSGSIZE,
                f"a frame of {longest} bytes: {self.says} at most {self.longest}"
                " (--via socket sends longer ones)",
            )
        self._list = ffi.new(
            "struct fal_sender_list *",
            {
                "data": ffi.from_buffer("uint8_t[]", self._data),
                "ends": ffi.from_buffer("uint64_t[]", self._ends),
                "count": len(frames),
            },
        )
        self._counts = ffi.new("struct fal_sender_counts *")
        self._open(socket.if_nametoindex(device), mtu, ffi.new("struct fal_error *"))

    @abstractmethod
    def _open(self, ifindex: int, mtu: int, err: Any) -> None: ...

    def _count(self) -> None:
        counts = self._counts
        self.sent, self.sent_bytes = counts.sent, counts.sent_bytes
        failed = {
            errno.EMSGSIZE: counts.too_long,
            errno.ENOBUFS: counts.refused,
            errno.ENXIO: counts.unwanted,
        }
        self.failed = Counter({code: n for code, n in failed.items() if n})


class XdpSocketSender(NativeSender):
    """Through an AF_XDP socket on queue 0 of the device."""

    longest, says = lib.FAL_SENDER_LONGEST, "AF_XDP sends"

    def _open(self, ifindex: int, mtu: int, err: Any) -> None:
        """EBUSY: the queue has an AF_XDP socket."""
        name = os.fsencode(self.device)
        self._sender = checked(lib.fal_sender_open(name, ifindex, mtu, self._list, err), err)

    def send(self, most: int) -> bool:
        some = lib.fal_sender_send(self._sender, min(most, self.burst), self._counts)
        why = ffi.errno
        self._count()
        if some < 0:
            raise self._stuck(why)
        return bool(some)

    def close(self) -> None:
        lib.fal_sender_close(self._sender)


class XdpFrameSender(NativeSender):
    """As XDP frames, redirected to the device."""

    burst = 4096  # to begin and end such a call takes 20 us
    longest, says = lib.FAL_LIVE_LONGEST, "an XDP frame has"

    def _open(self, ifindex: int, mtu: int, err: Any) -> None:
        """EPERM: it needs more than other ways; EINVAL: the kernel has no such frames."""
        self._live = checked(lib.fal_live_open(ifindex, mtu, self._list, err), err)

    def send(self, most: int) -> bool:
        result = lib.fal_live_send(self._live, min(most, self.burst), self._counts)
        why = ffi.errno
        self._count()
        if result < 0:
            raise self._stuck(why)
        if self._counts.unwanted and not self.sent:
            raise self._unwanted()
        return True

    def _unwanted(self) -> FalError:
        with packet_socket(self.device) as s:
            if not asked(s, self.device, SIOCGIFFLAGS) & IFF_UP:
                return self._stuck(errno.ENETDOWN)
        return FalError(
            errno.ENXIO,
            f"{self.device} takes no XDP frames: of a veth pair the other end must be up, with an"
            " XDP program (fal-poller in native mode) or GRO (ethtool -K DEVICE gro on); some"
            f" drivers want an XDP program on {self.device} itself (or send by --via af_xdp)",
        )

    def close(self) -> None:
        lib.fal_live_close(self._live)


VIA: dict[str, Callable[[str, Sequence[bytes]], Sender]] = {
    "socket": PacketSender,
    "af_xdp": XdpSocketSender,
    "xdp": XdpFrameSender,
}


def asked(s: socket.socket, device: str, request: int) -> int:
    """Return the number that an ioctl of struct ifreq gives."""
    answer = fcntl.ioctl(s, request, struct.pack("16si20x", os.fsencode(device), 0))
    (number,) = struct.unpack_from("16xi", answer)
    return int(number)


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
