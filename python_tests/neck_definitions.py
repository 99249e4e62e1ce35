"""FDR, its readings and shuffle attention on maps, step by step in plain PyTorch, as the method describes them."""

import torch
from torch import nn
from torch.nn import functional as F

AXES = {"rows": 2, "columns": 3}


def randomise(module):
    """Weights at which every gate, norm and shift matters."""
    for name, parameter in module.named_parameters():
        nn.init.normal_(parameter, mean=1.0 if name.endswith("norm.weight") else 0.0, std=0.5)
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return module


def shuffle_attention_on_maps(x, module):
    """SA-Net's unit as its paper writes it: a reshape to groups, two halves, two gates, and the shuffle."""
    batch, channels, height, width = x.shape
    halves = x.reshape(batch * module.groups, channels // module.groups, height, width).chunk(2, dim=1)
    pooled = F.adaptive_avg_pool2d(halves[0], 1)
    channel = halves[0] * torch.sigmoid(module.channel_weight * pooled + module.channel_bias)
    normed = F.group_norm(
        halves[1], halves[1].shape[1], module.norm_weight.flatten(), module.norm_bias.flatten(), eps=1e-5
    )
    spatial = halves[1] * torch.sigmoid(module.spatial_weight * normed + module.spatial_bias)
    out = torch.cat([channel, spatial], dim=1).reshape(batch, channels, height, width)
    return F.channel_shuffle(out, 2) if module.shuffle else out


def along(axis, length):
    """(length, 1) for rows, (1, length) for columns."""
    return (length, 1) if axis == "rows" else (1, length)


def enlarge(y, size):
    return F.interpolate(y, tuple(size), mode="bilinear", align_corners=False)


def normalise(y, norm):
    statistics = (None, None) if norm.training else (norm.running_mean, norm.running_var)
    return F.batch_norm(y, *statistics, norm.weight, norm.bias, training=norm.training).relu()


def side_by_side(y, embedding, axis, size):
    """The default: a convolution with kernel 1 on every slice's mean, their channels concatenated."""
    slices = y.flatten(2).unbind(2)
    kernel = embedding.linear.weight[:, :, None, None]
    embedded = torch.cat([F.conv2d(mean[:, :, None, None], kernel) for mean in slices], dim=1)
    return normalise(embedded[:, : embedding.norm.num_features], embedding.norm)


def vector(y, embedding, axis, size):
    """C: a convolution over all slices at once, which leaves one position."""
    kernel = embedding.linear.weight.unflatten(1, y.shape[1:])
    return normalise(F.conv2d(y, kernel), embedding.norm)


def pointwise(y, embedding, axis, size):
    """A: a convolution with kernel 1 on the slices."""
    return normalise(F.conv2d(y, embedding.convolution.weight.unsqueeze(3)), embedding.norm)


def on_the_profile(y, embedding, axis, size):
    """B: the slices enlarged to the map, then a convolution with kernel 3 along the axis."""
    kernel, padding = embedding.convolution.weight.unsqueeze(3), (1, 0)
    if axis == "columns":
        kernel, padding = kernel.mT, (0, 1)
    return normalise(F.conv2d(enlarge(y, size), kernel, padding=padding), embedding.norm)


def transposed(y, embedding, axis, size):
    """D: as C, then a transposed convolution from its one position to as many as there were slices."""
    position = vector(y, embedding, axis, size)
    kernel = embedding.profile.reshape(-1, 1, *y.shape[2:])
    return F.conv_transpose2d(position, kernel, groups=position.shape[1])


def mixing(y, embedding, axis, size):
    """E: as C, but to C_out / 2 channels at each of as many positions as there were slices."""
    positions = y.shape[2:]
    kernel = embedding.linear.weight.unflatten(1, y.shape[1:])
    return normalise(F.conv2d(y, kernel).reshape(len(y), -1, *positions), embedding.norm)


def left_out(y, embedding, axis, size):
    return y


def fdr_on_maps(x, module, embed=side_by_side):
    """Slice and pool, embed, enlarge, concatenate, attend."""
    return shuffle_attention_on_maps(rebuilt_on_maps(x, module, embed), module.attention)


def rebuilt_on_maps(x, module, embed=side_by_side):
    maps = []
    for slices, axis in zip(module.slices, AXES, strict=True):
        y = F.adaptive_avg_pool2d(x, along(axis, slices))
        y = embed(y, getattr(module, f"embed_{axis}", None), axis, x.shape[2:])
        maps.append(enlarge(y, x.shape[2:]))
    return torch.cat(maps, dim=1)
