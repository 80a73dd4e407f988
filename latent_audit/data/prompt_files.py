"""Sets of prompts: what is attacked, what is judged and what is aimed at; docs/prompts.md."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from latent_audit import user_files
from latent_audit.data import prompt_tables
from latent_audit.data.prompt import columns, contexts, joins, sources
from latent_audit.data.prompt_tables import Row, Table
from latent_audit.errors import InputError

# In place of a label: rows of every kind.
ALL_LABELS = "all"


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """Distinct prompts and where they come from; every tuple is in the source's order.

    Attributes:
      name: short, for tables: the file's stem, the data set's name or the built-in set's.
      prompts: what is put to the model, outer white space removed; a context stands in front as HarmBench writes it.
      source: as the user gave it.
      columns: role (prompt, behavior, context, target, label, cluster) -> the column that was read.
      duplicates: how many rows of the whole source repeated an earlier one's prompt and behaviour (compared folded) and
        were dropped; empty: how many held no prompt; others: how many had another label.
      sha256: hex digest of the prompts joined by newlines.
      groups: for each prompt the value of the column that says what kind it is of, "" where there is none.
      behaviors: what the judge is asked about, with its context in front: the prompt itself where the source has no
        behaviour of its own.
      targets: the answer's opening that each prompt is aimed at, "" where there is none.
      notes: what the source's own tool would do otherwise.
    """

    name: str
    prompts: tuple[str, ...]
    source: str
    columns: dict[str, str]
    duplicates: int
    sha256: str
    groups: tuple[str, ...] = ()
    empty: int = 0
    others: int = 0
    behaviors: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def describe(self) -> dict:
        """For the record of a run: the columns that were read and the rows that were dropped."""
        dropped = {"empty": self.empty, "duplicates": self.duplicates, "other_labels": self.others}
        return {"columns": self.columns, "dropped": dropped}

    def dropped_in_words(self) -> str:
        """What was dropped, "" for nothing."""
        counts = {
            "without a prompt": self.empty,
            "that repeat an earlier one": self.duplicates,
            f"of another {self.columns.get('label', 'label')}": self.others,
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


class HasPrompts(Protocol):
    """What check_disjoint reads of a set of prompts, of pairs or of a panel."""

    @property
    def prompts(self) -> tuple[str, ...]: ...
    @property
    def source(self) -> str: ...


class _Entry(NamedTuple):
    """behavior: with its context; has_own: whether it is another text than the prompt."""

    prompt: str
    behavior: str
    target: str
    group: str
    has_own: bool


def load_prompts(
    source: str | pathlib.Path,
    *,
    column: str | None = None,
    behavior_column: str | None = None,
    context_column: str | None = None,
    target_column: str | None = None,
    label_column: str | None = None,
    cluster_column: str | None = None,
    label: str | None = None,
    joined: Sequence[str] = (),
    section: str = "",
    limit: int | None = None,
    offset: int = 0,
) -> PromptSet:
    """Read a set of prompts.

    Rows are filtered by `label`, then those without a prompt and repeated ones are dropped and counted, then `offset`
    and `limit` are applied.

    Args:
      source: see prompt.sources.read. Only one that starts with hub: is looked up on the hub.
      column, behavior_column, context_column, label_column, cluster_column: None recognises prompt.columns.KNOWN;
        target_column: None takes no target.
      label: keep only rows with this label, or one of several by commas (XSTest: "safe" or "unsafe"); "all" keeps all.
        None keeps all too, but of HarmBench's behaviours the `standard` ones.
      joined: further sources whose columns are added by BehaviorID: HarmBench's behaviours, its targets.
      section: of a heretic configuration, where the source names none.
      limit, offset: how many prompts to keep and how many to skip before them.
    Raises:
      InputError: see prompt.sources.read and prompt.columns.find; a cell that is not text (its row is named), an
        unknown label, a contextual row without context, test cases without the behaviours they are of, one cluster of
        all prompts where its column was named, or no prompts left.
    """
    source = str(source)
    check_slice(limit, offset)
    wanted = {
        "prompt": column,
        "behavior": behavior_column,
        "context": context_column,
        "target": target_column,
        "label": label_column,
        "cluster": cluster_column,
    }
    for role, value in wanted.items():
        if value is not None:
            field = "column" if role == "prompt" else f"{role}_column"
            user_files.check_text(f"{source}: {field}", value, lines=False)
    if label is not None:
        user_files.check_text(f"{source}: label", label, lines=False)
    read = sources.read(source, section=section)
    table = joins.join(source, read.table, [(name, sources.read(name).table) for name in joined])
    found = columns.find(source, table.columns, wanted)
    _check_judged(source, table, found)
    rows = _with_label(source, table, found, label)
    distinct: dict[tuple[str, str], _Entry] = {}
    empty = 0
    for row in rows:
        entry = _entry(source, row, table, found, named=behavior_column is not None)
        empty += not entry.prompt
        if entry.prompt:
            distinct.setdefault((fold(entry.prompt), fold(entry.behavior)), entry)
    if context_column is not None and not any(_cell(source, row, found, "context") for row in rows):
        raise InputError(f"{source}: no row has a context in column {found['context']!r}; leave context_column empty")
    kept = list(distinct.values())[offset:][:limit]
    if not kept:
        without = f" ({empty} rows hold no prompt)" if empty else ""
        raise InputError(f"{source}: no prompts are left after skipping {offset} of {len(distinct)}{without}")
    prompts, behaviors, targets, groups, own = (tuple(part) for part in zip(*kept, strict=True))
    notes = read.notes
    if "behavior" in found and not all(own):
        notes += (f"{own.count(False)} of {len(own)} prompts have no {found['behavior']}: they are judged themselves",)
    if cluster_column is not None and len({entry.group for entry in distinct.values()}) == 1 < len(distinct):
        raise InputError(
            f"{source}: the cluster column {found['cluster']!r} holds one value, {groups[0]!r:.60}, for all "
            f"{len(distinct)} prompts: one cluster has no interval; name another column, or leave it empty"
        )
    return PromptSet(
        name=read.name,
        prompts=prompts,
        source=source,
        columns=_shown(table, found),
        duplicates=len(rows) - empty - len(distinct),
        sha256=hashlib.sha256("\n".join(prompts).encode()).hexdigest(),
        groups=groups,
        empty=empty,
        others=len(table.rows) - len(rows),
        behaviors=behaviors,
        targets=targets,
        notes=notes,
    )


def fold(text: str) -> str:
    """Lower-cased, with every run of white space as one space: how prompts are compared; docs/method.md section 0.

    >>> fold("  How do\\tI paint  a Lamp? ")
    'how do i paint a lamp?'
    """
    return " ".join(text.lower().split())


def check_disjoint(
    training: HasPrompts,
    evaluation: HasPrompts,
    *,
    called: tuple[str, str] = ("training", "evaluation"),
    remedy: str = "take them out of one of the two",
) -> None:
    """InputError, naming up to five prompts, if any evaluation prompt occurs in training; docs/method.md section 6.

    called, remedy: how the error names both sets, and what it says to do.
    """
    seen = {fold(prompt) for prompt in training.prompts}
    shared = [prompt for prompt in evaluation.prompts if fold(prompt) in seen]
    if shared:
        shown = "; ".join(repr(prompt) for prompt in shared[:5])
        more = f" and {len(shared) - 5} more" if len(shared) > 5 else ""
        raise InputError(
            f"{len(shared)} of {len(evaluation.prompts)} {called[1]} prompts ({evaluation.source}) occur "
            f"in the {called[0]} prompts ({training.source}): {shown}{more}; {remedy}"
        )


def check_slice(limit: int | None, offset: int) -> None:
    """InputError for a limit or an offset that counts nothing."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InputError(f"limit = {limit!r}, expected a whole number of at least 1, or None for all prompts")
    if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
        raise InputError(f"offset = {offset!r}, expected a whole number of at least 0")


