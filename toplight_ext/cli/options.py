"""What the commands share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

# Makes the parser of one command: (name, what runs it, one sentence) -> parser.
AddCommand = Callable[[str, Callable[[argparse.Namespace], int | None], str], argparse.ArgumentParser]


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """The arguments of `training.load_recipe`."""
    parser.add_argument("recipe", metavar="RECIPE", help="a TOML file, or the name of an installed recipe")
    add_changes(parser)


def add_changes(parser: argparse.ArgumentParser) -> None:
    """What may be changed in a recipe."""
    parser.add_argument("--base", metavar="RECIPE", help="in place of the installed recipe that it is based on")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one key, as vi.epochs=5; again for others",
    )


def print_json(value: dict[str, Any] | list[dict[str, Any]]) -> None:
    print(json.dumps(value))
