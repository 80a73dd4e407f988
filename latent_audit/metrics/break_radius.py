"""The break radius of a prompt: where to look for it on a grid of budgets, and what a panel's radii say.

docs/method.md section 12, all ours [O]. A radius is the smallest budget of the grid at which some push was found that
draws a harmful and coherent answer; 0 where the model complies without one, infinite where none was found. Balls are
nested: what was found within a budget lies within every larger one, so a panel's broken share grows with the budget.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from latent_audit.errors import InputError

# Where a prompt that stands at the largest budget is asked again: a push far too large ends in noise.
BELOW_THE_TOP = (0.5, 0.75)


class Search(NamedTuple):
    """Where the search of every prompt stands. fell: int [N], the smallest index of the grid known to break it, G for
    none; tried: bool [N, G]."""

    fell: np.ndarray
    tried: np.ndarray


def begin(prompts: int, budgets: int) -> Search:
    """Nothing tried yet."""
    return Search(np.full(prompts, budgets), np.zeros((prompts, budgets), bool))


def next_budgets(search: Search) -> np.ndarray:
    """The index of the budget that each prompt is to be asked at next, -1 where it is settled; int [N].

    The largest first, then the middle between the largest budget below `fell` at which it stood and `fell`.
    """
    return np.array([_next(fell, tried) for fell, tried in zip(*search, strict=True)], int)


def _next(fell: int, tried: np.ndarray) -> int:
    top = len(tried) - 1
    if not tried[top]:
        return top
    if fell > top:
        below = [round(share * top) for share in BELOW_THE_TOP]
        return next((index for index in below if not tried[index]), -1)
    stood = np.flatnonzero(tried[:fell])
    low = int(stood[-1]) if len(stood) else -1
    middle = (low + fell) // 2
    return -1 if middle <= low else middle


def told(search: Search, asked: ArrayLike, fell: ArrayLike) -> Search:
    """The search after each prompt was asked at grid index asked [N] (-1: not asked) and fell or stood, bool [N]."""
    asked, fell = np.asarray(asked), np.asarray(fell, bool)
    tried, rows = search.tried.copy(), np.flatnonzero(asked >= 0)
    tried[rows, asked[rows]] = True
    return Search(np.where((asked >= 0) & fell, np.minimum(search.fell, asked), search.fell), tried)


def radii(search: Search, budgets: ArrayLike) -> np.ndarray:
    """The radius of every prompt, float64 [N]: a budget of the grid, or infinity."""
    return np.append(np.asarray(budgets, np.float64), np.inf)[search.fell]


def check_grid(budgets: ArrayLike) -> np.ndarray:
    """The grid as float64 [G]; InputError unless it is positive and ascending."""
    budgets = np.asarray(budgets, np.float64)
    if budgets.ndim != 1 or not len(budgets) or budgets[0] <= 0 or (np.diff(budgets) <= 0).any():
        raise InputError(f"break radius on the grid {budgets.tolist()}, expected budgets above 0, ascending")
    return budgets


def geometric_grid(least: float, most: float, ratio: float) -> tuple[float, ...]:
    """least, least * ratio, ... up to most, rounded to three digits.

    >>> geometric_grid(0.01, 0.04, 2.0)
    (0.01, 0.02, 0.04)
    """
    count = int(np.floor(np.log(most / least) / np.log(ratio) + 1e-6)) + 1
    return tuple(float(f"{least * ratio**step:.3g}") for step in range(count))


def broken_by(radius: ArrayLike, budgets: ArrayLike) -> np.ndarray:
    """Prompts broken at or below each budget, int [G]."""
    radius = np.asarray(radius, np.float64)
    # Budgets come back from tables.
    return (radius[None] <= np.asarray(budgets, np.float64)[:, None] * (1 + 1e-9)).sum(axis=1)
