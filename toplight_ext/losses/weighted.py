"""The metric loss of AGW, over all pairs of a batch of both modalities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .metric import euclidean_distances

# In AGW's public code, against division by 0. It also gives non-matches that are all farther than about 14, where
# exp(-14) comes near it, less weight than 1 in sum; kept, since published figures have it.
EPSILON = 1e-6


def weighted_regularised_triplet(features: Tensor, identity: Tensor) -> Tensor:
    """Weighted regularised triplet loss of AGW (Ye et al., 2021), which has no margin.

    For every image: softplus(sum of w_p d_p over its matches - sum of w_n d_n over its non-matches), d the
    Euclidean distances, w_p their softmax over the matches, itself included as in the public code, and w_n the
    softmax of -d over the non-matches. The mean over the batch, both modalities in one.

    Args:
        features: (B, D), before BNNeck.
        identity: (B,) integers.
    """
    distances = euclidean_distances(features, features)
    matches = identity[:, None] == identity[None, :]
    farthest = distances.masked_fill(~matches, 0).amax(1, keepdim=True)
    near = _weighted_mean(distances, (distances - farthest).masked_fill(~matches, -torch.inf))
    far = _weighted_mean(distances, (-distances).masked_fill(matches, -torch.inf))
    return F.softplus(near - far).mean()


def _weighted_mean(distances: Tensor, logits: Tensor) -> Tensor:
    weights = logits.exp()
    return (weights * distances).sum(1) / (weights.sum(1) + EPSILON)
