"""From image files to batches: data sets, samplers, augmentations and the DALI pipeline."""

from .augmentation import Augmentation, Colour, Erasing, Generic, Texture
from .cache import cached_images
from .checking import CheckReport, check_dataset
from .datasets import DATASETS, Dataset, find_dataset, list_dataset, load_dataset
from .findings import Finding
from .pipeline import IMAGENET_MEAN, IMAGENET_STD, Batch, ImagePipeline, Stream
from .samples import (
    Listing,
    Modality,
    Problem,
    Published,
    Sample,
    as_stored,
    identity_labels,
    of_modality,
    with_mirrored_identities,
)
from .sampling import CrossModalitySampler, SequentialSampler, ShuffledSampler
from .synthetic import draw_synthetic

__all__ = [
    "DATASETS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Augmentation",
    "Batch",
    "CheckReport",
    "Colour",
    "CrossModalitySampler",
    "Dataset",
    "Erasing",
    "Finding",
    "Generic",
    "ImagePipeline",
    "Listing",
    "Modality",
    "Problem",
    "Published",
    "Sample",
    "SequentialSampler",
    "ShuffledSampler",
    "Stream",
    "Texture",
    "as_stored",
    "cached_images",
    "check_dataset",
    "draw_synthetic",
    "find_dataset",
    "identity_labels",
    "list_dataset",
    "load_dataset",
    "of_modality",
    "with_mirrored_identities",
]
