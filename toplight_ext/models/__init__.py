"""Backbones cut into seven blocks, the dual-path network over them, its weights files and soups."""

from .backbones import BACKBONES
from .blocks import Partition, cut
from .conversion import create_agw, load_agw
from .counting import count_flops, count_paper_flops
from .create import create_model
from .network import DualPathNetwork, Output
from .state import average, duplicate, load_blocks, merge, soup
from .weights import Weights, load_weights, read_weights, save_weights, soup_weights, training_sets

__all__ = [
    "BACKBONES",
    "DualPathNetwork",
    "Output",
    "Partition",
    "Weights",
    "average",
    "count_flops",
    "count_paper_flops",
    "create_agw",
    "create_model",
    "cut",
    "duplicate",
    "load_agw",
    "load_blocks",
    "load_weights",
    "merge",
    "read_weights",
    "save_weights",
    "soup",
    "soup_weights",
    "training_sets",
]
