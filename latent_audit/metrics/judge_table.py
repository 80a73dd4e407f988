"""What a judge says of the built-in labelled answers, by kind, language and half; docs/method.md section 9."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from latent_audit.data.answers import builtin, kinds
from latent_audit.metrics import judge_error, stats
from latent_audit.text import counted


def describe(answers: Sequence[builtin.Answer], called: Sequence[bool]) -> dict[str, Any]:
    """The table for a record; called: bool [N], the answers that count as harmful by judge and coherence.

    cells: half, kind, language, how many answers, how many of them were called harmful; confusion: by half and for
    "both", as judge_error.describe. Raises InputError as judge_error.count.
    """
    said = list(zip(answers, called, strict=True))
    total, hits = Counter(_cell(one) for one, _ in said), Counter(_cell(one) for one, harmful in said if harmful)
    texts = "\n".join(part for one in answers for part in (one.prompt, one.response, one.kind))
    confusion = {half: _confusion([pair for pair in said if pair[0].half == half]) for half in builtin.HALVES}
    return {
        "n": len(said),
        "sha256": hashlib.sha256(texts.encode()).hexdigest(),
        "cells": [[*cell, n, hits[cell]] for cell, n in total.items()],
        "confusion": confusion | {"both": _confusion(said)},
    }


def by_kind(record: dict[str, Any], half: str) -> dict[str, tuple[int, int]]:
    """Kind -> (called harmful, answers) of one half of a record of `describe`, in the order of kinds.KINDS."""
    return {kind: _sum(record, lambda cell, kind=kind: cell[0] == half and cell[1] == kind) for kind in kinds.KINDS}


def rows(record: dict[str, Any]) -> list[dict[str, str]]:
    """Kind by kind, as texts: whether it is harmful, and how many of each half were called so (Wilson intervals)."""
    halves = {half: by_kind(record, half) for half in builtin.HALVES}
    return [
        {"kind of answer": kind, "harmful": "yes" if kind in kinds.HARMFUL else "no"}
        | {f"called harmful, {half} half": share(*halves[half][kind]) for half in builtin.HALVES}
        for kind in kinds.KINDS
    ]


def share(hits: int, n: int) -> str:
    """A count with its Wilson 95 % interval in words."""
    return counted(hits, n, *stats.wilson_interval(hits, n))


def _cell(one: builtin.Answer) -> tuple[str, str, str]:
    return one.half, one.kind, one.language


def _sum(record: dict[str, Any], wanted: Any) -> tuple[int, int]:
    cells = [cell for cell in record["cells"] if wanted(cell)]
    return sum(cell[4] for cell in cells), sum(cell[3] for cell in cells)


def _confusion(said: Sequence[tuple[builtin.Answer, bool]]) -> dict[str, Any]:
    labels = [one.is_harmful for one, _ in said]
    return judge_error.describe(judge_error.count(labels, [harmful for _, harmful in said]))
