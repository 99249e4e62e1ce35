"""Every parser of ours of bytes from outside, as a target for fuzzing: bytes in, and nothing out but an InputError.

`python -m python_tests.soak fuzz` feeds them with what coverage suggests, python_tests/test_fuzzing.py with the small
corpus beside this file, `corpus/NAME/`: some of what coverage kept, and every input that showed a defect.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.numpy
import torch
import trees

from toplight_ext import inference
from toplight_ext.cli.deploy import _recorded_results
from toplight_ext.data import list_dataset
from toplight_ext.data.examination import examine, find_plain
from toplight_ext.data.header import inspect
from toplight_ext.data.pipeline import undecodable
from toplight_ext.deploy import GalleryIndex, search, write_index
from toplight_ext.deploy.card import model_card
from toplight_ext.deploy.contract import Contract
from toplight_ext.deploy.runtimes import METADATA, exported_files
from toplight_ext.errors import InputError
from toplight_ext.evaluation import Features, load_features, save_features
from toplight_ext.evaluation.sysu import load_permutations
from toplight_ext.inference import Preprocessing
from toplight_ext.models import load_weights, read_weights
from toplight_ext.models.tensor_files import read_checkpoint
from toplight_ext.report.run import FILES, read_run
from toplight_ext.training import load_recipe
from toplight_ext.training.checkpoint import _MARK, Checkpoints, _checksum, load_checkpoint
from toplight_ext.training.run import Run

CORPUS = Path(__file__).with_name("corpus")
_LONGEST_MESSAGE = 2000  # characters
_RECIPES = Path(__file__).parents[2] / "recipes"


class Target(NamedTuple):
    """A parser.

    read: raises InputError for bytes that it refuses; anything else that it raises is a defect.
    seeds: valid files, from which fuzzing sets out.
    """

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]


def attempt(name: str, data: bytes) -> bool:
    """Whether a parser took the bytes; what it raises but InputError goes through."""
    try:
        TARGETS[name].read(data)
    except InputError as error:
        assert len(str(error)) < _LONGEST_MESSAGE, f"a message of {len(str(error))} characters"
        return False
    return True


def corpus(name: str) -> list[Path]:
    """The kept inputs of a target."""
    return sorted((CORPUS / name).iterdir()) if (CORPUS / name).is_dir() else []


def _any(*reads: Callable[[], object]) -> None:
    """Do all of them; the last InputError if all of them refuse."""
    refused = []
    for read in reads:
        try:
            read()
        except InputError as error:
            refused.append(error)
    if len(refused) == len(reads):
        raise refused[-1]


@functools.cache
def _room(name: str) -> Path:
    """A folder of this process."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzzing-{name}-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _file(room: str, name: str, data: bytes) -> Path:
    path = _room(room) / name
    path.write_bytes(data)
    return path


# Lists.


@functools.cache
def _data_set(name: str) -> Path:
    """A small data set, with links that lead out of it."""
    root = _room(name) / "root"
    {"csv": trees.faces, "sysu": trees.small_sysu, "regdb": trees.regdb, "llcm": trees.llcm}[name](root)
    (root.parent / "secret.jpg").write_bytes(trees.noise(0))
    (root / "out").symlink_to(root.parent)
    (root / "link.jpg").symlink_to(root.parent / "secret.jpg")
    (root / "loop.jpg").symlink_to("loop.jpg")
    return root


def _list(name: str, split: str | None, file: str) -> Target:
    def read(data: bytes) -> None:
        root = _data_set(name)
        (root / file).write_bytes(data)
        trees.check_listing(root, list_dataset(name, root, split))

    return Target(read, lambda: [(_data_set(name) / file).read_bytes()])


def _manifest(data: bytes) -> None:
    """Both kinds of CSV lists."""
    root = _data_set("csv")
    for file in ("manifest.csv", "drawn.csv"):
        (root / file).write_bytes(data)
    _any(
        lambda: trees.check_listing(root, list_dataset("csv", root)),
        lambda: trees.check_listing(root, list_dataset("oulu", root, "drawn")),
    )


