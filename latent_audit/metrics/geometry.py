"""Where a model's states lie relative to base: on the way to the harmful pole, and as the probe sees the shift.

docs/method.md section 7, arXiv 2606.08044.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from latent_audit.errors import InputError
from latent_audit.metrics import stats
from latent_audit.metrics.probe import raw_weights

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

# arXiv 2606.08044: the shift's squared norm in its 20 largest dimensions.
LARGEST = 20


class Projection(NamedTuple):
    """Per residual state, float64 [S]: the projection with its interval; over `n` prompts."""

    value: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    n: int


class Shift(NamedTuple):
    """How a model's probe features differ from base's on the same texts.

    offset_match: w . (mean shift of the safe texts) / (change of the mean logit of the unsafe texts); 1 where one
      constant offset explains both kinds of text, 0 where only the unsafe ones moved, NaN where these did not move.
    logit_change_safe, logit_change_unsafe: change of the mean logit, model - base.
    axis_cosine: of the mean shift with base's mean(unsafe) - mean(safe); NaN where either is zero.
    largest_share: of the mean shift's squared norm in its largest dimensions; NaN where there is no shift.
    n: texts of both kinds.
    """

    offset_match: float
    logit_change_safe: float
    logit_change_unsafe: float
    axis_cosine: float
    largest_share: float
    n: int


def projection_interval(
    condition: ArrayLike,
    base: ArrayLike,
    harmful: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Projection:
    """(c - b) . (h - b) / ||h - b||^2 of the mean states c, b, h, with a bootstrap interval over prompts.

    It is 0 where the condition is base, 1 where it is the harmful pole. A resample draws prompts once for all three.
    The interval is stats.spread_interval [O]: the squared length below the line holds the noise of the means, twice as
    much of it in a resample, so percentiles lie too low. The same noise pulls the value itself towards 0 when there are
    few prompts, which no interval here corrects.

    Args:
      condition, base, harmful: states of the same N prompts, float [N, S, D].
    Returns Projection; NaN at states where base and harmful are equal, as the embedding of a template token can be;
      its interval also for a single prompt.
    Raises InputError where shapes differ or there is no prompt.
    """
    stats.check_resampling(resamples, confidence)
    parts = _alike("projection_interval", (condition, base, harmful), "states [N, S, D] of the same prompts", 3)
    condition, base, harmful = parts
    n, num_states = base.shape[:2]
    # Row 0 is the sample itself.
    weights = np.concatenate([np.full((1, n), 1 / n), stats.resampled_weights(n, resamples, seed)])
    draws = np.empty((1 + resamples, num_states))
    for state in range(num_states):
        start = base[:, state].astype(np.float64)
        moved, towards = condition[:, state] - start, harmful[:, state] - start
        above, below = ((weights @ (of @ towards.T) * weights).sum(axis=1) for of in (moved, towards))
        draws[:, state] = _ratio(above, below)
    lo, hi = stats.spread_interval(draws[0], draws[1:], confidence)
    if n == 1:
        lo = hi = np.full(num_states, np.nan)
    return Projection(draws[0], lo, hi, n)


def shift_diagnostics(
    probe: "Pipeline",
    base_safe: ArrayLike,
    base_unsafe: ArrayLike,
    model_safe: ArrayLike,
    model_unsafe: ArrayLike,
    *,
    largest: int = LARGEST,
) -> Shift:
    """What base's probe sees of a model's shift against base, on the same texts.

    The probe is linear, so w . (mean shift) *is* the change of the mean logit on the texts it is taken from, and their
    ratio says nothing. Our reading [O] crosses the two kinds: does the offset found on the safe texts foretell what
    happens to the unsafe ones? Near 1 the probe still ranks texts as before and only its threshold is off, which an
    AUROC cannot show. Shift, axis and their dimensions are those of the raw, unstandardised features; the mean shift
    gives both kinds the same weight.

    Args:
      probe: of probe.fit, fitted on base.
      base_safe, base_unsafe: float [N, features], [M, features] of base; model_safe, model_unsafe: of the model on
        the same texts in the same order.
      largest: how many dimensions largest_share counts.
    Raises InputError where shapes differ, a kind has no text, or `largest` is below 1.
    """
    base_safe, model_safe = _alike("shift_diagnostics", (base_safe, model_safe), "features [N, F] of safe texts", 2)
    base_unsafe, model_unsafe = _alike(
        "shift_diagnostics", (base_unsafe, model_unsafe), "features [N, F] of unsafe texts", 2
    )
    weights = raw_weights(probe)
    if not base_safe.shape[1] == base_unsafe.shape[1] == len(weights):
        raise InputError(
            f"shift_diagnostics: {base_safe.shape[1]} features of safe texts, {base_unsafe.shape[1]} of "
            f"unsafe ones and {len(weights)} of the probe, expected the same number"
        )
    if largest < 1:
        raise InputError(f"shift_diagnostics: largest is {largest}, expected at least 1 dimension")
    start_safe, start_unsafe, end_safe, end_unsafe = (
        part.mean(axis=0, dtype=np.float64) for part in (base_safe, base_unsafe, model_safe, model_unsafe)
    )
    change_safe, change_unsafe = weights @ (end_safe - start_safe), weights @ (end_unsafe - start_unsafe)
    shift = ((end_safe - start_safe) + (end_unsafe - start_unsafe)) / 2
    axis = start_unsafe - start_safe
    squares = np.sort(shift**2)[::-1]
    return Shift(
        offset_match=float(_ratio(change_safe, change_unsafe)),
        logit_change_safe=float(change_safe),
        logit_change_unsafe=float(change_unsafe),
        axis_cosine=float(_ratio(shift @ axis, np.linalg.norm(shift) * np.linalg.norm(axis))),
        largest_share=float(_ratio(squares[:largest].sum(), squares.sum())),
        n=len(base_safe) + len(base_unsafe),
    )


def _ratio(above: Any, below: Any) -> np.ndarray:
    """above / below, NaN where `below` is exactly 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below == 0, np.nan, np.divide(above, below))


def _alike(name: str, arrays: Iterable[ArrayLike], what: str, axes: int) -> list[np.ndarray]:
    found = [np.asarray(array) for array in arrays]
    shapes = [array.shape for array in found]
    if found[0].ndim != axes or len(set(shapes)) > 1 or 0 in shapes[0]:
        raise InputError(f"{name}: expected {what}, all of one shape and not empty, got {', '.join(map(str, shapes))}")
    return found
