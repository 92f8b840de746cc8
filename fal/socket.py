"""The worker's socket: open it, join a group, receive packets where the kernel put them.

A worker reads packets in place: what it sees is the poller's memory, mapped read-only.  A batch is
the worker's until it is released; **then its arrays and memoryviews may show newer packets** (they
stay safe to touch, also after close).  Copy what must last: `bytes(batch[i])`.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from operator import index, length_hint
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from fal import bpf
from fal.bindings import copies, ffi, lib
from fal.errors import FalError, c_string, checked, raise_error
from fal.layout import DESCRIPTOR

MAX_SNAPLEN = 262144
_ITERATED = 256  # packets a turn of `for ts, data in socket`
_SLICE = 0.5  # seconds: a signal that comes just before a wait interrupts it no later than this


class Stats(NamedTuple):
    """Packet counts since the socket was opened."""

    recv: int  # put into this socket's ring
    drop: int  # for this socket, but its ring was full
    ifdrop: int  # lost at the interface, whosesoever they would have been


class _View(NamedTuple):
    """One ring and its frames, mapped; made once, then sliced."""

    slots: npt.NDArray[np.void]
    frames: memoryview
    data: npt.NDArray[np.uint8]


class Batch:
    """Packets of one ring, oldest first; the socket's until it is released.

    len(batch) packets; batch[i] is a read-only memoryview of packet i; iterating gives them all.
    """

    __slots__ = ("_device", "_meta", "_offsets", "_snaplen", "_socket", "_view")

    def __init__(
        self, socket: Socket, view: _View | None, meta: npt.NDArray[np.void], device: int
    ) -> None:
        self._socket: Socket | None = socket
        self._device = device
        self._view = view
        self._snaplen = socket.snaplen
        self._meta = meta
        self._offsets: list[tuple[int, int]] | None = None

    def _alive(self) -> _View | None:
        if self._socket is None:
            raise ValueError("this batch was released")
        return self._view

    def __len__(self) -> int:
        self._alive()
        return len(self._meta)

    @property
    def device(self) -> str:
        """The device that the packets came in on, of several "fal:A^B" (of none, the first)."""
        self._alive()
        assert self._socket
        device = self._socket.device.removeprefix("fal:").removeprefix("tpacket:")
        return device.split("^")[self._device]

    @property
    def meta(self) -> npt.NDArray[np.void]:
        """The descriptors: a read-only view of the ring itself; with a filter, a copy.

        Fields: ts_ns (ns since 1970 UTC), offset (of the packet in `data`), len (on the wire),
        hash, caplen (bytes in `data`), flags, vlan_tci (valid if flags has it), queue.
        A packet in pieces has one for each of them.
        """
        self._alive()
        return self._meta

    @property
    def heads(self) -> npt.NDArray[np.void]:
        """One descriptor a packet, its first piece's: `meta` itself if none has several."""
        return self.meta

    @property
    def data(self) -> npt.NDArray[np.uint8]:
        """All frames of the poller, read-only: packet i begins at data[meta["offset"][i]]."""
        view = self._alive()
        return view.data if view else np.empty(0, np.uint8)

    def _ranges(self) -> list[tuple[int, int]]:
        """Begin and end of each packet in the frames."""
        if self._offsets is None:
            begin = self._meta["offset"]
            end = begin + np.minimum(self._meta["caplen"], min(self._snaplen, 0xFFFF))
            self._offsets = list(zip(begin.tolist(), end.tolist(), strict=True))
        return self._offsets

    def __getitem__(self, i: int) -> memoryview:
        view = self._alive()
        begin, end = self._ranges()[index(i)]
        assert view
        return view.frames[begin:end]

    def __iter__(self) -> Iterator[memoryview]:
        view = self._alive()
        if view:
            frames = view.frames
            for begin, end in self._ranges():
                yield frames[begin:end]

    def release(self) -> None:
        """Give the packets back; their frames may be overwritten from now on."""
        if self._socket is not None:
            socket, self._socket = self._socket, None
            socket._released(self, len(self._meta))

    def __enter__(self) -> Self:
        self._alive()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _pieces(self, packets: int) -> int:
        """How many descriptors the first packets have."""
        return packets


