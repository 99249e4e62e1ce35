"""Losses of the TOPLight stages. The identity loss of a single path is torch's `cross_entropy`."""

from .centre import CentreLoss, hetero_centre, hetero_centre_triplet
from .consistency import identity_consistency, symmetric_kl
from .domain import feature_domain
from .metric import cross_modality_circle, cross_modality_infonce, cross_modality_triplet
from .weighted import weighted_regularised_triplet

__all__ = [
    "CentreLoss",
    "cross_modality_circle",
    "cross_modality_infonce",
    "cross_modality_triplet",
    "feature_domain",
    "hetero_centre",
    "hetero_centre_triplet",
    "identity_consistency",
    "symmetric_kl",
    "weighted_regularised_triplet",
]