def labels_of(text: str | None) -> set[str]:
    """The labels of "a,b", folded; none for None.

    >>> sorted(labels_of("Safe, unsafe"))
    ['safe', 'unsafe']
    """
    return {fold(part) for part in (text or "").split(",") if part.strip()}


def _check_judged(source: str, table: Table, found: dict[str, str]) -> None:
    """InputError for test cases or other attacks of HarmBench without what they are attacks for."""
    if found["prompt"].lower() == "test_case" and "behavior" not in found:
        raise InputError(
            f"{source} holds lists by key, as HarmBench writes its test cases: what is judged stands in the behaviours "
            f"file that they were made of; join it (prompts.joined=harmbench_behaviors_text_all.csv). There "
            f"{columns.are(table.columns)}"
        )


def _with_label(source: str, table: Table, found: dict[str, str], label: str | None) -> list[Row]:
    """The rows of the labels that are asked for."""
    kinds = found.get("label", "").lower() == columns.FUNCTIONAL
    wanted = labels_of(columns.STANDARD if label is None and kinds else label)
    if not wanted or wanted == {ALL_LABELS}:
        return table.rows
    if "label" not in found:
        raise InputError(
            f"{source}: label = {label!r} needs a column of labels ({', '.join(columns.KNOWN['label'])}, or one that "
            f"label_column names), but there {columns.are(table.columns)}"
        )
    labels = [columns.label_text(source, row, found["label"]) for row in table.rows]
    missing = wanted - {fold(one) for one in labels}
    if missing:
        shown = ", ".join(one[:50] for one in sorted(set(labels))[:10])
        asked = f"{label!r}" if label is not None else f"{columns.STANDARD!r}, which is taken where none is named"
        raise InputError(
            f"{source}: no row has the label {asked}; column {found['label']!r} holds {shown}. Name one of these, or "
            f"{ALL_LABELS}"
        )
    return [row for row, one in zip(table.rows, labels, strict=True) if fold(one) in wanted]


