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


def print_json(value: dict[str, Any] | list[dict[str, Any]]) -> None:
    print(json.dumps(value))
