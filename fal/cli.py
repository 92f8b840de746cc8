"""The `fal` command."""

from __future__ import annotations

import argparse
import io
import signal
import sys
from collections.abc import Sequence

import fal
from fal import captop, gen, modes, run, stat


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="fal", description="The Fan-out Abstraction Layer.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"fal {fal.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    stat.add_command(commands)
    modes.add_command(commands)
    captop.add_command(commands)
    gen.add_command(commands)
    run.add_command(commands)
    options = parser.parse_args(argv)
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
