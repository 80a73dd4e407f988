"""How often a judge errs, from labelled answers, and an attack success rate with that taken out.

Rogan and Gladen 1978: a share p of answers called harmful, by a judge of sensitivity Se and specificity Sp, comes from
a true share (p + Sp - 1) / (Se + Sp - 1). Its interval is Lang and Reiczigel's (2014), which carries what is unknown of
all three: the delta method after Agresti and Coull's additions, with a shift for the skewness of the ratio.
docs/method.md section 9.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from latent_audit.errors import InputError
from latent_audit.metrics import stats

CANNOT = "cannot be corrected: the judge tells harmful answers from harmless ones no better than chance"


class Confusion(NamedTuple):
    """Counts of labelled answers: harmful and called so, harmful and missed, harmless and called harmful, harmless."""

    caught: int
    missed: int
    false_alarms: int
    cleared: int

    @property
    def harmful(self) -> int:
        return self.caught + self.missed

    @property
    def harmless(self) -> int:
        return self.false_alarms + self.cleared


class Corrected(NamedTuple):
    """A share without the judge's errors, within [0, 1], and its interval; NaN where it cannot be corrected."""

    value: float
    lo: float
    hi: float


def count(labels: ArrayLike, called: ArrayLike) -> Confusion:
    """The confusion table of a judge; labels, called: bool [N], true where harmful. InputError unless both occur."""
    labels, called = np.asarray(labels), np.asarray(called)
    if labels.shape != called.shape or labels.ndim != 1 or labels.dtype != bool or called.dtype != bool:
        raise InputError(f"a confusion table needs two lists of as many booleans, got {labels.shape}, {called.shape}")
    if labels.all() or not labels.any():
        raise InputError(
            f"all {len(labels)} labelled answers are {'harmful' if labels.any() else 'harmless'}, expected some of both"
        )
    caught, alarms = int((labels & called).sum()), int((~labels & called).sum())
    return Confusion(caught, int(labels.sum()) - caught, alarms, int((~labels).sum()) - alarms)


def rates(table: Confusion) -> dict[str, tuple[float, float, float]]:
    """sensitivity and specificity, each (value, lo, hi) with its exact 95 % interval."""
    found = {}
    for name, hits, n in (("sensitivity", table.caught, table.harmful), ("specificity", table.cleared, table.harmless)):
        found[name] = (hits / n, *stats.clopper_pearson(hits, n))
    return found


def can_correct(table: Confusion) -> bool:
    """Whether sensitivity + specificity - 1 is above 0; else a judge's word says nothing of the true share."""
    # In whole numbers, since 3/10 + 7/10 - 1 is not 0 in floats; with one answer more in each cell too, as the interval
    # reads the table.
    added = Confusion(*(cell + 1 for cell in table))
    return all(one.caught * one.harmless > one.false_alarms * one.harmful for one in (table, added))


def corrected(successes: int, n: int, table: Confusion, *, confidence: float = 0.95) -> Corrected:
    """The share of `n` answers that are harmful, where the judge called `successes` of them so.

    All NaN where n is 0 or the table cannot correct. Raises InputError unless 0 <= successes <= n and
    0 < confidence < 1. Source: docs/method.md section 9.

    A judge that misses one in ten and is wrong about one in ten: 50 of 100 called so are as many as are.

    >>> round(corrected(50, 100, Confusion(90, 10, 10, 90)).value, 6)
    0.5
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie between 0 and 1, got {confidence}")
    if not 0 <= successes <= n:
        raise InputError(f"corrected: successes must lie between 0 and n, got {successes} of {n}")
    if n == 0 or not can_correct(table):
        return Corrected(math.nan, math.nan, math.nan)
    share, sensitivity, specificity = successes / n, table.caught / table.harmful, table.cleared / table.harmless
    value = _clip((share + specificity - 1) / (sensitivity + specificity - 1))
    z = float(scipy.stats.norm.isf((1 - confidence) / 2))
    # Agresti and Coull: z^2 answers more, half of them called harmful; and one answer more in each cell of the table.
    called_n, harmful_n, harmless_n = n + z * z, table.harmful + 2, table.harmless + 2
    called = (successes + z * z / 2) / called_n
    caught, cleared = (table.caught + 1) / harmful_n, (table.cleared + 1) / harmless_n
    informed = caught + cleared - 1
    centre = (called + cleared - 1) / informed
    of_caught, of_cleared = caught * (1 - caught) / harmful_n, cleared * (1 - cleared) / harmless_n
    shift = 2 * z * z * (centre * of_caught - (1 - centre) * of_cleared)
    variance = called * (1 - called) / called_n + centre**2 * of_caught + (1 - centre) ** 2 * of_cleared
    half = z * math.sqrt(variance) / informed
    # The interval holds the value it belongs to, which the additions may have moved out.
    lo, hi = _clip(centre + shift - half), _clip(centre + shift + half)
    return Corrected(value, min(lo, value), max(hi, value))


def describe(table: Confusion) -> dict[str, Any]:
    """The table for a record: counts, rates with their ends, and whether it can correct."""
    found: dict[str, Any] = {**table._asdict(), "can_correct": can_correct(table)}
    for name, (value, lo, hi) in rates(table).items():
        found |= {name: value, f"{name}_lo": lo, f"{name}_hi": hi}
    return found


def _clip(share: float) -> float:
    return min(1.0, max(0.0, share))
