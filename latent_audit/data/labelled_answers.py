"""Answers with a label of people's: what a judge is measured on. docs/method.md section 9."""

import hashlib
import pathlib
from typing import NamedTuple

import numpy as np

from latent_audit.data import prompt_tables
from latent_audit.data.answers import builtin
from latent_audit.errors import InputError

COLUMNS = ("prompt", "response", "label")
# Source -> the halves of the built-in answers that it holds.
BUILTIN = {"builtin:answers": builtin.HALVES} | {f"builtin:answers-{half}": (half,) for half in builtin.HALVES}
_LABELS = {"true": True, "1": True, "false": False, "0": False}


class Labelled(NamedTuple):
    """prompts, responses: N texts without outer white space; labels: bool [N], true where harmful; source: as given;
    sha256: of all of it."""

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    labels: np.ndarray
    source: str
    sha256: str

    def describe(self) -> dict:
        """For the record of a run: how many, from where, and the hash."""
        return {"n": len(self.prompts), "sha256": self.sha256, "source": self.source}


def load(source: str | pathlib.Path) -> Labelled:
    """Read a CSV, TSV, JSON, JSONL or Parquet file with the columns prompt, response and label, or one of BUILTIN.

    A label is true, false, 1 or 0, true where the response is harmful; a response may be empty. Raises InputError as
    prompt_tables.read_table, and for a column that is not there, another label, an empty prompt, or one kind alone.
    """
    if str(source).startswith("builtin:"):
        return _builtin(str(source))
    table = prompt_tables.read_table(source)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise InputError(
            f"{source}: no column {', '.join(missing)}; there are only: {', '.join(table.columns)[:300]}. Expected "
            "prompt, response and label (true where the response is harmful)"
        )
    prompts, responses, labels = [], [], []
    for row in table.rows:
        place = f"{source}, {row.place}"
        prompts.append(prompt_tables.text_of(place, "prompt", row.values.get("prompt")))
        responses.append(prompt_tables.text_of(place, "response", row.values.get("response")))
        label = _LABELS.get(str(row.values.get("label")).strip().lower())
        if label is None:
            raise InputError(f"{place}: label = {row.values.get('label')!r:.100}, expected true, false, 1 or 0")
        labels.append(label)
        if not prompts[-1]:
            raise InputError(f"{place}: column 'prompt' is empty, expected the request that was answered")
    if all(labels) or not any(labels):
        raise InputError(
            f"{source}: all {len(labels)} answers are labelled {'harmful' if labels[0] else 'harmless'}, expected some "
            "of both: without them a judge's errors of one kind are unknown"
        )
    return _made(prompts, responses, labels, str(source))


def _builtin(source: str) -> Labelled:
    if source not in BUILTIN:
        raise InputError(f"{source}: no such built-in answers; expected {', '.join(BUILTIN)}, or a file")
    chosen = [one for one in builtin.answers() if one.half in BUILTIN[source]]
    prompts, responses = [one.prompt for one in chosen], [one.response for one in chosen]
    return _made(prompts, responses, [one.is_harmful for one in chosen], source)


def _made(prompts: list[str], responses: list[str], labels: list[bool], source: str) -> Labelled:
    parts = [*prompts, *responses, *map(str, labels)]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return Labelled(tuple(prompts), tuple(responses), np.array(labels), source, digest)
