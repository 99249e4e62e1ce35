"""`toplight evaluate`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from ..errors import InputError
from .options import AddCommand, add_json, print_json


def add_commands(command: AddCommand) -> None:
    evaluate = command("evaluate", _evaluate, "Evaluate weights, or saved features, under one or several protocols.")
    _add_arguments(evaluate)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
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
    add_json(parser)


def _camera_pair(text: str) -> tuple[int, int]:
    try:
        query, gallery = map(int, text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected two camera numbers, as 3:2") from None
    return query, gallery


def _reranking(text: str):
    from ..evaluation import Reranking

    try:
        k1, k2, lambda_ = text.split(",")
        return Reranking(int(k1), int(k2), float(lambda_))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected K1,K2,LAMBDA, as 20,6,0.3 ({error})") from None


def _evaluate(options) -> int:
    from .. import evaluation

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
        print_json(records[0] if len(records) == 1 else {"results": records})
    elif options.format == "csv":
        print(evaluation.to_csv(results))
    elif options.format == "latex":
        print(evaluation.to_latex(results, options.label))
    else:
        print("\n\n".join(map(evaluation.table, results)))
    return 0


def _saved_features(options):
    from .. import evaluation

    if options.flip or options.feature != "after" or options.save_features:
        raise InputError("--flip, --feature and --save-features are for --weights: saved features are what they are")
    return [evaluation.load_features(path) for path in options.features]


def _extract(options):
    """The features of each weights file, all of them checked before the first image is read."""
    from .. import data, evaluation, inference, models

    if options.root is None:
        raise InputError("--weights needs --root: the folder or manifest of the data set to evaluate on")
    if options.save_features and len(options.weights) > 1:
        raise InputError("--save-features takes the features of one --weights file: save them one by one")
    if options.save_features:
        evaluation.check_ending(options.save_features)
    feature = inference.AFTER_NECK if options.feature == "after" else inference.BEFORE_NECK
    device = inference.pick_device(options.device)
    loaded = [models.load_weights(path) for path in options.weights]
    origins = [
        inference.origin_of(metadata, options.dataset, options.split, feature, options.flip) for _, metadata in loaded
    ]
    evaluation.check_splits(origins, options.any_split)
    found = []
    for path, (model, metadata), known in zip(options.weights, loaded, origins, strict=True):
        origin = dataclasses.replace(known, network=evaluation.network_of(path))
        samples = data.load_dataset(options.dataset, options.root, origin.images.name)
        fed, batch_size, threads = inference.Preprocessing.of(metadata, path), options.batch_size, options.threads
        found.append(inference.extract_features(model, samples, fed, batch_size, device, threads, origin))
    if options.save_features:
        evaluation.save_features(options.save_features, found[0])
    return found
