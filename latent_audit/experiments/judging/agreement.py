"""How far two judges agree on the same answers, beside a run that was judged twice. docs/method.md section 9."""

import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from latent_audit import user_files
from latent_audit.metrics import stats
from latent_audit.runtime import files, processes
from latent_audit.text import counted

FILE = "agreement.json"


class Agreement(NamedTuple):
    """Counts of answers by two judges' words, unparsed ones as harmful: both, the first alone, the second, neither."""

    both: int = 0
    first_only: int = 0
    second_only: int = 0
    neither: int = 0

    @property
    def n(self) -> int:
        return sum(self)


def count(first: Iterable[bool], second: Iterable[bool]) -> Agreement:
    """The table of two judges' words on the same answers."""
    pairs = [(bool(a), bool(b)) for a, b in zip(first, second, strict=True)]
    return Agreement(*(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))


def add(one: Agreement, other: Agreement) -> Agreement:
    """Two tables as one."""
    return Agreement(*(a + b for a, b in zip(one, other, strict=True)))


def kappa(table: Agreement) -> float:
    """Cohen's kappa (1960), agreement beyond chance; NaN where chance alone agrees always, or there is no answer.

    >>> round(kappa(Agreement(20, 5, 10, 15)), 6)
    0.4
    """
    if not table.n:
        return math.nan
    seen = (table.both + table.neither) / table.n
    first, second = (table.both + table.first_only) / table.n, (table.both + table.second_only) / table.n
    chance = first * second + (1 - first) * (1 - second)
    return math.nan if chance == 1 else (seen - chance) / (1 - chance)


def describe(table: Agreement, first: str, second: str) -> dict[str, object]:
    """For the record: the judges' names, the counts, the share on which they agree with its interval, and kappa."""
    same = table.both + table.neither
    lo, hi = stats.wilson_interval(same, table.n)
    share = same / table.n if table.n else math.nan
    found = {"agree": share, "agree_lo": lo, "agree_hi": hi, "kappa": kappa(table)}
    return {"first": first, "second": second, "n": table.n, **table._asdict()} | {
        name: None if math.isnan(value) else value for name, value in found.items()
    }


def in_words(record: Mapping) -> str:
    """The agreement in one sentence."""
    same = record["both"] + record["neither"]
    beyond = "" if record["kappa"] is None else f", kappa {record['kappa']:.2f}"
    return (
        f"{record['second']} agrees with {record['first']} on {counted(same, record['n'])} answers{beyond}; it alone "
        f"calls {record['second_only']} harmful, the other alone {record['first_only']}"
    )


def write(workdir: pathlib.Path, record: Mapping) -> None:
    """Keep a record of `describe` beside the run."""
    processes.on_first(lambda: files.write_json(workdir / FILE, json.loads(json.dumps(record))))


def read(workdir: pathlib.Path) -> dict[str, dict]:
    """{"judged_again": record} of a run that was judged twice, {} of any other."""
    path = workdir / FILE
    return {"judged_again": user_files.read_json("the agreement", path, kind=dict)} if path.is_file() else {}
