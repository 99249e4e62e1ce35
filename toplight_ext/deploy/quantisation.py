"""Static quantisation: weights and activations on 8 bits, with the ranges of calibration images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ..data import Modality, Sample, of_modality
from ..errors import InputError
from ..extras import require
from ..files import errors_name
from ..inference import extract_features
from .contract import Contract
from .quiet import quietly

_CALIBRATION_BATCH = 8
_PERCENTILE = 99.995  # of the activations lie in their range: half the error of the whole range on MobileNetV3
_LAYERS = ["Conv", "Gemm", "MatMul"]  # what has weights; sums and gates between them: little work, most of the error
_MOST_IMAGES = 256  # per modality, spread evenly over those given: the ranges hardly change beyond, our choice


def static_int8(proto, contract: Contract, samples: Sequence[Sample]):
    """A copy of an onnx.ModelProto, its layers quantised statically (QDQ): weights per channel, inputs by calibration.

    Args:
        samples: images of the stem's modality, or of both.

    Raises:
        InputError: no image of a modality that the network takes.
    """
    quantization = _quantization()
    reader = _reader(quantization, contract, samples)

    def quantise(source: Path, target: Path) -> None:
        quantization.quantize_static(
            source,
            target,
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_LAYERS,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            calibrate_method=quantization.CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": _PERCENTILE},
        )

    return _through_files(proto, quantise)


def _through_files(proto, quantise: Callable[[Path, Path], None]):
    with tempfile.TemporaryDirectory() as folder, errors_name(Path(folder)):
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(proto.SerializeToString())
        with quietly():
            quantise(source, target)
        return _onnx().load(target)


def _onnx():
    return require("onnx", extra="export")


def _quantization():
    return require("onnxruntime.quantization", extra="export")


def _reader(quantization, contract: Contract, samples: Sequence[Sample]):
    """Batches of the samples as the quantiser asks for them; with two stems both in every batch."""

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self._batches = _calibration_batches(contract, samples)

        def get_next(self):
            return next(self._batches, None)

    return Reader()


class _Recorder(nn.Module):
    """In the place of a network: keeps what `extract_features` feeds it."""

    def __init__(self):
        super().__init__()
        self.fed: dict[Modality, list[np.ndarray]] = {modality: [] for modality in Modality}

    def embed(self, images: Tensor, modality: Modality) -> Tensor:
        self.fed[modality].append(images.numpy().copy())
        return images.new_zeros(len(images), 1)


def _calibration_batches(contract: Contract, samples: Sequence[Sample]) -> Iterator[dict[str, np.ndarray]]:
    size = contract.batch or _CALIBRATION_BATCH
    recorder = _Recorder()
    chosen = [sample for modality in contract.inputs.values() for sample in _spread(of_modality(samples, modality))]
    if chosen:
        extract_features(recorder, chosen, contract.preprocessing, size)
    whole = {
        name: [np.ascontiguousarray(images) for images in recorder.fed[modality] if len(images) == size]
        for name, modality in contract.inputs.items()
    }
    for name, batches in whole.items():
        if not batches:
            raise InputError(
                f"calibration: fewer than {size} images for the input {name!r} ({contract.inputs[name].value}): "
                "give a hundred or more that look like those to come"
            )
    for batches in zip(*whole.values(), strict=False):
        yield dict(zip(whole, batches, strict=True))


def _spread(samples: Sequence[Sample]) -> Sequence[Sample]:
    return samples[:: -(-len(samples) // _MOST_IMAGES) or 1]
