"""The command `toplight`. Exit codes: 0 done, 1 failed, 2 wrong use; `--json` prints one object on the last line.

A file here says what a group of commands takes and prints, and imports what does the work when it runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import InputError, MissingExtra
from ..text import seen
from . import about, data, deploy, evaluation, training


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except InputError as error:
        print(f"toplight: {_shown(error)}", file=sys.stderr)
        return 2
    except MissingExtra as error:
        print(f"toplight {options.command}: {error}", file=sys.stderr)
        return 1
    except (RuntimeError, OSError) as error:
        print(f"toplight {options.command}: {_shown(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("toplight: interrupted", file=sys.stderr)
        return 130


def _shown(error: Exception) -> str:
    return seen(str(error), kept="\n")  # it may repeat names of strangers, which a terminal might obey


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="toplight", description="Visible-infrared recognition with lightweight networks."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(run=run)
        return sub

    for group in (about, data, training, evaluation, deploy):
        group.add_commands(command)
    return parser
