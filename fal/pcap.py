"""The pcap interface: what libpcap opens, what fal-poller serves, and fan-out over both.

    from fal import pcap

    with pcap.open_live("fal:eth0") as p:  # "eth0", "tpacket:eth0", … as in docs/pcap.md
        p.fanout(42, "hash")
        p.setfilter("tcp port 443")
        for ts, data in p:
            print(ts, len(data))

Methods have libpcap's names and mean what its manual says, and callbacks and `next` give (header,
data) in the manner of pcapy.  `fal.open` is the faster interface: it gives whole batches, in place.

The handle below never waits: a handle that is to wait does so here, in poll.  So other threads run
meanwhile, Ctrl-C and `breakloop` end the wait, and a timeout is one on every device.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple, Self

from fal import libpcap
from fal.errors import FalError, c_string
from fal.libpcap import END

MAX_SNAPLEN = 262144
DLT_EN10MB = libpcap.DLT_EN10MB
NETMASK_UNKNOWN = libpcap.NETMASK_UNKNOWN
D_INOUT, D_IN, D_OUT = range(3)  # of setdirection

_BUFFERFUL = 4096  # packets
_PACKET, _NOTHING = 1, 0  # beside END, what pcap_next_ex returns
_ERRNOS = {  # of libpcap's codes, where one says more than EINVAL
    -3: errno.ENOTCONN,  # PCAP_ERROR_NOT_ACTIVATED
    -4: errno.EISCONN,  # PCAP_ERROR_ACTIVATED
    -5: errno.ENODEV,  # PCAP_ERROR_NO_SUCH_DEVICE
    -6: errno.EOPNOTSUPP,  # PCAP_ERROR_RFMON_NOTSUP
    -8: errno.EPERM,  # PCAP_ERROR_PERM_DENIED
    -9: errno.ENETDOWN,  # PCAP_ERROR_IFACE_NOT_UP
    -11: errno.EPERM,  # PCAP_ERROR_PROMISC_PERM_DENIED
}


class Header(NamedTuple):
    """What is known of a packet."""

    ts_ns: int  # nanoseconds since 1970 UTC
    caplen: int  # bytes of it that were captured
    len: int  # bytes of it on the wire

    @property
    def ts(self) -> float:
        """Seconds since 1970 UTC, in steps of 238 ns."""
        return self.ts_ns * 1e-9

    def getts(self) -> tuple[int, int]:
        """Seconds and microseconds since 1970 UTC."""
        return self.ts_ns // 10**9, self.ts_ns % 10**9 // 1000

    def getcaplen(self) -> int:
        return self.caplen

    def getlen(self) -> int:
        return self.len


class Stats(NamedTuple):
    """Packet counts since the handle was activated, as pcap_stats(3) has them."""

    recv: int
    drop: int  # there was no room for them
    ifdrop: int  # lost at the interface


@cache
def _lib() -> Any:
    try:
        return libpcap.ffi().dlopen(str(libpcap.FAL_LIBRARY))
    except OSError as e:
        raise FalError(errno.ELIBACC, f"cannot load {libpcap.FAL_LIBRARY}: {e}") from None


def _text() -> Any:
    return libpcap.ffi().new("char[]", libpcap.TEXT_SIZE)


# ---- opening -----------------------------------------------------------------------------------


def create(device: str) -> Pcap:
    """Return a handle that is yet to be set up and activated."""
    text = _text()
    handle = _lib().pcap_create(c_string(device), text)
    if not handle:
        raise FalError(errno.EINVAL, f"{device}: {libpcap.line(text)}")
    p = Pcap(device, handle)
    _lib().pcap_set_tstamp_precision(handle, libpcap.NANOSECONDS)  # where the device has them
    return p


def open_live(
    device: str, snaplen: int = MAX_SNAPLEN, promisc: bool = True, to_ms: int = 100
) -> Pcap:
    """Open a device for capturing; FalError with libpcap's words.

    to_ms: milliseconds that the kernel may gather packets before it hands them over, and that
        `next` and `dispatch` wait for the first one; 0: for ever, until its block is full.
    """
    p = create(device)
    try:
        p.set_snaplen(snaplen)
        p.set_promisc(promisc)
        p.set_timeout(to_ms)
        p.activate()
    except BaseException:
        p.close()
        raise
    return p


def open_offline(path: str | os.PathLike[str]) -> Pcap:
    """Open a capture file, pcap or pcapng; "-": standard input."""
    name, text = os.fspath(path), _text()
    handle = _lib().pcap_open_offline_with_tstamp_precision(
        c_string(name), libpcap.NANOSECONDS, text
    )
    if not handle:
        why = libpcap.line(text)
        raise FalError(errno.EINVAL, why if why.startswith(name) else f"{name}: {why}")
    return Pcap(name, handle)


def open_dead(linktype: int = DLT_EN10MB, snaplen: int = MAX_SNAPLEN) -> Pcap:
    """Return a handle that only compiles filters, and writes capture files."""
    handle = _lib().pcap_open_dead_with_tstamp_precision(linktype, snaplen, libpcap.NANOSECONDS)
    if not handle:
        raise FalError(errno.ENOMEM, "no memory for a handle")
    return Pcap("a dead handle", handle)


def findalldevs() -> list[str]:
    """Return what can be opened here: fal-pollers that run, and devices of the kernel."""
    ffi, text = libpcap.ffi(), _text()
    first = ffi.new("pcap_if_t **")
    if _lib().pcap_findalldevs(first, text) < 0:
        raise FalError(errno.EINVAL, libpcap.line(text))
    names, device = [], first[0]
    while device:
        names.append(os.fsdecode(ffi.string(device.name)))
        device = device.next
    _lib().pcap_freealldevs(first[0])
    return names


def lookupnet(device: str) -> tuple[str, str]:
    """Return a device's IPv4 network and mask, "192.0.2.0" and "255.255.255.0"."""
    ffi, text = libpcap.ffi(), _text()
    found = ffi.new("uint32_t[2]")
    if _lib().pcap_lookupnet(c_string(device), found, found + 1, text) < 0:
        raise FalError(errno.EINVAL, libpcap.line(text))
    raw = ffi.buffer(found)  # in network byte order
    return socket.inet_ntoa(raw[:4]), socket.inet_ntoa(raw[4:])


