"""The words that name a fan-out, as the native table has them, and `fal modes`, which prints it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from fal.bindings import ffi, lib
from fal.errors import c_string, checked


class Fanout(NamedTuple):
    """A mode, its flags and what it hashes; str() is the one way to write it."""

    mode: int
    flags: int
    hash: int

    def __str__(self) -> str:
        text = ffi.new("char[]", lib.FAL_NAME_SIZE)
        lib.fal_fanout_text(ffi.new("struct fal_fanout *", self), text)
        return str(ffi.string(text).decode())


def fanout_of(native: Any) -> Fanout:
    """Take over a `struct fal_fanout`."""
    return Fanout(native.mode, native.flags, native.hash)


def parse(text: str) -> Fanout:
    """Return what a user's words mean.  FalError: no such words (EINVAL), or not supported."""
    out, err = ffi.new("struct fal_fanout *"), ffi.new("struct fal_error *")
    checked(lib.fal_fanout_parse(c_string(text), out, err), err)
    return fanout_of(out)


def words(entry: Callable[[int], Any]) -> Iterator[tuple[str, Any, str]]:
    i = 0
    while word := entry(i):
        yield ffi.string(word.word).decode(), word.fanout, ffi.string(word.about).decode()
        i += 1


def table() -> str:
    """Return what `fal modes` prints."""
    rows = [("MODE", "NUMBER", "THE SAME AS", "A PACKET GOES TO")]
    for word, native, about in words(lib.fal_mode_word):
        if native.mode == lib.FAL_NOT_SUPPORTED:
            rows.append((word, "-", "", f"not supported: {about}"))
        else:
            fanout = fanout_of(native)
            rows.append((word, str(fanout.mode), "" if str(fanout) == word else str(fanout), about))
    lines = [f"{w:<22}  {number:<6}  {same:<22}  {about}" for w, number, same, about in rows]
    lines += ["", f"{'FLAG':<22}  WHAT IT DOES: write hash+rollover or hash|rollover"]
    lines += [f"{'+' + word:<22}  {about}" for word, _, about in words(lib.fal_flag_word)]
    return "\n".join(lines)


def run(_: argparse.Namespace) -> int:
    print(table())
    return 0


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "modes",
        help="list the fan-out modes and flags",
        description="List the words for a fan-out: its mode, and flags behind it, in any case.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
