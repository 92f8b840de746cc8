"""fal-poller: fetches the packets of one device and spreads them over the workers.

This process has a thread for each poller, inside one C call for its whole life, and this one, which
answers the workers, the operator's signals and the device's end.
"""

from __future__ import annotations

import argparse
import errno
import os
import resource
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from fal import admission, bpf, runtime, status
from fal.bindings import ffi, lib
from fal.control import Control
from fal.errors import FalError, checked
from fal.options import HUGEPAGES, IDLE, arguments

RTMGRP_LINK = 1  # linux/rtnetlink.h: news of network devices


# ---- setting up --------------------------------------------------------------------------------


def say(text: str) -> None:
    print(f"fal-poller: {text}", file=sys.stderr, flush=True)


def other_pollers(directory: Path) -> list[tuple[str, Any]]:
    """Names and statuses of the fal-pollers that run here."""
    found = []
    for name in status.names(directory):
        with suppress(OSError):
            other = status.open_existing(directory, name)
            if other.running and other.view.version:
                found.append((name, other))
            else:
                other.close()
    return found


def free_cpu(others: Sequence[tuple[str, Any]]) -> int:
    """Choose the last CPU of ours that no other fal-poller polls on."""
    ours = os.sched_getaffinity(0)
    taken = {p.cpu for _, other in others for p in other.view.poller[0 : other.view.pollers]}
    return max(ours - taken or ours)


def drawn(options: argparse.Namespace) -> dict[str, int]:
    """Return what the null backend is to draw: nothing, where nothing of it is asked for."""
    if options.flows is options.sizes is options.seed is None:
        return {}
    smallest, largest = options.sizes or (60, 60)
    return {
        "flows": options.flows or 64,
        "size_min": smallest,
        "size_max": largest,
        "seed": options.seed or 0,
    }


def native_options(options: argparse.Namespace) -> tuple[Any, Any]:
    """Return a `struct fal_poller_options`, and what must live as long."""
    queues = ffi.new("uint32_t[]", options.queues) if options.queues else ffi.NULL
    cpus = ffi.new("int32_t[]", options.cpus)
    expression = vars(options)["pass"]
    program = bpf.native(bpf.compile(expression)) if expression else ffi.NULL
    keep = [
        ffi.new("char[]", os.fsencode(text))
        for text in (options.backend, options.device, options.mode)
    ]
    native = ffi.new(
        "struct fal_poller_options *",
        {
            "backend": keep[0],
            "source": {
                "device": keep[1],
                "mode": keep[2],
                "queues": queues,
                "queue_count": len(options.queues),
                "promisc": options.promisc,
                "pollers": len(options.cpus),
                "pass": program,
                "pass_count": len(program) if expression else 0,
                "count": options.count,
                "rate": options.rate,
                "loop": options.loop,
                **drawn(options),
            },
            "hash_seed": options.hash_seed,
            "cpus": cpus,
            "idle": IDLE[options.idle],
        },
    )
    return native, (*keep, queues, cpus, program)


def numa_node(device: str, sysfs: Path = Path("/sys")) -> int:
    """Return the NUMA node that a network device is attached to; -1 where that is unknown."""
    with suppress(OSError, ValueError):
        return int((sysfs / "class" / "net" / device / "device" / "numa_node").read_text())
    return -1


def make_arenas(options: argparse.Namespace, queues: int, stack: ExitStack) -> Any:
    """Make an array of `struct fal_segment`, alike for all pollers; `queues` is the most of one."""
    least = admission.reserved(queues) + lib.FAL_MIN_RING
    frames = options.frames or admission.default_frames(queues)
    if frames < least:
        raise FalError(
            errno.EINVAL,
            f"--frames {frames}: {queues} queue{'s'[: queues > 1]} and one small ring need {least}",
        )
    arenas = ffi.new("struct fal_segment[]", len(options.cpus))
    node = -1 if options.backend in ("null", "pcap") else numa_node(options.device)
    err = ffi.new("struct fal_error *")
    for i in range(len(arenas)):
        made = lib.fal_arena_create(
            frames,
            options.frame_size,
            admission.ring_slots(frames, queues),
            HUGEPAGES[options.hugepages],
            node,
            ffi.addressof(arenas, i),
            err,
        )
        checked(made, err)
        stack.callback(lib.fal_segment_free, ffi.addressof(arenas, i))
    return arenas


