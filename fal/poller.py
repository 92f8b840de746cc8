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

import fal
from fal import admission, bpf, runtime, status
from fal.bindings import ffi, lib
from fal.control import Control
from fal.errors import FalError, checked

RTMGRP_LINK = 1  # linux/rtnetlink.h: news of network devices
BACKENDS = ("af_xdp", "null", "pcap", "tpacket")
# Options that mean nothing to the other backends.
ONLY_FOR = {
    "mode": ("af_xdp",),
    "pass": ("af_xdp",),
    "queues": ("af_xdp",),
    "wait": ("null", "pcap"),
    "count": ("null", "pcap"),
    "flows": ("null",),
    "sizes": ("null",),
    "seed": ("null",),
    "rate": ("pcap",),
    "loop": ("pcap",),
}
IDLE = {"spin": lib.FAL_IDLE_SPIN, "adaptive": lib.FAL_IDLE_ADAPTIVE, "sleep": lib.FAL_IDLE_SLEEP}
HUGEPAGES = {
    "off": lib.FAL_HUGEPAGES_OFF,
    "try": lib.FAL_HUGEPAGES_TRY,
    "on": lib.FAL_HUGEPAGES_ON,
}
EXAMPLES = f"""examples:
  fal-poller eth0                           all queues, AF_XDP, native mode where the driver can
  fal-poller eth0 --cpus 2 --idle spin      lowest latency: CPU 2 is busy all the time
  fal-poller eth0 --cpus 2,3                two pollers, each with every second queue
  fal-poller eth0 --queues 0-3 --name dmz   some queues; workers open fal:dmz
  fal-poller try --backend null --wait 2 --count 1000000
                                            made-up packets, no privilege, once two sockets started
  fal-poller eth0 --backend tpacket         any device, and the host keeps its packets
  fal-poller trace.pcap --wait 4            a capture file to fal:trace, once four sockets started
  fal-poller trace.pcap --rate capture --loop 0
                                            at its own pace, over and over

defaults and limits:
  a socket's ring holds {lib.FAL_DEFAULT_RING} packets, or what the socket asks for:
  {lib.FAL_MIN_RING} to {lib.FAL_MAX_RING}; the pool holds {lib.FAL_DEFAULT_RINGS} default rings
  besides the device's part (see --frames); at most {lib.FAL_MAX_SOCKETS} sockets,
  {lib.FAL_MAX_GROUPS} groups, {lib.FAL_GROUP_MEMBERS} members a group,
  {lib.FAL_MAX_QUEUES} queues, {lib.FAL_MAX_POLLERS} pollers
"""


# ---- the command line --------------------------------------------------------------------------


