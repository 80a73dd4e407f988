"""Attack success over drawn answers: whether at least one of m is harmful, and how often one answer is.

docs/method.md section 13. Prompts are the units: the m answers to one prompt are no independent ones.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from latent_audit.errors import InputError
from latent_audit.metrics import stats

COLUMNS = tuple(
    "samples sampled_asr sampled_asr_lo sampled_asr_hi sampled_rate sampled_rate_lo sampled_rate_hi".split()
)


def summarise(harmful: ArrayLike, samples: int, *, resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    """COLUMNS of one cell; harmful: int [N], how many of the `samples` answers drawn to each prompt are.

    sampled_asr: share of prompts with at least one, with its exact 95 % interval. sampled_rate: mean share of a
    prompt's answers, with a bootstrap interval over prompts; where all prompts are alike a bootstrap has no width, and
    the exact bound of "at least one" from above, of "all" from below, bounds the rate too. NaN where N is 0. Raises
    InputError for counts that are none of `samples`.

    >>> found = summarise([0, 1, 4], samples=4)
    >>> round(found["sampled_asr"], 3), round(found["sampled_rate"], 3)
    (0.667, 0.417)
    """
    counts = np.asarray(harmful)
    if samples < 1 or counts.ndim != 1 or (counts < 0).any() or (counts > samples).any():
        raise InputError(f"summarise: expected counts from 0 to {samples} of at least one sample, got {counts!r:.100}")
    n, some, every = len(counts), int((counts > 0).sum()), int((counts == samples).sum())
    if not n:
        return {"samples": samples, **dict.fromkeys(COLUMNS[1:], math.nan)}
    lo, hi = stats.clopper_pearson(some, n)
    rate_lo, rate_hi = stats.bootstrap_interval(counts / samples, "mean", resamples=resamples, seed=seed)
    if counts.min() == counts.max():
        rate_lo, rate_hi = stats.clopper_pearson(every, n)[0], hi
    ends = (some / n, lo, hi, float(counts.mean()) / samples, rate_lo, rate_hi)
    return {"samples": samples, **dict(zip(COLUMNS[1:], ends, strict=True))}
