"""What FDR is measured against: the same definition, of the same weights, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toplight_ext import FDR
from toplight_ext.ops import reference


def fdr_on_maps(fdr: FDR, x: Tensor) -> Tensor:
    """FDR as the paper draws it, all of it on maps: every slice's mean is re-enlarged to the size of x, the slices
    go through a 1x1 convolution, stand side by side on the channels, and through BatchNorm2d over the map and ReLU."""
    rows, columns = reference.slice_pool(x, fdr.slices)
    maps = [
        _embed_on_map(embedding, slices, x)
        for embedding, slices in ((fdr.embed_rows, rows), (fdr.embed_columns, columns))
    ]
    return reference.shuffle_attention(torch.cat(maps, 1), *_attention(fdr, x))


def fdr_on_vectors(fdr: FDR, x: Tensor) -> Tensor:
    """FDR with the embedding on vectors as ours has it, then plain interpolation and shuffle attention."""
    rows, columns = reference.slice_pool(x, fdr.slices)
    if fdr.embed:
        rows, columns = _embed(fdr.embed_rows, rows), _embed(fdr.embed_columns, columns)
    return reference.upsample_shuffle_attention(rows, columns, x.shape[2:], *_attention(fdr, x))


def attention_arguments(attention: nn.Module, dtype: torch.dtype) -> tuple:
    """The arguments of shuffle attention for the reference, which takes all tensors in one dtype."""
    *parameters, groups, eps, shuffle = attention.op_arguments()
    return *(parameter.to(dtype) for parameter in parameters), groups, eps, shuffle


def _attention(fdr: FDR, x: Tensor) -> tuple:
    return attention_arguments(fdr.attention, x.dtype)


def _embed(embedding: nn.Module, slices: Tensor) -> Tensor:
    y = F.linear(slices.mT, embedding.linear.weight).flatten(1)[:, : embedding.norm.num_features]
    return _norm_and_relu(embedding.norm, y).unsqueeze(2)


def _embed_on_map(embedding: nn.Module, slices: Tensor, x: Tensor) -> Tensor:
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    # Re-enlarging one value is a broadcast; written out once, in the layout of x, it is cheaper than interpolate.
    means = slices.mT.flatten(0, 1)[:, :, None, None]  # a map per image and slice
    enlarged = means.expand(-1, -1, *x.shape[2:]).contiguous(memory_format=memory_format)
    y = F.conv2d(enlarged, embedding.linear.weight[:, :, None, None]).reshape(x.shape[0], -1, *x.shape[2:])
    return _norm_and_relu(embedding.norm, y[:, : embedding.norm.num_features].contiguous(memory_format=memory_format))


def _norm_and_relu(norm: nn.Module, y: Tensor) -> Tensor:
    """BatchNorm of vectors or of maps."""
    statistics = norm.running_mean, norm.running_var
    y = F.batch_norm(y, *statistics, norm.weight, norm.bias, norm.training, norm.momentum, norm.eps)
    return torch.relu(y)
