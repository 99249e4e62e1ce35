"""The ops in plain PyTorch, under their public names: what the kernels are tested against."""

from .gradient_reversal import reference as gradient_reversal
from .shuffle_attention import reference as shuffle_attention
from .slice_pool import reference as slice_pool
from .slice_pool_upsample import reference as slice_pool_upsample
from .upsample_shuffle_attention import pooled_reference as upsample_shuffle_attention_pooled
from .upsample_shuffle_attention import reference as upsample_shuffle_attention

__all__ = [
    "gradient_reversal",
    "shuffle_attention",
    "slice_pool",
    "slice_pool_upsample",
    "upsample_shuffle_attention",
    "upsample_shuffle_attention_pooled",
]
