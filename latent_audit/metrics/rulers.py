"""Nuisance rulers: could prompt length or the first token alone tell these rows apart as well as a score does?

docs/method.md section 7, all [O]. A static score is worth something only where it beats two rulers that understand
nothing: one reads how many tokens a row has, one which token its text begins with. Score and rulers are fitted on the
same rows and read on the same others, so that neither can overfit where the other cannot; what is compared is AUROC,
with a bootstrap that draws the same rows for both. A score that does not beat both is *withheld*.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from latent_audit.errors import InputError
from latent_audit.metrics import stats

LENGTH, OPENING = "prompt length", "first token"
WITHHELD = "withheld: "  # how `told` begins of a score that does not beat both
# Laplace's half count for each kind: a token that the fitted rows do not hold says nothing, log-odds 0.
_HALF = 0.5
_CHANCE = 0.5


class Surface(NamedTuple):
    """What the rulers read of some rows: length int [N], tokens of each; opening int [N], id of each text's first."""

    length: np.ndarray
    opening: np.ndarray

    def at(self, rows: slice | np.ndarray) -> "Surface":
        """Some of the rows, by index or mask."""
        return Surface(np.asarray(self.length)[rows], np.asarray(self.opening)[rows])


class Held(NamedTuple):
    """One number for each held-out row, higher where it looks more unsafe; float64 [N] of either kind."""

    safe: np.ndarray
    unsafe: np.ndarray


class Against(NamedTuple):
    """A ruler's AUROC with its interval, and how much higher the score's is: difference with [difference_lo, _hi].

    A ruler that points the wrong way on the held-out rows counts as chance, one half, in the difference.
    """

    ruler: str
    auroc: float
    lo: float
    hi: float
    difference: float
    difference_lo: float
    difference_hi: float


class Compared(NamedTuple):
    """A score's AUROC on held-out rows with its interval, and each ruler beside it."""

    auroc: float
    lo: float
    hi: float
    rulers: tuple[Against, ...]

    @property
    def withheld(self) -> bool:
        """Whether a ruler is not beaten: the interval of some difference does not lie above 0."""
        return not all(one.difference_lo > 0 for one in self.rulers)


def read(fit_safe: Surface, fit_unsafe: Surface, safe: Surface, unsafe: Surface) -> dict[str, Held]:
    """Both rulers, fitted on the first two, read on the last two.

    Length points the way that the fitted means do (equal means: it says nothing). The opening of a row counts as the
    log-odds of unsafe among the fitted rows that begin alike, each kind's share with half a count added.
    Raises InputError where a fitted kind is empty.
    """
    if not len(fit_safe.length) or not len(fit_unsafe.length):
        raise InputError("rulers: fitted on no row of one kind, expected rows of both kinds")
    sign = float(np.sign(np.mean(fit_unsafe.length) - np.mean(fit_safe.length)))
    odds = _log_odds(np.asarray(fit_safe.opening), np.asarray(fit_unsafe.opening))
    return {
        LENGTH: Held(*(sign * np.asarray(rows.length, np.float64) for rows in (safe, unsafe))),
        OPENING: Held(*(np.array([odds.get(int(token), 0.0) for token in rows.opening]) for rows in (safe, unsafe))),
    }


def read_folds(safe: Surface, unsafe: Surface, folds: tuple[np.ndarray, np.ndarray]) -> dict[str, list[Held]]:
    """Both rulers on every fold, each fitted on the other folds; folds: int [N] of either kind, as the score's."""
    parts = []
    for fold in sorted({*folds[0].tolist(), *folds[1].tolist()}):
        held = [own == fold for own in folds]
        fit = (rows.at(~mine) for rows, mine in zip((safe, unsafe), held, strict=True))
        parts.append(read(*fit, *(rows.at(mine) for rows, mine in zip((safe, unsafe), held, strict=True))))
    return {name: [part[name] for part in parts] for name in (LENGTH, OPENING)}


