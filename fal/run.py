"""`fal run`: starts a program, or copies of it, that use FAL's libpcap for theirs."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fal import copies, modes, pcapconf, reach
from fal.arguments import at_least, cpu_list
from fal.bindings import lib
from fal.errors import FalError
from fal.libpcap import FAL_LIBRARY

COPIES = 1024  # at most
SHELL = {errno.ENOENT: 127, errno.EACCES: 126, errno.ENOEXEC: 126}  # what a shell would return
SETTINGS = ("driver", "group", "fanout", "caplen", "config")


def prepare(options: argparse.Namespace) -> None:
    """Make our environment what the program is to have."""
    library, places = str(FAL_LIBRARY), (":", " ", ";", "$")
    if not FAL_LIBRARY.exists():
        raise FalError(errno.ELIBACC, f"{library} is not there: install FAL again")
    if any(place in library for place in places):
        raise FalError(
            errno.ELIBACC,
            f"LD_PRELOAD cannot name {library}: install FAL where no space, ':', ';' or '$' is",
        )
    for name, first in (("LD_PRELOAD", library), ("LD_LIBRARY_PATH", str(FAL_LIBRARY.parent))):
        os.environ[name] = ":".join(filter(None, (first, os.environ.get(name))))
    if options.group is not None:
        os.environ.pop("PCAP_DEF_GROUP", None)  # its other name
    for name in SETTINGS:
        if (value := getattr(options, name)) is not None:
            os.environ[f"PCAP_{name.upper()}"] = str(value)


def check_group(options: argparse.Namespace) -> None:
    """Refuse what is written wrong, and what makes no sense unless some group is named."""
    if pcapconf.names_a_group():
        return
    where = "say --group G, or set PCAP_GROUP, or name groups in pcap.conf"
    if (options.copies or 1) > 1:
        what = f"-n {options.copies} and no group: each copy would get every packet"
    elif options.fanout is not None:
        what = f"--fanout {options.fanout} is of a group, and there is none"
    else:
        return
    raise FalError(errno.EINVAL, f"{what} ({where})")


def file_name(text: str) -> str:
    """Return it as the programs find it, wherever they run."""
    if not text:
        raise argparse.ArgumentTypeError("it names no file")
    return os.path.abspath(text)


def commands(words: Sequence[str], number: int | None) -> list[list[str]]:
    """Return the command line of each copy: with its number for {i}, if copies were asked for."""
    if number is None:
        return [list(words)]
    return [[words[0], *(w.replace("{i}", str(i)) for w in words[1:])] for i in range(number)]


def undo_python() -> None:
    """Take back what Python changed for itself when it began, and a program would inherit."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.environ.pop("LC_CTYPE", None)  # set where the locale is C (PEP 538)
    given = os.fsdecode(Path("/proc/self/environ").read_bytes()).split("\0")
    for word in given:
        if word.startswith("LC_CTYPE="):
            os.environ["LC_CTYPE"] = word.partition("=")[2]


def start(path: str, lines: Sequence[list[str]], cpus: Sequence[int]) -> int:
    """Become the program, or start its copies and return what they come to."""
    undo_python()
    if len(lines) > 1:
        return copies.run(path, lines, cpus)
    if cpus:
        os.sched_setaffinity(0, cpus[:1])
    return os.execve(path, lines[0], os.environ)


def run(options: argparse.Namespace) -> int:
    words = options.command[1:] if options.command[:1] == ["--"] else options.command
    if options.device is not None and not options.check:
        options.usage("--device is for --check")
    if not words and not (options.check and options.device is not None):
        options.usage("which PROGRAM?")
    prepare(options)
    check_group(options)
    if options.device is not None:
        print(pcapconf.table(options.device), flush=True)
    if not words:
        return 0
    try:
        path = reach.found(words[0])
        program = reach.reachable(path)
        if not options.check:
            return start(path, commands(words, options.copies), options.cpus)
        print(f"{program} {reach.means(program)}")
        return 0
    except OSError as e:
        why = e if isinstance(e, FalError) else f"{words[0]}: {e.strerror}"
        print(f"fal: {why}", file=sys.stderr)
        return 1 if options.check else SHELL.get(e.errno or 0, 1)


# ---- the command ---------------------------------------------------------------------------------


def fanout(text: str) -> str:
    try:
        modes.parse(text)
    except FalError as e:
        raise argparse.ArgumentTypeError(str(e)) from None
    return text


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="run a pcap program over FAL",
        usage="%(prog)s [OPTION ...] [--] PROGRAM [ARGUMENT ...]\n"
        "       %(prog)s --check [OPTION ...] [--device DEVICE] [[--] PROGRAM]",
        description="Run a program, unchanged, that captures by libpcap: FAL's takes its place,"
        " which gives it the devices of fal-poller (fal:NAME) and its share of a group.",
        epilog="With sudo: sudo fal run -- PROGRAM. More: fal-run(1), pcap.conf(5).",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--driver", choices=("fal", "tpacket"), help="what serves plain device names (PCAP_DRIVER)")
    group = at_least(0, lib.FAL_MAX_GROUP_ID)
    add("--group", type=group, metavar="G", help="of all devices that have no other (PCAP_GROUP)")
    add("--fanout", type=fanout, metavar="MODE", help="of that group: see fal modes (PCAP_FANOUT)")
    add("--caplen", metavar="N", help="bytes of a packet, at most (PCAP_CAPLEN)")
    add("--config", type=file_name, metavar="FILE", help="pcap.conf(5) (PCAP_CONFIG)")
    add(
        "-n",
        type=at_least(1, COPIES),
        dest="copies",
        metavar="N",
        help="start N copies; {i} in the ARGUMENTs is a copy's number, from 0",
    )
    add("--cpus", type=cpu_list, default=[], metavar="LIST", help="where they run, in turn")
    add("--check", action="store_true", help="start nothing; say whether FAL reaches PROGRAM")
    add("--device", metavar="DEVICE", help="with --check: say what holds for it, and by what")
    add("command", nargs=argparse.REMAINDER, metavar="PROGRAM", help="and its ARGUMENTs")
    parser.set_defaults(run=run, usage=parser.error)
