"""The command `toplight`. Exit codes: 0 done, 1 failed, 2 wrong use; `--json` prints one object on the last line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import InputError, MissingExtra


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except InputError as error:
        print(f"toplight: {error}", file=sys.stderr)
        return 2
    except MissingExtra as error:
        print(f"toplight {options.command}: {error}", file=sys.stderr)
        return 1
    except (RuntimeError, OSError) as error:
        print(f"toplight {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("toplight: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="toplight", description="Visible-infrared recognition with lightweight networks."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(run=run)
        return sub

    doctor = command("doctor", _doctor, "Say what is installed, which backend serves each op, and what is missing.")
    _json(doctor)

    demo = command("demo", _demo, "Run all four stages on a drawn visible-infrared set and report what each brought.")
    demo.add_argument("--out", type=Path, default=Path("toplight-demo"), help="new or empty folder")
    demo.add_argument("--seed", type=int, default=0)
    _json(demo)

    data = command("data", _data_check, "Look after data sets.")
    check = data.add_subparsers(dest="action", required=True, metavar="ACTION").add_parser(
        "check", help="count, decode and cross-check the images of a data set; modifies nothing"
    )
    check.add_argument("name", metavar="NAME", help="csv, folder or synthetic")
    check.add_argument("root", metavar="ROOT", type=Path)
    check.add_argument("--split")
    check.add_argument("--decode", action="store_true", help="decode every image fully, not its header alone")
    _json(check)

    train = command("train", _train, "Train what a recipe describes.")
    train.add_argument("recipe", metavar="RECIPE", help="a TOML file, or the name of an installed recipe")
    train.add_argument("--out", type=Path, help="folder of the run, new or empty (default: runs/NAME)")
    train.add_argument(
        "--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[], help="change one key"
    )
    _json(train)

    resume = command("resume", _resume, "Continue a run that was stopped.")
    resume.add_argument("folder", metavar="DIR", type=Path)
    _json(resume)

    soup = command("soup", _soup, "Average weights uniformly, and the two paths of TOP weights with them.")
    soup.add_argument("weights", metavar="WEIGHTS", nargs="+", type=Path, help="as written by `toplight train`")
    soup.add_argument("--out", type=Path, required=True)

    evaluate = command("evaluate", _evaluate, "Evaluate weights, or saved features, under a protocol.")
    source = evaluate.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", type=Path, help="as written by `toplight train`")
    source.add_argument("--features", type=Path, help=".npz or .safetensors with features, identity, camera, ...")
    evaluate.add_argument("--dataset", required=True, help="csv, folder, synthetic or sysu")
    evaluate.add_argument("--root", type=Path, help="the data set's folder or manifest (with --weights)")
    evaluate.add_argument("--split")
    evaluate.add_argument("--protocol", help="infrared->visible, visible->infrared; for sysu all or indoor")
    evaluate.add_argument("--shots", type=int, choices=(1, 10), default=1, help="gallery images per identity, camera")
    evaluate.add_argument("--permutations", type=Path, help="rand_perm_cam.mat of SYSU-MM01")
    evaluate.add_argument("--metric", choices=("cosine", "euclidean"), default="cosine")
    evaluate.add_argument("--batch-size", type=int, default=128)
    evaluate.add_argument("--device", default="auto", help="cpu, cuda or auto")
    evaluate.add_argument("--threads", type=int, default=2, help="of the image pipeline")
    evaluate.add_argument("--save-features", type=Path, metavar="FILE")
    _json(evaluate)

    report = command("report", _report, "Write one self-contained HTML report of one or several runs.")
    report.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    report.add_argument("--out", type=Path, help="default: report.html, of several runs comparison.html, in the first")
    return parser


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value))


def _doctor(options) -> int:
    from .doctor import diagnosis, diagnosis_text

    found = diagnosis()
    _print_json(found) if options.json else print(diagnosis_text(found))
    return 0


def _demo(options) -> int:
    from .demo import run_demo

    outcome = run_demo(options.out, options.seed)
    if options.json:
        _print_json(outcome)
    return 0


def _data_check(options) -> int:
    from . import data

    report = data.check_dataset(options.name, options.root, split=options.split, decode=options.decode)
    _print_json(report.to_json()) if options.json else print(report.table())
    return 0 if report.ok else 1


def _train(options) -> int:
    from . import training

    recipe = training.load_recipe(options.recipe, options.overrides)
    return _finish_run(training.start(recipe, options.out or Path("runs") / recipe.name), options.json)


def _resume(options) -> int:
    from . import training

    return _finish_run(training.resume(options.folder), options.json)


def _finish_run(run, as_json: bool) -> int:
    from . import report

    page = report.write_report([run.folder])
    if as_json:
        _print_json({**run.results[-1], "run": str(run.folder), "report": str(page)})
    else:
        print(report.text_table(run.results))
        print(f"report: {page}")
    return 0


def _soup(options) -> int:
    from . import models

    model, metadata = models.soup_weights(options.weights)
    models.save_weights(options.out, model, **metadata)
    print(f"{options.out}: soup of {len(options.weights)} file(s); BatchNorm statistics are averaged, not re-estimated")
    return 0


def _evaluate(options) -> int:
    from . import evaluation

    protocol = evaluation.parse_protocol(options.dataset, options.protocol, options.shots, options.permutations)
    features = evaluation.load_features(options.features) if options.features else _extract(options)
    if options.save_features:
        evaluation.save_features(options.save_features, features)
    result = evaluation.evaluate(features, protocol, metric=options.metric)
    _print_json(result.to_json()) if options.json else print(result.table())
    return 0


def _extract(options):
    from . import data, inference, models

    if options.root is None:
        raise InputError("--weights needs --root: the folder or manifest of the data set to evaluate on")
    model, metadata = models.load_weights(options.weights)
    samples = data.load_dataset(options.dataset, options.root, options.split)
    return inference.extract_features(
        model,
        samples,
        size=metadata["size"],
        batch_size=options.batch_size,
        device=inference.pick_device(options.device),
        threads=options.threads,
    )


def _report(options) -> int:
    from . import report

    print(report.write_report(options.runs, options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
