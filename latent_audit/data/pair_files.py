"""Training pairs, a prompt and the answer that complies with it (and often a refusal), from files or from the hub."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Sequence

from latent_audit import user_files
from latent_audit.data import prompt_hub, prompt_tables
from latent_audit.data.prompt_files import KNOWN_COLUMNS, check_slice, fold
from latent_audit.errors import InputError

# Role -> column names of the public sets, compared without case; the first that a table has is taken.
# LLM-LAT/harmful-dataset keeps the compliant answer in `rejected` and the refusal in `chosen`; AdvBench has goal and
# target, which is the opening of an answer only; Alpaca has instruction and output.
ROLES = {
    "prompt": KNOWN_COLUMNS,
    "response": ("compliant", "response", "rejected", "target", "output", "completion", "answer"),
    "refusal": ("refusal", "chosen"),
}
# Beyond this share of refusals, a column of compliant answers is taken for the other one.
MOSTLY = 0.5


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Prompts with their answers, in the source's order.

    Attributes:
      prompts, responses: equally many texts, outer white space removed.
      refusals: as many texts, or None where the source has no such column.
      source: as the user gave it; columns: role -> the column that was read.
      empty: rows dropped because an answer was empty; duplicates: rows dropped because they repeated an earlier one.
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

    def describe(self) -> dict:
        """For the record of a run: how many, from where, what was dropped, and the hash."""
        return {
            "n": len(self.prompts),
            "sha256": self.sha256,
            "source": self.source,
            "empty": self.empty,
            "duplicates": self.duplicates,
        }


def load_pairs(
    source: str | pathlib.Path,
    *,
    is_refusal: Callable[[str], bool],
    columns: dict[str, str] | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> Pairs:
    """Read training pairs.

    Rows with an empty answer and repeated rows are dropped and counted, then `offset` and `limit` are applied.

    Args:
      source: path of a file (see prompt_tables.read_table) or "hub:owner/name[:config][:split]".
      is_refusal: is_refusal(text) -> bool, by which swapped columns are noticed (judges.refusal.is_refusal).
      columns: role ("prompt", "response", "refusal") -> column; a role that is left out is recognised by ROLES.
      limit, offset: how many pairs to keep and how many to skip before them.
    Raises:
      InputError: see prompt_tables.read_table and prompt_hub.download; an unknown or unrecognised column, a cell that
        is not text, an empty prompt, columns that look swapped, or no pairs left.
    """
    source = str(source)
    check_slice(limit, offset)
    table = _read(source)
    found = _find_columns(source, table.columns, columns or {})
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    empty, total = 0, 0
    for row in table.rows:
        texts = {role: _text(source, row, column) for role, column in found.items()}
        if not texts["prompt"]:
            raise InputError(f"{source}, {row.place}: column {found['prompt']!r} is empty, expected a prompt")
        if not all(texts.values()):
            empty += 1
            continue
        total += 1
        rows.setdefault((fold(texts["prompt"]), *(texts[role] for role in found if role != "prompt")), texts)
    kept = list(rows.values())[offset:][:limit]
    if not kept:
        raise InputError(
            f"{source}: no pairs are left after skipping {offset} of {len(rows)} ({empty} rows had an empty answer)"
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
    )
    check_not_swapped(pairs, is_refusal)
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


def _read(source: str) -> prompt_tables.Table:
    if not source.strip():
        raise InputError("the source of the training pairs is empty; expected a file or hub:owner/name")
    if not source.startswith("hub:"):
        return prompt_tables.read_table(source)
    tables = [prompt_tables.read_table(path) for path in prompt_hub.download(source.removeprefix("hub:"))]
    columns = tuple(dict.fromkeys(column for table in tables for column in table.columns))
    return prompt_tables.Table(columns, [row for table in tables for row in table.rows])


def _find_columns(source: str, present: Sequence[str], wanted: dict[str, str]) -> dict[str, str]:
    """Role -> column; a refusal column is taken where there is one, the other two must be there."""
    unknown = set(wanted) - set(ROLES)
    if unknown:
        raise InputError(f"columns are given for {', '.join(sorted(unknown))}, expected {', '.join(ROLES)}")
    for role, name in wanted.items():
        user_files.check_text(f"{source}: the column for {role}", name, lines=False)
    by_name = {column.lower(): column for column in reversed(present)}
    found = {}
    for role, known in ROLES.items():
        if role in wanted:
            column = wanted[role] if wanted[role] in present else by_name.get(wanted[role].lower())
            if column is None:
                raise InputError(f"{source}: no column {wanted[role]!r}; there are only: {', '.join(present)[:500]}")
        else:
            column = next((by_name[name] for name in known if name in by_name), None)
        if column is not None:
            found[role] = column
        elif role != "refusal":
            raise InputError(
                f"{source}: no column is known to hold the {role} ({', '.join(known)}); there are only: "
                f"{', '.join(present)[:500]}. Name the right one"
            )
    shared = [column for column in found.values() if list(found.values()).count(column) > 1]
    if shared:
        raise InputError(f"{source}: column {shared[0]!r} cannot be two of prompt, response and refusal at once")
    return found


def _text(source: str, row: prompt_tables.Row, column: str) -> str:
    return prompt_tables.text_or_empty(f"{source}, {row.place}", column, row.values.get(column))
