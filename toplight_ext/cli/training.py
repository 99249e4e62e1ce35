"""`toplight train`, `resume`, `ablate`, `soup` and `report`."""

from __future__ import annotations

from pathlib import Path

from .options import AddCommand, add_changes, add_json, add_recipe, print_json


def add_commands(command: AddCommand) -> None:
    train = command("train", _train, "Train what a recipe describes.")
    add_recipe(train)
    train.add_argument("--out", type=Path, help="folder of the run, new or empty (default: runs/NAME)")
    add_json(train)

    resume = command("resume", _resume, "Continue a run that was stopped.")
    resume.add_argument("folder", metavar="DIR", type=Path, help="of the run")
    add_json(resume)

    ablate = command("ablate", _ablate, "Train the rows of a table with several seeds; what is there already is kept.")
    ablate.add_argument("table", metavar="TABLE", help="as table3, or a folder of recipes")
    ablate.add_argument("--out", type=Path, help="holds a run per row and seed (default: runs/TABLE)")
    ablate.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1")
    add_changes(ablate)
    add_json(ablate)

    soup = command("soup", _soup, "Average weights uniformly, and the two paths of TOP weights with them.")
    soup.add_argument("weights", metavar="WEIGHTS", nargs="+", type=Path, help="as written by `toplight train`")
    soup.add_argument("--out", type=Path, required=True, help="weights file to write")

    report = command("report", _report, "Write one self-contained HTML report of one or several runs.")
    report.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of a run; several are compared")
    report.add_argument("--out", type=Path, help="default: report.html, of several runs comparison.html, in the first")


def _train(options) -> int:
    from .. import training

    recipe = training.load_recipe(options.recipe, options.overrides, options.base)
    return _finish_run(training.start(recipe, options.out or Path("runs") / recipe.name), options.json)


def _resume(options) -> int:
    from .. import training

    return _finish_run(training.resume(options.folder), options.json)


def _ablate(options) -> int:
    from .. import training
    from ..training.processes import is_first

    out = options.out or Path("runs") / Path(options.table).name
    rows = training.ablate(options.table, out, options.base, options.overrides, options.seeds)
    if is_first() and options.json:
        print_json({"table": str(out / "table.md"), "rows": [row._asdict() for row in rows]})
    elif is_first():
        print(training.ablation_table(rows))
    return int(any(row.failures for row in rows))


def _finish_run(run, as_json: bool) -> int:
    from .. import report
    from ..training.stopping import stop_on_signal

    if not run.writes:
        return 0  # of several processes the first one reports
    with stop_on_signal() as stop:
        stop.message = f"stopped while the report was written: toplight report {run.folder} writes it"
        page = report.write_report([run.folder])
    if as_json:
        print_json({**run.results[-1], "run": str(run.folder), "report": str(page)})
    else:
        print(report.text_table(run.results))
        print(f"report: {page}")
    return 0


def _soup(options) -> int:
    from .. import models

    model, metadata = models.soup_weights(options.weights)
    models.save_weights(options.out, model, **metadata)
    print(f"{options.out}: soup of {len(options.weights)} file(s); BatchNorm statistics are averaged, not re-estimated")
    return 0


def _report(options) -> int:
    from .. import report

    print(report.write_report(options.runs, options.out))
    return 0
