"""`toplight export`, `benchmark`, `embed` and `match`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import InputError
from ..text import plain
from .options import AddCommand, add_json, print_json

_FEATURES = (".npz", ".safetensors")
_MOST_DRAWN = 10
_MODALITY = "of images without a manifest; of a manifest those that are meant"


def add_commands(command: AddCommand) -> None:
    _add_export(command("export", _export, "Write a network for other runtimes, and how far it is from PyTorch's."))
    _add_benchmark(command("benchmark", _benchmark, "Time exported networks against each other, interleaved."))
    _add_embed(command("embed", _embed, "Write the features of images, or a gallery index of them."))
    _add_match(command("match", _match, "Find the images of a gallery that are nearest to each query."))


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, required=True, help="as written by `toplight train`")
    parser.add_argument("--to", type=_names, default=["onnx"], help="onnx, openvino, executorch, joined by commas")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--stem",
        type=_names,
        default=["visible", "infrared"],
        help="networks of one stem: visible,infrared (default); or both: one graph with both stems",
    )
    parser.add_argument("--batch", type=_batch, default=None, metavar="dynamic|N", help="default: dynamic")
    parser.add_argument("--opset", type=int, default=18)
    parser.add_argument("--int8", action="store_true", help="also statically quantised, with --calibration")
    parser.add_argument("--calibration", type=Path, metavar="FOLDER", help="images or manifest that set the ranges")
    parser.add_argument("--licence", help="of the data it was trained on, for the model card")
    evaluated = parser.add_argument_group("what rank-1 and mAP change by")
    evaluated.add_argument("--dataset", help="as for `toplight evaluate`")
    evaluated.add_argument("--root", type=Path)
    evaluated.add_argument("--split")
    evaluated.add_argument("--protocol", help="direction, as infrared->visible; sysu: all, indoor")
    evaluated.add_argument("--permutations", type=Path, help="sysu: rand_perm_cam.mat, or agw for AGW's seeds")
    add_json(parser)


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        type=Path,
        help="exported, a folder of them, or .safetensors for PyTorch; the first is 1.00",
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there too")
    add_json(parser)


def _add_embed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", type=Path, help="folder of images, one image, or CSV manifest")
    _add_network(parser, required=True)
    parser.add_argument("--out", type=Path, required=True, help=".npz, .safetensors, or .index for a gallery index")
    parser.add_argument("--modality", choices=("visible", "infrared"), help=_MODALITY)
    add_json(parser)


def _add_match(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", metavar="QUERY", type=Path, help="features, or with --weights images")
    parser.add_argument("gallery", metavar="GALLERY", type=Path, help="gallery index, features, or images")
    _add_network(parser, required=False)
    parser.add_argument("--query-modality", choices=("visible", "infrared"), help=_MODALITY)
    parser.add_argument("--gallery-modality", choices=("visible", "infrared"), help=_MODALITY)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument(
        "--picture", type=Path, metavar="PNG", help=f"draw the lists of the first {_MOST_DRAWN} queries"
    )
    parser.add_argument(
        "--approximate", type=int, nargs="?", const=32, metavar="PROBES", help="by FAISS, with its recall"
    )
    add_json(parser)


def _add_network(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument(
        "--weights",
        type=Path,
        nargs="+",
        required=required,
        help="weights, or exported: one file for each modality, or a folder of them",
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto", help="of weights: cpu, cuda or auto")


def _names(text: str) -> list[str]:
    return text.split(",")


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number, or dynamic")
    return int(text)


def _export(options) -> int:
    from .. import deploy, models
    from ..files import write_text

    calibration = _calibration(options)
    evaluated = _evaluation_set(options)
    deploy.export(options.weights, options.out, options.to, options.stem, options.batch, options.opset, calibration)
    # Also of those exported into the folder before: the card and parity.json are of all of it.
    files = deploy.exported_files(options.out)
    model, metadata = models.load_weights(options.weights)
    if evaluated is None:
        rows, results = deploy.parity_on_noise(model, files), _recorded_results(options.weights, metadata)
    else:
        rows, result = deploy.parity_on_images(model, files, *evaluated)
        results = [result.to_json()]
    found = {"files": [str(file) for file in files], "parity": [row.to_json() for row in rows]}
    write_text(options.out / "parity.json", json.dumps(found, indent=1))
    deploy.write_model_card(
        options.out, options.weights.stem, model.arguments, metadata, results, options.licence, rows
    )
    print_json(found) if options.json else _print_parity(rows, options.out)
    return 0


def _print_parity(rows, folder: Path) -> None:
    from ..deploy.parity import HEAD
    from ..report.text import aligned

    print(aligned(HEAD, [row.cells() for row in rows]))
    print(f"{folder}: the networks, metadata.json, parity.json, MODEL_CARD.md")


def _calibration(options):
    from .. import deploy
    from ..data import Modality

    if options.int8 != (options.calibration is not None):
        raise InputError("--int8 and --calibration go together: the images say what ranges 8 bits must cover")
    if not options.int8:
        return None
    single = options.stem[0] if len(options.stem) == 1 and options.stem[0] != "both" else None
    return deploy.find_samples(options.calibration, Modality(single) if single else None, "a single --stem")


def _evaluation_set(options):
    from .. import data, evaluation, inference, models

    if (options.dataset is None) != (options.root is None):
        raise InputError("--dataset and --root go together")
    if options.dataset is None:
        return None
    protocol = evaluation.parse_protocol(options.dataset, options.protocol, permutations=options.permutations)
    metadata = models.read_weights(options.weights).metadata
    origin = inference.origin_of(metadata, options.dataset, options.split)
    return data.load_dataset(options.dataset, options.root, origin.images.name), protocol, origin


def _recorded_results(weights: Path, metadata) -> list:
    """What the run that the weights lie in measured for their stage."""
    from ..files import read_json

    file = weights.parent / "evaluation.json"
    if not file.is_file():
        return []
    try:
        return [result for result in read_json(file)["results"] if result["name"] == metadata.get("stage")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not the results of a run ({plain(repr(error))}); mend or remove it") from error


def _benchmark(options) -> int:
    from ..deploy.latency import HEAD, benchmark, to_csv
    from ..deploy.runtimes import exported_files
    from ..files import write_text
    from ..report.text import aligned
    from ..training import environment

    files = [file for path in options.files for file in exported_files(path)]
    rows = benchmark(files, options.threads, options.batch, options.repeats)
    # The columns say how many threads; those of the environment are torch's own.
    hardware = {name: value for name, value in environment().items() if name != "threads"}
    if options.csv:
        write_text(options.csv, to_csv(rows, hardware))
    if options.json:
        print_json({"hardware": hardware, "rows": [row._asdict() for row in rows]})
    else:
        print("\n".join(f"{name}: {value}" for name, value in hardware.items()))
        print(aligned(HEAD, [row.cells() for row in rows]))
    return 0


def _embed(options) -> int:
    from .. import deploy, evaluation
    from ..deploy.gallery import ENDING

    evaluation.check_ending(options.out, also=(ENDING,))
    features = _features_of(options, options.source, "modality")
    deploy.save(options.out, features)
    count, dimensions = features.features.shape
    if options.json:
        print_json({"out": str(options.out), "images": count, "dimensions": dimensions})
    else:
        print(f"{options.out}: {count} features of {dimensions} numbers")
    return 0


def _features_of(options, source: Path, argument: str):
    """Features of images, whose modality this argument says."""
    from .. import deploy, inference
    from ..data import Modality

    modality = getattr(options, argument)
    flag = f"--{argument.replace('_', '-')}"
    samples = deploy.find_samples(source, Modality(modality) if modality else None, flag)
    device = inference.pick_device(options.device) if options.weights[0].suffix == ".safetensors" else "cpu"
    return deploy.embed(options.weights, samples, options.batch_size, options.threads, device)


def _match(options) -> int:
    from .. import deploy
    from ..deploy.gallery import ENDING

    deploy.check_request(options.top, options.approximate)
    index = deploy.GalleryIndex(options.gallery) if options.gallery.suffix == ENDING else None
    queries = _features_or_images(options, options.query, "query_modality")
    gallery = index or deploy.FeatureGallery(_features_or_images(options, options.gallery, "gallery_modality"))
    deploy.check_network(queries, gallery)
    matches = exact = deploy.search(queries.features, gallery, options.top)
    if options.approximate is not None:
        lists = deploy.ApproximateGallery(gallery, probes=options.approximate)
        matches = lists.search(queries.features, options.top)
    found = _lists(queries, gallery, matches)
    if options.approximate is not None:
        found["recall"] = deploy.recall(matches, exact)
    if options.picture:
        from ..report.pictures import draw_lists
        from ..report.run import read_queries

        draw_lists(read_queries(found, [])[:_MOST_DRAWN], options.picture)
    print_json(found) if options.json else _print_lists(found)
    return 0


def _features_or_images(options, source: Path, argument: str):
    from .. import evaluation

    if source.suffix in _FEATURES:
        return evaluation.load_features(source)
    if not options.weights:
        raise InputError(f"{source}: images need --weights, which make features of them")
    return _features_of(options, source, argument)


def _lists(queries, gallery, matches) -> dict:
    """Ranked lists in the form of a run's ranked.json; shorter where the approximate search found fewer."""
    from ..deploy.matching import entry_of

    lists = []
    for number, (rows, distances) in enumerate(zip(matches.rows, matches.distances, strict=True)):
        query = entry_of(queries, number)
        found = [(gallery.entry(int(row)), float(far)) for row, far in zip(rows, distances, strict=True) if row >= 0]
        nearest = [
            {**entry._asdict(), "distance": far, "correct": _same(query.identity, entry.identity)}
            for entry, far in found
        ]
        lists.append({**query._asdict(), "gallery": nearest})
    return {"queries": lists}


def _same(query: str, other: str) -> bool | None:
    return query == other if query and other else None


def _print_lists(found: dict) -> None:
    from ..report.text import aligned

    judged = {True: "right", False: "wrong", None: ""}
    for query in found["queries"]:
        print(f"{plain(query['path'], 200)}  {plain(query['identity'])}".rstrip())
        rows = [
            [
                str(rank),
                f"{each['distance']:.4f}",
                plain(each["identity"]),
                judged[each["correct"]],
                plain(each["path"], 200),
            ]
            for rank, each in enumerate(query["gallery"], start=1)
        ]
        print(aligned(("rank", "distance", "identity", "", "path"), rows), end="\n\n")
    if "recall" in found:
        print(f"FAISS found {100 * found['recall']:.2f} % of the exact lists")
