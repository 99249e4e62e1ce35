"""Exported files as networks: each gives embeddings as the network that it was exported from does."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Modality
from ..errors import InputError
from ..extras import require
from ..files import read_json
from ..text import plain
from .contract import ENTRY, OUTPUT, Contract

METADATA = "metadata.json"
ENDINGS = {".onnx": "onnx", ".xml": "openvino", ".pte": "executorch"}


class Exported(nn.Module, abc.ABC):
    """One exported file, in the place of a DualPathNetwork for `extract_features`.

    Args:
        file: as `toplight export` wrote it.
        threads: that one inference may use.

    Raises:
        InputError: the file is absent, damaged, not one of ours, or its inputs are not what its metadata say.
        MissingExtra: its runtime is not installed.
    """

    def __init__(self, file: Path, threads: int = 2):
        super().__init__()
        self.file = file
        if not file.is_file():
            raise InputError(f"{file}: no such file")
        self.contract = self._load(threads)

    @abc.abstractmethod
    def _load(self, threads: int) -> Contract: ...

    @abc.abstractmethod
    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray: ...

    def embed(self, images: Tensor, modality: Modality) -> Tensor:
        """(N, 3, H, W) images -> (N, D) embeddings. A fixed batch is filled up with zeros."""
        name = self.contract.input_of(modality, str(self.file))
        pixels = np.ascontiguousarray(images.cpu().numpy(), dtype=np.float32)
        step = self.contract.batch or max(len(pixels), 1)
        parts = [self._embed_part(name, pixels[i : i + step]) for i in range(0, len(pixels), step)]
        return torch.from_numpy(np.concatenate(parts) if parts else np.empty((0, self.contract.dimensions), np.float32))

    def _embed_part(self, name: str, pixels: np.ndarray) -> np.ndarray:
        count = len(pixels)
        if self.contract.batch and count < self.contract.batch:
            pixels = np.concatenate([pixels, np.zeros((self.contract.batch - count, *pixels.shape[1:]), np.float32)])
        # The input of the other stem is left empty, or full of zeros where it cannot be.
        other = np.zeros((self.contract.batch or 0, *pixels.shape[1:]), np.float32)
        inputs = {each: pixels if each == name else other for each in self.contract.inputs}
        first = list(inputs).index(name) * (self.contract.batch or 0)
        found = self._run(inputs)[first : first + count]
        if found.shape != (count, self.contract.dimensions):
            raise InputError(
                f"{self.file}: gives {found.shape} for {count} images, "
                f"its metadata promise {(count, self.contract.dimensions)}"
            )
        return found

    def _check_inputs(self, found: dict[str, Sequence]) -> None:
        """`found` is name -> shape, with anything that is no number for a dynamic size."""
        expected = {name: (self.contract.batch, 3, *self.contract.preprocessing.size) for name in self.contract.inputs}
        shapes = {name: tuple(n if isinstance(n, int) and n >= 0 else None for n in found[name]) for name in found}
        if shapes != expected:
            raise InputError(f"{self.file}: takes {shapes}, its metadata say {expected}; export it again")


class OnnxNetwork(Exported):
    """An .onnx file in onnxruntime, on the CPU."""

    def _load(self, threads: int) -> Contract:
        onnxruntime = require("onnxruntime", extra="export")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        # Else its threads go on spinning after a run, and take the cores from whatever comes next.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        settings.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(self.file), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common class but this
            raise InputError(
                f"{self.file}: not an ONNX file that onnxruntime can run ({_first_line(error)})"
            ) from error
        self.contract = Contract.from_entries(self._session.get_modelmeta().custom_metadata_map, str(self.file))
        self._check_inputs({node.name: node.shape for node in self._session.get_inputs()})
        return self.contract

    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._session.run([OUTPUT], inputs)[0]


class OpenVinoNetwork(Exported):
    """An .xml file, with its .bin beside it, in OpenVINO, on the CPU."""

    def _load(self, threads: int) -> Contract:
        openvino = require("openvino", extra="openvino")
        try:
            core = openvino.Core()
            model = core.read_model(self.file)
            entry = model.get_rt_info(ENTRY).astype(str) if model.has_rt_info(ENTRY) else None
            settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
            # Its own choice may be bfloat16, which is not what was exported.
            self._compiled = core.compile_model(model, "CPU", {**settings, "INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise InputError(f"{self.file}: not a model that OpenVINO can run ({_first_line(error)})") from error
        self.contract = Contract.from_entries({ENTRY: entry} if entry else {}, str(self.file))
        self._check_inputs(
            {
                node.any_name: [n.get_length() if n.is_static else None for n in node.partial_shape]
                for node in self._compiled.inputs
            }
        )
        return self.contract

    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return np.array(self._compiled(inputs)[OUTPUT])


class ExecuTorchNetwork(Exported):
    """A .pte file in ExecuTorch; its contract lies in metadata.json beside it. Its threads are its own choice."""

    def _load(self, threads: int) -> Contract:
        runtime = require("executorch.runtime", extra="executorch")
        # Its verification is of the file's structure; a truncated file else ends the process.
        try:
            program = runtime.Runtime.get().load_program(
                self.file, verification=runtime.Verification.InternalConsistency
            )
            self._method = program.load_method("forward")
        except (RuntimeError, OSError) as error:
            raise InputError(f"{self.file}: not a program that ExecuTorch can run ({_first_line(error)})") from error
        contract = read_metadata(self.file.parent).get(self.file.name)
        if contract is None:
            raise InputError(f"{self.file}: {METADATA} beside it does not list it")
        self.contract = contract
        shapes = [self._method.metadata.input_tensor_meta(i).sizes() for i in range(len(contract.inputs))]
        self._check_inputs(dict(zip(contract.inputs, map(list, shapes), strict=True)))
        return contract

    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._method.execute([torch.from_numpy(inputs[name]) for name in self.contract.inputs])[0].numpy()


_RUNTIMES = {"onnx": OnnxNetwork, "openvino": OpenVinoNetwork, "executorch": ExecuTorchNetwork}


def format_of(file: Path) -> str:
    """The format of an exported file.

    Raises:
        InputError: its ending is of none.
    """
    if file.suffix not in ENDINGS:
        raise InputError(f"{file}: expected a file ending in {', '.join(ENDINGS)}")
    return ENDINGS[file.suffix]


def load_exported(file: str | Path, threads: int = 2) -> Exported:
    """The network of an exported file; errors as `Exported`."""
    file = Path(file)
    return _RUNTIMES[format_of(file)](file, threads)


def read_metadata(folder: Path) -> dict[str, Contract]:
    """File name -> contract, of all files that the metadata.json of an export lists.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    path = folder / METADATA
    if not path.is_file():
        raise InputError(f"{path}: no such file; `toplight export` writes it beside the networks")
    try:
        files = dict(read_json(path)["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the metadata of an export ({plain(repr(error))})") from error
    for name in files:
        named = isinstance(name, str) and name.isprintable()
        if not named or not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{path}: lists {plain(repr(name))}, which is no file of its folder")
    return {name: Contract.from_json(contract, str(path)) for name, contract in files.items()}


def exported_files(path: Path) -> list[Path]:
    """The networks of a folder that `toplight export` wrote, or the file itself.

    Raises:
        InputError: as `read_metadata`, or the folder has no network.
    """
    if not path.is_dir():
        return [path]
    files = [path / name for name in read_metadata(path)]
    if not files:
        raise InputError(f"{path}: its {METADATA} lists no network; export it again")
    return files


class Pair(nn.Module):
    """Exported files in the place of one network: images go to the file that has the stem for them.

    Args:
        networks: of one network, with different stems.

    Raises:
        InputError: two of them take the same modality, or they do not fit each other.
    """

    def __init__(self, networks: Sequence[Exported]):
        super().__init__()
        first = networks[0]
        self._by_modality: dict[Modality, Exported] = {}
        for network in networks:
            known, other = first.contract, network.contract
            if (known.preprocessing, known.dimensions, known.source) != (
                other.preprocessing,
                other.dimensions,
                other.source,
            ):
                raise InputError(f"{network.file}: not of the same network as {first.file}")
            for modality in other.inputs.values():
                if modality in self._by_modality:
                    taken = self._by_modality[modality].file
                    raise InputError(
                        f"{network.file}: takes {modality.value} images, as {taken} does: "
                        "give one file for each modality"
                    )
                self._by_modality[modality] = network
        self.preprocessing, self.source = first.contract.preprocessing, first.contract.source

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return tuple(self._by_modality)

    def embed(self, images: Tensor, modality: Modality) -> Tensor:
        """(N, 3, H, W) images -> (N, D) embeddings."""
        if modality not in self._by_modality:
            files = ", ".join(str(network.file) for network in self._by_modality.values())
            raise InputError(f"{files}: no stem for {modality.value} images; give the file that was exported for them")
        return self._by_modality[modality].embed(images, modality)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
