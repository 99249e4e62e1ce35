"""Losses on centres: learned ones of the identities, and those of an identity's images in a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .metric import euclidean_distances, full_precision


class CentreLoss(nn.Module):
    """Centre loss (Wen et al., 2016): half the squared distance of a feature to the centre of its identity.

    The mean over the batch, where the paper has the sum. The centres are parameters that the optimiser moves
    and decays with the others (our choice; the paper gives them a rule and a rate of their own); they start at
    random, as in the public code of Luo et al. (2019).

    Args:
        num_classes: identities.
        channels: D of the features.
    """

    def __init__(self, num_classes: int, channels: int):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(num_classes, channels))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B, D) features before BNNeck and (B,) identities 0 .. num_classes - 1 -> scalar."""
        return (full_precision(features) - self.centres[labels]).square().sum(1).mean() / 2


def hetero_centre(visible: Tensor, infrared: Tensor, visible_identity: Tensor, infrared_identity: Tensor) -> Tensor:
    """Hetero-centre loss (Zhu et al., 2020): squared distance between the two modalities' centres of an identity.

    A centre is the mean of an identity's images of one modality in the batch. The mean over the visible images
    whose identity has infrared ones, where the paper has the sum over identities: in a P x K batch the mean over
    identities. 0 if there are none.

    Args:
        visible, infrared: (B_v, D) and (B_i, D) features, before BNNeck.
        visible_identity, infrared_identity: (B_v,) and (B_i,) integers.
    """
    matches = visible_identity[:, None] == infrared_identity[None, :]
    apart = _centres(visible, visible_identity) - _means(infrared, matches)
    paired = matches.any(1)
    return torch.where(paired, apart.square().sum(1), 0).sum() / paired.sum().clamp(min=1)


def hetero_centre_triplet(
    visible: Tensor,
    infrared: Tensor,
    visible_identity: Tensor,
    infrared_identity: Tensor,
    margin: float = 0.3,
) -> Tensor:
    """Hetero-centre triplet loss (Liu et al., 2021): a triplet loss between centres instead of images.

    For the centre of every identity in either modality: max(0, margin + its distance to the identity's centre in
    the other modality - its nearest centre of another identity in either modality). The mean over the images'
    centres, where the paper has the sum over identities: in a P x K batch the mean over identities. Centres without
    a match or a non-match are left out of the mean; the loss is 0 if all are.

    Args:
        visible, infrared: (B_v, D) and (B_i, D) features, before BNNeck.
        visible_identity, infrared_identity: (B_v,) and (B_i,) integers.
        margin: in units of the features.
    """
    centres = torch.cat((_centres(visible, visible_identity), _centres(infrared, infrared_identity)))
    identity = torch.cat((visible_identity, infrared_identity))
    is_visible = torch.arange(len(identity), device=identity.device) < len(visible)
    same = identity[:, None] == identity[None, :]
    matches = same & (is_visible[:, None] != is_visible[None, :])
    distances = euclidean_distances(centres, centres)
    match = distances.masked_fill(~matches, -torch.inf).amax(1)
    nearest = distances.masked_fill(same, torch.inf).amin(1)
    valid = matches.any(1) & ~same.all(1)
    return torch.where(valid, F.relu(margin + match - nearest), 0).sum() / valid.sum().clamp(min=1)


def _centres(features: Tensor, identity: Tensor) -> Tensor:
    """(B, D): in the place of every image the mean over its identity's images."""
    return _means(features, identity[:, None] == identity[None, :])


def _means(features: Tensor, chosen: Tensor) -> Tensor:
    """(N, D), (M, N) -> (M, D): the mean over the features chosen in each row, 0 where there are none."""
    # No grouping by identity, whose shapes would depend on the batch and make the host wait for the device.
    with torch.autocast(features.device.type, enabled=False):
        weights = F.normalize(chosen.to(full_precision(features).dtype), p=1, dim=1)
        return weights @ full_precision(features)