def device_in_status(options: argparse.Namespace) -> bytes:
    """Return what the status calls the device: of a file its base name, as far as there is room."""
    device = os.fsencode(options.device)
    return (
        os.path.basename(device)[: lib.FAL_NAME_SIZE - 1] if options.backend == "pcap" else device
    )


def describe(view: Any, options: argparse.Namespace, facts: Any, layouts: list[Any]) -> None:
    """Fill in the fixed part of the status; the version last."""
    view.magic = lib.FAL_STATUS_MAGIC
    view.pollers = len(layouts)
    view.queues, view.zero_copy = facts.queue_count, facts.zero_copy
    view.max_send, view.chains = facts.max_send, facts.chains
    view.hash_seed = options.hash_seed
    view.page_size = min(layout.page_size for layout in layouts)
    view.frames = sum(layout.frames for layout in layouts)
    view.frame_size = layouts[0].frame_size
    view.name, view.device = options.name.encode(), device_in_status(options)
    view.backend, view.mode = options.backend.encode(), ffi.string(facts.mode)
    view.version = lib.FAL_LAYOUT_VERSION


def notify_systemd(state: str) -> None:
    """Tell the service manager, where one has asked (sd_notify(3))."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s, suppress(OSError):
            s.sendto(state.encode(), address.replace("@", "\0", 1))


# ---- running -----------------------------------------------------------------------------------


class Poller(threading.Thread):
    """A polling thread."""

    def __init__(self, handle: Any) -> None:
        super().__init__(name="poller")
        self.handle, self.err = handle, ffi.new("struct fal_error *")

    def run(self) -> None:
        lib.fal_poller_run(self.handle, self.err)


def device_watch(
    ifindex: int, selector: selectors.BaseSelector, gone: Any, stack: ExitStack
) -> None:
    """Have `gone` called when the device is removed (polling it never tells)."""
    news = stack.enter_context(
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    )
    news.bind((0, RTMGRP_LINK))
    news.setblocking(False)

    def look() -> None:
        with suppress(OSError):  # ENOBUFS: news were lost, so look all the same
            while news.recv(65536):
                pass
        try:
            socket.if_indextoname(ifindex)
        except OSError:
            gone()

    selector.register(news, selectors.EVENT_READ, look)
    look()


class End:
    """Why fal-poller ends; the first reason is the one that counts."""

    def __init__(self) -> None:
        self.status: int | None = None  # to exit with; None: it goes on
        self.word = errno.ENODATA, "fal-poller has ended"  # what workers are told

    def __call__(self, code: int = 0, text: str = "") -> None:
        """End; with an errno and words, as a failure."""
        if self.status is None:
            self.status = 1 if code else 0
            if code:
                self.word = code, text
                say(text)


def signals_to(end: End, selector: selectors.BaseSelector, stack: ExitStack) -> None:
    """Have SIGTERM and SIGINT end it cleanly."""
    told, tell = (stack.enter_context(s) for s in socket.socketpair())
    told.setblocking(False)
    tell.setblocking(False)
    signal.set_wakeup_fd(tell.fileno())
    stack.callback(signal.set_wakeup_fd, -1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    selector.register(told, selectors.EVENT_READ, end)


def who_serves(options: argparse.Namespace, others: Sequence[tuple[str, Any]]) -> str:
    """Name the other fal-poller that has the device already, for an error's text."""
    for name, other in others:
        same = ffi.string(other.view.device) == os.fsencode(options.device)
        if same and options.backend != "null" and ffi.string(other.view.backend) != b"null":
            return f" (the fal-poller {name}, pid {other.view.pid}, serves {options.device})"
    return ""


