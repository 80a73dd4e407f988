"""Files of prompts as tables: CSV, TSV, JSON, JSONL, TXT and Parquet, with errors that name the place."""

import csv
import io
import os
import pathlib
from typing import Any, NamedTuple

from latent_audit import user_files
from latent_audit.data.prompt import keyed
from latent_audit.errors import InputError

# The one column of a file that has no columns: a TXT file or a JSON list of strings.
ONLY_COLUMN = "prompt"
# Ours: the longest public sets of prompts have a million rows and 100 MB.
MOST_BYTES = 2**28
MOST_ROWS = 2**22
_PARQUET_ROWS = 64


class Row(NamedTuple):
    """One record: where it stands in the file, for messages, and column -> value."""

    place: str
    values: dict[str, Any]


class Table(NamedTuple):
    """columns: every column name, in the file's order; rows: all records."""

    columns: tuple[str, ...]
    rows: list[Row]


def read_table(path: str | pathlib.Path) -> Table:
    """Read a file by its suffix: .csv, .tsv, .json, .jsonl, .txt or .parquet.

    A text file is UTF-8, with or without a byte order mark. A TXT file holds one prompt per line that is not
    blank. JSON is a list of strings, a list of objects, an object whose only list is one of these, or HarmBench's
    object by BehaviorID (prompt/keyed.py). Parquet needs pyarrow.

    Raises InputError: unknown suffix, missing, unreadable or empty file, one that is no regular file or longer than
    MOST_BYTES or MOST_ROWS, bytes that are not UTF-8 (the offset is named), a malformed table or JSON document (the
    line is named).
    """
    path = user_files.path_of("the file of prompts", path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: the suffix {path.suffix!r} is not one of {', '.join(READERS)}")
    if not os.path.lexists(path):
        raise InputError(f"no such file: {str(path):.300}")
    table = reader(path)
    if len(table.rows) > MOST_ROWS:
        raise _too_many(path, len(table.rows))
    if not table.rows:
        raise InputError(f"{path} is empty: it holds no prompts")
    return table


def text_of(place: str, column: str, cell: object) -> str:
    """A cell's text without outer white space, which may be empty; InputError for what no prompt or answer may hold."""
    if not isinstance(cell, str):
        kind = "nothing" if cell is None else f"{cell!r:.200} ({type(cell).__name__})"
        raise InputError(f"{place}: column {column!r} holds {kind}, expected text")
    return user_files.check_text(f"{place}: column {column!r}", cell).strip()


def text_or_empty(place: str, column: str, cell: object) -> str:
    """As text_of, and "" for a missing text, which Parquet and JSON write as NaN or null."""
    return "" if cell is None or (isinstance(cell, float) and cell != cell) else text_of(place, column, cell)


def _text(path: pathlib.Path) -> str:
    text = user_files.read_text("the file of prompts", path, most=MOST_BYTES)
    if text.count("\n") > MOST_ROWS:
        raise _too_many(path, text.count("\n"))
    return text


def _too_many(path: pathlib.Path, count: int) -> InputError:
    return InputError(f"{path} has {count} rows or lines, at most {MOST_ROWS} are read: take a part of it")


def _read_csv(path: pathlib.Path) -> Table:
    return _delimited(path, ",")


def _read_tsv(path: pathlib.Path) -> Table:
    return _delimited(path, "\t")


def _delimited(path: pathlib.Path, delimiter: str) -> Table:
    # The csv module and not pandas: it names the line, and it never takes a first column for an index.
    lines = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    header, rows = None, []
    try:
        for cells in lines:
            if not cells:
                continue
            if header is None:
                header = tuple(cell.strip() for cell in cells)
                if len(set(header)) < len(header):
                    raise InputError(f"{path}: the header names a column twice: {', '.join(header)[:300]}")
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{path}, line {lines.line_num}: {len(cells)} cells, expected {len(header)} as in "
                    "the header; a cell that holds the delimiter must be quoted"
                )
            rows.append(Row(f"line {lines.line_num}", dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise InputError(f"{path}, line {lines.line_num}: malformed table: {error}") from error
    return Table(header or (), rows)


def _read_txt(path: pathlib.Path) -> Table:
    # Only \n and \r\n end a line: str.splitlines would also cut at characters that occur inside a prompt.
    lines = enumerate(_text(path).split("\n"), start=1)
    rows = [Row(f"line {number}", {ONLY_COLUMN: line}) for number, line in lines if line.strip()]
    return Table((ONLY_COLUMN,), rows)


def _read_jsonl(path: pathlib.Path) -> Table:
    records = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        records.append((f"line {number}", user_files.parse_json(f"{path}, line {number}", line)))
    return _from_records(path, records)


def _read_json(path: pathlib.Path) -> Table:
    text = _text(path)
    if not text.strip():
        return Table((), [])
    value = user_files.parse_json(str(path), text)
    if isinstance(value, dict) and (rows := keyed.rows_of(path, value)) is not None:
        value = rows
    if isinstance(value, dict):
        lists = [key for key, item in value.items() if isinstance(item, list)]
        if len(lists) != 1:
            raise InputError(
                f"{path} holds an object with {len(lists)} lists ({', '.join(lists)[:200] or 'none'}), expected "
                "exactly one, of strings or of objects"
            )
        value = value[lists[0]]
    if not isinstance(value, list):
        raise InputError(f"{path} holds a {type(value).__name__}, expected a list of strings or of objects")
    return _from_records(path, [(f"row {number}", item) for number, item in enumerate(value, start=1)])


def _from_records(path: pathlib.Path, records: list[tuple[str, Any]]) -> Table:
    """Objects keep their keys; anything else becomes the cell of a table with one column."""
    objects = [isinstance(value, dict) for _, value in records]
    if any(objects) and not all(objects):
        place = records[objects.index(not objects[0])][0]
        raise InputError(f"{path}, {place}: objects and plain values are mixed, expected only one of the two")
    rows = [Row(place, value if isinstance(value, dict) else {ONLY_COLUMN: value}) for place, value in records]
    return Table(tuple(dict.fromkeys(key for row in rows for key in row.values)), rows)


def _read_parquet(path: pathlib.Path) -> Table:
    data = user_files.read_bytes("the file of prompts", path, most=MOST_BYTES)
    try:
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError(
            f"{path.name} is a Parquet file, which needs pyarrow: pip install pyarrow, or save the "
            "prompts as CSV and give that path"
        ) from error
    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        columns, count = tuple(map(str, file.schema_arrow.names)), file.metadata.num_rows
    except Exception as error:  # pyarrow's own errors, of many kinds.
        raise InputError(f"{path} is not a readable Parquet file: {_short(error)}") from error
    if count > MOST_ROWS:
        raise _too_many(path, count)
    if len(set(columns)) < len(columns):
        raise InputError(f"{path}: the header names a column twice: {', '.join(columns)[:300]}")
    records: list[dict[str, Any]] = []
    size = 0
    try:
        # In small parts: a cell that is stored once may stand in every row.
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            size += batch.nbytes
            if size > 4 * MOST_BYTES:
                break
            records += batch.to_pylist()
    except Exception as error:
        raise InputError(f"{path} is not a readable Parquet file: {_short(error)}") from error
    if size > 4 * MOST_BYTES:
        raise InputError(
            f"{path} unpacks to more than {4 * MOST_BYTES} bytes, the most that is read: take a part of it"
        )
    return Table(columns, [Row(f"row {number}", values) for number, values in enumerate(records, start=1)])


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


READERS = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".txt": _read_txt,
    ".parquet": _read_parquet,
}


def is_readable(path: str | pathlib.Path) -> bool:
    """Whether a path has a suffix that is read here."""
    return pathlib.PurePath(path).suffix.lower() in READERS
