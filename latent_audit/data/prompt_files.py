"""Sets of prompts from files, from the Hugging Face hub, or built in."""

import dataclasses
import hashlib
import os
import pathlib
import re
from collections.abc import Iterable

from latent_audit import user_files
from latent_audit.data import prompt_hub, prompt_tables
from latent_audit.data.builtin_prompts import HARMFUL, HARMLESS
from latent_audit.errors import InputError

BUILTIN = {"harmful": HARMFUL, "harmless": HARMLESS}
# Column names of the public sets, compared without case; the first that a table has is the prompt. JailbreakBench
# has Goal (the request) beside Behavior (its two-word title); HarmBench has Behavior alone, and there it is the
# request. Alpaca's text repeats instruction and answer.
KNOWN_COLUMNS = ("prompt", "goal", "instruction", "question", "behavior", "text")
LABEL_COLUMN = "label"
# Columns of the public sets that say which prompts are of one kind, compared without case: HarmBench's and
# JailbreakBench's.
CLUSTER_COLUMNS = ("semanticcategory", "category")

# A bare owner/name is never looked up anywhere: it only earns a hint.
_HUB_LIKE = re.compile(r"[\w\-]+/[\w\-]+")


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """Distinct prompts and where they come from.

    Attributes:
      name: short, for tables: the file's stem, the data set's name or the built-in set's.
      prompts: outer white space removed, in the source's order.
      source: as the user gave it.
      column: the column that was read.
      duplicates: how many rows of the whole source repeated an earlier one (compared folded) and were dropped.
      groups: for each prompt the value of the column that says what kind it is of, "" where there is none.
      empty: how many rows of the whole source held no prompt and were dropped.
      sha256: hex digest of the prompts joined by newlines.
    """

    name: str
    prompts: tuple[str, ...]
    source: str
    column: str
    duplicates: int
    sha256: str
    groups: tuple[str, ...] = ()
    empty: int = 0


def load_prompts(
    source: str | pathlib.Path,
    *,
    column: str | None = None,
    limit: int | None = None,
    offset: int = 0,
    label: str | None = None,
    cluster_column: str | None = None,
) -> PromptSet:
    """Read a set of prompts.

    Rows are filtered by `label`, then those without a prompt and repeated ones are dropped and counted, then `offset`
    and `limit` are applied.

    Args:
      source: path of a file (see prompt_tables.read_table), "hub:owner/name[:config][:split]", "builtin:harmful" or
        "builtin:harmless". Only a source that starts with hub: is looked up on the hub.
      column: the column that holds the prompt; None recognises KNOWN_COLUMNS.
      limit, offset: how many prompts to keep and how many to skip before them.
      label: keep only rows whose `label` column says this (XSTest: "safe" or "unsafe").
      cluster_column: the column whose equal values make prompts one cluster; None recognises CLUSTER_COLUMNS.
    Raises:
      InputError: see prompt_tables.read_table and prompt_hub.download; a wrong or unrecognised column (those found
        are listed), a cell that is not text (its row is named), or no prompts left.
    """
    source = str(source)
    if not source.strip():
        raise InputError("the source of the prompts is empty; expected a file, hub:owner/name or builtin:harmful")
    check_slice(limit, offset)
    for field, value in (("column", column), ("label", label), ("cluster_column", cluster_column)):
        if value is not None:
            user_files.check_text(f"{source}: {field}", value, lines=False)
    name, table = _read(source)
    table = _with_label(source, table, label)
    column = _find_column(source, table, column)
    clusters = _cluster_column(source, table, cluster_column)
    distinct: dict[str, tuple[str, str]] = {}
    empty = 0
    for row in table.rows:
        prompt = prompt_tables.text_or_empty(f"{source}, {row.place}", column, row.values.get(column))
        empty += not prompt
        if prompt:
            distinct.setdefault(fold(prompt), (prompt, _group_of(row, clusters)))
    pairs = list(distinct.values())[offset:][:limit]
    if not pairs:
        without = f" ({empty} rows hold no prompt)" if empty else ""
        raise InputError(f"{source}: no prompts are left after skipping {offset} of {len(distinct)}{without}")
    kept, groups = (tuple(part) for part in zip(*pairs, strict=True))
    digest = hashlib.sha256("\n".join(kept).encode()).hexdigest()
    repeated = len(table.rows) - empty - len(distinct)
    return PromptSet(name, kept, source, column, repeated, digest, groups, empty)


def fold(text: str) -> str:
    """Lower-cased, with every run of white space as one space: how prompts are compared; docs/method.md section 0.

    >>> fold("  How do\\tI paint  a Lamp? ")
    'how do i paint a lamp?'
    """
    return " ".join(text.lower().split())


