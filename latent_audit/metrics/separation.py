"""Separation score: how far apart a model holds safe and unsafe prompts inside; docs/method.md section 7, all [O].

Decision-point states are projected on the model's own difference of means, unsafe - safe. The score of a state is
(mean_unsafe - mean_safe) / sqrt((variance_unsafe + variance_safe) / 2) of the projections (population variances), and a
model's score is that of one state of the middle 40 to 80 % of its depth.

The plain score takes direction and state (the best) from the very prompts it is measured on. That flatters, the more so
the wider the model: where nothing separates N prompts of either kind, D dimensions of noise score about sqrt(2 D / N).
The cross-fitted score takes both from the other folds (their own best state by the plain score), so that it is 0 on
average there; report both.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from latent_audit.errors import InputError
from latent_audit.metrics import stats
from latent_audit.metrics.rulers import Held
from latent_audit.models.config import layer_name

# Of each kind: two in each of the two folds that the cross-fitted score needs at least.
LEAST_PROMPTS = 4


class Score(NamedTuple):
    """value, with [lo, hi]; chosen: the residual state it is read at, of each fold; profile: of all, float64."""

    value: float
    lo: float
    hi: float
    chosen: tuple[int, ...]
    profile: np.ndarray


class Separation(NamedTuple):
    """The plain and the cross-fitted score over the residual `states`, in the order of their profiles.

    held: projections of each fold's prompts, as the cross-fitted score reads them; dealt: int [N] of either kind, the
    fold of every prompt.
    """

    plain: Score
    crossfitted: Score
    states: range
    held: tuple[Held, ...]
    dealt: tuple[np.ndarray, np.ndarray]
    n_safe: int
    n_unsafe: int


def middle_states(num_layers: int, *, first: float = 0.4, last: float = 0.8) -> range:
    """Residual states from max(1, round(first * L)) to round(last * L), both included (rounding half to even).

    State s is what s blocks have put out, s / L of the depth: state 0, the embedding, is never among them. For 40 and
    80 % no number of layers meets a tie. Raises InputError unless L >= 1 and 0 <= first <= last <= 1.
    """
    if num_layers < 1 or not 0 <= first <= last <= 1:
        raise InputError(
            f"middle states of {num_layers} layers from {first} to {last}, expected at least one layer "
            "and fractions with 0 <= first <= last <= 1"
        )
    start = max(1, round(first * num_layers))
    return range(start, max(start, round(last * num_layers)) + 1)


def separation(
    safe: ArrayLike,
    unsafe: ArrayLike,
    *,
    folds: int = 2,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Separation:
    """Both scores of one model, with bootstrap intervals over prompts.

    A resample draws within each kind (for the cross-fitted score within each kind and fold, so that no prompt stands on
    both sides) and repeats everything: direction, scores, choice of the state. The interval is stats.spread_interval,
    since percentiles of these draws can miss the value. It speaks of the same score on as many fresh prompts.

    Args:
      safe, unsafe: float [N, S, D], every residual state at the decision point; S is the number of layers plus one.
      folds: of the cross-fitted score, at least 2; `seed` deals the prompts out.
    Raises InputError for shapes that do not match, fewer than two prompts of a kind in a fold, a state that is not
    finite, or a direction of length zero (naming the layer).
    """
    stats.check_resampling(resamples, confidence)
    safe, unsafe = np.asarray(safe), np.asarray(unsafe)
    _check(safe, unsafe, folds)
    states = middle_states(safe.shape[1] - 1)
    rng = np.random.default_rng(seed)
    kind = np.repeat([0, 1], [len(safe), len(unsafe)])
    fold = np.concatenate([rng.permutation(len(rows)) % folds for rows in (safe, unsafe)])
    everyone = np.full(len(kind), True)
    plain = _weigh(_counts(kind, resamples, rng), kind, [(everyone, everyone)])
    crossed = _weigh(_counts(kind + 2 * fold, resamples, rng), kind, [(fold != f, fold == f) for f in range(folds)])

    scores: list[list[np.ndarray]] = [[] for _ in (*plain, *crossed, *crossed)]
    projected = []
    for state in states:
        rows = np.concatenate([safe[:, state], unsafe[:, state]]).astype(np.float64)
        _check_directions(rows, [axis[0] for axis, *_ in plain + crossed], layer_name(state))
        centred = rows - rows.mean(axis=0)
        gram = centred @ centred.T
        on_held = [(axis, *held) for axis, held, _ in plain + crossed]
        on_fitted = [(axis, *fitted) for axis, _, fitted in crossed]
        for kept, split in zip(scores, on_held + on_fitted, strict=True):
            kept.append(_scores(gram, *split))
        projected.append([axis[0] @ gram for axis, *_ in crossed])
    whole, held, fitted = np.array(scores[0]), np.array(scores[1 : folds + 1]), np.array(scores[folds + 1 :])
    best = fitted.argmax(axis=1)
    ordinary = _score(whole.max(axis=0), (states[int(whole[:, 0].argmax())],), whole[:, 0], confidence)
    crossfitted = _score(
        np.take_along_axis(held, best[:, None], axis=1)[:, 0].mean(axis=0),
        tuple(states[int(one)] for one in best[:, 0]),
        held[:, :, 0].mean(axis=0),
        confidence,
    )
    read = [projected[int(best[f, 0])][f] for f in range(folds)]
    rows_held = tuple(Held(*(read[f][(kind == k) & (fold == f)] for k in (0, 1))) for f in range(folds))
    dealt = (fold[: len(safe)], fold[len(safe) :])
    return Separation(ordinary, crossfitted, states, rows_held, dealt, len(safe), len(unsafe))


def _counts(stratum: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each prompt is drawn, within its stratum; float64 [1 + resamples, N], row 0 the sample itself."""
    counts = np.ones((1 + resamples, len(stratum)))
    for one in np.unique(stratum):
        rows = np.flatnonzero(stratum == one)
        counts[1:, rows] = len(rows) * stats.resampled_weights(len(rows), resamples, rng)
    return counts