def compare(
    score: Sequence[Held],
    rulers: Mapping[str, Sequence[Held]],
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Compared:
    """A score's AUROC beside each ruler's, and their paired differences.

    Args:
      score, rulers: what was read, fold by fold (one fold where the fitted rows are apart). AUROC is the mean over
        folds, since numbers of two fits have no common scale.
    Intervals are percentile bootstraps over held-out rows, drawn within fold and kind, the same rows for all; what was
    fitted stays. Both rulers must be beaten, so that neither interval is widened for there being two.
    Raises InputError for folds or rows that do not match, an empty kind, or numbers that are not finite.
    """
    stats.check_resampling(resamples, confidence)
    _check(score, rulers)
    draws = [
        [stats.resampled_weights(len(rows), resamples, [seed, fold, kind]) for kind, rows in enumerate(held)]
        for fold, held in enumerate(score)
    ]
    ends = ((1 - confidence) / 2, (1 + confidence) / 2)
    own, drawn = _aurocs(score, draws)
    against = []
    for name, held in rulers.items():
        value, of_ruler = _aurocs(held, draws)
        lo, hi = np.quantile(of_ruler, ends)
        below, above = np.quantile(drawn - np.maximum(of_ruler, _CHANCE), ends)
        difference = own - max(value, _CHANCE)
        against.append(Against(name, value, float(lo), float(hi), difference, float(below), float(above)))
    lo, hi = np.quantile(drawn, ends)
    return Compared(own, float(lo), float(hi), tuple(against))


def told(compared: Compared) -> str:
    """The comparison in words: "withheld: prompt length alone ..." where a ruler is not beaten."""
    own = f"AUROC {_number(compared.auroc, compared.lo, compared.hi)}"
    if not compared.withheld:
        beside = ", ".join(f"{one.ruler} alone {_number(one.auroc, one.lo, one.hi)}" for one in compared.rulers)
        return f"{own}; {beside}"
    failed = max((one for one in compared.rulers if one.difference_lo <= 0), key=lambda one: one.auroc)
    return (
        f"{WITHHELD}{failed.ruler} alone separates these rows as well "
        f"(AUROC {_number(failed.auroc, failed.lo, failed.hi)} against {_number(*compared[:3])})"
    )


def _number(value: float, lo: float, hi: float) -> str:
    return f"{value:.2f} ({lo:.2f} to {hi:.2f})"


def _log_odds(safe: np.ndarray, unsafe: np.ndarray) -> dict[int, float]:
    def share(rows: np.ndarray, token: int) -> float:
        return ((rows == token).sum() + _HALF) / (len(rows) + 2 * _HALF)

    return {
        token: float(np.log(share(unsafe, token)) - np.log(share(safe, token)))
        for token in map(int, np.unique(np.concatenate([safe, unsafe])))
    }


def _aurocs(folds: Sequence[Held], draws: Sequence[Sequence[np.ndarray]]) -> tuple[float, np.ndarray]:
    """(AUROC, AUROC of every resample float64 [R]): shares of pairs in the right order, ties counted by half."""
    values, drawn = [], []
    for held, (of_safe, of_unsafe) in zip(folds, draws, strict=True):
        safe, unsafe = (np.asarray(rows, np.float64) for rows in held)
        order = (unsafe[None] > safe[:, None]) + 0.5 * (unsafe[None] == safe[:, None])
        values.append(order.mean())
        drawn.append(((of_safe @ order) * of_unsafe).sum(axis=1))
    return float(np.mean(values)), np.mean(drawn, axis=0)


def _check(score: Sequence[Held], rulers: Mapping[str, Sequence[Held]]) -> None:
    shapes = [tuple(map(np.shape, held)) for held in score]
    if not shapes or any(len(shape) != 1 or shape[0] == 0 for fold in shapes for shape in fold):
        raise InputError(f"rulers: a score of shapes {shapes}, expected one number per row, at least one row of a kind")
    for name, held in rulers.items():
        if [tuple(map(np.shape, one)) for one in held] != shapes:
            raise InputError(f"rulers: {name} was read on other rows than the score, expected shapes {shapes}")
    if not all(np.isfinite(rows).all() for held in (score, *rulers.values()) for one in held for rows in one):
        raise InputError("rulers: a number that is not finite; read the rows again")
