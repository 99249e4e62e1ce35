"""A state dict with the names and shapes of AGW's public code, and numbers that depend on the names alone."""

import math

import torch
from filling import filled

NON_LOCAL = {2: (2, 512), 3: (3, 1024)}  # number of the layer: how many blocks, channels


def agw_fill(name, shape):
    """Weights at which activations keep their scale and every part matters."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.long)
    if len(shape) > 1:
        bound = math.sqrt(3 / math.prod(shape[1:]))
        return filled(name, shape, -bound, bound, torch.float32)
    ranges = {"running_var": (0.8, 1.2), "weight": (0.3, 0.9)}
    return filled(name, shape, *ranges.get(name.rpartition(".")[2], (-0.1, 0.1)), torch.float32)


def agw_state(resnet50, num_classes):
    """All of its tensors; those that it carries and does not run are zero.

    Args:
        resnet50: name -> tensor of a plain ResNet-50, whose names and shapes it repeats three times.
    """
    shapes, unused = {}, {}
    for prefix in ("visible_module.visible", "thermal_module.thermal", "base_resnet.base"):
        for name, tensor in resnet50.items():
            if not name.startswith("fc."):
                is_stem = not name.startswith("layer")
                runs = is_stem == (prefix != "base_resnet.base")
                (shapes if runs else unused)[f"{prefix}.{name}"] = tensor.shape
    for layer, (count, channels) in NON_LOCAL.items():
        for index in range(count):
            block = f"NL_{layer}.{index}"
            for part in ("theta", "phi", "g.0"):
                shapes |= {f"{block}.{part}.weight": (1, channels, 1, 1), f"{block}.{part}.bias": (1,)}
            shapes |= {f"{block}.W.0.weight": (channels, 1, 1, 1), f"{block}.W.0.bias": (channels,)}
            shapes |= _norm(f"{block}.W.1", channels)
    shapes |= _norm("bottleneck", 2048)
    shapes["classifier.weight"] = (num_classes, 2048)
    state = {name: agw_fill(name, shape) for name, shape in shapes.items()}
    return state | {name: torch.zeros(()).expand(shape) for name, shape in unused.items()}


def _norm(name, channels):
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{vector}": (channels,) for vector in vectors} | {f"{name}.num_batches_tracked": ()}
