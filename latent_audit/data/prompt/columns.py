"""Which column of a table holds what: the prompt, the behaviour that is judged, its context, a target, label, cluster.

Names of the public sets, compared without case; docs/prompts.md lists the sets.
"""

from collections.abc import Iterable
from typing import Any

from latent_audit.data import prompt_tables
from latent_audit.errors import InputError

# Role -> names, of which the first that a table has is taken. JailbreakBench's artifacts have prompt (the attack) and
# goal (the request) beside behavior (its two-word title); in its behaviours Goal is the prompt. HarmBench has Behavior
# alone, and there it is the request. Alpaca's text repeats instruction and answer.
KNOWN = {
    "prompt": (
        *("test_case", "jailbroken_prompt", "prompt", "adversarial", "goal", "instruction", "question", "behavior"),
        *("forbidden_prompt", "turns", "vanilla", "text"),
    ),
    "behavior": ("goal", "forbidden_prompt", "behavior", "vanilla"),
    "context": ("contextstring", "context"),
    "label": ("label", "functionalcategory", "data_type", "prompt_harm_label"),
    "cluster": ("semanticcategory", "category", "subcategory"),
}
# SORRY-Bench's turns of a conversation, a list with one text.
TURNS = "turns"
# WildJailbreak leaves the attack empty in rows whose request is put plainly.
INSTEAD = {"adversarial": "vanilla"}
# HarmBench's kinds of rows, of which one is taken unless others are asked for: copyright rows ask for a text word for
# word, which its classifiers do not judge.
FUNCTIONAL, STANDARD, CONTEXTUAL = "functionalcategory", "standard", "contextual"
# Of what belongs together in HarmBench's files.
BEHAVIOR_ID = "behaviorid"


def find(source: str, columns: Iterable[str], wanted: dict[str, str | None]) -> dict[str, str]:
    """Role -> column of a table: as `wanted` names it, else recognised by KNOWN; a role that there is not is left out.

    A target is taken only where it is named: many sets have one that is no aim of theirs. Raises InputError for a
    column that is not there, no prompt, or one column for two of prompt, behaviour, context and target.
    """
    columns = tuple(columns)
    found: dict[str, str] = {}
    for role in ("prompt", "behavior", "context", "target", "label", "cluster"):
        named = wanted.get(role)
        if named is not None:
            column = match(columns, named)
            if column is None:
                raise InputError(f"{source}: no column {named!r}; there {are(columns)}")
        else:
            names = KNOWN.get(role, ())
            if role == "behavior" and found["prompt"].lower() in names:
                # The request itself is put to the model: another column of that name is its title.
                names = ()
            column = next((column for name in names if (column := match(columns, name)) is not None), None)
        if column is not None:
            found[role] = column
        elif role == "prompt":
            raise InputError(
                f"{source}: no column is known to hold prompts ({', '.join(KNOWN['prompt'])}); there {are(columns)}. "
                "Name the right one with column="
            )
    _check_apart(source, found)
    return found


def _check_apart(source: str, found: dict[str, str]) -> None:
    apart = [(role, found[role]) for role in ("prompt", "behavior", "context", "target") if role in found]
    for place, (role, column) in enumerate(apart):
        other = next((earlier for earlier, taken in apart[:place] if taken == column), None)
        if other is not None:
            raise InputError(
                f"{source}: the {role} column {column!r} is the {other} column; name another one, or leave it empty: "
                "without a behaviour of its own the prompt itself is judged"
            )


def match(columns: Iterable[str], wanted: str) -> str | None:
    """The column of this name, or else the first that differs only in case."""
    columns = tuple(columns)
    if wanted in columns:
        return wanted
    return next((column for column in columns if column.lower() == wanted.lower()), None)


def are(columns: Iterable[str]) -> str:
    """What columns there are, for a message."""
    return f"are only: {', '.join(column or '(unnamed)' for column in columns)}"[:500]


def prompt_text(source: str, row: prompt_tables.Row, column: str, columns: Iterable[str]) -> str:
    """The prompt of a row, "" for none; of WildJailbreak's empty attacks the plain request, of `turns` the only one.

    Raises InputError for what is no text, and for several turns: a single one is put to a model.
    """
    place, cell = f"{source}, {row.place}", row.values.get(column)
    if column.lower() == TURNS and isinstance(cell, list):
        if len(cell) > 1:
            raise InputError(f"{place}: column {column!r} holds {len(cell)} turns, expected one; take the row out")
        cell = cell[0] if cell else None
    text = prompt_tables.text_or_empty(place, column, cell)
    instead = match(columns, INSTEAD.get(column.lower(), column))
    if text or instead in (None, column):
        return text
    return prompt_tables.text_or_empty(place, str(instead), row.values.get(str(instead)))


def label_text(source: str, row: prompt_tables.Row, column: str) -> str:
    """A row's label as text: labels may be numbers or truth values; a list of labels is none."""
    cell: Any = row.values.get(column)
    if cell is None or isinstance(cell, bool | int | float):
        return str(cell)
    return prompt_tables.text_of(f"{source}, {row.place}", column, cell)
