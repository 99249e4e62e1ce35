"""Random numbers that are a function of where they are used, not of what was drawn before."""

from __future__ import annotations

import functools
import zlib

import numpy as np


def generator(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """A generator for one purpose at one place, as ("order", epoch) or ("colour", step, stream, view).

    Equal arguments give equal streams; streams of different arguments are independent. An array drawn row by row
    has the same first n rows whatever its length, so row i belongs to position i of the batch alone.
    """
    key = (zlib.crc32(purpose.encode()), *place)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


@functools.lru_cache(maxsize=4)
def permutation(seed: int, purpose: str, turn: int, count: int) -> np.ndarray:
    """A random order of 0..count-1, read-only. Cached, because each batch of an epoch asks for the same one."""
    order = generator(seed, purpose, turn).permutation(count)
    order.flags.writeable = False
    return order
