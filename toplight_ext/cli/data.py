"""`toplight data`."""

from __future__ import annotations

from pathlib import Path

from .options import AddCommand, add_json, print_json


def add_commands(command: AddCommand) -> None:
    data = command("data", _check, "Look after data sets.")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")

    check = actions.add_parser("check", help="count and cross-check the images of a data set; modifies nothing")
    check.add_argument("name", metavar="NAME", help="csv, folder or synthetic")
    check.add_argument("root", metavar="ROOT", type=Path)
    check.add_argument("--split")
    check.add_argument("--decode", action="store_true", help="decode every image fully, not its header alone")
    check.set_defaults(run=_check)
    add_json(check)


def _check(options) -> int:
    from .. import data

    report = data.check_dataset(options.name, options.root, split=options.split, decode=options.decode)
    print_json(report.to_json()) if options.json else print(report.table())
    return 0 if report.ok else 1
