"""Files of prompts as tables: CSV, TSV, JSON, JSONL, TXT and Parquet, with errors that name the place."""

import csv
import io
import json
import pathlib
from typing import Any, NamedTuple

import pandas as pd

from latent_audit.errors import InputError

# The one column of a file that has no columns: a TXT file or a JSON list of strings.
ONLY_COLUMN = "prompt"


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
    blank. JSON is a list of strings, a list of objects, or an object whose only list is one of these. Parquet
    needs pyarrow, which is not among this project's requirements.

    Raises InputError: unknown suffix, missing, unreadable or empty file, bytes that are not UTF-8 (the offset is
    named), a malformed table or JSON document (the line is named).
    """
    path = pathlib.Path(path).expanduser()
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: the suffix {path.suffix!r} is not one of {', '.join(READERS)}")
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        table = reader(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not table.rows:
        raise InputError(f"{path} is empty: it holds no prompts")
    return table


def _text(path: pathlib.Path) -> str:
    data = path.read_bytes()
    try:
        # Decoded with the mark still in place, so that an offset in a message counts from the file's first byte.
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte {data[error.start]:#04x} at offset {error.start}; save it as UTF-8"
        ) from error


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
                    raise InputError(f"{path}: the header names a column twice: {', '.join(header)}")
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
        try:
            records.append((f"line {number}", json.loads(line)))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: malformed JSON: {error.msg} at column {error.colno}") from error
    return _from_records(path, records)


def _read_json(path: pathlib.Path) -> Table:
    text = _text(path)
    if not text.strip():
        return Table((), [])
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: malformed JSON: {error.msg} at column {error.colno}") from error
    if isinstance(value, dict):
        lists = [key for key, item in value.items() if isinstance(item, list)]
        if len(lists) != 1:
            raise InputError(
                f"{path} holds an object with {len(lists)} lists ({', '.join(lists) or 'none'}), expected "
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
    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise InputError(
            f"{path.name} is a Parquet file, which needs pyarrow: pip install pyarrow, or save the "
            "prompts as CSV and give that path"
        ) from error
    except Exception as error:  # The engine's own errors; pyarrow may be absent, so they cannot be named here.
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error
    records = frame.to_dict("records")
    return Table(
        tuple(map(str, frame.columns)), [Row(f"row {number}", values) for number, values in enumerate(records, start=1)]
    )


READERS = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".txt": _read_txt,
    ".parquet": _read_parquet,
}
