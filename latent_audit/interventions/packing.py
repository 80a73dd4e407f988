"""Several training examples in one row, so that short ones cost no padding; see finetune for the loss."""

from typing import NamedTuple

import numpy as np

from latent_audit.errors import InputError
from latent_audit.interventions.finetune import Examples


class Packed(NamedTuple):
    """Rows that hold several examples each, left-padded; as Examples, and segments: int32 [B, T], 0 on padding."""

    tokens: np.ndarray
    mask: np.ndarray
    loss_mask: np.ndarray
    segments: np.ndarray


def pack_rows(examples: Examples, *, width: int) -> Packed:
    """Put examples together into rows of `width` tokens, each into the first row with room.

    No example sees another: positions start anew and attention stays inside (docs/method.md section 5). Raises
    InputError if an example is longer than a row.
    """
    lengths = examples.mask.sum(axis=1)
    if lengths.max() > width:
        raise InputError(f"the longest example has {lengths.max()} tokens, rows of width {width} cannot hold it")
    rows: list[list[int]] = []
    room: list[int] = []
    for index, length in enumerate(lengths):
        row = next((r for r, left in enumerate(room) if left >= length), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(index)
        room[row] -= length
    packed = Packed(*(np.zeros((len(rows), width), kind) for kind in (np.int32, bool, bool, np.int32)))
    for row, indices in enumerate(rows):
        column = room[row]
        for segment, index in enumerate(indices, start=1):
            there, here = slice(column, column + lengths[index]), examples.mask[index]
            for target, source in zip(packed, examples, strict=False):
                target[row, there] = source[index][here]
            packed.segments[row, there] = segment
            column += lengths[index]
    return packed
