"""Losses on the distances between modalities. An anchor of either modality looks at the other one only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_modality_triplet(
    visible: Tensor,
    infrared: Tensor,
    visible_identity: Tensor,
    infrared_identity: Tensor,
    margin: float = 0.3,
) -> Tensor:
    """Batch-hard triplet loss (Hermans et al., 2017) across modalities, with Euclidean distances.

    For every image of both modalities: max(0, margin + its farthest match - its nearest non-match), both
    sought in the other modality (our choice). Images with no match or no non-match there are left out of
    the mean; the loss is 0 if all are.

    Args:
        visible, infrared: (B_v, D) and (B_i, D) features, before BNNeck.
        visible_identity, infrared_identity: (B_v,) and (B_i,) integers.
        margin: in units of the features.
    """

    def anchor_loss(distances: Tensor, matches: Tensor) -> tuple[Tensor, Tensor]:
        farthest = distances.masked_fill(~matches, -torch.inf).amax(1)
        nearest = distances.masked_fill(matches, torch.inf).amin(1)
        return F.relu(margin + farthest - nearest), matches.any(1) & ~matches.all(1)

    distances = euclidean_distances(visible, infrared)
    return _mean_over_anchors(distances, visible_identity, infrared_identity, anchor_loss)


def cross_modality_infonce(
    visible: Tensor,
    infrared: Tensor,
    visible_identity: Tensor,
    infrared_identity: Tensor,
    temperature: float = 0.1,
) -> Tensor:
    """InfoNCE across modalities on normalised embeddings, with every match a positive.

    For every image of both modalities, with s its cosine similarities to the images of the other modality
    over the temperature: the mean over its matches p of -log(exp s_p / sum exp s), the supervised
    contrastive loss with the sum outside the logarithm (Khosla et al., 2020); that, and the fixed
    temperature, are our choice. Images without a match are left out of the mean; the loss is 0 if all are.

    Args:
        visible, infrared: (B_v, D) and (B_i, D) embeddings, of any length.
        visible_identity, infrared_identity: (B_v,) and (B_i,) integers.
        temperature: above 0.
    """

    def anchor_loss(similarity: Tensor, matches: Tensor) -> tuple[Tensor, Tensor]:
        count = matches.sum(1)
        log_probability = (F.log_softmax(similarity, dim=1) * matches).sum(1)
        return -log_probability / count.clamp(min=1), count > 0

    similarity = cosine_similarities(visible, infrared) / temperature
    return _mean_over_anchors(similarity, visible_identity, infrared_identity, anchor_loss)


def cross_modality_circle(
    visible: Tensor,
    infrared: Tensor,
    visible_identity: Tensor,
    infrared_identity: Tensor,
    margin: float = 0.25,
    scale: float = 64.0,
) -> Tensor:
    """Circle loss (Sun et al., 2020, equations 5 to 8) across modalities, on cosine similarities.

    For every image of both modalities, s_p and s_n its similarities to its matches and non-matches in the other
    modality (our choice; the original takes one set of images): log(1 + sum over n of exp(scale * a_n * (s_n -
    margin)) * sum over p of exp(-scale * a_p * (s_p - 1 + margin))), with a_p = max(0, 1 + margin - s_p) and a_n =
    max(0, s_n + margin), through which no gradient flows. Images with no match or no non-match there are left
    out of the mean; the loss is 0 if all are.

    Args:
        visible, infrared: (B_v, D) and (B_i, D) embeddings, of any length.
        visible_identity, infrared_identity: (B_v,) and (B_i,) integers.
        margin: the relaxation m, in units of the cosine.
        scale: the scale gamma, above 0.
    """

    def anchor_loss(similarity: Tensor, matches: Tensor) -> tuple[Tensor, Tensor]:
        constant = similarity.detach()
        pull = scale * F.relu(1 + margin - constant) * (1 - margin - similarity)
        push = scale * F.relu(constant + margin) * (similarity - margin)
        valid = matches.any(1) & ~matches.all(1)
        total = _log_sum_exp(pull, matches) + _log_sum_exp(push, ~matches)
        return F.softplus(total), valid

    return _mean_over_anchors(cosine_similarities(visible, infrared), visible_identity, infrared_identity, anchor_loss)


def cosine_similarities(a: Tensor, b: Tensor) -> Tensor:
    """(M, D), (N, D) -> (M, N), in at least single precision."""
    # Autocast would multiply in half precision, whose steps a temperature or scale enlarges.
    with torch.autocast(a.device.type, enabled=False):
        return F.normalize(full_precision(a), dim=1) @ F.normalize(full_precision(b), dim=1).T


def euclidean_distances(a: Tensor, b: Tensor) -> Tensor:
    """(M, D), (N, D) -> (M, N), in at least single precision."""
    # Not by matrix multiplication: near matches would lose their distance to cancellation.
    return torch.cdist(full_precision(a), full_precision(b), compute_mode="donot_use_mm_for_euclid_dist")


def full_precision(x: Tensor) -> Tensor:
    """At least single precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _log_sum_exp(logits: Tensor, mask: Tensor) -> Tensor:
    """Row by row over the entries of the mask; finite, and without gradient, where a row has none."""
    # The lowest finite number instead of -inf: an empty row's gradient would be 0 * inf.
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min / 4).logsumexp(1)


def _mean_over_anchors(
    pairs: Tensor,
    row_identity: Tensor,
    column_identity: Tensor,
    anchor_loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Tensor:
    """Mean of a loss per row over all rows of `pairs` and of its transpose that the loss calls valid."""
    matches = row_identity[:, None] == column_identity[None, :]
    losses, valid = zip(anchor_loss(pairs, matches), anchor_loss(pairs.T, matches.T), strict=True)
    mask = torch.cat(valid)
    return torch.where(mask, torch.cat(losses), 0).sum() / mask.sum().clamp(min=1)
