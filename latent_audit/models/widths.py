"""Rows of different lengths as batches of few shapes: sorted by length, and as many at a time as hold a number of
tokens."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# A block of so many tokens keeps the matrix products of an accelerator busy (a weight read once serves thousands of
# columns) and its keys and values stay in gigabytes for a judge of 13 billion parameters (0.8 MB a token).
TOKENS = 8192
LEAST_STEP = 64


class Block(NamedTuple):
    """Rows that are computed together. rows: int [R], their numbers; width: columns; size: rows of the compiled shape,
    at least R."""

    rows: np.ndarray
    width: int
    size: int


def width_of(length: int) -> int:
    """Columns for a row of this length: a multiple of LEAST_STEP, or of more where that is below an eighth of it.

    >>> [width_of(length) for length in (1, 65, 500, 520, 1100)]
    [64, 128, 512, 640, 1280]
    """
    step = max(LEAST_STEP, 2 ** ((length - 1).bit_length() - 3))
    return -(-length // step) * step


def blocks(lengths: Sequence[int], *, most_rows: int = 0, tokens: int = TOKENS) -> list[Block]:
    """Every row once, the longest first; where the rows come from and how many there are changes no row's own width
    by more than its neighbours in length do.

    Args:
      lengths: tokens of each row; most_rows: of one block, 0 for as many as `tokens` hold (a power of two, at least 1).

    >>> [(block.rows.tolist(), block.width, block.size) for block in blocks([70, 3, 500], tokens=640)]
    [([2], 512, 1), ([0, 1], 128, 4)]
    """
    order = np.argsort(-np.asarray(lengths, int), kind="stable")
    found: list[Block] = []
    start = 0
    while start < len(order):
        width = width_of(int(lengths[order[start]]))
        most = 2 ** max(0, (tokens // width).bit_length() - 1)
        size = _size(min(most, most_rows or most), len(order) - start)
        found.append(Block(order[start : start + size], width, size))
        start += size
    return found


def _size(most: int, left: int) -> int:
    """`most`, or a quarter of it and so on where fewer than half would be filled: few shapes, and little for
    nothing."""
    while most > 1 and left <= most // 2:
        most = max(1, most // 4)
    return most
