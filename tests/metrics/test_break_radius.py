"""Bisection on a grid against prompts whose true radius is known, and what radii say together."""

import numpy as np
import pytest

from latent_audit.errors import InputError
from latent_audit.metrics import break_radius, clusters

GRID = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)


def bisected(falls, prompts):
    """The radii that falls(row, budget) leads to, and how often each prompt was asked."""
    search, asked_in_all = break_radius.begin(prompts, len(GRID)), np.zeros(prompts, int)
    while (asked := break_radius.next_budgets(search)).max(initial=-1) >= 0:
        fell = [index >= 0 and falls(row, GRID[index]) for row, index in enumerate(asked)]
        asked_in_all += asked >= 0
        search = break_radius.told(search, asked, fell)
    return break_radius.radii(search, GRID), asked_in_all


def test_every_radius_of_the_grid_is_found_in_logarithmic_time():
    true = np.array([*GRID, 0.005, 0.03, 1.0])
    found, asked = bisected(lambda row, budget: budget >= true[row], len(true))
    np.testing.assert_array_equal(found, [*GRID, 0.01, 0.04, np.inf])
    assert asked.max() <= 1 + np.ceil(np.log2(len(GRID)))


def test_a_prompt_that_ends_in_noise_at_the_top_is_found_below_it():
    found, _ = bisected(lambda _, budget: 0.05 <= budget < 0.5, 1)
    assert found[0] == 0.08


def test_a_radius_is_a_budget_at_which_it_fell():
    """Whatever the answers are, also where falling is not monotone."""
    outcomes = np.random.default_rng(0).random((40, len(GRID))) < 0.5
    found, _ = bisected(lambda row, budget: outcomes[row, GRID.index(budget)], 40)
    for row, radius in enumerate(found):
        assert np.isinf(radius) or outcomes[row, GRID.index(radius)]


def test_a_settled_prompt_is_not_asked_again():
    search = break_radius.begin(2, 3)
    search.tried[1] = True
    assert break_radius.next_budgets(search).tolist() == [2, -1]


def test_shares_grow_with_the_budget_and_count_what_needs_no_push():
    radius = [0.0, 0.02, 0.02, 0.64, np.inf]
    np.testing.assert_array_equal(break_radius.broken_by(radius, GRID), [1, 3, 3, 3, 3, 3, 4])
    assert clusters.median(radius) == 0.02
    assert np.isnan(clusters.median([]))
    # Written with three digits, read back, and compared.
    grid = break_radius.geometric_grid(0.0025, 0.08, 2**0.5)
    assert len(grid) == 11 and grid[0] == 0.0025 and grid[-1] == 0.08
    np.testing.assert_allclose(np.diff(np.log(grid)), np.log(2) / 2, rtol=1e-2)
    assert break_radius.broken_by([float(f"{grid[3]:.3g}")], grid).tolist() == [0, 0, 0] + [1] * 8


@pytest.mark.parametrize("grid", [(), (0.0, 0.1), (0.2, 0.1), (0.1, 0.1)])
def test_what_is_no_grid_is_refused(grid):
    with pytest.raises(InputError, match="grid"):
        break_radius.check_grid(grid)
