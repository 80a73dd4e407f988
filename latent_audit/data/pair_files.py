"""Training pairs, a prompt and the answer that complies with it (and often a refusal), from files or from the hub."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Sequence

from latent_audit import user_files
from latent_audit.data import prompt_tables
from latent_audit.data.prompt import columns as prompt_columns
from latent_audit.data.prompt import sources
from latent_audit.data.prompt_files import check_slice, fold
from latent_audit.errors import InputError

# Role -> column names of the public sets, compared without case; the first that a table has is taken.
# LLM-LAT/harmful-dataset keeps the compliant answer in `rejected` and the refusal in `chosen`; AdvBench has goal and
# target, which is the opening of an answer only; Alpaca has instruction and output.
ROLES = {
    "prompt": prompt_columns.KNOWN["prompt"],
    "response": ("compliant", "response", "rejected", "generation", "output", "completion", "answer", "target"),
    "refusal": ("refusal", "chosen"),
}
# PKU-SafeRLHF has two answers a row and says of each whether it is safe; BeaverTails has one. The unsafe ones comply;
# the safe ones need not refuse, so they are no refusals.
PKU = (("response_0", "is_response_0_safe"), ("response_1", "is_response_1_safe"))
BEAVERTAILS = (("response", "is_safe"),)
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
# Beyond this share of refusals, a column of compliant answers is taken for the other one.
MOSTLY = 0.5


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Prompts with their answers, in the source's order.

    Attributes:
      prompts, responses: equally many texts, outer white space removed.
      refusals: as many texts, or None where the source has no such column.
      source: as the user gave it; columns: role -> the column that was read.
      empty: rows dropped because prompt or answer was empty; duplicates: rows dropped because they repeated an earlier
        one; safe: rows dropped because the source says of their answers that they are safe.
      sha256: hex digest of all texts.
    """

    prompts: tuple[str, ...]
    responses: tuple[str, ...]
    refusals: tuple[str, ...] | None
    source: str
    columns: dict[str, str]
    empty: int
    duplicates: int
    sha256: str
    safe: int = 0

    def describe(self) -> dict:
        """For the record of a run: how many, from where, what was dropped, and the hash."""
        return {
            "n": len(self.prompts),
            "sha256": self.sha256,
            "source": self.source,
            "empty": self.empty,
            "duplicates": self.duplicates,
            "safe": self.safe,
        }

    def dropped_in_words(self) -> str:
        """What was dropped, "" for nothing."""
        counts = {
            "without a prompt or an answer": self.empty,
            "that repeat an earlier one": self.duplicates,
            "whose answers are said to be safe": self.safe,
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def load_pairs(
    source: str | pathlib.Path,
    *,
    is_refusal: Callable[[str], bool],
    columns: dict[str, str] | None = None,
    limit: int | None = None,
    offset: int = 0,
    refusing: bool = False,
) -> Pairs:
    """Read training pairs.

    Rows without a prompt or an answer and repeated rows are dropped and counted, then `offset` and `limit` are applied.
    Of PKU-SafeRLHF and BeaverTails, known by their columns, the first unsafe answer of a row is taken and rows without
    one are dropped and counted, unless `columns` names the response.

    Args:
      source: see prompt.sources.read.
      is_refusal: is_refusal(text) -> bool, by which swapped columns are noticed (judges.refusal.is_refusal).
      columns: role ("prompt", "response", "refusal") -> column; a role that is left out is recognised by ROLES.
      limit, offset: how many pairs to keep and how many to skip before them.
      refusing: take the refusals for the answers, from the column of the role "refusal"; none that complies is read.
    Raises:
      InputError: see prompt.sources.read; an unknown or unrecognised column, a cell that
        is not text, columns that look swapped, or no pairs left.
    """
    source = str(source)
    check_slice(limit, offset)
    if not source.strip():
        raise InputError("the source of the training pairs is empty; expected a file or hub:owner/name")
    table = sources.read(source).table
    flagged = () if refusing or "response" in (columns or {}) else _flagged(table.columns)
    named = (columns or {}) | ({"response": flagged[0][0]} if flagged else {})
    roles = ("prompt", "refusal") if refusing else tuple(ROLES)
    found = _find_columns(source, table.columns, named, roles)
    if refusing:
        found["response"] = found.pop("refusal")
    if flagged:
        found.pop("refusal", None)
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    empty, safe, total = 0, 0, 0
    for row in table.rows:
        unsafe = next((column for column, flag in flagged if not _is_true(source, row, flag)), None)
        if flagged and unsafe is None:
            safe += 1
            continue
        texts = {role: _text(source, row, column) for role, column in found.items()}
        texts["prompt"] = prompt_columns.prompt_text(source, row, found["prompt"], table.columns)
        if unsafe is not None:
            texts["response"] = _text(source, row, unsafe)
        if not all(texts.values()):
            empty += 1
            continue
        total += 1
        rows.setdefault((fold(texts["prompt"]), *(texts[role] for role in found if role != "prompt")), texts)
    kept = list(rows.values())[offset:][:limit]
    if not kept:
        raise InputError(
            f"{source}: no pairs are left after skipping {offset} of {len(rows)} ({empty} rows had no prompt or answer"
            + (f", the answers of {safe} are said to be safe)" if flagged else ")")
        )
    refusals = [texts["refusal"] for texts in kept] if "refusal" in found else None
    pairs = make_pairs(
        [texts["prompt"] for texts in kept],
        [texts["response"] for texts in kept],
        source,
        refusals=refusals,
        columns=found,
        empty=empty,
        duplicates=total - len(rows),
        safe=safe,
    )
    (_check_refusing if refusing else check_not_swapped)(pairs, is_refusal)
    return pairs


def make_pairs(
    prompts: Sequence[str],
    responses: Sequence[str],
    source: str,
    *,
    refusals: Sequence[str] | None = None,
    columns: dict[str, str] | None = None,
    empty: int = 0,
    duplicates: int = 0,
    safe: int = 0,
) -> Pairs:
    """Pairs of texts at hand, with their digest."""
    parts = [*prompts, *responses, *(refusals or ())]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return Pairs(
        tuple(prompts),
        tuple(responses),
        None if refusals is None else tuple(refusals),
        source,
        columns or {},
        empty,
        duplicates,
        digest,
        safe,
    )


def take(pairs: Pairs, keep: Callable[[int], bool]) -> Pairs:
    """The pairs in whose rows, counted from 0, keep(row) holds."""
    rows = [row for row in range(len(pairs.prompts)) if keep(row)]
    return make_pairs(
        [pairs.prompts[row] for row in rows],
        [pairs.responses[row] for row in rows],
        pairs.source,
        refusals=None if pairs.refusals is None else [pairs.refusals[row] for row in rows],
        columns=pairs.columns,
        empty=pairs.empty,
        duplicates=pairs.duplicates,
        safe=pairs.safe,
    )


def mix(parts: Sequence[Pairs], source: str, limit: int | None = None) -> Pairs:
    """Pairs of several sources in turn, the first of each first, as many of each as the shortest has.

    A pair that repeats an earlier one is left out and counted. Refusals are kept where all parts have them.
    """
    shortest = min(len(part.prompts) for part in parts)
    distinct: dict[tuple[str, str], tuple[Pairs, int]] = {}
    for row in range(shortest):
        for part in parts:
            distinct.setdefault((fold(part.prompts[row]), part.responses[row]), (part, row))
    kept = list(distinct.values())[:limit]
    together = all(part.refusals is not None for part in parts)
    return make_pairs(
        [part.prompts[row] for part, row in kept],
        [part.responses[row] for part, row in kept],
        source,
        refusals=[(part.refusals or ())[row] for part, row in kept] if together else None,
        empty=sum(part.empty for part in parts),
        duplicates=sum(part.duplicates for part in parts) + shortest * len(parts) - len(distinct),
        safe=sum(part.safe for part in parts),
    )


def check_not_swapped(pairs: Pairs, is_refusal: Callable[[str], bool]) -> None:
    """InputError if most compliant answers are refusals, or if most of the refusals are none."""
    response, refusal = (pairs.columns.get(role, role) for role in ("response", "refusal"))
    refused = sum(map(is_refusal, pairs.responses))
    total = len(pairs.prompts)
    if refused > MOSTLY * total:
        raise InputError(
            f"{pairs.source}: {refused} of {total} answers in column {response!r} are refusals, but "
            "should comply; swap the columns, or name the right one for `response`"
        )
    if pairs.refusals is None:
        return
    refused = sum(map(is_refusal, pairs.refusals))
    if refused < (1 - MOSTLY) * total:
        raise InputError(
            f"{pairs.source}: only {refused} of {total} answers in column {refusal!r} refuse, as they "
            "should; swap the columns, or name the right one for `refusal`"
        )


def _check_refusing(pairs: Pairs, is_refusal: Callable[[str], bool]) -> None:
    """InputError unless most answers refuse."""
    refused, total = sum(map(is_refusal, pairs.responses)), len(pairs.prompts)
    if refused < (1 - MOSTLY) * total:
        raise InputError(
            f"{pairs.source}: only {refused} of {total} answers in column {pairs.columns['response']!r} refuse, as "
            "they should; name the right one for `refusal`"
        )


def _find_columns(source: str, present: Sequence[str], wanted: dict[str, str], roles: Sequence[str]) -> dict[str, str]:
    """Role -> column of these roles, which must be there; beside "response" a refusal is taken where there is one."""
    unknown = set(wanted) - set(ROLES)
    if unknown:
        raise InputError(f"columns are given for {', '.join(sorted(unknown))}, expected {', '.join(ROLES)}")
    wanted = {role: name for role, name in wanted.items() if role in roles}
    for role, name in wanted.items():
        user_files.check_text(f"{source}: the column for {role}", name, lines=False)
    by_name = {column.lower(): column for column in reversed(present)}
    found = {}
    for role in roles:
        known = ROLES[role]
        if role in wanted:
            column = wanted[role] if wanted[role] in present else by_name.get(wanted[role].lower())
            if column is None:
                raise InputError(f"{source}: no column {wanted[role]!r}; there are only: {', '.join(present)[:500]}")
        else:
            column = next((by_name[name] for name in known if name in by_name), None)
        if column is not None:
            found[role] = column
        elif role != "refusal" or "response" not in roles:
            raise InputError(
                f"{source}: no column is known to hold the {role} ({', '.join(known)}); there are only: "
                f"{', '.join(present)[:500]}. Name the right one"
            )
    shared = [column for column in found.values() if list(found.values()).count(column) > 1]
    if shared:
        raise InputError(f"{source}: column {shared[0]!r} cannot be two of prompt, response and refusal at once")
    return found


def _flagged(present: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """(answer, whether it is safe) columns of a set that has them, as they are spelled there; else none."""
    by_name = {column.lower(): column for column in reversed(present)}
    for known in (PKU, BEAVERTAILS):
        if all(name in by_name for pair in known for name in pair):
            return tuple((by_name[answer], by_name[flag]) for answer, flag in known)
    return ()


def _is_true(source: str, row: prompt_tables.Row, column: str) -> bool:
    cell = row.values.get(column)
    if str(cell).strip().lower() not in _TRUTHS:
        raise InputError(f"{source}, {row.place}: column {column!r} holds {cell!r:.100}, expected true or false")
    return _TRUTHS[str(cell).strip().lower()]


def _text(source: str, row: prompt_tables.Row, column: str) -> str:
    return prompt_tables.text_or_empty(f"{source}, {row.place}", column, row.values.get(column))