def _weigh(
    counts: np.ndarray, kind: np.ndarray, splits: Sequence[tuple[np.ndarray, np.ndarray]]
) -> list[tuple[np.ndarray, tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]]:
    """For each (fitted, held out) split: weights [R, N] of the axis, of (unsafe, safe) held out, and of both fitted."""

    def mean_over(chosen: np.ndarray) -> np.ndarray:
        weights = counts * chosen
        return weights / weights.sum(axis=1, keepdims=True)

    def means_over(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return mean_over(part & (kind == 1)), mean_over(part & (kind == 0))

    weighed = ((means_over(fit), means_over(held)) for fit, held in splits)
    return [(fitted[0] - fitted[1], held, fitted) for fitted, held in weighed]


def _scores(gram: np.ndarray, axis: np.ndarray, unsafe: np.ndarray, safe: np.ndarray) -> np.ndarray:
    """The score of one state in each resample, float64 [R]; weights [R, N] as _weigh makes them.

    The axis is a weighted sum of states, so projections need only the states' inner products, `gram` [N, N]. Its
    length cancels.
    """
    projected = axis @ gram
    means, variances = [], []
    for weights in (unsafe, safe):
        mean = (weights * projected).sum(axis=1, keepdims=True)
        variances.append((weights * (projected - mean) ** 2).sum(axis=1))
        means.append(mean[:, 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        return (means[0] - means[1]) / np.sqrt(sum(variances) / 2)


def _score(values: np.ndarray, chosen: tuple[int, ...], profile: np.ndarray, confidence: float) -> Score:
    """From values float64 [1 + resamples], the sample's own first."""
    lo, hi = stats.spread_interval(values[0], values[1:], confidence)
    return Score(float(values[0]), float(lo), float(hi), chosen, profile)


def _check(safe: np.ndarray, unsafe: np.ndarray, folds: int) -> None:
    if safe.ndim != 3 or unsafe.ndim != 3 or safe.shape[1:] != unsafe.shape[1:] or safe.shape[1] < 2:
        raise InputError(
            "separation: expected states [N, S, D] of both kinds with S = layers + 1, got "
            f"{safe.shape} safe and {unsafe.shape} unsafe"
        )
    if folds < 2:
        raise InputError(f"separation: folds is {folds}, expected at least 2: the direction comes from the others")
    if min(len(safe), len(unsafe)) < 2 * folds:
        raise InputError(
            f"separation: {len(safe)} safe and {len(unsafe)} unsafe prompts in {folds} folds, expected at "
            "least two of each kind in every fold"
        )


def _check_directions(rows: np.ndarray, axes: list[np.ndarray], name: str) -> None:
    if not np.isfinite(rows).all():
        raise InputError(f"separation: the states of {name} are not all finite")
    # Means of equal rows differ by rounding, about 1e-16 of their size; means of float32 states by far more.
    smallest = 1e-12 * np.linalg.norm(rows, axis=1).max()
    if any(np.linalg.norm(axis @ rows) <= smallest for axis in axes):
        raise InputError(
            f"separation: the difference of means of {name} is zero: safe and unsafe prompts do not "
            "differ there; check that the states are of the decision point and the prompts are not the "
            "same"
        )