def check_disjoint(training: PromptSet, evaluation: PromptSet) -> None:
    """InputError, naming up to five prompts, if any evaluation prompt occurs in training; docs/method.md section 6."""
    seen = {fold(prompt) for prompt in training.prompts}
    shared = [prompt for prompt in evaluation.prompts if fold(prompt) in seen]
    if shared:
        shown = "; ".join(repr(prompt) for prompt in shared[:5])
        more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
        raise InputError(
            f"{len(shared)} of {len(evaluation.prompts)} evaluation prompts ({evaluation.source}) occur "
            f"in the training prompts ({training.source}): {shown}{more}; take them out of one of the "
            "two"
        )


def check_slice(limit: int | None, offset: int) -> None:
    """InputError for a limit or an offset that counts nothing."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InputError(f"limit = {limit!r}, expected a whole number of at least 1, or None for all prompts")
    if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
        raise InputError(f"offset = {offset!r}, expected a whole number of at least 0")


def _read(source: str) -> tuple[str, prompt_tables.Table]:
    scheme, colon, rest = source.partition(":")
    if colon and scheme == "builtin":
        if rest not in BUILTIN:
            raise InputError(f"{source}: no such built-in set; expected {' or '.join(f'builtin:{k}' for k in BUILTIN)}")
        rows = [
            prompt_tables.Row(f"prompt {n}", {prompt_tables.ONLY_COLUMN: prompt})
            for n, prompt in enumerate(BUILTIN[rest], start=1)
        ]
        return rest, prompt_tables.Table((prompt_tables.ONLY_COLUMN,), rows)
    if colon and scheme == "hub":
        tables = [prompt_tables.read_table(path) for path in prompt_hub.download(rest)]
        columns = tuple(dict.fromkeys(column for table in tables for column in table.columns))
        name = rest.split(":")[0].rpartition("/")[2]
        return name, prompt_tables.Table(columns, [row for table in tables for row in table.rows])
    if _HUB_LIKE.fullmatch(source) and not os.path.lexists(source):
        raise InputError(f"no such file: {source}; a data set on the Hugging Face hub is given as hub:{source}")
    return pathlib.Path(source).stem, prompt_tables.read_table(source)


def _with_label(source: str, table: prompt_tables.Table, label: str | None) -> prompt_tables.Table:
    if label is None:
        return table
    column = _match(table.columns, LABEL_COLUMN)
    if column is None:
        raise InputError(
            f"{source}: label = {label!r} needs a column {LABEL_COLUMN!r}, but there {_are(table.columns)}"
        )
    labels = [_label_of(source, row, column) for row in table.rows]
    rows = [row for row, found in zip(table.rows, labels, strict=True) if fold(found) == fold(label)]
    if not rows:
        shown = ", ".join(found[:50] for found in sorted(set(labels))[:10])
        raise InputError(f"{source}: no row has the label {label!r}; found are {shown}")
    return table._replace(rows=rows)


def _label_of(source: str, row: prompt_tables.Row, column: str) -> str:
    cell = row.values.get(column)
    # Labels may be numbers or truth values; a list of labels is none.
    if cell is None or isinstance(cell, bool | int | float):
        return str(cell)
    return prompt_tables.text_of(f"{source}, {row.place}", column, cell)


def _find_column(source: str, table: prompt_tables.Table, wanted: str | None) -> str:
    if wanted is not None:
        found = _match(table.columns, wanted)
        if found is None:
            raise InputError(f"{source}: no column {wanted!r}; there {_are(table.columns)}")
        return found
    for known in KNOWN_COLUMNS:
        found = _match(table.columns, known)
        if found is not None:
            return found
    raise InputError(
        f"{source}: no column is known to hold prompts ({', '.join(KNOWN_COLUMNS)}); there "
        f"{_are(table.columns)}. Name the right one with column="
    )


def _match(columns: Iterable[str], wanted: str) -> str | None:
    """The column of this name, or else the first that differs only in case."""
    if wanted in columns:
        return wanted
    return next((column for column in columns if column.lower() == wanted.lower()), None)


def _are(columns: Iterable[str]) -> str:
    return f"are only: {', '.join(column or '(unnamed)' for column in columns)}"[:500]


def _cluster_column(source: str, table: prompt_tables.Table, wanted: str | None) -> str | None:
    if wanted is not None:
        return _find_column(source, table, wanted)
    return next((column for known in CLUSTER_COLUMNS if (column := _match(table.columns, known)) is not None), None)


def _group_of(row: prompt_tables.Row, column: str | None) -> str:
    """A row's cluster as text, folded; "" for none. BeaverTails has a mapping of categories to whether they apply."""
    cell = None if column is None else row.values.get(column)
    if isinstance(cell, dict):
        cell = ",".join(sorted(str(name) for name, holds in cell.items() if holds))
    return "" if cell is None or cell != cell else fold(str(cell))