def _entry(source: str, row: Row, table: Table, found: dict[str, str], *, named: bool) -> _Entry:
    """One row; without a prompt all is "". named: whether the column of behaviours was, and so must hold one."""
    prompt = columns.prompt_text(source, row, found["prompt"], table.columns)
    if not prompt:
        return _Entry("", "", "", "", False)
    context = _cell(source, row, found, "context")
    kind = columns.match(table.columns, columns.FUNCTIONAL)
    if not context and kind is not None and fold(str(row.values.get(kind))) == columns.CONTEXTUAL:
        raise InputError(
            f"{source}, {row.place}: a contextual behaviour without its context; fill ContextString, name its column "
            "with prompts.context_column, or take the row out"
        )
    behavior = _cell(source, row, found, "behavior")
    if named and not behavior:
        raise InputError(
            f"{source}, {row.place}: column {found['behavior']!r} holds no behaviour, and the judge is asked about it, "
            "not about the prompt; fill it, or take the row out"
        )
    # An attack holds its context already; a request without attack is put behind it.
    put = prompt if behavior else contexts.join(context, prompt)
    judged = contexts.join(context, behavior or prompt)
    return _Entry(put, judged, _cell(source, row, found, "target"), _group_of(row, found), bool(behavior))


def _cell(source: str, row: Row, found: dict[str, str], role: str) -> str:
    if role not in found:
        return ""
    return prompt_tables.text_or_empty(f"{source}, {row.place}", found[role], row.values.get(found[role]))


def _group_of(row: Row, found: dict[str, str]) -> str:
    """A row's cluster as text, folded; "" for none. BeaverTails has a mapping of categories to whether they apply."""
    cell = row.values.get(found["cluster"]) if "cluster" in found else None
    if isinstance(cell, dict):
        cell = ",".join(sorted(str(name) for name, holds in cell.items() if holds))
    return "" if cell is None or cell != cell else fold(str(cell))


def _shown(table: Table, found: dict[str, str]) -> dict[str, str]:
    """The columns for the record, with the one that is read where the prompt's is empty."""
    instead = columns.match(table.columns, columns.INSTEAD.get(found["prompt"].lower(), found["prompt"]))
    both = found["prompt"] if instead in (None, found["prompt"]) else f"{found['prompt']}, else {instead}"
    return found | {"prompt": both}