def _manifests() -> list[bytes]:
    faces = (_data_set("csv") / "test.csv").read_text()
    rows = faces.replace("label", "identity").splitlines()
    manifest = "\n".join(row + (",camera", ",3")[number > 0] for number, row in enumerate(rows))
    return [faces.encode(), manifest.encode(), b"\xef\xbb\xbf" + manifest.replace("VL", '"VL').encode()]


# Images.


def _image(data: bytes) -> None:
    try:
        header = inspect(data)
    except ValueError as error:  # as it documents; `read_image` makes the InputError of it that names the file
        raise InputError(str(error)) from error
    assert header.width > 0 and header.height > 0


def _images() -> list[bytes]:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = (("JPEG", "RGB", {"exif": exif}), ("JPEG", "CMYK", {"progressive": True}), ("PNG", "RGBA", {}))
    return [trees.noise(1, form, (5, 3), mode, **options) for form, mode, options in (*kinds, ("BMP", "RGB", {}))]


def _pixels(data: bytes) -> None:
    """Through DALI's decoders, and Pillow's where the image may be of one colour."""
    path = _file("pixels", "a.jpg", data)
    found = examine([path])
    if found[path].header is None or undecodable([path], threads=1, batch_size=1):
        raise InputError(found[path].error or "it does not decode")
    list(find_plain(found))


# Recipes and runs.


def _recipe(data: bytes) -> None:
    load_recipe(_file("recipe", "recipe.toml", data))


def _recipes() -> list[bytes]:
    return [path.read_bytes() for path in sorted(_RECIPES.glob("*.toml"))]


_SHORT = b"name = 'a'\n[data]\nname = 'csv'\nroot = 'a'\n[test]\nname = 'csv'\nroot = 'b'\n[vi]\nepochs = 2\n"


def _overrides(data: bytes) -> None:
    recipe = _file("overrides", "recipe.toml", _SHORT)
    load_recipe(recipe, os.fsdecode(data).split("\n"))


def _run(data: bytes) -> None:
    """stages.json and evaluation.json, as a run that is continued reads them."""
    recipe = _file("run", "recipe.toml", _SHORT)
    for name in ("stages.json", "evaluation.json"):
        _file("run", name, data)
    run = Run.open(recipe.parent, writes=False)
    _any(lambda: {entry["stage"] for entry in run.finished}, lambda: {result["name"] for result in run.results})


_RESULT = {"name": "vi", "protocol": "infrared->visible", "metric": "cosine", "r1": 0.5, "mAP": 0.4, "mINP": 0.3}
_RESULT |= {"trials": 2, "valid_queries": 6, "std": {"r1": 0.1}, "cmc": [0.5, 0.7], "images": ["sysu", "test"]}
_STAGE = {"stage": "vi", "seconds": 1.5, "images_per_second": 2.0, "logs": {"metrics": 10, "dev": 0}}


def _runs() -> list[bytes]:
    return [json.dumps(value).encode() for value in ([_STAGE], {"results": [_RESULT]}, [])]


def _card(data: bytes) -> None:
    """evaluation.json beside weights, whose figures `toplight export` takes over into the model card."""
    file = _file("card", "evaluation.json", data)
    results = _recorded_results(file.with_name("vi.safetensors"), {"stage": "vi"})
    model_card("vi", {"name": "resnet50"}, {"stage": "vi", "size": [8, 4]}, results)


def _report(data: bytes) -> None:
    """The first byte says which file of a run folder it is."""
    shutil.rmtree(_room("report") / "run", ignore_errors=True)
    folder = _room("report") / "run"
    folder.mkdir()
    (folder / FILES[(data or b"\0")[0] % len(FILES)]).write_bytes(data[1:])
    read_run(folder)


