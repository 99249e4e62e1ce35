"""The fused ops: each runs forward and backward in compiled code, with a plain PyTorch reference beside it."""

import torch

from . import reference
from .backends import backends, use_backend
from .gradient_reversal import gradient_reversal
from .shuffle_attention import shuffle_attention
from .slice_pool import slice_pool
from .slice_pool_upsample import slice_pool_upsample
from .upsample_shuffle_attention import upsample_shuffle_attention, upsample_shuffle_attention_pooled

__all__ = [
    "backends",
    "gradient_reversal",
    "reference",
    "shuffle_attention",
    "slice_pool",
    "slice_pool_upsample",
    "upsample_shuffle_attention",
    "upsample_shuffle_attention_pooled",
    "use_backend",
]

# torch.fx.symbolic_trace keeps each op as one call: its checks ask for sizes, which such a trace does not know.
for _op in reference.__all__:
    torch.fx.wrap(_op)
