"""Evaluation of saved features: protocols of the field, exact ranking, ranked lists. Sees arrays only."""

from .features import Features, load_features, save_features
from .protocols import Generic, Protocol, SysuMM01, Trial, load_permutations, parse_protocol
from .ranking import CameraFilter, Labels, Ranking, nearest, rank_distances, rank_features
from .scores import RankedLists, Result, evaluate, ranked_lists

__all__ = [
    "CameraFilter",
    "Features",
    "Generic",
    "Labels",
    "Protocol",
    "RankedLists",
    "Ranking",
    "Result",
    "SysuMM01",
    "Trial",
    "evaluate",
    "load_features",
    "load_permutations",
    "nearest",
    "parse_protocol",
    "rank_distances",
    "rank_features",
    "ranked_lists",
    "save_features",
]
