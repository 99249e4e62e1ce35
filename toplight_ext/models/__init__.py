"""Backbones cut into seven blocks, the dual-path network over them, its weights files and soups."""

from .blocks import BACKBONES, Partition, cut
from .create import create_model
from .network import DualPathNetwork, Output
from .state import average, duplicate, load_blocks, merge, soup
from .weights import Weights, load_weights, read_weights, save_weights, soup_weights

__all__ = [
    "BACKBONES",
    "DualPathNetwork",
    "Output",
    "Partition",
    "Weights",
    "average",
    "create_model",
    "cut",
    "duplicate",
    "load_blocks",
    "load_weights",
    "merge",
    "read_weights",
    "save_weights",
    "soup",
    "soup_weights",
]
