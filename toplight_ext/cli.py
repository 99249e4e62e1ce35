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

    models = command("models", _models, "List the backbones and what they cost, here and in the paper.")
    _json(models)

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

    evaluate = command("evaluate", _evaluate, "Evaluate weights, or saved features, under one or several protocols.")
    _evaluate_arguments(evaluate)

    report = command("report", _report, "Write one self-contained HTML report of one or several runs.")
    report.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    report.add_argument("--out", type=Path, help="default: report.html, of several runs comparison.html, in the first")
    return parser


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--weights", type=Path, nargs="+", help="as written by `toplight train`; several are trials, as RegDB's ten"
    )
    source.add_argument(
        "--features", type=Path, nargs="+", help=".npz or .safetensors with features, identity, camera, ...; or several"
    )
    parser.add_argument("--dataset", required=True, help="sysu, regdb, llcm, oulu, buaa, csv, folder or synthetic")

    protocol = parser.add_argument_group("protocol")
    protocol.add_argument(
        "--protocol", nargs="+", default=[None], help="direction, as infrared->visible; sysu: all, indoor"
    )
    protocol.add_argument(
        "--shots", type=int, nargs="+", choices=(1, 10), default=[1], help="sysu: gallery images per identity, camera"
    )
    protocol.add_argument("--permutations", type=Path, help="sysu: rand_perm_cam.mat, or agw for AGW's seeds")
    protocol.add_argument(
        "--same-camera-filter", action="store_true", help="csv: a query sees no image of its identity and camera"
    )
    protocol.add_argument(
        "--hide", type=_camera_pair, nargs="+", default=[], metavar="Q:G", help="csv: camera Q sees nothing of camera G"
    )
    protocol.add_argument("--cmc", choices=("images", "identities"), default="images", help="csv: what rank-k counts")
    protocol.add_argument("--metric", choices=("cosine", "euclidean"), default="cosine")
    protocol.add_argument(
        "--rerank", type=_reranking, nargs="?", const="20,6,0.3", metavar="K1,K2,LAMBDA", help="k-reciprocal re-ranking"
    )
    protocol.add_argument("--rank-on", choices=("cpu", "cuda"), default="cpu", help="cuda: for very large galleries")

    extraction = parser.add_argument_group("features from weights")
    extraction.add_argument("--root", type=Path, help="the data set's folder or manifest")
    extraction.add_argument("--split", help="default: the data set's own; of numbered trials the one trained for")
    extraction.add_argument("--any-split", action="store_true", help="evaluate on another trial than that trained for")
    extraction.add_argument("--feature", choices=("after", "before"), default="after", help="which side of the BNNeck")
    extraction.add_argument("--flip", action="store_true", help="average the features of image and mirror image")
    extraction.add_argument("--batch-size", type=int, default=128)
    extraction.add_argument("--device", default="auto", help="cpu, cuda or auto")
    extraction.add_argument("--threads", type=int, default=2, help="of the image pipeline")
    extraction.add_argument("--save-features", type=Path, metavar="FILE")

    output = parser.add_argument_group("output")
    output.add_argument("--format", choices=("table", "csv", "latex"), default="table")
    output.add_argument("--label", default="ours", help="first cell of the LaTeX row")
    _json(parser)


def _camera_pair(text: str) -> tuple[int, int]:
    try:
        query, gallery = map(int, text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected two camera numbers, as 3:2") from None
    return query, gallery


def _reranking(text: str):
    from .evaluation import Reranking

    try:
        k1, k2, lambda_ = text.split(",")
        return Reranking(int(k1), int(k2), float(lambda_))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected K1,K2,LAMBDA, as 20,6,0.3 ({error})") from None


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")


def _print_json(value: dict[str, Any] | list[dict[str, Any]]) -> None:
    print(json.dumps(value))


def _doctor(options) -> int:
    from .doctor import diagnosis, diagnosis_text

    found = diagnosis()
    _print_json(found) if options.json else print(diagnosis_text(found))
    return 0


def _models(options) -> int:
    from .models import table
    from .report.text import aligned

    rows = table.model_rows()
    if options.json:
        _print_json([row._asdict() for row in rows])
    else:
        print(aligned(table.HEAD, [table.cells(row) for row in rows]))
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

    protocols = [
        evaluation.parse_protocol(
            options.dataset,
            named,
            shots,
            options.permutations,
            same_camera_filter=options.same_camera_filter,
            camera_pairs=options.hide,
            cmc=options.cmc,
        )
        for named in options.protocol
        for shots in options.shots
    ]
    features = _saved_features(options) if options.features else _extract(options)
    results = [
        evaluation.evaluate(
            features,
            protocol,
            options.metric,
            reranking=options.rerank,
            device=None if options.rank_on == "cpu" else options.rank_on,
            any_split=options.any_split,
        )
        for protocol in protocols
    ]
    if options.json:
        records = [result.to_json() for result in results]
        _print_json(records[0] if len(records) == 1 else {"results": records})
    elif options.format == "csv":
        print(evaluation.to_csv(results))
    elif options.format == "latex":
        print(evaluation.to_latex(results, options.label))
    else:
        print("\n\n".join(map(evaluation.table, results)))
    return 0


def _saved_features(options):
    from . import evaluation

    if options.flip or options.feature != "after" or options.save_features:
        raise InputError("--flip, --feature and --save-features are for --weights: saved features are what they are")
    return [evaluation.load_features(path) for path in options.features]


def _extract(options):
    """The features of each weights file, all of them checked before the first image is read."""
    from . import data, evaluation, inference, models

    if options.root is None:
        raise InputError("--weights needs --root: the folder or manifest of the data set to evaluate on")
    if options.save_features and len(options.weights) > 1:
        raise InputError("--save-features takes the features of one --weights file: save them one by one")
    feature = inference.AFTER_NECK if options.feature == "after" else inference.BEFORE_NECK
    device = inference.pick_device(options.device)
    loaded = [models.load_weights(path) for path in options.weights]
    origins = [
        inference.origin_of(metadata, options.dataset, options.split, feature, options.flip) for _, metadata in loaded
    ]
    evaluation.check_splits(origins, options.any_split)
    found = []
    for (model, metadata), origin in zip(loaded, origins, strict=True):
        samples = data.load_dataset(options.dataset, options.root, origin.images.name)
        size, batch_size, threads = metadata["size"], options.batch_size, options.threads
        found.append(inference.extract_features(model, samples, size, batch_size, device, threads, origin))
    if options.save_features:
        evaluation.save_features(options.save_features, found[0])
    return found


def _report(options) -> int:
    from . import report

    print(report.write_report(options.runs, options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