def number_list(text: str) -> list[int]:
    """Parse "0,2-4" into [0, 2, 3, 4]."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"'{text}' is no list of numbers (write 0,2-4)")
        more = range(int(first), int(last or first) + 1)
        if more.stop > 1 << 16:
            raise argparse.ArgumentTypeError(f"'{text}': numbers are below {1 << 16}")
        if len(numbers) + len(more[: lib.FAL_MAX_QUEUES + 1]) > lib.FAL_MAX_QUEUES:
            raise argparse.ArgumentTypeError(f"'{text}': at most {lib.FAL_MAX_QUEUES}")
        numbers += more
    if not numbers or len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"'{text}' is empty or names a number twice")
    return numbers


def queue_list(text: str) -> list[int]:
    return [] if text == "all" else number_list(text)


def cpu_list(text: str) -> list[int]:
    cpus, ours = number_list(text), os.sched_getaffinity(0)
    if others := set(cpus) - ours:
        raise argparse.ArgumentTypeError(
            f"CPU {min(others)} is not there or not ours (there are:"
            f" {','.join(map(str, sorted(ours)))})"
        )
    if len(cpus) > lib.FAL_MAX_POLLERS:
        raise argparse.ArgumentTypeError(f"'{text}': at most {lib.FAL_MAX_POLLERS} CPUs")
    return cpus


def at_least(lowest: int, highest: int) -> Any:
    def parse(text: str) -> int:
        if not text.isdecimal() or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number from {lowest} to {highest}")
        return int(text)

    return parse


def hash_seed(text: str) -> int:
    if text == "random":
        return int.from_bytes(os.urandom(8))
    with suppress(ValueError):
        if 0 <= int(text, 0) < 1 << 64:
            return int(text, 0)
    raise argparse.ArgumentTypeError(f"'{text}' is neither 'random' nor a number below 2**64")


def packet_rate(text: str) -> int:
    if text in ("max", "capture"):
        return int(lib.FAL_RATE_MAX if text == "max" else lib.FAL_RATE_CAPTURE)
    if not text.isdecimal() or not 1 <= int(text) <= 10**9:
        raise argparse.ArgumentTypeError(
            f"'{text}' is neither 'max', 'capture' nor a number from 1 to {10**9}"
        )
    return int(text)


def sizes(text: str) -> tuple[int, int]:
    """Parse "imix" into (0, 0), "64" into (64, 64), "64-1514" into (64, 1514)."""
    if text == "imix":
        return 0, 0
    first, dash, last = text.partition("-")
    if first.isdecimal() and (last.isdecimal() or not dash):
        smallest, largest = int(first), int(last or first)
        if 60 <= smallest <= largest <= 4096:
            return smallest, largest
    raise argparse.ArgumentTypeError(
        f"'{text}' is neither 'imix' nor sizes from 60 to 4096 (write 64 or 64-1514)"
    )


def backend_for(device: str) -> str:
    """Choose what fetches packets where nothing is said: a network device goes before a file."""
    path = Path(device)
    is_file = path.is_file() or path.suffix in (".pcap", ".pcapng")
    devices = (name for _, name in socket.if_nameindex())
    return "pcap" if is_file and device not in devices else "af_xdp"


def poller_name(text: str) -> str:
    if not status.NAME.fullmatch(text) or len(text) >= lib.FAL_NAME_SIZE:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no name: letters, digits and _-+.:@, at most {lib.FAL_NAME_SIZE - 1}"
        )
    return text


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fal-poller",
        description="Fetch the packets of one device, and spread them over the workers that join.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("device", metavar="DEV", help="network device, or capture file (null: any word)")
    add("--version", action="version", version=f"fal-poller {fal.__version__}")
    add(
        "--backend",
        choices=BACKENDS,
        help="how packets are fetched (af_xdp; pcap where DEV is a file)",
    )
    add(
        "--name",
        type=poller_name,
        help="what workers call it: fal:NAME (default: DEV; of a file its name less suffix)",
    )
    add(
        "--mode",
        choices=("auto", "native", "generic"),
        default="auto",
        help="of XDP: native is the driver's own; auto takes it where there is one (auto)",
    )
    add(
        "--pass",
        metavar="EXPR",
        default="",
        help="leave to the host what matches, a pcap expression such as 'arp or port 22'",
    )
    add("--queues", type=queue_list, default=[], metavar="all|LIST", help="which to fetch (all)")
    add(
        "--cpus",
        type=cpu_list,
        metavar="LIST",
        help="CPUs of the pollers, one each; queues are dealt out to them in turn"
        " (default: one poller, on an unused CPU)",
    )
    add(
        "--frames",
        type=at_least(1, 1 << 26),
        metavar="N",
        help="size of each poller's pool in packets (default: device's part and"
        f" {lib.FAL_DEFAULT_RINGS} rings of {lib.FAL_DEFAULT_RING}, in whole huge pages)",
    )
    add(
        "--frame-size",
        type=int,
        choices=(2048, 2112, 4096),
        default=lib.FAL_DEFAULT_FRAME_SIZE,
        help="bytes that a packet, or a piece of it, has (2048); AF_XDP takes 2048 or 4096, of"
        " which 256 are the kernel's",
    )
    add(
        "--hash-seed",
        type=hash_seed,
        default=lib.FAL_HASH_SEED,
        metavar="N|random",
        help="random: nobody outside can aim at one worker (default: fixed, so results repeat)",
    )
    add("--hugepages", choices=HUGEPAGES, default="try", help="for the pool (try)")
    add(
        "--idle",
        choices=IDLE,
        default="adaptive",
        help="without packets: spin, sleep, or spin 50 us and then sleep (adaptive)",
    )
    add(
        "--promisc",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="receive what is for others, too (on)",
    )
    add(
        "--wait",
        type=at_least(1, lib.FAL_MAX_SOCKETS),
        metavar="N",
        help="null, pcap: begin when N sockets are started (null: at once; pcap: 1)",
    )
    add(
        "--count",
        type=at_least(1, (1 << 63) - 1),
        default=0,
        metavar="N",
        help="null, pcap: end after N packets, once the workers have read them",
    )
    add(
        "--rate",
        type=packet_rate,
        default=0,
        metavar="max|capture|PPS",
        help="pcap: flat out, waiting for room in every ring; as it was captured, or PPS packets a"
        " second, losing what finds no room (max)",
    )
    add(
        "--loop",
        type=at_least(0, (1 << 63) - 1),
        default=1,
        metavar="N",
        help="pcap: read the file N times; 0: for ever (1)",
    )
    add(
        "--flows",
        type=at_least(1, 1_000_000),
        metavar="N",
        help="null: draw N flows of IPv4 and IPv6, TCP and UDP, some tagged (with --sizes or"
        " --seed: 64; without all three: 64 of UDP over IPv4)",
    )
    add(
        "--sizes",
        type=sizes,
        metavar="N|N-M|imix",
        help="null: bytes of a packet, without the checksum of Ethernet (60); imix: 60, 590 and"
        " 1514, 7 to 4 to 1",
    )
    add(
        "--seed",
        type=at_least(0, (1 << 64) - 1),
        metavar="N",
        help="null: the same packets for the same seed (0)",
    )
    options = parser.parse_args(argv)
    if options.backend is None:
        options.backend = backend_for(options.device)
    is_file = options.backend == "pcap"
    if options.name is None:
        try:
            options.name = poller_name(Path(options.device).stem if is_file else options.device)
        except argparse.ArgumentTypeError as e:
            parser.error(f"{e} (give a --name)")
    if not is_file and not 0 < len(os.fsencode(options.device)) < lib.FAL_NAME_SIZE:
        parser.error(f"DEV has 1 to {lib.FAL_NAME_SIZE - 1} bytes")
    for option, backends in ONLY_FOR.items():
        given = getattr(options, option) != parser.get_default(option)
        if given and options.backend not in backends:
            parser.error(f"--{option} is for --backend {' and '.join(backends)}")
    if options.wait is None:
        options.wait = 1 if is_file else 0
    if options.backend == "af_xdp" and options.frame_size & (options.frame_size - 1):
        parser.error(f"--frame-size {options.frame_size}: {options.backend} takes 2048 or 4096")
    return options


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


def serve(options: argparse.Namespace, stack: ExitStack) -> int:
    """Set everything up, run, and take it all down again; returns the exit status."""
    directory = runtime.make_directory()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # a socket that sends takes five
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signals, signals_in = (stack.enter_context(end) for end in socket.socketpair())
    signals.setblocking(False)
    signals_in.setblocking(False)
    signal.set_wakeup_fd(signals_in.fileno())
    stack.callback(signal.set_wakeup_fd, -1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    selector = stack.enter_context(selectors.DefaultSelector())
    err = ffi.new("struct fal_error *")

    with runtime.starting(directory):
        others = other_pollers(directory)
        if options.cpus is None:
            options.cpus = [free_cpu(others)]
        native, _keep = native_options(options)
        segment = status.create(directory, options.name)
        stack.callback(segment.remove)
        for name, other in others:
            same = ffi.string(other.view.device) == os.fsencode(options.device)
            if same and options.backend != "null" and ffi.string(other.view.backend) != b"null":
                others_note = (
                    f" (the fal-poller {name}, pid {other.view.pid}, serves {options.device})"
                )
                break
        else:
            others_note = ""
        for _, other in others:
            other.close()
        queues = checked(lib.fal_device_queues(native, err), err)
        most = -(-queues // len(options.cpus))  # queues of one poller
        arenas = make_arenas(options, most, stack)
        layouts = [ffi.cast("struct fal_arena *", arena.address) for arena in arenas]
        shared = ffi.new("struct fal_segment *")
        checked(lib.fal_segment_map(os.dup(segment.fd), status.SIZE, 1, shared, err), err)
        stack.callback(lib.fal_segment_free, shared)
        checked(lib.fal_segment_guard(shared, err), err)
        counters = ffi.addressof(ffi.cast("struct fal_status *", shared.address).poller, 0)
        device = lib.fal_device_open(native, arenas, counters, err)
        if device == ffi.NULL and err.code in (errno.EBUSY, errno.EEXIST) and others_note:
            raise FalError(err.code, ffi.string(err.text).decode() + others_note)
        checked(device, err)
        stack.callback(lib.fal_device_close, device)
        facts = lib.fal_device_facts(device)

        exit_status: list[int] = []

        def end(code: int, text: str = "") -> None:
            if not exit_status:
                exit_status.append(code)
                if text:
                    say(text)

        begun = not options.wait

        def on_started(count: int) -> None:
            nonlocal begun
            if not begun and count >= options.wait:
                begun = True
                lib.fal_device_begin(device)

        alike = layouts[0]
        control = Control(
            directory / f"{options.name}.sock",
            selector,
            device,
            arenas,
            segment.fd,
            facts.max_send,
            admission.Admission(alike.frames, most, alike.rings_size // admission.SLOT),
            on_started,
        )
        describe(segment.view, options, facts, layouts)

    last_word = errno.ENODATA, "fal-poller has ended"
    pollers = [Poller(lib.fal_device_poller(device, i)) for i in range(len(arenas))]

    def on_event() -> None:
        nonlocal last_word
        events = lib.fal_device_events(device)
        if events & lib.FAL_EVENT_BROKEN:
            control.close_broken()
        if events & lib.FAL_EVENT_FAILED:
            lib.fal_device_stop(device)
            for poller in pollers:
                poller.join()
            failed = next(poller.err for poller in pollers if poller.err.code)
            text = ffi.string(failed.text).decode()
            last_word = failed.code, text
            end(1, text)
        elif events & lib.FAL_EVENT_DRAINED:
            end(0)

    def on_gone() -> None:
        nonlocal last_word
        text = f"{options.device} is gone (removed, or moved to another namespace)"
        last_word = errno.ENODEV, text
        end(1, text)

    selector.register(signals, selectors.EVENT_READ, lambda: end(0))
    selector.register(lib.fal_device_event_fd(device), selectors.EVENT_READ, on_event)
    for poller in pollers:
        poller.start()
    try:
        if facts.ifindex:
            device_watch(facts.ifindex, selector, on_gone, stack)
        if begun:
            lib.fal_device_begin(device)
        short = sum(arena.size for arena in arenas if arena.page_size == 4096)
        if options.hugepages == "try" and short:
            say(
                "ordinary pages of 4096 bytes, since huge pages are short (mend it: sysctl"
                f" vm.nr_hugepages={lib.fal_hugepages_needed(short)}; or: --hugepages off)"
            )
        say(
            f"ready {options.name} backend={options.backend} mode={ffi.string(facts.mode).decode()}"
            f" queues={facts.queue_count} frames={segment.view.frames}"
            f" page_size={segment.view.page_size} pid={os.getpid()}"
        )
        notify_systemd("READY=1")
        while not exit_status:
            for key, _ in selector.select(timeout=1.0):
                key.data()
            control.expire()
    finally:
        notify_systemd("STOPPING=1")
        lib.fal_device_stop(device)
        for poller in pollers:
            poller.join()
        control.close_all(*last_word)
    return exit_status[0]


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
