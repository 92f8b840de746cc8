"""What the commands' options take: each parses a text, or says in one line why it cannot."""

from __future__ import annotations

import argparse
import os
from typing import Any

import fal
from fal import traffic
from fal.bindings import lib
from fal.errors import FalError


class Version(argparse.Action):
    """--version, which is found out only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"{parser.prog} {fal.__version__}")
        parser.exit()


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


def cpu_list(text: str) -> list[int]:
    cpus, ours = number_list(text), os.sched_getaffinity(0)
    if others := set(cpus) - ours:
        raise argparse.ArgumentTypeError(
            f"CPU {min(others)} is not there or not ours (there are:"
            f" {','.join(map(str, sorted(ours)))})"
        )
    return cpus


def at_least(lowest: int, highest: int) -> Any:
    def parse(text: str) -> int:
        if not text.isdecimal() or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number from {lowest} to {highest}")
        return int(text)

    return parse


def sizes(longest: int) -> Any:
    def parse(text: str) -> tuple[int, int]:
        try:
            return traffic.size_range(text, longest)
        except FalError as e:
            raise argparse.ArgumentTypeError(str(e)) from None

    return parse
