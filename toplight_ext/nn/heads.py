"""The heads after pooling: BNNeck with the identity classifier, and the domain head."""

from __future__ import annotations

from torch import Tensor, nn


class BNNeck(nn.Module):
    """BatchNorm without a trained bias, then a classifier without bias (Luo et al., 2019, "Bag of Tricks").

    The metric loss acts on the features before it, the identity loss on the logits, retrieval on the
    embedding.

    Args:
        channels: C of the features.
        num_classes: identities; 0 for no classifier.
    """

    def __init__(self, channels: int, num_classes: int = 0):
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        # Frozen at 0: the classifier has no bias either, so classes are separated by angle around the origin.
        self.norm.bias.requires_grad_(False)
        self.classifier = nn.Linear(channels, num_classes, bias=False) if num_classes else None
        if self.classifier is not None:
            nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, C) -> the embedding (B, C) and the logits (B, num_classes), or None without a classifier."""
        embedding = self.norm(features)
        return embedding, None if self.classifier is None else self.classifier(embedding)


class DomainHead(nn.Module):
    """Tells from a pooled vector which of the two paths it came through: (B, C) -> logits (B, 2).

    Two layers, `hidden` wide (our choice). No BatchNorm: its statistics over one path's batch would take
    away the very difference between the paths that the head is to find.
    """

    def __init__(self, channels: int, hidden: int = 128):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 2))

    def forward(self, pooled: Tensor) -> Tensor:
        return self.layers(pooled)
