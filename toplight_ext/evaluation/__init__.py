"""Evaluation of features: protocols of the field, exact ranking, re-ranking, ranked lists. Sees arrays only."""

from .analysis import PairDistances, Projection, pair_distances, projection
from .features import Features, check_ending, load_features, save_features
from .formats import table, to_csv, to_latex
from .llcm import LLCM
from .names import parse_protocol
from .origin import Origin, Split, check_splits, network_of
from .protocols import Direction, Faces, Generic, Protocol, RegDB, Trial
from .ranking import CameraFilter, Labels, Ranking, Reranking, nearest, rank_distances, rank_features, unit_rows
from .scores import MAIN_SCORES, SCORES, RankedLists, Result, TrialResult, evaluate, over_seeds, ranked_lists
from .sysu import SysuMM01, load_permutations
from .verification import verification_rates

__all__ = [
    "LLCM",
    "MAIN_SCORES",
    "SCORES",
    "CameraFilter",
    "Direction",
    "Faces",
    "Features",
    "Generic",
    "Labels",
    "Origin",
    "PairDistances",
    "Projection",
    "Protocol",
    "RankedLists",
    "Ranking",
    "RegDB",
    "Reranking",
    "Result",
    "Split",
    "SysuMM01",
    "Trial",
    "TrialResult",
    "check_ending",
    "check_splits",
    "evaluate",
    "load_features",
    "load_permutations",
    "nearest",
    "network_of",
    "over_seeds",
    "pair_distances",
    "parse_protocol",
    "projection",
    "rank_distances",
    "rank_features",
    "ranked_lists",
    "save_features",
    "table",
    "to_csv",
    "to_latex",
    "unit_rows",
    "verification_rates",
]