class Device:
    """The device, opened, with an arena and a part of the status for each poller."""

    def __init__(
        self,
        options: argparse.Namespace,
        native: Any,
        segment: status.Status,
        taken: str,
        stack: ExitStack,
    ) -> None:
        """`taken` is added to the error where another has the device."""
        err = ffi.new("struct fal_error *")
        queues = checked(lib.fal_device_queues(native, err), err)
        self.queues = -(-queues // len(options.cpus))  # the most of one poller
        self.arenas = make_arenas(options, self.queues, stack)
        shared = ffi.new("struct fal_segment *")
        checked(lib.fal_segment_map(os.dup(segment.fd), status.SIZE, 1, shared, err), err)
        stack.callback(lib.fal_segment_free, shared)
        checked(lib.fal_segment_guard(shared, err), err)
        counters = ffi.addressof(ffi.cast("struct fal_status *", shared.address).poller, 0)
        self.handle = lib.fal_device_open(native, self.arenas, counters, err)
        if self.handle == ffi.NULL and err.code in (errno.EBUSY, errno.EEXIST) and taken:
            raise FalError(err.code, ffi.string(err.text).decode() + taken)
        checked(self.handle, err)
        stack.callback(lib.fal_device_close, self.handle)
        self.facts = lib.fal_device_facts(self.handle)
        self.layouts = [ffi.cast("struct fal_arena *", arena.address) for arena in self.arenas]

    def admission(self) -> admission.Admission:
        alike = self.layouts[0]
        slots = alike.rings_size // admission.SLOT
        return admission.Admission(alike.frames, self.queues, slots)

    def warn_of_ordinary_pages(self) -> None:
        if short := sum(arena.size for arena in self.arenas if arena.page_size == 4096):
            say(
                "ordinary pages of 4096 bytes, since huge pages are short (mend it: sysctl"
                f" vm.nr_hugepages={lib.fal_hugepages_needed(short)}; or: --hugepages off)"
            )


def serve(options: argparse.Namespace, stack: ExitStack) -> int:
    """Set everything up, run, and take it all down again; returns the exit status."""
    directory = runtime.make_directory()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # a socket that sends takes five
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    selector, end = stack.enter_context(selectors.DefaultSelector()), End()
    signals_to(end, selector, stack)
    begun = False

    def begin_with(sockets: int) -> None:
        """Let the source begin once so many sockets are started."""
        nonlocal begun
        if not begun and sockets >= options.wait:
            begun = True
            lib.fal_device_begin(device.handle)

    with runtime.starting(directory):
        others = other_pollers(directory)
        if options.cpus is None:
            options.cpus = [free_cpu(others)]
        native, _keep = native_options(options)
        segment = status.create(directory, options.name)
        stack.callback(segment.remove)
        taken = who_serves(options, others)
        for _, other in others:
            other.close()
        device = Device(options, native, segment, taken, stack)
        facts = device.facts
        control = Control(
            directory / f"{options.name}.sock",
            selector,
            device.handle,
            device.arenas,
            segment.fd,
            facts.max_send,
            device.admission(),
            begin_with,
        )
        describe(segment.view, options, facts, device.layouts)

    pollers = [Poller(lib.fal_device_poller(device.handle, i)) for i in range(len(options.cpus))]

    def stop() -> None:
        lib.fal_device_stop(device.handle)
        for poller in pollers:
            poller.join()

    def on_event() -> None:
        events = lib.fal_device_events(device.handle)
        if events & lib.FAL_EVENT_BROKEN:
            control.close_broken()
        if events & lib.FAL_EVENT_FAILED:
            stop()
            failed = next(poller.err for poller in pollers if poller.err.code)
            end(failed.code, ffi.string(failed.text).decode())
        elif events & lib.FAL_EVENT_DRAINED:
            end()

    def on_gone() -> None:
        end(errno.ENODEV, f"{options.device} is gone (removed, or moved to another namespace)")

    selector.register(lib.fal_device_event_fd(device.handle), selectors.EVENT_READ, on_event)
    for poller in pollers:
        poller.start()
    try:
        if facts.ifindex:
            device_watch(facts.ifindex, selector, on_gone, stack)
        begin_with(0)
        if options.hugepages == "try":
            device.warn_of_ordinary_pages()
        say(
            f"ready {options.name} backend={options.backend} mode={ffi.string(facts.mode).decode()}"
            f" queues={facts.queue_count} frames={segment.view.frames}"
            f" page_size={segment.view.page_size} pid={os.getpid()}"
        )
        notify_systemd("READY=1")
        while end.status is None:
            for key, _ in selector.select(timeout=1.0):
                key.data()
            control.expire()
    finally:
        notify_systemd("STOPPING=1")
        stop()
        control.close_all(*end.word)
    return end.status


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    try:
        with ExitStack() as stack:
            return serve(options, stack)
    except OSError as e:
        what = f"{e.filename}: {e.strerror}" if e.filename else str(e)  # FalError has no file
        say(what)
        return 1


if __name__ == "__main__":
    sys.exit(main())
