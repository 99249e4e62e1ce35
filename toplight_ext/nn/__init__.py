"""Modules over the ops: FDR, shuffle attention, gradient reversal, and the heads of the dual-path network."""

from .attention import ShuffleAttention
from .fdr import FDR
from .heads import BNNeck, DomainHead
from .pooling import GlobalAveragePool
from .reversal import GradientReversal

__all__ = ["FDR", "BNNeck", "DomainHead", "GlobalAveragePool", "GradientReversal", "ShuffleAttention"]
