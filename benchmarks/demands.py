"""How fast the library has to be: what `benchmarks/ops.py --check` holds its figures against."""

import operator
from collections.abc import Callable
from typing import NamedTuple

from cases import DEFINITIONS, GLOBAL_POOLS, LAYOUTS, SHAPES, Key

ALL = tuple(DEFINITIONS)
# The backward of gradient reversal is one pass over the gradient however it is written.
NOT_ONE_PASS = tuple(op for op in ALL if op != "gradient_reversal")
# What reads or writes a map and computes little: a copy is the limit.
ON_MAPS = ("slice_pool", "slice_pool_upsample", "shuffle_attention", "upsample_shuffle_attention", "gradient_reversal")
SMALL = ("TOPLight", "AGW", "DEEN")
LARGER = ("AGW", "DEEN", "wide", "large")
at_least, at_most = operator.ge, operator.le


def speed(native: dict, *peers: dict) -> float:
    """Time of the fastest peer / native's, forward + backward."""
    return min(peer["both_us"] for peer in peers) / native["both_us"]


def time(native: dict, *peers: dict) -> float:
    return 1 / speed(native, *peers)


def of_copy(native: dict) -> float:
    return native["both_of_copy"]


def in_copies(native: dict) -> float:
    return 1 / native["both_of_copy"]


def kept(native: dict, eager: dict) -> float:
    return native["kept_bytes"] / eager["kept_bytes"]


class Demand(NamedTuple):
    """A limit on a figure of the native variant and its peers."""

    device: str
    ops: tuple[str, ...]
    figure: Callable[..., float]
    peers: tuple[str, ...]
    holds: Callable[[float, float], bool]
    limit: float
    shapes: tuple[str, ...] = tuple(SHAPES)
    layouts: tuple[str, ...] = (*LAYOUTS, "vectors")

    def applies(self, key: Key, measured: set[str]) -> bool:
        return (
            (key.device == "cuda" or key.dtype == "float32")
            and key.device == self.device
            and key.op in self.ops
            and key.shape in self.shapes
            and key.layout in self.layouts
            and measured.issuperset(("native", *self.peers))
        )


DEMANDS = (
    Demand("cpu", ("slice_pool_upsample",), speed, ("eager",), at_least, 10, layouts=("NCHW",)),
    Demand("cpu", ("slice_pool_upsample",), speed, ("eager",), at_least, 3, layouts=("NHWC",)),
    Demand("cpu", ("shuffle_attention", "FDR"), speed, ("eager",), at_least, 5),
    Demand("cpu", ALL, speed, ("compile",), at_least, 1),
    Demand("cpu", NOT_ONE_PASS, speed, ("compile",), at_least, 2, shapes=SMALL),
    Demand("cpu", ON_MAPS, in_copies, (), at_most, 1.5, shapes=LARGER),
    Demand("cuda", ALL, speed, ("eager",), at_least, 3),
    Demand("cuda", ALL, speed, ("compile",), at_least, 1.3),
    Demand("cuda", ON_MAPS, of_copy, (), at_least, 0.85, shapes=LARGER),
    *(Demand(device, ("FDR",), kept, ("eager",), at_most, 0.2) for device in ("cpu", "cuda")),
    *(Demand(device, ("FDR(embed=False).pooled",), time, GLOBAL_POOLS, at_most, 1.5) for device in ("cpu", "cuda")),
)
WORDS = {
    speed: "x as fast as {}",
    time: "x the time of {}",
    of_copy: " of the copy bandwidth",
    in_copies: "x the time of a copy",
    kept: " of the bytes that {} keeps",
}


def missed(key: Key, rows: dict[str, dict]) -> list[str]:
    """The demands that a case misses, in words, from the rows of its timed variants."""
    found = []
    for demand in DEMANDS:
        if demand.applies(key, set(rows)):
            figure = demand.figure(*(rows[name] for name in ("native", *demand.peers)))
            if not demand.holds(figure, demand.limit):
                words = WORDS[demand.figure].format(" and ".join(demand.peers))
                bound = "at least" if demand.holds is at_least else "at most"
                found.append(f"{figure:.3g}{words}, {bound} {demand.limit:g} is demanded")
    return found
