"""FDR: fine-grained dependency reconstruction, the neck of TOPLight, on vectors instead of maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import InputError
from ..ops._registration import check_slices, is_channels_last
from .attention import ShuffleAttention, resolve_groups
from .pooling import Neck, check_channels

torch.fx.wrap("is_channels_last")  # it asks for strides, which torch.fx.symbolic_trace does not know


def in_front_of_norm(layer: nn.Module) -> nn.Module:
    """The layer with its weights drawn as those of the backbones' convolutions: variance 2 / fan-out (He et al., 2015).

    BatchNorm takes their scale away, but the larger they are, the less a step of an optimiser turns them (van
    Laarhoven, 2017): drawn as `nn.Linear` does, those of wide layers were several times as restless as the backbone.
    """
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return layer


class SliceEmbedding(nn.Module):
    """Embeds the slices of one direction: (B, C, n) -> (B, C_embedded, 1).

    The paper names an embedding of slices that are concatenated on channels, but not its layers. Our choice: one
    linear layer, the same for all slices, takes each to C_embedded / n channels; these stand side by side, slice
    after slice, and go through BatchNorm and ReLU. So the layout along the direction, which an average pool throws
    away, stays in the channels. Where n is no divisor, C_embedded / n is rounded up and the last slice cut.
    C * ceil(C_embedded / n) + 2 * C_embedded parameters.
    """

    def __init__(self, channels: int, out_channels: int, slices: int):
        super().__init__()
        self.linear = in_front_of_norm(nn.Linear(channels, -(-out_channels // slices), bias=False))
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, slices: Tensor) -> Tensor:
        # Slices of one image would be multiplied transposed as they lie, whose gradient takes a CPU ten times as long.
        slices = slices.mT.contiguous()
        concatenated = self.linear(slices).flatten(1)[:, : self.norm.num_features]
        return torch.relu(self.norm(concatenated)).unsqueeze(2)


class FDR(Neck):
    """Slices a map along both directions, embeds the slices, rebuilds the map and attends to it.

    (B, C, H, W) -> (B, C_out, H, W), any H and W, also smaller than the number of slices:

    1. rows = mean over n_h bands of the height and all of the width; columns likewise;
    2. each embedded to C_out / 2 channels (`SliceEmbedding`, our choice), or left as they are (embed=False);
    3. re-enlarged bilinearly to H and W, concatenated on channels, rows first;
    4. shuffle attention.

    All of 2 to 4 runs on vectors: the map is read once in step 1 and written once at the end, not at all by
    `pooled`. With `embed` the module has C * (C_out / 2) * (1 / n_h + 1 / n_v) weights, 2 * C_out of BatchNorm and
    3 * C_out / G of attention: 0.41 million at C = C_out = 1280 and slices (6, 3).

    In training mode the embedding's BatchNorm needs a batch of at least two images.

    Args:
        channels: C of the input.
        out_channels: C_out, even; defaults to C with `embed` and is 2C without.
        slices: (n_h, n_v), the number of bands along height and width.
        groups: of the shuffle attention; left out, 64 or with a warning the largest valid number below.
        embed: whether step 2 is done.

    Raises:
        InputError: C_out is not divisible by twice the groups, C_out is not 2C with embed=False, a slice
            count below 1; a map has other than C channels.
    """

    embedding: type[nn.Module] = SliceEmbedding  # the other readings of the paper (readings.py) have others

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        slices: tuple[int, int] = (6, 3),
        groups: int | None = None,
        embed: bool = True,
    ):
        check_slices("FDR", slices)
        if not embed and out_channels not in (None, 2 * channels):
            raise InputError(
                f"FDR: without the embedding out_channels is 2 * channels = {2 * channels}, "
                f"got {out_channels}; leave it out or use embed=True"
            )
        if out_channels is None:
            out_channels = channels if embed else 2 * channels
        super().__init__(channels, out_channels)
        self.slices = tuple(slices)
        self.embed = embed
        self.attention = ShuffleAttention(self.out_channels, resolve_groups(self.out_channels, groups))
        if embed:
            self.embed_rows = self.embedding(channels, self.out_channels // 2, slices[0])
            self.embed_columns = self.embedding(channels, self.out_channels // 2, slices[1])

    def profiles(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Steps 1 and 2: row vectors and column vectors, each (B, C_out / 2, positions), and the size of step 3."""
        check_channels(self, x)
        rows, columns = ops.slice_pool(x, self.slices)
        if self.embed:
            rows, columns = self.embed_rows(rows), self.embed_columns(columns)
        return rows, columns, x.shape[2:]

    def forward(self, x: Tensor) -> Tensor:
        arguments = (*self.profiles(x), *self.attention.op_arguments())
        return ops.upsample_shuffle_attention(*arguments, channels_last=is_channels_last(x))

    def pooled(self, x: Tensor) -> Tensor:
        """(B, C_out): the global average pool of the forward, whose map is never written."""
        return ops.upsample_shuffle_attention_pooled(*self.profiles(x), *self.attention.op_arguments())

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.out_channels}, slices={self.slices}, embed={self.embed}"
