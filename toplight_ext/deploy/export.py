"""Weights -> files for other runtimes: ONNX, OpenVINO, ExecuTorch."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import ops
from ..data import Modality, Sample
from ..errors import InputError
from ..evaluation import network_of
from ..extras import require
from ..files import replacing, write_text
from ..inference import Preprocessing
from ..models import DualPathNetwork, load_weights
from ..text import plain
from .contract import ENTRY, OUTPUT, STEMS, Contract, Stem
from .quantisation import static_int8
from .quiet import quietly
from .runtimes import ENDINGS, METADATA, read_metadata
from .translations import translation_table

FORMATS = ("onnx", "openvino", "executorch")
OPSET = 18
_INT8 = ".int8.onnx"


class SingleStem(nn.Module):
    """(B, 3, H, W) images of one modality -> (B, D) embedding after BNNeck."""

    def __init__(self, model: DualPathNetwork, modality: Modality):
        super().__init__()
        self.model, self.modality = model, modality

    def forward(self, images: Tensor) -> Tensor:
        return self.model.embed(images, self.modality)


class BothStems(nn.Module):
    """Visible and infrared images -> the embeddings of the visible, then of the infrared ones."""

    def __init__(self, model: DualPathNetwork):
        super().__init__()
        self.model = model

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        return self.model(visible, infrared).embedding


def export(
    weights: str | Path,
    out: str | Path,
    formats: Sequence[str] = ("onnx",),
    stems: Sequence[Stem] = ("visible", "infrared"),
    batch: int | None = None,
    opset: int = OPSET,
    calibration: Sequence[Sample] | None = None,
) -> list[Path]:
    """Write the networks of a weights file, and metadata.json, into a folder; each file is replaced atomically.

    What lies in the folder already of the same weights stays, and stays listed: stems may be exported one by one.

    Args:
        weights: as `save_weights` writes them, with the metadata field `size`.
        out: the folder; names are the stem, the precision if it is not float32, and the format's ending.
        formats: of "onnx", "openvino", "executorch".
        stems: networks of one stem each, or "both": one graph with both, the rest of the network once.
        batch: None is dynamic; ExecuTorch then gets 1.
        opset: version of the ONNX operators.
        calibration: images for static quantisation, which is then written too, as ONNX.

    Returns:
        The files written; `exported_files` gives those that the folder holds.

    Raises:
        InputError: an argument out of range, weights that cannot be read, or a folder that holds networks of other
            weights.
        MissingExtra: a package of a format is not installed.
    """
    _check(formats, stems, batch, opset, calibration)
    model, metadata = load_weights(weights)
    preprocessing, source = Preprocessing.of(metadata, weights), network_of(weights)
    listed = _kept(Path(out), source, _names(formats, stems, calibration is not None))
    files: dict[Path, Contract] = {}
    for stem in stems:
        contract = Contract(stem, preprocessing, model.neck.out_channels, batch, source)
        module = BothStems(model) if stem == "both" else SingleStem(model, Modality(stem))
        for path in _write_formats(module.eval(), contract, Path(out), formats, opset, calibration):
            fixed = path.suffix == ".pte" and batch is None
            files[path] = dataclasses.replace(contract, batch=1) if fixed else contract
    listed |= {path.name: contract for path, contract in files.items()}
    contracts = {name: contract.to_json() for name, contract in listed.items()}
    write_text(Path(out) / METADATA, json.dumps({"model": model.arguments, "files": contracts}, indent=1))
    return list(files)


def _names(formats: Sequence[str], stems: Sequence[Stem], int8: bool) -> set[str]:
    """What `_write_formats` will write."""
    endings = [ending for ending, name in ENDINGS.items() if name in formats] + [_INT8] * int8
    return {f"{stem}{ending}" for stem in stems for ending in endings}


def _kept(out: Path, source: str, written: set[str]) -> dict[str, Contract]:
    """Name -> contract of the networks in the folder that are not written anew.

    Raises:
        InputError: one is of other weights than `source`, or what the folder lists cannot be read.
    """
    if not (out / METADATA).is_file():
        return {}
    try:
        listed = read_metadata(out)
    except InputError as error:
        raise InputError(f"{error}; give another folder, or remove that file") from error
    kept = {name: known for name, known in listed.items() if name not in written and (out / name).is_file()}
    for name, known in kept.items():
        if known.source != source:
            raise InputError(
                f"{out}: holds {plain(name)} of the network {plain(known.source)}, and was to get {source}: "
                "give another folder, or remove what is in it"
            )
    return kept


def _check(formats, stems, batch, opset, calibration: Sequence[Sample] | None) -> None:
    for name, given, known in (("format", formats, FORMATS), ("stem", stems, STEMS)):
        unknown = [each for each in given if each not in known]
        if unknown or not given:
            raise InputError(
                f"export: {name} {', '.join(map(repr, unknown)) or 'missing'}: expected {', '.join(known)}"
            )
    if batch is not None and batch < 1:
        raise InputError(f"export: batch {batch}: expected a number from 1, or dynamic")
    if opset < OPSET:
        raise InputError(f"export: opset {opset}: expected at least {OPSET}")
    if calibration is not None and "onnx" not in formats:
        raise InputError("export: 8 bits are written as ONNX; add onnx to the formats")


def _write_formats(module, contract: Contract, out: Path, formats, opset, calibration: Sequence[Sample] | None):
    """Write one network in every format and precision; yields the paths."""
    name = out / contract.stem
    proto = onnx_model(module, contract, opset) if {"onnx", "openvino"} & set(formats) else None
    if "onnx" in formats:
        yield _write_onnx(proto, contract, name.with_suffix(".onnx"))
        if calibration is not None:
            quantised = static_int8(proto, contract, calibration)
            yield _write_onnx(quantised, contract, name.with_suffix(_INT8))
    if "openvino" in formats:
        yield _write_openvino(proto, contract, name.with_suffix(".xml"))
    if "executorch" in formats:
        yield _write_executorch(module, contract, name.with_suffix(".pte"))


def onnx_model(module: nn.Module, contract: Contract, opset: int = OPSET):
    """The module as an onnx.ModelProto of standard operators, constants folded.

    Raises:
        InputError: the exporter cannot write this opset; it takes another one then, and only warns.
    """
    for package in ("onnx", "onnxscript"):
        require(package, extra="export")
    names = list(contract.inputs)
    dynamic = None if contract.batch else {name: {0: torch.export.Dim(f"batch_{name}")} for name in names}
    with torch.no_grad(), quietly():
        program = torch.onnx.export(
            module,
            _example(contract),
            dynamo=True,
            opset_version=opset,
            input_names=names,
            output_names=[OUTPUT],
            dynamic_shapes=dynamic,
            custom_translation_table=translation_table(),
            verbose=False,
        )
    proto = program.model_proto
    written = next(entry.version for entry in proto.opset_import if entry.domain == "")
    if written != opset:
        raise InputError(f"export: opset {opset}: this torch and onnx write {written} in its place; ask for that one")
    return proto


def _example(contract: Contract) -> tuple[Tensor, ...]:
    # Two differ from one another: a batch of 1, or two equal ones, would be taken for a constant.
    batches = [contract.batch or 2 + i for i in range(len(contract.inputs))]
    return tuple(torch.zeros(batch, 3, *contract.preprocessing.size) for batch in batches)


def _write_onnx(proto, contract: Contract, path: Path) -> Path:
    onnx = require("onnx", extra="export")
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    model.producer_name = "toplight_ext"
    onnx.helper.set_model_props(model, {ENTRY: json.dumps(contract.to_json())})
    with replacing(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return path


def _write_openvino(proto, contract: Contract, path: Path) -> Path:
    openvino = require("openvino", extra="openvino")
    model = openvino.convert_model(io.BytesIO(proto.SerializeToString()))
    model.set_rt_info(json.dumps(contract.to_json()), ENTRY)
    with tempfile.TemporaryDirectory() as folder:  # it wants the endings .xml and .bin
        text, numbers = Path(folder, "model.xml"), Path(folder, "model.bin")
        openvino.serialize(model, str(text), str(numbers))
        for written, wanted in ((numbers, path.with_suffix(".bin")), (text, path)):
            with replacing(wanted) as temporary:
                shutil.copyfile(written, temporary)
    return path


def _write_executorch(module: nn.Module, contract: Contract, path: Path) -> Path:
    lower = require("executorch.exir", extra="executorch").to_edge_transform_and_lower
    xnnpack = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", extra="executorch")
    example = tuple(images[: contract.batch or 1] for images in _example(contract))
    # It has no table of translations: the reference is traced, in PyTorch's own operators.
    with torch.no_grad(), quietly(), ops.use_backend("reference"):
        program = torch.export.export(module, example, strict=False)
        lowered = lower(program, partitioner=[xnnpack.XnnpackPartitioner()]).to_executorch()
    with replacing(path) as temporary:
        temporary.write_bytes(lowered.buffer)
    return path
