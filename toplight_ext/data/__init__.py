"""From image files to batches: data sets, samplers, augmentations and the DALI pipeline."""

from .augmentation import Augmentation, Colour, Generic, Texture
from .checking import CheckReport, check, check_dataset
from .datasets import DATASETS, list_dataset, load_dataset
from .pipeline import IMAGENET_MEAN, IMAGENET_STD, Batch, ImagePipeline, Stream
from .samples import Listing, Modality, Problem, Sample, identity_labels, of_modality
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
    "Generic",
    "ImagePipeline",
    "Listing",
    "Modality",
    "Problem",
    "Sample",
    "SequentialSampler",
    "ShuffledSampler",
    "Stream",
    "Texture",
    "check",
    "check_dataset",
    "draw_synthetic",
    "identity_labels",
    "list_dataset",
    "load_dataset",
    "of_modality",
]
