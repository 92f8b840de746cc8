"""The `fal` command."""

from __future__ import annotations

import argparse
import importlib
import io
import signal
import sys
from collections.abc import Sequence

import fal
from fal.arguments import Version

COMMANDS = ("stat", "modes", "captop", "gen", "run")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="fal", description="The Fan-out Abstraction Layer.", allow_abbrev=False
    )
    parser.add_argument("--version", action=Version, nargs=0, help="show the version and end")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    words = sys.argv[1:] if argv is None else argv
    # Of a command that is named no other is loaded: numpy takes longer than all else.
    for name in [word for word in words[:1] if word in COMMANDS] or COMMANDS:
        importlib.import_module(f"fal.{name}").add_command(commands)
    options = parser.parse_args(words)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # paths are as they are
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `fal stat | head` ends without a word
    try:
        return int(options.run(options))
    except fal.FalError as e:
        print(f"fal: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
