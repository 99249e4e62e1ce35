"""Maps read as profiles and written from them.

A map that comes from slices, or whose slices are wanted, is one-dimensional twice: what is read of a plane are its sums
along each axis, what is written is a number per row plus a number per column. A profile is kept whole in registers,
(BLOCK_C, at least the length of the axis), while tiles (BLOCK_C, BLOCK_H, BLOCK_W) walk over the planes once.
"""

import triton
import triton.language as tl

from .plane import load_map, store_map


@triton.jit
def _part(profile, step, BLOCK: tl.constexpr):
    """Positions step * BLOCK and following of a profile, (BLOCK_C, BLOCK)."""
    STEPS: tl.constexpr = profile.shape[1] // BLOCK
    if STEPS == 1:
        return profile
    parts = tl.reshape(profile, (profile.shape[0], STEPS, BLOCK))
    return tl.sum(tl.where(tl.arange(0, STEPS)[None, :, None] == step, parts, 0.0), 1)


@triton.jit
def _add_part(profile, part, step):
    """The profile with (BLOCK_C, BLOCK) values added from position step * BLOCK on."""
    STEPS: tl.constexpr = profile.shape[1] // part.shape[1]
    if STEPS == 1:
        return profile + part
    parts = tl.where(tl.arange(0, STEPS)[None, :, None] == step, part[:, None, :], 0.0)
    return profile + tl.reshape(parts, profile.shape)


@triton.jit
def _tile(
    exists, i, j, X: tl.constexpr, H: tl.constexpr, W: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr
):
    """Offsets from the start of a plane, and what lies inside, of the tile in step i down and j across."""
    h = i * BLOCK_H + tl.arange(0, BLOCK_H)
    w = j * BLOCK_W + tl.arange(0, BLOCK_W)
    offsets = h.to(tl.int64)[None, :, None] * X.height + w.to(tl.int64)[None, None, :] * X.width
    return offsets, exists[:, None, None] & (h < H)[None, :, None] & (w < W)[None, None, :]


@triton.jit
def axis_sums(
    of_rows,  # pointers to the planes whose rows are added, (BLOCK_C,)
    of_columns,  # pointers to the planes whose columns are added, (BLOCK_C,)
    exists,  # which planes exist, (BLOCK_C,)
    X: tl.constexpr,  # strides of the map
    SAME: tl.constexpr,  # whether these are the same planes, then read once
    H: tl.constexpr,  # height
    W: tl.constexpr,  # width
    LENGTH_H: tl.constexpr,  # of the row profiles, at least H
    LENGTH_W: tl.constexpr,  # of the column profiles, at least W
    ACC: tl.constexpr,  # type of the arithmetic
    BLOCK_H: tl.constexpr,  # rows in a tile
    BLOCK_W: tl.constexpr,  # columns in a tile
):
    """Sums over W, (BLOCK_C, LENGTH_H), and over H, (BLOCK_C, LENGTH_W), 0 beyond the map."""
    rows = tl.zeros((exists.shape[0], LENGTH_H), ACC)
    columns = tl.zeros((exists.shape[0], LENGTH_W), ACC)
    for i in range(triton.cdiv(H, BLOCK_H)):
        for j in range(triton.cdiv(W, BLOCK_W)):
            offsets, inside = _tile(exists, i, j, X, H, W, BLOCK_H, BLOCK_W)
            values = load_map(of_rows[:, None, None] + offsets, inside, ACC)
            rows = _add_part(rows, tl.sum(values, 2), i)
            if not SAME:
                values = load_map(of_columns[:, None, None] + offsets, inside, ACC)
            columns = _add_part(columns, tl.sum(values, 1), j)
    return rows, columns


@triton.jit
def write_map(
    planes,  # pointers to the planes, (BLOCK_C,)
    exists,  # which planes exist, (BLOCK_C,)
    rows,  # one number per row, (BLOCK_C, at least H)
    columns,  # one number per column, (BLOCK_C, at least W)
    Y: tl.constexpr,  # strides of the map
    H: tl.constexpr,  # height
    W: tl.constexpr,  # width
    BLOCK_H: tl.constexpr,  # rows in a tile
    BLOCK_W: tl.constexpr,  # columns in a tile
):
    """Writes rows + columns."""
    for i in range(triton.cdiv(H, BLOCK_H)):
        of_rows = _part(rows, i, BLOCK_H)
        for j in range(triton.cdiv(W, BLOCK_W)):
            of_columns = _part(columns, j, BLOCK_W)
            offsets, inside = _tile(exists, i, j, Y, H, W, BLOCK_H, BLOCK_W)
            store_map(planes[:, None, None] + offsets, of_rows[:, :, None] + of_columns[:, None, :], inside)
