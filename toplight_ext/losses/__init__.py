"""Losses of the TOPLight stages. The identity loss of a single path is torch's `cross_entropy`."""

from .consistency import identity_consistency, symmetric_kl
from .domain import feature_domain
from .metric import cross_modality_infonce, cross_modality_triplet
from .weighted import weighted_regularised_triplet

__all__ = [
    "cross_modality_infonce",
    "cross_modality_triplet",
    "feature_domain",
    "identity_consistency",
    "symmetric_kl",
    "weighted_regularised_triplet",
]
