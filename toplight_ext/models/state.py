"""State dicts of the dual-path network: checks, conversions between its forms, and the uniform soup."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import InputError
from ..text import plain
from .network import DualPathNetwork

State = Mapping[str, Tensor]

_NUMBERS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_BLOCK_KEY = re.compile(r"(visible|infrared|shared)\.block([1-7])\.(.+)")


def check_state(expected: State, given: State, origin: str) -> None:
    """Refuse a state dict that does not fit exactly, or has a value that is not finite.

    Raises:
        InputError: naming `origin` (the file, or what else the tensors come from) and the tensors.
    """
    missing = [key for key in expected if key not in given]
    unexpected = [key for key in given if key not in expected]
    for words, keys in (("lacks", missing), ("has the unknown", unexpected)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            named = ", ".join(map(plain, keys[:3]))
            raise InputError(f"{origin}: {words} tensor {named}{more}; is it of another network or form?")
    for key, tensor in given.items():
        if tensor.shape != expected[key].shape:
            raise InputError(
                f"{origin}: tensor {key} has shape {tuple(tensor.shape)}, expected {tuple(expected[key].shape)}"
            )
        if expected[key].is_floating_point() and tensor.dtype not in _NUMBERS:
            raise InputError(f"{origin}: tensor {key} is of {tensor.dtype}, expected floating-point numbers")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"{origin}: tensor {key} holds NaN or infinite values")


def duplicated_blocks(state: State) -> int:
    """How many of the first blocks the state dict holds once per path."""
    matches = map(_BLOCK_KEY.fullmatch, state)
    return max((int(match[2]) for match in matches if match and match[1] != "shared"), default=0)


def duplicate(state: State, blocks: int, origin: str = "state dict") -> dict[str, Tensor]:
    """Duplicate the first `blocks` blocks: each still shared one becomes one per path, equal and unaliased.

    Raises:
        InputError: the state dict already has more blocks duplicated; the message names `origin`.
    """
    if duplicated_blocks(state) > blocks:
        raise InputError(
            f"{origin}: cannot go from {duplicated_blocks(state)} duplicated blocks to {blocks} by copying; "
            "merge the paths into a soup"
        )
    result = {}
    for key, tensor in state.items():
        match = _BLOCK_KEY.fullmatch(key)
        if match and match[1] == "shared" and int(match[2]) <= blocks:
            for path in ("visible", "infrared"):
                result[f"{path}.block{match[2]}.{match[3]}"] = tensor.clone()
        else:
            result[key] = tensor
    return result


def average(states: Sequence[State]) -> dict[str, Tensor]:
    """The arithmetic mean of every floating-point tensor, summed in double precision.

    Integer tensors (BatchNorm's `num_batches_tracked`) are counts, not weights: the first state's are kept.

    Raises:
        InputError: no state, or states that differ in keys or shapes.
    """
    if not states:
        raise InputError("a soup needs at least one state dict")
    for number, state in enumerate(states, start=1):
        check_state(states[0], state, f"ingredient {number} of the soup")
    return {key: _mean([state[key] for state in states]) for key in states[0]}


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    if not first.is_floating_point():
        return first.clone()
    return torch.stack([tensor.double() for tensor in tensors]).mean(0).to(first.dtype)


def merge(state: State, keep: int = 1) -> dict[str, Tensor]:
    """Average the two paths: blocks after the first `keep` become shared, those up to it stay apart."""
    result = {}
    for key, tensor in state.items():
        match = _BLOCK_KEY.fullmatch(key)
        if not match or match[1] == "shared" or int(match[2]) <= keep:
            result[key] = tensor
        elif match[1] == "visible":
            twin = f"infrared.block{match[2]}.{match[3]}"
            result[f"shared.block{match[2]}.{match[3]}"] = _mean([tensor, state[twin]])
    return result


def soup(states: Sequence[State], keep: int = 1) -> dict[str, Tensor]:
    """The uniform soup of TOPLight: all states averaged, then the two paths merged after `keep` blocks.

    With the four duplicated blocks of TOP, blocks 2 to 4 are merged and the stems stay apart. BatchNorm's
    running statistics are averaged like weights and should be re-estimated on both modalities afterwards.

    Raises:
        InputError: no state, or states that differ in keys or shapes.
    """
    return merge(average(states), keep)


def load_blocks(model: DualPathNetwork, state: State, origin: str = "state dict") -> None:
    """Start a stage from the blocks of the stage before; neck and head of the model stay as they are.

    Blocks that the model duplicates and the state does not are copied to both paths.

    Raises:
        InputError: the state has more duplicated blocks than the model, or its blocks do not fit.
    """
    given = _blocks_only(duplicate(state, model.duplicated, origin))
    check_state(_blocks_only(model.state_dict()), given, origin)
    model.load_state_dict(given, strict=False)


def _blocks_only(state: State) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if _BLOCK_KEY.fullmatch(key)}
