"""Features of whatever a user names: a folder of images, one image, a manifest; by weights or exported files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ..data import Modality, Sample, load_dataset, of_modality
from ..data.header import EXTENSIONS
from ..data.manifest import FILE_NAME
from ..data.tree import Tree
from ..errors import InputError
from ..evaluation import Features, Origin, check_ending, network_of, save_features
from ..inference import AFTER_NECK, Preprocessing, extract_features
from ..models import load_weights
from .gallery import ENDING, write_index
from .runtimes import ENDINGS, Pair, exported_files, load_exported

UNKNOWN = ""  # identity of an image that nobody labelled
_NO_CAMERA = -1


def find_samples(source: str | Path, modality: Modality | None = None, argument: str = "modality") -> list[Sample]:
    """The images that `source` means.

    Args:
        source: a CSV manifest, a folder with manifest.csv, a folder of images at any depth, or one image.
        modality: of images without a manifest, whose identity is unknown, "", and their camera, -1; of a manifest
            it chooses the images, and None all of them.
        argument: what the caller calls the modality, for the error that asks for it.

    Raises:
        InputError: there is no such file or no image, a link leads out of the folder, or no modality is given where it
            is needed.
    """
    source = Path(source)
    if source.suffix == ".csv" or (source / FILE_NAME).is_file():
        return _of_manifest(source, modality)
    if source.is_dir():
        tree = Tree(source)
        images = tree.all_images(source)
        if tree.problems:
            raise InputError(str(tree.problems[0]))
    elif source.is_file():
        images = [source]
    else:
        raise InputError(f"{source}: no such file or folder")
    if not images:
        raise InputError(f"{source}: no image ({', '.join(EXTENSIONS)}) in this folder, and no {FILE_NAME}")
    if modality is None:
        raise InputError(f"{source}: give {argument}, visible or infrared, or write a {FILE_NAME} that says it of each")
    return [Sample(image, UNKNOWN, modality, _NO_CAMERA) for image in images]


def _of_manifest(source: Path, modality: Modality | None) -> list[Sample]:
    samples = load_dataset("csv", source)
    chosen = samples if modality is None else of_modality(samples, modality)
    if not chosen:
        raise InputError(f"{source}: none of its {len(samples)} images is {modality.value}")
    return chosen


def load_network(files: Sequence[str | Path], threads: int = 2) -> tuple[nn.Module, Preprocessing]:
    """What gives embeddings: one weights file, or exported files, or folders of them, whose stems complete each other.

    Raises:
        InputError: a file that cannot be read, or files that are not of one network.
    """
    paths = [path for file in files for path in exported_files(Path(file))]
    if len(paths) == 1 and paths[0].suffix not in ENDINGS:
        model, metadata = load_weights(paths[0])
        return model, Preprocessing.of(metadata, paths[0])
    pair = Pair([load_exported(path, threads) for path in paths])
    return pair, pair.preprocessing


def embed(
    files: Sequence[str | Path], samples: Sequence[Sample], batch_size: int = 32, threads: int = 2, device: str = "cpu"
) -> Features:
    """Features after BNNeck of the samples, as `toplight evaluate` has them; errors as `load_network`."""
    network, preprocessing = load_network(files, threads)
    name = network.source if isinstance(network, Pair) else network_of(files[0])
    origin = Origin(AFTER_NECK, flip=False, network=name)
    return extract_features(network, samples, preprocessing, batch_size, device, threads, origin)


def save(path: str | Path, features: Features) -> None:
    """Write features as .npz, .safetensors or a gallery .index, by the ending.

    Raises:
        InputError: another ending.
    """
    write = write_index if check_ending(path, also=(ENDING,)) == ENDING else save_features
    write(path, features)
