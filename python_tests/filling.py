"""Numbers that are the same wherever they are drawn, for golden values made by running other people's code."""

import zlib

import numpy as np
import torch


def filled(name, shape, low=-1.0, high=1.0, dtype=torch.float64):
    """Uniform numbers that depend on the name alone; NumPy keeps this stream frozen."""
    stream = np.random.RandomState(zlib.crc32(name.encode()))
    return torch.from_numpy(stream.uniform(low, high, tuple(shape))).to(dtype)