def _reports() -> list[bytes]:
    line = {"stage": "vi", "step": 1, "epoch": 0, "loss": 1.5, "identity": 1.0, "learning_rate": 1e-3}
    picture = {"path": "a.jpg", "identity": "1", "camera": 2, "modality": "visible", "correct": True, "distance": 0.5}
    slices = {"rows": {"visible": [1, 2]}, "columns": {"infrared": [0.5]}}
    analysis = {
        "distances": {"edges": [0, 1, 2], "genuine": [1, 2], "impostor": [3, 4]},
        "projection": {"x": [1], "y": [2], "variance": [0.5, 0.2], "modality": ["visible"], "identity": ["1"]},
        "slices": slices | {"examples": [{"path": "a.jpg", "identity": "1", "rows": [1], "columns": [2]}]},
    }
    contents = {
        "recipe.toml": _SHORT,
        "metrics.jsonl": json.dumps(line).encode() + b"\n" + json.dumps(line | {"step": 2}).encode(),
        "stages.json": json.dumps([_STAGE]).encode(),
        "evaluation.json": json.dumps({"results": [_RESULT]}).encode(),
        "ranked.json": json.dumps({"queries": [picture | {"gallery": [picture]}]}).encode(),
        "analysis.json": json.dumps(analysis).encode(),
        "environment.json": b'{"torch": "2.14", "cores": 2, "gpu": null}',
    }
    return [bytes([FILES.index(name)]) + content for name, content in contents.items()]


def _checkpoint(data: bytes) -> None:
    """With the checksum that belongs to it: whoever writes a checkpoint can compute that too."""
    load_checkpoint(_file("checkpoint", "checkpoint.pt", data + _MARK + _checksum(memoryview(data)) + b"\n"))


def _checkpoints() -> list[bytes]:
    Checkpoints(_room("checkpoint")).save({"step": 3, "logs": {"metrics": 10}, "weights": {"a": torch.ones(2)}})
    content = (_room("checkpoint") / "checkpoint.pt").read_bytes()
    return [content[: content.rindex(_MARK)]]


# Weights and networks.


def _weights(data: bytes) -> None:
    read_weights(_file("weights", "w.safetensors", data))


_ENTRY = {
    "format": 1,
    "model": {"name": "mobilenetv3_small_100", "slices": [2, 2], "neck": "gap", "num_classes": 2},
    "metadata": {"size": [64, 32], "mean": [0.5] * 3, "std": [0.2] * 3, "gray": False, "stage": "vi"}
    | {"trained_on": [{"dataset": "folder", "split": "visible"}, {"dataset": "regdb", "split": "train_2"}]},
}


def _network(data: bytes) -> None:
    """The JSON in a weights file's metadata, from which a network is rebuilt and its features are named."""
    text = data.decode("utf-8", errors="replace")
    content = safetensors.numpy.save({"a": np.zeros(1, np.float32)}, metadata={"toplight_ext": text})
    path = _file("network", "w.safetensors", content)
    found = read_weights(path)
    if found.arguments != _ENTRY["model"]:  # else it is known what happens, and takes long
        with contextlib.suppress(InputError):  # its tensors are missing
            load_weights(path)
    Preprocessing.of(found.metadata)
    inference.origin_of(found.metadata, "regdb", None)
    model_card("vi", found.arguments, found.metadata, [])


def _pretrained(data: bytes) -> None:
    read_checkpoint(_file("pretrained", "w.pth", data))


def _pretrained_files() -> list[bytes]:
    found = []
    for old in (False, True):
        stream = io.BytesIO()
        state = {"state_dict": {"module.a": torch.ones(2)}, "epoch": 3, "best": np.float64(1)}
        torch.save(state, stream, _use_new_zipfile_serialization=not old)
        found.append(stream.getvalue())
    return found


