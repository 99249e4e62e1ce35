"""Modules over the ops: FDR, shuffle attention, gradient reversal, the necks by name, and the heads."""

from .attention import ShuffleAttention
from .fdr import FDR
from .heads import BNNeck, DomainHead
from .necks import NECKS, create_neck
from .pooling import GlobalAveragePool, Neck
from .reversal import GradientReversal

__all__ = [
    "FDR",
    "NECKS",
    "BNNeck",
    "DomainHead",
    "GlobalAveragePool",
    "GradientReversal",
    "Neck",
    "ShuffleAttention",
    "create_neck",
]
