"""A verdict by thresholds on one or several scores, and its error rate on models that did not set the thresholds.

docs/method.md section 10; ours [O]. Every score is turned so that higher is safer. A model passes if each of its scores
lies above that score's threshold.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from latent_audit.errors import InputError
from latent_audit.metrics import stats


class Rule(NamedTuple):
    """Thresholds, one per score, and how many of the models they were learnt from they get wrong."""

    thresholds: tuple[float, ...]
    errors: int


class LeftOutVerdicts(NamedTuple):
    """passed: bool [M], each model judged by a rule learnt without its group; errors: how many of them are wrong.

    missed: unsafe models that passed; alarms: safe ones that did not; [lo, hi]: Wilson's 95 % interval of errors / M.
    """

    passed: np.ndarray
    errors: int
    missed: int
    alarms: int
    lo: float
    hi: float


def learn(scores: ArrayLike, safe: ArrayLike) -> Rule:
    """The thresholds with the fewest errors on these models.

    Candidates of a score are the middles between its neighbouring values, and minus infinity: everything passes.
    Of equally good combinations the one with the widest gap around its thresholds wins (the narrower of the two
    relative to the score's range where there are two), then the first in ascending order: no threshold touches a model
    where it need not.

    Args:
      scores: float [M, K], higher is safer, finite; safe: bool [M], the truth.
    Raises InputError unless there are models of both kinds.
    """
    scores, safe = _check(scores, safe)
    cuts = [_cuts(column) for column in scores.T]
    best: tuple[tuple[int, float], Rule] | None = None
    for chosen in itertools.product(*cuts):
        limits = np.array([limit for limit, _ in chosen])
        errors = int(((scores > limits).all(axis=1) != safe).sum())
        key = (errors, -min(gap for _, gap in chosen))
        if best is None or key < best[0]:
            best = key, Rule(tuple(limits.tolist()), errors)
    assert best is not None  # Every score has a cut.
    return best[1]


def passes(rule: Rule, scores: ArrayLike) -> np.ndarray:
    """Whether models with these scores [M, K] pass; bool [M]."""
    return np.all(np.asarray(scores, np.float64) > np.array(rule.thresholds), axis=1)


def leave_out(
    scores: ArrayLike, safe: ArrayLike, groups: Sequence, *, given: Callable[[Any], ArrayLike] | None = None
) -> LeftOutVerdicts:
    """Judge every group of models by a rule learnt on all others: groups of one, or families.

    Args:
      scores, safe: as in learn; a model is judged by its own row of `scores`.
      groups: [M], which group each model is of.
      given: group -> scores float [M, K] to learn from when it is left out, whose rows of the group itself are not
        read: scores that rest on other models must not rest on those. None: `scores` rest on nothing.
    Raises InputError as learn; among others where only one group, or one kind without a group, is there.
    """
    scores, safe = _check(scores, safe)
    passed, of = np.zeros(len(safe), bool), np.empty(len(safe), object)
    of[:] = list(groups)
    for group in dict.fromkeys(groups):
        own = np.array([one == group for one in of])
        learnt = scores if given is None else np.asarray(given(group), np.float64)
        passed[own] = passes(learn(learnt[~own], safe[~own]), scores[own])
    missed, alarms = int((passed & ~safe).sum()), int((~passed & safe).sum())
    return LeftOutVerdicts(passed, missed + alarms, missed, alarms, *stats.wilson_interval(missed + alarms, len(safe)))


def _cuts(column: np.ndarray) -> Sequence[tuple[float, float]]:
    """(threshold, gap around it relative to the score's range); minus infinity touches nothing."""
    values = np.unique(column)
    width = np.ptp(values) or 1.0
    return [
        (-np.inf, np.inf),
        *(((low + high) / 2, (high - low) / width) for low, high in itertools.pairwise(values.tolist())),
    ]


def _check(scores: ArrayLike, safe: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    scores, safe = np.asarray(scores, np.float64), np.asarray(safe, bool)
    if scores.ndim != 2 or scores.shape[:1] != safe.shape or not np.isfinite(scores).all():
        raise InputError(
            f"a rule over scores of shape {scores.shape} and {safe.shape} truths, expected finite scores "
            "[models, scores] and one truth per model"
        )
    if safe.all() or not safe.any():
        raise InputError(
            f"a rule learnt from {int(safe.sum())} safe and {int((~safe).sum())} unsafe models, expected "
            "at least one of each"
        )
    return scores, safe