def _metadata(data: bytes) -> None:
    """metadata.json of an export, and the same JSON as an ONNX file's entry."""
    folder = _file("metadata", METADATA, data).parent
    entries = {"toplight_ext": data.decode("utf-8", errors="replace")}
    _any(lambda: _check_inside(folder, exported_files(folder)), lambda: Contract.from_entries(entries, "a.onnx"))


def _check_inside(folder: Path, files: list[Path]) -> None:
    assert all(file.parent == folder and ".." not in file.parts for file in files), "a file of another folder"


def _metadata_files() -> list[bytes]:
    contract = Contract("visible", Preprocessing((8, 4)), 3, None, "vi.safetensors").to_json()
    return [json.dumps({"model": {}, "files": {"a.onnx": contract}}).encode(), json.dumps(contract).encode()]


# Features.

_FOUR = Features(
    np.arange(1, 9, dtype=np.float32).reshape(4, 2),
    identity=np.array(["a", "a", "b", "b"]),
    camera=np.array([1, 2, 1, 2]),
    modality=np.array(["visible", "infrared"] * 2),
    paths=np.array(["a.jpg", "b.jpg", "c.jpg", "d.jpg"]),
)


def _features(ending: str) -> Target:
    def read(data: bytes) -> None:
        load_features(_file("features", f"f{ending}", data))

    def seeds() -> list[bytes]:
        path = _room("features") / f"seed{ending}"
        save_features(path, _FOUR)
        return [path.read_bytes()]

    return Target(read, seeds)


def _index(data: bytes) -> None:
    index = GalleryIndex(_file("index", "g.index", data))
    for row in range(min(len(index), 8)):
        index.entry(row)
    search(np.ones((1, index.dimensions), np.float32), index, 2, threads=1)


def _indices() -> list[bytes]:
    return [write_index(_room("index") / "seed.index", _FOUR).read_bytes()]


def _permutations(data: bytes) -> None:
    load_permutations(_file("permutations", "rand_perm_cam.mat", data))


def _permutation_files() -> list[bytes]:
    import scipy.io

    cameras = np.empty((6, 1), object)
    for camera in range(6):
        cameras[camera, 0] = np.empty((2, 1), object)
        for identity in range(2):
            cameras[camera, 0][identity, 0] = np.array([[1, 2], [2, 1]], np.uint8)
    found = []
    for compressed in (False, True):
        stream = io.BytesIO()
        scipy.io.savemat(stream, {"rand_perm_cam": cameras}, do_compression=compressed)
        found.append(stream.getvalue())
    return found


TARGETS: dict[str, Target] = {
    "manifest": Target(_manifest, _manifests),
    "identities": _list("sysu", "test", "exp/test_id.txt"),
    "labels": _list("regdb", "test_1", "idx/test_thermal_1.txt"),
    "cameras": _list("llcm", "train", "idx/train_vis.txt"),
    "image": Target(_image, _images),
    "pixels": Target(_pixels, _images),
    "recipe": Target(_recipe, _recipes),
    "overrides": Target(_overrides, lambda: [b"vi.epochs=5\ndata.root=/a b\nsize=[8, 4]\nseed = 1", b"top=false"]),
    "run": Target(_run, _runs),
    "card": Target(_card, _runs),
    "report": Target(_report, _reports),
    "checkpoint": Target(_checkpoint, _checkpoints),
    "weights": Target(
        _weights, lambda: [safetensors.numpy.save({"a": np.ones(2)}, {"toplight_ext": json.dumps(_ENTRY)})]
    ),
    "network": Target(_network, lambda: [json.dumps(_ENTRY).encode()]),
    "pretrained": Target(_pretrained, _pretrained_files),
    "metadata": Target(_metadata, _metadata_files),
    "features_npz": _features(".npz"),
    "features_safetensors": _features(".safetensors"),
    "index": Target(_index, _indices),
    "permutations": Target(_permutations, _permutation_files),
}
