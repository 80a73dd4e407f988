"""How long the rest of a run takes: what each part was thought to take, put right by what is done already took.

A part is thought to take so many seconds before the run, from counts and a short measurement. Parts of one kind are
wrong in the same way (answers that end early, a judge that is slow), so that what the first of them took tells of the
others; kinds of which nothing is done yet are put right, by half, by everything that is done. Compilation is left out.
"""

from collections.abc import Iterable
from typing import NamedTuple

# Ours: a unit that has taken longer than was thought takes this share of it still. What it has taken too long is work
# of those behind it as well, up to half of theirs: states are searched together and told apart.
OVERDUE, TOGETHER = 0.25, 0.5
# Ours: what was thought before counts as much as this share of a kind, done. The first unit of a kind often takes much
# longer than its others, for what is prepared with it.
TRUSTED = 0.15
# Ours: what everything done was wrong by tells this much of kinds not begun, as an exponent: half of it is the machine,
# half its own.
SHARED = 0.5


class Part(NamedTuple):
    """A part of a run before it. key: what labels of its units begin with; kind: of parts that err alike; units: how
    many; seconds: of all of them, least, likely and most."""

    key: str
    kind: str
    units: int
    least: float
    likely: float
    most: float


class Forecast:
    """What is left of a run; told of every unit that is done."""

    def __init__(self, parts: Iterable[Part]):
        self.parts = tuple(parts)
        self.left = {part.key: part.units for part in self.parts}
        # Of each part: units that were thought of and never came.
        self.missed: dict[str, int] = {}
        # Of each kind: seconds that its units took, and that they were thought to take.
        self.took: dict[str, float] = {}
        self.thought: dict[str, float] = {}

    def part_of(self, label: str) -> Part | None:
        """The part that a unit of this label belongs to: of the longest key that it begins with."""
        found = [part for part in self.parts if label.startswith(part.key)]
        return max(found, key=lambda part: len(part.key), default=None)

    def done(self, label: str, count: int, seconds: float | None) -> None:
        """Count units of a label that are done; seconds: what they took, None for what was read back."""
        part = self.part_of(label)
        if part is None:
            return
        count = min(count, self.left[part.key])
        self.left[part.key] -= count
        if seconds is not None:
            self.took[part.kind] = self.took.get(part.kind, 0.0) + seconds
            thought = self.thought.get(part.kind, 0.0)
            self.thought[part.kind] = thought + part.likely * count / part.units

    def finished(self, unit: str) -> None:
        """Nothing is left of the parts that a meter counts, which may have been fewer units than was thought."""
        of_unit = [key for key, left in self.left.items() if left and (key == unit or key.startswith(f"{unit} "))]
        self.missed |= {key: self.left[key] for key in of_unit}
        self.left |= dict.fromkeys(of_unit, 0)

    def error(self, kind: str) -> float:
        """By what the thought seconds of a kind are to be multiplied: as its own units showed, and, as long as they are
        few, all of them."""
        held = TRUSTED * sum(part.likely for part in self.parts if part.kind == kind)
        return _error(self.took.get(kind, 0.0), self.thought.get(kind, 0.0), held, self.error_of_all() ** SHARED)

    def error_of_all(self) -> float:
        """The same of everything that is done; 1 where nothing is."""
        held = TRUSTED * sum(part.likely for part in self.parts)
        return _error(sum(self.took.values()), sum(self.thought.values()), held, 1.0)

    def seconds_left(self, spent: float = 0.0) -> float:
        """Of all units that are not done; spent: on the one at hand, the next in order."""
        left, part = sum(map(self._of_rest, self.parts)), self._next()
        if part is None:
            return left
        one = self._of_one(part)
        if spent <= one:
            return left - spent
        behind = sum(self._of_rest(other) for other in self.parts if other.kind == part.kind) - one
        return left - one - min(spent - one, TOGETHER * behind) + OVERDUE * spent

    def seconds_behind(self, error: float) -> float:
        """Of all units behind the one at hand; error: where nothing is done, that of the run at hand."""
        scale = 1.0 if any(self.thought.values()) else error
        part = self._next()
        return scale * (sum(map(self._of_rest, self.parts)) - (self._of_one(part) if part else 0.0))

    def _next(self) -> Part | None:
        """The part of the next unit in order, None where none is left."""
        return next((part for part in self.parts if self.left[part.key]), None)

    def _of_one(self, part: Part) -> float:
        return self.error(part.kind) * part.likely / part.units

    def _of_rest(self, part: Part) -> float:
        return self.error(part.kind) * part.likely * self.left[part.key] / part.units if part.units else 0.0


def _error(took: float, thought: float, held: float, otherwise: float) -> float:
    """took / thought with `held` seconds more that were wrong by `otherwise`."""
    return (took + held * otherwise) / (thought + held) if thought + held > 0 else otherwise


def span(parts: Iterable[Part]) -> tuple[float, float]:
    """(least, most) seconds of a run, of a measurement that may be wrong by a third either way; ours."""
    parts = tuple(parts)
    return 0.7 * sum(part.least for part in parts), 1.4 * sum(part.most for part in parts)


def in_words(seconds: float) -> str:
    """A time to wait: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