class _Chained(Batch):
    """A batch in which some packets have several pieces: these are joined, by a copy."""

    __slots__ = ("_begins",)

    def __init__(
        self, socket: Socket, view: _View | None, meta: npt.NDArray[np.void], device: int
    ) -> None:
        super().__init__(socket, view, meta, device)
        first = meta["flags"] & lib.FAL_DESC_FIRST
        self._begins = [*np.flatnonzero(first).tolist(), len(meta)]

    def __len__(self) -> int:
        self._alive()
        return len(self._begins) - 1

    @property
    def heads(self) -> npt.NDArray[np.void]:
        return self.meta[self._begins[:-1]]

    def __getitem__(self, i: int) -> memoryview:
        self._alive()
        i = range(len(self))[index(i)]
        begin, end = self._begins[i : i + 2]
        if end - begin == 1:
            return super().__getitem__(begin)
        view = self._view
        assert view
        pieces = [view.frames[a:b] for a, b in self._ranges()[begin:end]]
        return memoryview(b"".join(pieces))[: self._snaplen]

    def __iter__(self) -> Iterator[memoryview]:
        return (self[i] for i in range(len(self)))

    def _pieces(self, packets: int) -> int:
        return self._begins[packets]


class Socket:
    """An abstract active socket; made by `fal.open`.  One thread at a time uses it."""

    def __init__(
        self,
        device: str,
        group: int | None = None,
        fanout: str | None = None,
        snaplen: int = MAX_SNAPLEN,
        timeout: float | None = None,
        ring: int = 0,
        group_filter: str | None = None,
        filter: str | None = None,
        program: bpf.Program | None = None,
    ) -> None:
        self._handle: Any = ffi.NULL
        self._batch: Batch | None = None
        self._views: dict[int, _View] = {}
        if not 1 <= index(snaplen) <= MAX_SNAPLEN:
            raise FalError(errno.EINVAL, f"snaplen {snaplen}: 1 to {MAX_SNAPLEN}")
        if group is None and fanout is not None:
            raise FalError(errno.EINVAL, f"fanout '{fanout}' wants a group, too")
        if group is None and program:
            raise FalError(errno.EINVAL, "a program wants a group, too")
        if group is None and group_filter:
            raise FalError(errno.EINVAL, f"group_filter '{group_filter}' wants a group, too")
        if not 0 <= ring <= lib.FAL_MAX_RING:  # what fits into its 32 bits, C checks
            raise FalError(
                errno.EINVAL,
                f"ring {ring}: a ring's size is a power of two from"
                f" {lib.FAL_MIN_RING} to {lib.FAL_MAX_RING}",
            )
        self.device = device
        self.snaplen = snaplen
        self.timeout = timeout
        self._milliseconds(timeout)
        self._err = ffi.new("struct fal_error *")
        self._next = ffi.new("struct fal_batch *")
        self._group: int | None = None
        self._handle = checked(lib.fal_open(ring, self._err), self._err)
        try:
            self.setfilter(filter)
            if group is not None:
                self.join(group, fanout, group_filter, program)
            self._check(lib.fal_attach(self._handle, c_string(device), self._err))
            self._check(lib.fal_start(self._handle, self._err))
        except BaseException:
            self.close()
            raise

    # ---- life ------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave the group and give everything back; unread packets are counted as abandoned."""
        if self._handle != ffi.NULL:
            self._drop_batch()
            handle, self._handle = self._handle, ffi.NULL
            lib.fal_close(handle)
            self._views = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        return bool(self._handle == ffi.NULL)

    def _alive(self) -> Any:
        if self._handle == ffi.NULL:
            raise FalError(errno.EBADF, "the socket is closed")
        return self._handle

    def _check(self, result: int) -> int:
        return int(checked(result, self._err))

    # ---- groups ----------------------------------------------------------------------------------

    def join(
        self,
        group: int,
        fanout: str | None = None,
        group_filter: str | None = None,
        program: bpf.Program | None = None,
    ) -> None:
        """Join a fan-out group: its first member makes it, with `fanout` (default "hash").

        group_filter: a pcap expression; what it does not match is for no member.
        program: of "cbpf", (code, jt, jf, k) each; its verdict modulo members picks one.
        Who joins a group that is there names the same, or none.
        """
        if isinstance(group, bool) or not 0 <= index(group) <= lib.FAL_MAX_GROUP_ID:
            raise FalError(errno.EINVAL, f"group {group!r}: ids are 0 to {lib.FAL_MAX_GROUP_ID}")
        word = ffi.NULL if fanout is None else c_string(fanout)
        self._set(lib.fal_set_group_filter, bpf.compile(group_filter) if group_filter else [])
        self._set(lib.fal_set_group_program, program or [])
        self._check(lib.fal_join(self._alive(), group, word, self._err))
        self._group = index(group)

    def setfilter(self, expression: str | None) -> None:
        """Receive from now on what matches a pcap expression; None or "": everything.

        What does not match is given back unseen, also what lies in the ring already.
        """
        self._set(lib.fal_setfilter, bpf.compile(expression) if expression else [])

    def _set(self, function: Any, program: bpf.Program) -> None:
        instructions = bpf.native(program)
        self._check(function(self._alive(), instructions, len(instructions), self._err))

    def leave(self) -> None:
        """Leave the group: from now on the socket gets everything, as one that joined none.

        EOPNOTSUPP: the kernel lets no socket out of a group of its own.
        """
        self._check(lib.fal_leave(self._alive(), self._err))
        self._group = None

    @property
    def group(self) -> int | None:
        return self._group

    @property
    def member(self) -> int | None:
        """This socket's present number in its group, from 0; None in no group, or the kernel's."""
        number = int(lib.fal_member(self._alive()))
        return number if number >= 0 else None

    # ---- receiving -------------------------------------------------------------------------------

    @staticmethod
    def _milliseconds(timeout: float | None) -> int:
        if timeout is None:
            return -1
        if not 0 <= timeout <= 2_000_000:
            raise FalError(errno.EINVAL, f"timeout {timeout}: seconds, 0 to 2000000, or None")
        return -int(-timeout * 1000 // 1)  # rounded up: a short wait is not none

    def _receive(self, most: int, timeout: float | None) -> int:
        """Fill self._next; returns how many, 0: time is up, -1: clean end."""
        handle = self._alive()
        self._milliseconds(timeout)  # refuses what is no timeout
        if most < 1:
            raise FalError(errno.EINVAL, f"max {most}: at least 1")
        self._drop_batch()
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            count = lib.fal_receive(handle, min(most, lib.FAL_MAX_RING), self._next)
            if count > 0:
                return int(count)
            if count < 0:
                code = ffi.errno
                raise FalError(code, f"{os.strerror(code)} (another process reads this socket)")
            left = max(0.0, end - time.monotonic())
            ready = lib.fal_wait(handle, self._milliseconds(min(left, _SLICE)), self._err)
            if ready == 0 and left <= _SLICE:
                return 0
            if ready < 0:
                if self._err.code == errno.ENODATA:
                    return -1
                if self._err.code != errno.EINTR:
                    raise_error(self._err)
                # a signal: Python has run its handler by now, which did not raise

    def _view(self, ring: int) -> _View:
        if ring not in self._views:
            view = ffi.new("struct fal_view *")
            lib.fal_view(self._handle, ring, view)
            # Whatever is sliced from these buffers keeps the mapping alive.
            slots_size = view.capacity * DESCRIPTOR.itemsize
            frames = _pinned(self._handle, ring, view.frames, view.frames_size)
            slots = np.frombuffer(_pinned(self._handle, ring, view.slots, slots_size), DESCRIPTOR)
            self._views[ring] = _View(slots, frames, np.frombuffer(frames, np.uint8))
        return self._views[ring]

    def _take(self, count: int) -> Batch:
        found = self._next
        view = self._view(found.ring) if count else None
        if view is None:
            meta = np.empty(0, DESCRIPTOR)
        elif found.slot != lib.FAL_NO_SLOT:
            meta = view.slots[found.slot : found.slot + count]
        else:  # of the socket's own memory, which lasts no longer than the socket
            copy = bytes(ffi.buffer(found.packets, count * DESCRIPTOR.itemsize))
            meta = np.frombuffer(copy, DESCRIPTOR)
        kind = Batch if not count or found.whole == count else _Chained
        self._batch = kind(self, view, meta, found.device if count else 0)
        return self._batch

    def _released(self, batch: Batch, first: int) -> None:
        """Give the first packets of a batch back; the others will be received again."""
        if batch is self._batch:
            self._batch = None
            lib.fal_release_first(self._handle, first)

    def _drop_batch(self) -> None:
        if self._batch is not None:
            self._batch.release()

    def recv_batch(self, max: int = 1024, timeout: float | None = None) -> Batch:
        """Wait for packets and return up to `max`; an empty batch when `timeout` seconds are up.

        Pieces count towards `max`; a packet that has more of them comes alone.

        timeout None: as long as the socket's own `timeout` says.  It releases the batch before.
        EOFError at the end of a finite source or a clean shutdown, PollerGone after a crash; in
        both cases after the last packet.
        """
        count = self._receive(max, self.timeout if timeout is None else timeout)
        if count < 0:
            raise EOFError(ffi.string(self._err.text).decode())
        return self._take(count)

    def batches(self, max: int = 1024, timeout: float | None = None) -> Iterator[Batch]:
        """Iterate over batches; an empty one whenever `timeout` seconds passed without a packet."""
        wait = self.timeout if timeout is None else timeout
        while (count := self._receive(max, wait)) >= 0:
            yield self._take(count)

    def __iter__(self) -> Iterator[tuple[float, bytes]]:
        """Iterate over (seconds since 1970 UTC, packet): floats in steps of 238 ns, and copies.

        A loop that is left has taken what it was given; the next packet is the next loop's.
        """
        return chain.from_iterable(self._copied())  # not a generator: it would run for each packet

    def _copied(self) -> Iterator[Iterable[tuple[float, bytes]]]:
        while (count := self._receive(_ITERATED, self.timeout)) >= 0:
            if count:
                batch = self._take(count)
                found = self._next
                descriptors = ffi.buffer(found.packets, count * DESCRIPTOR.itemsize)
                times, copied = copies(descriptors, self._view(found.ring).frames, self.snaplen)
                packets = iter(copied)
                try:
                    yield zip(times, packets, strict=False)
                finally:
                    if batch is self._batch:  # else the loop's body has received more
                        taken = len(times) - length_hint(packets)
                        self._released(batch, batch._pieces(taken))

    # ---- sending ---------------------------------------------------------------------------------

    def inject(self, data: bytes | bytearray | memoryview) -> int:
        """Send a frame, from its Ethernet header on; returns its length.

        FalError: EAGAIN too many are waiting to be sent; EMSGSIZE the device's MTU; EOPNOTSUPP
        nothing can be sent there.  `fal stat` counts what the device refuses later.
        """
        frame = ffi.from_buffer(data)
        return self._check(lib.fal_inject(self._alive(), frame, len(frame), self._err))

    def inject_many(self, frames: Iterable[bytes | bytearray | memoryview]) -> int:
        """Send frames; returns how many there was room for.  Other errors are raised."""
        sent = 0
        for data in frames:
            try:
                self.inject(data)
            except FalError as e:
                if e.errno == errno.EAGAIN:
                    break
                raise
            sent += 1
        return sent

    def fileno(self) -> int:
        """Return a descriptor for select, poll, epoll or asyncio: readable when there are packets.

        It may be readable once too often: then recv_batch(timeout=0) returns an empty batch.
        """
        return int(lib.fal_fileno(self._alive()))

    # ---- looking -------------------------------------------------------------------------------

    def stats(self) -> Stats:
        stats = ffi.new("struct fal_stats *")
        lib.fal_stats(self._alive(), stats)
        return Stats(stats.recv, stats.drop, stats.ifdrop)

    def counters(self) -> dict[str, int]:
        """Packets meant for this socket that it did not get, by cause.

        filtered, of stats().recv: given back unseen, since they did not match its filter.
        """
        stats = ffi.new("struct fal_stats *")
        lib.fal_stats(self._alive(), stats)
        return {"ring_full": stats.drop, "filtered": stats.filtered}


def _pinned(handle: Any, ring: int, address: Any, size: int) -> memoryview:
    """Return a read-only memoryview of mapped memory; it stays mapped while a slice of it lives."""
    owner = ffi.gc(lib.fal_pin(handle, ring), lib.fal_unpin)
    memory = ffi.gc(ffi.cast("char *", address), _Keep(owner))
    return memoryview(ffi.buffer(memory, size)).toreadonly()


class _Keep:
    """Keeps an object alive as long as the cdata whose destructor this is."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def __call__(self, _: Any) -> None:
        self.owner = None
