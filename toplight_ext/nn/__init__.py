"""Modules over the ops: FDR, shuffle attention, gradient reversal, the necks by name, and the heads."""

from .attention import ShuffleAttention
from .fdr import FDR
from .heads import BNNeck, DomainHead
from .inputs import INPUTS, create_input
from .necks import NECKS, create_neck
from .pooling import GlobalAveragePool, Neck, Pooled
from .reversal import GradientReversal

__all__ = [
    "FDR",
    "INPUTS",
    "NECKS",
    "BNNeck",
    "DomainHead",
    "GlobalAveragePool",
    "GradientReversal",
    "Neck",
    "Pooled",
    "ShuffleAttention",
    "create_input",
    "create_neck",
]