def lib_version() -> str:
    return libpcap.line(_lib().pcap_lib_version())


# ---- a handle ----------------------------------------------------------------------------------


class Filter:
    """A compiled expression, made by `Pcap.compile`."""

    def __init__(self, program: Any) -> None:
        self._program = libpcap.ffi().gc(program, _lib().pcap_freecode)

    def filter(self, data: bytes) -> bool:
        """Return whether a packet matches."""
        header = libpcap.ffi().new("struct pcap_pkthdr *", (0, 0, len(data), len(data)))
        return bool(_lib().pcap_offline_filter(self._program, header, data))


class _Closed(ABC):
    """Closed at the end of a `with`, and when nobody has it any more."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class Pcap(_Closed):
    """A handle, of a device or a file.  One thread at a time uses it; each may have its own.

    All but `breakloop` and `close`, which any thread and any signal handler may call.
    """

    _handle: Any = None

    def __init__(self, device: str, handle: Any) -> None:
        self.device = device
        self._lib, self._ffi = _lib(), libpcap.ffi()
        owned = self._ffi.gc(handle, self._lib.pcap_close)  # also where we do not get to the end
        self._header = self._ffi.new("struct pcap_pkthdr **")
        self._data = self._ffi.new("unsigned char **")
        self._packet = (0, 0, b"")  # of the last one read: ts_ns, its length on the wire, data
        self._timeout = 0  # milliseconds, 0: for ever
        self._bufferful = math.inf
        self._nonblock = False
        self._broken = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll: select.poll | None = None
        self._handle = owned
        self._unit = self._precision()

    def _precision(self) -> int:
        """How many nanoseconds a unit of the stamps is."""
        found = self._lib.pcap_get_tstamp_precision(self._handle)
        return 1 if found == libpcap.NANOSECONDS else 1000

    # ---- life ------------------------------------------------------------------------------------

    def set_snaplen(self, snaplen: int) -> None:
        """Capture so many bytes of a packet at most."""
        self._check(self._lib.pcap_set_snaplen(self._alive(), snaplen))

    def set_promisc(self, promisc: bool) -> None:
        self._check(self._lib.pcap_set_promisc(self._alive(), promisc))

    def set_rfmon(self, rfmon: bool) -> None:
        self._check(self._lib.pcap_set_rfmon(self._alive(), rfmon))

    def set_timeout(self, to_ms: int) -> None:
        """As `open_live`'s to_ms; 0, which it is at first, means for ever."""
        self._check(self._lib.pcap_set_timeout(self._alive(), to_ms))
        self._timeout = max(to_ms, 0)

    def set_buffer_size(self, size: int) -> None:
        """Give the kernel so many bytes to put packets into."""
        self._check(self._lib.pcap_set_buffer_size(self._alive(), size))

    def set_immediate_mode(self, immediate: bool) -> None:
        """Have each packet when it comes, not when the kernel has gathered some."""
        self._check(self._lib.pcap_set_immediate_mode(self._alive(), immediate))

    def activate(self) -> None:
        """Begin to capture, as set up; a UserWarning where something could not be had."""
        code = self._check(self._lib.pcap_activate(self._alive()))
        if code > 0:
            warnings.warn(self._words(code), stacklevel=2)
        text = _text()
        if self._lib.pcap_setnonblock(self._handle, 1, text) < 0:
            raise FalError(errno.EOPNOTSUPP, f"{self.device}: {libpcap.line(text)}")
        self._bufferful = _BUFFERFUL
        self._unit = self._precision()

    def close(self) -> None:
        """End it, and what runs on it: with EBADF.  libpcap's handle goes when no read has it."""
        if self._handle:
            self._handle = None
            os.eventfd_write(self._wake, 1)
            os.close(self._wake)

    @property
    def closed(self) -> bool:
        return not self._handle

    def _alive(self) -> Any:
        if not self._handle:
            raise FalError(errno.EBADF, "the handle is closed")
        return self._handle

    def _words(self, code: int) -> str:
        """Return libpcap's words for a code of its own."""
        parts = [libpcap.words(self._lib, self._handle)]
        if code != -1:  # PCAP_ERROR: there is nothing more to say
            parts.insert(0, libpcap.line(self._lib.pcap_statustostr(code)))
        text = ": ".join(filter(None, dict.fromkeys(parts)))  # it may say the same again
        return text if self.device in text else f"{self.device}: {text}"

    def _check(self, code: int, otherwise: int = errno.EINVAL) -> int:
        if code < 0:
            raise FalError(_ERRNOS.get(code, otherwise), self._words(code))
        return code

    # ---- what it captures ------------------------------------------------------------------------

    def fanout(self, group: int, fanout: str | None = None) -> None:
        """Join a fan-out group, 0 to 65535, and share the packets with its other members.

        fanout: "hash" (a flow's packets meet one member) or any other word of `fal modes` that the
            device has; None: as the group is, "hash" for a new one.
        Before `activate` it is kept until then, when most errors come.
        """
        word = self._ffi.NULL if fanout is None else c_string(fanout)
        self._check(self._lib.pcap_fanout(self._alive(), group, word))

    def compile(
        self, expression: str, optimize: bool = True, netmask: int = NETMASK_UNKNOWN
    ) -> Filter:
        """Compile a pcap expression (pcap-filter(7)) for this handle's link type."""
        program = self._ffi.new("struct bpf_program *")
        self.datalink()  # of a handle that is not active pcap_compile gives no code of its own
        self._check(
            self._lib.pcap_compile(self._alive(), program, c_string(expression), optimize, netmask)
        )
        return Filter(program)

    def setfilter(self, filter: str | Filter) -> None:
        """Give from now on what matches; "": everything."""
        compiled = filter if isinstance(filter, Filter) else self.compile(filter)
        self._check(self._lib.pcap_setfilter(self._alive(), compiled._program))

    def setdirection(self, direction: int) -> None:
        """D_IN: what came in at the device; D_OUT: what went out; D_INOUT: both."""
        self._check(self._lib.pcap_setdirection(self._alive(), direction))

    # ---- reading ---------------------------------------------------------------------------------

    def next(self) -> tuple[Header | None, bytes]:
        """Return the next packet, (header, data); (None, b"") if none came in time, or at the end.

        `next_ex` says which.  The data is a copy, which nothing overwrites.
        """
        _, header, data = self.next_ex()
        return header, data

    def next_ex(self) -> tuple[int, Header | None, bytes]:
        """Return (1, header, data); (0, None, b"") if no packet came in time; (-2, None, b"") at
        the end of a file, or after `breakloop`."""
        code = self._take(self._wait_ms())
        return (code, *self._taken()) if code == _PACKET else (code, None, b"")

    def loop(self, cnt: int, callback: Callable[[Header, bytes], object]) -> int:
        """Call callback(header, data) for cnt packets (0 or less: all); returns how many it gave.

        It ends before that at the end of a file, by `breakloop`, and by an exception of the
        callback, which is passed on; not when time is up.
        """
        given = 0
        while (given < cnt or cnt <= 0) and self._take(None) == _PACKET:
            given += 1
            callback(*self._taken())
        return given

    def dispatch(self, cnt: int, callback: Callable[[Header, bytes], object]) -> int:
        """As `loop`, for what is there: it waits for the first packet alone, and only in time.

        Of a device it gives 4096 packets at most, lest it never return while more and more come.
        """
        given, wait = 0, self._wait_ms()
        most = cnt if cnt > 0 else self._bufferful
        while given < most and self._take(wait) == _PACKET:
            given, wait = given + 1, 0
            callback(*self._taken())
        return given

    def __iter__(self) -> Iterator[tuple[float, bytes]]:
        """Iterate over (seconds since 1970 UTC, data) until the end of a file, or `breakloop`.

        Floats go in steps of 238 ns: `next` and `loop` give nanoseconds.
        """
        while self._take(None) == _PACKET:
            ts_ns, _, data = self._packet
            yield ts_ns * 1e-9, data

    def breakloop(self) -> None:
        """End the loop, dispatch, iteration or next that runs in another thread or below a signal
        handler, now; if none does, the next one, when it begins."""
        if self._handle:
            os.eventfd_write(self._wake, 1)  # before the flag, which says that it is there to read
            self._broken = True

    def _wait_ms(self) -> int | None:
        """How long a call that is to return in time may wait."""
        return 0 if self._nonblock else self._timeout or None

    def _take(self, wait_ms: int | None) -> int:
        """Read a packet for _taken: _PACKET; _NOTHING: none came in time; END."""
        handle, end = self._alive(), 0.0  # not to be freed before the packet is copied
        try:
            while not self._broken:
                code: int = self._lib.pcap_next_ex(handle, self._header, self._data)
                if code == _PACKET:
                    header = self._header[0]
                    ts_ns = header.tv_sec * 10**9 + header.tv_frac * self._unit
                    data = self._ffi.buffer(self._data[0], header.caplen)[:]
                    self._packet = ts_ns, header.len, data
                if code in (_PACKET, END):
                    return code
                if self._broken:  # by a signal, by which libpcap's own read fails
                    break  # type: ignore[unreachable]
                self._alive()
                self._check(code, errno.EIO)
                if wait_ms == 0:
                    return _NOTHING
                now = time.monotonic()
                end = end or (math.inf if wait_ms is None else now + wait_ms / 1000)
                if now >= end:
                    return _NOTHING
                self._wait(end - now)
        finally:
            del handle  # else the traceback of an exception has it until it is forgotten
        self._broken = False
        if self._handle:
            with suppress(BlockingIOError):  # another breakloop comes this very moment
                os.eventfd_read(self._wake)
        return END

    def _wait(self, seconds: float) -> None:
        """Sleep until there may be a packet, breakloop is called, or the time is over."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._wake, select.POLLIN)
            if (fd := self._lib.pcap_get_selectable_fd(self._alive())) >= 0:
                self._poll.register(fd, select.POLLIN)
        if often := self._lib.pcap_get_required_select_timeout(self._alive()):
            seconds = min(seconds, often.tv_sec + often.tv_usec / 1e6)
        self._poll.poll(None if seconds == math.inf else math.ceil(seconds * 1000))

    def _taken(self) -> tuple[Header, bytes]:
        ts_ns, length, data = self._packet
        return Header(ts_ns, len(data), length), data

    def setnonblock(self, nonblock: bool) -> None:
        """Let `next` and `dispatch` return at once; `loop` and iteration wait all the same."""
        self._alive()
        self._nonblock = bool(nonblock)

    def getnonblock(self) -> bool:
        self._alive()
        return self._nonblock

    def fileno(self) -> int:
        """Return a descriptor for select, poll or asyncio, readable when there are packets.

        It may be so once too often: read without waiting (`setnonblock`), until nothing is left.
        """
        fd = int(self._lib.pcap_get_selectable_fd(self._alive()))
        if fd < 0:
            raise FalError(errno.EOPNOTSUPP, f"{self.device}: there is no descriptor to select on")
        return fd

    # ---- the rest --------------------------------------------------------------------------------

    def inject(self, data: bytes | bytearray | memoryview) -> int:
        """Send a frame, from its link-layer header on; returns how many bytes were sent."""
        frame = self._ffi.from_buffer(data)
        return self._check(self._lib.pcap_inject(self._alive(), frame, len(frame)), errno.EIO)

    sendpacket = inject

    def stats(self) -> Stats:
        found = self._ffi.new("struct pcap_stat *")
        self._check(self._lib.pcap_stats(self._alive(), found))
        return Stats(found.ps_recv, found.ps_drop, found.ps_ifdrop)

    def datalink(self) -> int:
        """The link type: DLT_EN10MB (1) is Ethernet."""
        return self._check(self._lib.pcap_datalink(self._alive()))

    def snapshot(self) -> int:
        """Bytes of a packet that are captured at most."""
        return self._check(self._lib.pcap_snapshot(self._alive()))

    def dump_open(self, path: str | os.PathLike[str]) -> Dumper:
        """Make a capture file for packets of this link type, with stamps as precise as its own."""
        dumper = self._lib.pcap_dump_open(self._alive(), c_string(os.fspath(path)))
        if not dumper:
            raise FalError(errno.EIO, libpcap.words(self._lib, self._handle))
        return Dumper(os.fspath(path), dumper, self._unit)


class Dumper(_Closed):
    """A capture file that is being written, made by `Pcap.dump_open`; outlives its handle."""

    def __init__(self, path: str, dumper: Any, unit: int) -> None:
        self._path, self._dumper, self._unit = path, dumper, unit

    def _alive(self) -> Any:
        if not self._dumper:
            raise FalError(errno.EBADF, f"{self._path} is closed")
        return self._dumper

    def dump(self, header: Header, data: bytes) -> None:
        """Write a packet."""
        ffi = libpcap.ffi()
        seconds, rest = divmod(header.ts_ns, 10**9)
        raw = ffi.new("struct pcap_pkthdr *", (seconds, rest // self._unit, len(data), header.len))
        _lib().pcap_dump(ffi.cast("unsigned char *", self._alive()), raw, data)

    def flush(self) -> None:
        """Have it all in the file; FalError if it does not fit there."""
        if _lib().pcap_dump_flush(self._alive()) < 0:
            code = libpcap.ffi().errno
            raise FalError(code, f"{self._path}: {os.strerror(code)}")

    def close(self) -> None:
        if self._dumper:
            try:
                self.flush()
            finally:
                dumper, self._dumper = self._dumper, None
                _lib().pcap_dump_close(dumper)
