"""Tables joined by BehaviorID: HarmBench keeps what is asked, attacked and aimed at in files of their own."""

from typing import Any

from latent_audit.data.prompt import columns
from latent_audit.data.prompt_tables import Row, Table
from latent_audit.errors import InputError


def join(source: str, table: Table, others: list[tuple[str, Table]]) -> Table:
    """The table with the columns that others have for the same BehaviorID; its own columns count before theirs.

    Raises InputError for a table without that column, an id that stands twice in another, or one that another lacks.
    """
    for name, other in others:
        key, theirs = (_key(where, columns_of) for where, columns_of in ((source, table), (name, other)))
        by_id: dict[str, dict[str, Any]] = {}
        for row in other.rows:
            found = str(row.values.get(theirs))
            if found in by_id:
                raise InputError(f"{name}, {row.place}: BehaviorID {found!r:.100} stands twice; expected each once")
            by_id[found] = row.values
        lacking = [row for row in table.rows if str(row.values.get(key)) not in by_id]
        if lacking:
            raise InputError(
                f"{source}, {lacking[0].place}: BehaviorID {lacking[0].values.get(key)!r:.100} is not in {name} (so of "
                f"{len(lacking)} of {len(table.rows)} rows); give the behaviours file that these are of"
            )
        fresh = tuple(column for column in other.columns if columns.match(table.columns, column) is None)
        rows = [
            Row(row.place, {column: by_id[str(row.values.get(key))].get(column) for column in fresh} | row.values)
            for row in table.rows
        ]
        table = Table((*table.columns, *fresh), rows)
    return table


def _key(where: str, table: Table) -> str:
    key = columns.match(table.columns, columns.BEHAVIOR_ID)
    if key is None:
        raise InputError(f"{where}: files are joined by a column BehaviorID, but there {columns.are(table.columns)}")
    return key
