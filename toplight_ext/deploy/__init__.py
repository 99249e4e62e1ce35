"""A trained network in other hands: export with its parity, latency, features of images, matching, the model card."""

from .card import model_card, write_model_card
from .contract import Contract
from .embedding import embed, find_samples, load_network, save
from .export import export
from .gallery import GalleryIndex, write_index
from .latency import benchmark
from .matching import ApproximateGallery, FeatureGallery, Matches, check_network, check_request, recall, search
from .parity import Parity, parity_on_images, parity_on_noise
from .runtimes import Pair, exported_files, load_exported

__all__ = [
    "ApproximateGallery",
    "Contract",
    "FeatureGallery",
    "GalleryIndex",
    "Matches",
    "Pair",
    "Parity",
    "benchmark",
    "check_network",
    "check_request",
    "embed",
    "export",
    "exported_files",
    "find_samples",
    "load_exported",
    "load_network",
    "model_card",
    "parity_on_images",
    "parity_on_noise",
    "recall",
    "save",
    "search",
    "write_index",
    "write_model_card",
]
