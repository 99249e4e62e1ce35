"""What each stage minimises: modules from a batch of images and labels to named loss terms.

`images` are this process's part of the batch, `labels` those of the whole batch; the losses are of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import losses
from ..data import Modality
from ..inference import Preprocessing
from ..models import DualPathNetwork
from ..nn import DomainHead, GradientReversal
from .processes import Whole
from .recipe import VI, Pretrain, Top

Terms = dict[str, Tensor]


class PretrainObjective(nn.Module):
    """Stage 0: cross entropy on the identities (classes)."""

    def __init__(self, model: DualPathNetwork, settings: Pretrain, whole: Whole):
        super().__init__()
        self.model, self.whole = model, whole
        self._smoothing = settings.label_smoothing

    def forward(self, images: Sequence[Tensor], labels: Sequence[Tensor]) -> Terms:
        logits = self.whole(self.model(*images).logits)
        return {"identity": F.cross_entropy(logits, *labels, label_smoothing=self._smoothing)}


class TopObjective(nn.Module):
    """Stage 1: L_idc makes the paths agree on an image, L_fd makes Blocks 1-4 specialise."""

    def __init__(self, model: DualPathNetwork, settings: Top, whole: Whole):
        super().__init__()
        self.model, self.whole = model, whole
        self.path_head = DomainHead(model.channels[model.duplicated - 1])
        self.final_head = DomainHead(model.channels[-1])
        self.reverse = GradientReversal(settings.reversal)
        self._settings = settings

    def forward(self, images: Sequence[Tensor], labels: Sequence[Tensor]) -> Terms:
        settings = self._settings
        output = self.model(*images, maps=True)
        logits = [self.whole(part) for part in output.logits.chunk(2)]
        consistency = losses.identity_consistency(
            *logits, *labels, kl_weight=settings.kl_weight, label_smoothing=settings.label_smoothing
        )
        pooled = ([self._pooled(x) for x in maps] for maps in (output.path_maps, output.final_maps))
        domain = losses.feature_domain(*pooled, self.path_head, self.final_head, self.reverse)
        return {"identity_consistency": consistency, "feature_domain": settings.domain_weight * domain}

    def _pooled(self, x: Tensor) -> Tensor:
        # Before the exchange between processes; the loss's own pooling then finds one position.
        return self.whole(x.mean((2, 3), keepdim=True))


class VIObjective(nn.Module):
    """Stage 3: identity loss on the logits, metric losses on features (before BNNeck) and embeddings (after it)."""

    def __init__(self, model: DualPathNetwork, settings: VI, preprocessing: Preprocessing, whole: Whole, classes: int):
        super().__init__()
        self.model, self.whole = model, whole
        self.centre = losses.CentreLoss(classes, model.neck.out_channels) if settings.centre_weight else None
        self._settings, self._preprocessing = settings, preprocessing

    def forward(self, images: Sequence[Tensor], labels: Sequence[Tensor]) -> Terms:
        s = self._settings
        visible, infrared = images
        output = self.model(self._preprocessing.colourless(visible, Modality.VISIBLE), infrared)
        counts = len(visible), len(infrared)
        features, embeddings, logits = (
            None if rows is None else [self.whole(part) for part in rows.split(counts)]
            for rows in (output.features, output.embedding, output.logits)
        )
        target = torch.cat(tuple(labels))
        terms: dict[str, tuple[float, Callable[[], Tensor]]] = {
            "identity": (
                s.identity_weight,
                lambda: F.cross_entropy(torch.cat(logits), target, label_smoothing=s.label_smoothing),
            ),
            "triplet": (s.triplet_weight, lambda: losses.cross_modality_triplet(*features, *labels, s.margin)),
            "weighted_triplet": (
                s.weighted_triplet_weight,
                lambda: losses.weighted_regularised_triplet(torch.cat(features), target),
            ),
            "infonce": (s.infonce_weight, lambda: losses.cross_modality_infonce(*embeddings, *labels, s.temperature)),
            "circle": (
                s.circle_weight,
                lambda: losses.cross_modality_circle(*embeddings, *labels, s.circle_margin, s.circle_scale),
            ),
            "centre": (s.centre_weight, lambda: self.centre(torch.cat(features), target)),
            "hetero_centre": (s.hetero_centre_weight, lambda: losses.hetero_centre(*features, *labels)),
            "hetero_centre_triplet": (
                s.hetero_centre_triplet_weight,
                lambda: losses.hetero_centre_triplet(*features, *labels, s.margin),
            ),
        }
        return {name: weight * term() for name, (weight, term) in terms.items() if weight}
