"""gradient_reversal: the identity, with the gradient turned round."""

from __future__ import annotations

import torch
from torch import Tensor

from toplight_ext.errors import InputError

from . import _registration as registration
from .backends import use_reference


def gradient_reversal(x: Tensor, lambd: float | Tensor = 1.0) -> Tensor:
    """Return x; its gradient is multiplied by -lambd (Ganin and Lempitsky, ICML 2015).

    Args:
        x: tensor of any shape and strides.
        lambd: one number. Give a tensor of one value where it changes during training: under torch.compile a new
            Python number can cost a recompilation.

    Returns:
        A view of x.

    Raises:
        InputError: x is not floating point, or lambd is not one value.
        RuntimeError: in forward-mode differentiation, where the identity that is computed has another derivative.
    """
    registration.check_tensor("gradient_reversal", x, "x")
    registration.check_dtype("gradient_reversal", x, "x")
    dtype = registration.accumulation_dtype(x.dtype)
    if isinstance(lambd, Tensor):
        lambd = lambd.to(x.device, dtype)
    else:  # filled on the device: a copy from the host would wait, and not be recorded in a CUDA graph
        lambd = torch.full((), lambd, dtype=dtype, device=x.device)
    if lambd.numel() != 1:
        raise InputError(f"gradient_reversal: lambd must be one value, got a tensor of shape {tuple(lambd.shape)}")
    if use_reference("gradient_reversal", x.device):
        return reference(x, lambd)
    return _GradientReversal.apply(x, lambd)


def reference(x: Tensor, lambd: Tensor) -> Tensor:
    """gradient_reversal in plain PyTorch; lambd is a tensor of one value."""
    return _ReferenceReversal.apply(x, lambd)


# A torch op may not return its input, so only the backward is one.
class _ReferenceReversal(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, lambd):
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx, grad):
        (lambd,) = ctx.saved_tensors
        return (-lambd * grad).to(grad.dtype), None


class _GradientReversal(_ReferenceReversal):
    @staticmethod
    def backward(ctx, grad):
        (lambd,) = ctx.saved_tensors
        return _backward_op(grad, lambd), None


@registration.register_fake("gradient_reversal_backward")
def _(grad, lambd):
    channels_last = grad.dim() == 4 and registration.is_channels_last(grad)
    return registration.empty_map(grad, grad.shape, channels_last)


# Linear in the gradient, so its own gradient is the same op; no gradient goes to lambda.
def _keep_lambd(ctx, inputs, output):
    ctx.save_for_backward(inputs[1])


def _reverse_again(ctx, grad):
    return _backward_op(grad, *ctx.saved_tensors), None


_backward_op = registration.register_autograd("gradient_reversal_backward", _reverse_again, _keep_lambd)
