"""What the children of a backbone hand on to each other, and blocks of them that take and give maps (B, C, H, W)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..extras import require

Child = nn.Module | nn.Parameter


def maps(blocks: Sequence[dict[str, Child]]) -> list[nn.Module]:
    """Convolutional networks, also those that permute inside their children: maps (B, C, H, W) throughout."""
    return [nn.Sequential(children) for children in blocks]


def channels_behind(blocks: Sequence[dict[str, Child]]) -> list[nn.Module]:
    """Transformers on (B, H, W, C), as timm's Swin. Block1 is the patch embedding, which takes the images as they are.

    Nothing is copied: outside of the blocks their maps are (B, C, H, W) in the memory format channels_last.
    """
    stem, *others = blocks
    return [_ChannelsBehindStem(stem), *(_ChannelsBehindBlock(children) for children in others)]


def tokens(blocks: Sequence[dict[str, Child]]) -> list[nn.Module]:
    """Plain transformers on tokens (B, 1 + h w, C), as timm's ViT. Block1 is what makes the tokens of an image.

    The class token rides along as a row above the map, (B, C, 1 + h, w), in every column the same. The last
    block gives the map without it.
    """
    stem, *others, last = blocks
    return [_TokenStem(**stem), *(_TokenBlock(children) for children in others), _LastTokenBlock(last)]


class _ChannelsBehindStem(nn.Sequential):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image).permute(0, 3, 1, 2)


class _ChannelsBehindBlock(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _TokenStem(nn.Module):
    """Patch embedding, class token and position embedding, resampled to the size of the image."""

    def __init__(
        self, patch_embed: nn.Module, cls_token: nn.Parameter, pos_embed: nn.Parameter, norm_pre: nn.Module
    ) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.cls_token = cls_token
        self.pos_embed = pos_embed
        self.norm_pre = norm_pre
        self.resample = require("timm.layers", extra="train").resample_abs_pos_embed

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image)
        batch, height, width, _ = x.shape
        x = torch.cat([self.cls_token.expand(batch, -1, -1), x.flatten(1, 2)], dim=1)
        x = x + self.resample(self.pos_embed, (height, width), self.patch_embed.grid_size, num_prefix_tokens=1)
        return _to_map(self.norm_pre(x), width)


class _TokenBlock(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return _to_map(super().forward(_to_tokens(x)), x.shape[3])


class _LastTokenBlock(_TokenBlock):
    def forward(self, x: Tensor) -> Tensor:
        # Copied, as the tokens without the first lie in memory with gaps between the images.
        return super().forward(x)[:, :, 1:].contiguous(memory_format=torch.channels_last)


def _to_map(x: Tensor, width: int) -> Tensor:
    """Tokens (B, 1 + h w, C) -> (B, C, 1 + h, w)."""
    class_row = x[:, :1, None].expand(-1, -1, width, -1)
    return torch.cat([class_row, x[:, 1:].unflatten(1, (-1, width))], dim=1).permute(0, 3, 1, 2)


def _to_tokens(x: Tensor) -> Tensor:
    """(B, C, 1 + h, w) -> tokens (B, 1 + h w, C)."""
    x = x.permute(0, 2, 3, 1)
    return torch.cat([x[:, 0, :1], x[:, 1:].flatten(1, 2)], dim=1)
