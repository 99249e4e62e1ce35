"""L_idc of TOP: both augmented paths name the identity, and agree."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .metric import full_precision


def symmetric_kl(logits_a: Tensor, logits_b: Tensor) -> Tensor:
    """Symmetric Kullback-Leibler divergence of two softmaxes, in nats, averaged over the batch.

    (KL(p || q) + KL(q || p)) / 2 = sum (p - q) (log p - log q) / 2, gradients to both sides; halved so
    that it is the mean of its two directions (our choice). (B, K), (B, K) -> scalar.
    """
    # Near each other they differ by less than half precision tells, in which autocast leaves them on a CPU.
    log_a, log_b = (F.log_softmax(full_precision(logits), dim=1) for logits in (logits_a, logits_b))
    return ((log_a.exp() - log_b.exp()) * (log_a - log_b)).sum(1).mean() / 2


def identity_consistency(
    logits_visible: Tensor,
    logits_infrared: Tensor,
    labels: Tensor,
    kl_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """L_idc = CE(path 1) + CE(path 2) + kl_weight * symmetric KL of the two softmaxes.

    The terms are the paper's, their form and weight our choice.

    Args:
        logits_visible, logits_infrared: (B, K) of the same B images through the two paths.
        labels: (B,) identities 0 .. K - 1.
        kl_weight: of the agreement; 0 leaves it out.
        label_smoothing: of the cross entropies, in [0, 1).
    """
    paths = (logits_visible, logits_infrared)
    identity = sum(F.cross_entropy(logits, labels, label_smoothing=label_smoothing) for logits in paths)
    if kl_weight == 0:
        return identity
    return identity + kl_weight * symmetric_kl(logits_visible, logits_infrared)
