"""`toplight doctor`, `models` and `demo`."""

from __future__ import annotations

from pathlib import Path

from .options import AddCommand, add_json, print_json


def add_commands(command: AddCommand) -> None:
    doctor = command("doctor", _doctor, "Say what is installed, which backend serves each op, and what is missing.")
    add_json(doctor)

    models = command("models", _models, "List the backbones and what they cost, here and in the paper.")
    add_json(models)

    demo = command("demo", _demo, "Run all four stages on a drawn visible-infrared set and report what each brought.")
    demo.add_argument("--out", type=Path, default=Path("toplight-demo"), help="new or empty folder")
    demo.add_argument("--seed", type=int, default=0)
    add_json(demo)


def _doctor(options) -> int:
    from ..doctor import diagnosis, diagnosis_text

    found = diagnosis()
    print_json(found) if options.json else print(diagnosis_text(found))
    return 0


def _models(options) -> int:
    from ..models import table
    from ..report.text import aligned

    rows = table.model_rows()
    if options.json:
        print_json([row._asdict() for row in rows])
    else:
        print(aligned(table.HEAD, [table.cells(row) for row in rows]))
    return 0


def _demo(options) -> int:
    from ..demo import run_demo

    outcome = run_demo(options.out, options.seed)
    if options.json:
        print_json(outcome)
    return 0
