"""Rows in blocks by tokens: each once, longest first, few shapes, little padding."""

import numpy as np
import pytest

from latent_audit.models import widths


@pytest.mark.parametrize("most_rows", [0, 1, 3, 64])
@pytest.mark.parametrize("seed", range(4))
def test_every_row_once_longest_first_within_the_tokens(seed, most_rows):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, (80, 500, 1500, 4096)[seed], rng.integers(1, 300)).tolist()
    found = widths.blocks(lengths, most_rows=most_rows)
    rows = np.concatenate([block.rows for block in found])
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    assert (np.diff(np.asarray(lengths)[rows]) <= 0).all()
    for block in found:
        assert 1 <= len(block.rows) <= block.size and block.size * block.width <= max(widths.TOKENS, block.width)
        assert block.width == widths.width_of(max(lengths[row] for row in block.rows))
        assert not most_rows or block.size <= most_rows
        # Computed for nothing: never as much again, beside the one row that must be there.
        assert block.size == 1 or 2 * len(block.rows) > block.size or most_rows
    # A full block of each width, quarters of it at the end: a program each.
    assert len({(block.size, block.width) for block in found}) <= len({block.width for block in found}) + 4


def test_padding_is_at_most_a_step_or_an_eighth_and_widths_are_few():
    lengths = np.arange(1, 4097)
    found = np.array([widths.width_of(int(length)) for length in lengths])
    assert (found >= lengths).all() and (found - lengths < np.maximum(widths.LEAST_STEP, lengths / 4)).all()
    assert (found - lengths)[lengths > 64].max() < 512 and len(set(found.tolist())) <= 24
    assert (np.diff(found) >= 0).all() and not (found % widths.LEAST_STEP).any()


def test_few_rows_are_not_computed_for_many():
    assert [block.size for block in widths.blocks([10])] == [1]
    assert sum(block.size for block in widths.blocks([10] * 40)) <= 64
    assert widths.blocks([]) == []
