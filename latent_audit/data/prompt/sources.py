"""Where prompts come from: built-in sets, files, directories of files, the hub, a heretic configuration."""

import os
import pathlib
import re
from typing import NamedTuple

import huggingface_hub

from latent_audit import user_files
from latent_audit.data import prompt_hub, prompt_tables
from latent_audit.data.builtin_prompts import HARMFUL, HARMLESS
from latent_audit.data.prompt import columns, heretic, slices
from latent_audit.data.prompt_tables import ONLY_COLUMN, Row, Table
from latent_audit.errors import InputError

BUILTIN = {"harmful": HARMFUL, "harmless": HARMLESS}
# Of a directory: far beyond any data set's number of shards.
MOST_FILES = 10**4
# A bare owner/name is never looked up anywhere: it only earns a hint.
_HUB_LIKE = re.compile(r"[\w\-]+/[\w\-]+")
# Where prefix or suffix stand around a prompt, the request alone is what is judged.
_BARE = "goal"


class Source(NamedTuple):
    """name: short, for tables: the file's stem, the data set's name or the built-in set's; notes: what its own tool
    would do otherwise, for the log."""

    name: str
    table: Table
    notes: tuple[str, ...] = ()


def read(source: str, *, section: str = "") -> Source:
    """The table that a source means.

    Args:
      source: a file (prompt_tables.read_table); a directory of such files, DIR[:config][:split]; CONFIG.toml[:SECTION]
        of heretic; "hub:owner/name[:config][:split]"; "builtin:harmful" or "builtin:harmless". The split of the hub or
        of a directory may be a part, train[:400].
      section: of a heretic configuration, where the source names none.
    Raises InputError as prompt_tables.read_table, prompt_hub.download, heretic.read and slices.rows_of, and for a
    directory whose files leave a choice.
    """
    if not source.strip():
        raise InputError("the source of the prompts is empty; expected a file, hub:owner/name or builtin:harmful")
    scheme, colon, rest = source.partition(":")
    if colon and scheme == "builtin":
        return _builtin(source, rest)
    if colon and scheme == "hub":
        return _of_hub(rest)
    path, part = _parted(source)
    if path.suffix.lower() == heretic.SUFFIX:
        return _of_heretic(path, part or section)
    if os.path.isdir(path):
        return _of_directory(path, part)
    if _HUB_LIKE.fullmatch(source) and not os.path.lexists(source):
        raise InputError(f"no such file: {source}; a data set on the Hugging Face hub is given as hub:{source}")
    return Source(path.stem, prompt_tables.read_table(path))


def _parted(source: str) -> tuple[pathlib.Path, str]:
    """DIR:split -> (DIR, "split"), and so of a configuration's section; a path that is there is taken whole."""
    path = user_files.path_of("the file of prompts", source)
    # The first colon behind which there is something to take a part of: a split's own name may hold more of them.
    ends = [] if os.path.lexists(path) else [place for place, letter in enumerate(source) if letter == ":" and place]
    for end in ends:
        head = user_files.path_of("the file of prompts", source[:end])
        if os.path.isdir(head) or (head.suffix.lower() == heretic.SUFFIX and os.path.isfile(head)):
            return head, source[end + 1 :]
    return path, ""


def _builtin(source: str, name: str) -> Source:
    if name not in BUILTIN:
        raise InputError(f"{source}: no such built-in set; expected {' or '.join(f'builtin:{k}' for k in BUILTIN)}")
    rows = [Row(f"prompt {n}", {ONLY_COLUMN: prompt}) for n, prompt in enumerate(BUILTIN[name], start=1)]
    return Source(name, Table((ONLY_COLUMN,), rows))


def _of_hub(address: str, revision: str | None = None) -> Source:
    whole, bracket, _ = address.partition("[")
    repository, *parts = whole.split(":")
    start = stop = ""
    if bracket:
        split, start, stop = slices.parse(f"hub:{address}", (parts or [""])[-1] + address[len(whole) :])
        parts = [*parts[:-1], split] if split else parts[:-1]
    table = _joined(prompt_hub.download(":".join([repository, *parts]), revision=revision))
    return Source(repository.rpartition("/")[2], _cut(f"hub:{address}", table, start, stop))


def _of_directory(directory: pathlib.Path, part: str) -> Source:
    """One split of a directory, told by its README's card or by its files' names as on the hub."""
    names, part = _files(directory), part.strip(":")
    split, start, stop = slices.parse(str(directory), part) if part else ("", "", "")
    splits = prompt_hub.list_splits(names, _card(directory))
    chosen = prompt_hub.choose_split(str(directory), splits, split.split(":") if split else [])
    table = _joined([directory / name for name in chosen.files])
    return Source(directory.resolve().name, _cut(str(directory), table, start, stop))


def _files(directory: pathlib.Path) -> list[str]:
    names: list[str] = []
    for folder, folders, found in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names += [(pathlib.Path(folder) / name).relative_to(directory).as_posix() for name in found]
        if len(names) > MOST_FILES:
            raise InputError(f"{directory} holds more than {MOST_FILES} files; give a directory of prompts alone")
    return names


def _card(directory: pathlib.Path) -> object:
    """The configs of the card of a data set that was fetched whole; None where there is none that can be read."""
    file = directory / "README.md"
    if not file.is_file():
        return None
    user_files.read_text("the card of the data set", file, most=2**22)
    try:
        return (huggingface_hub.metadata_load(file) or {}).get("configs")
    except Exception:  # A README that is no card: YAML's own errors, of many kinds.
        return None


def _joined(files: list[pathlib.Path]) -> Table:
    """The rows of several files as one table."""
    tables = [prompt_tables.read_table(file) for file in files]
    if len(tables) == 1:
        return tables[0]
    rows = [
        Row(f"{file.name}, {row.place}", row.values)
        for file, table in zip(files, tables, strict=True)
        for row in table.rows
    ]
    if len(rows) > prompt_tables.MOST_ROWS:
        raise InputError(
            f"{files[0].parent}: {len(rows)} rows in {len(files)} files, at most {prompt_tables.MOST_ROWS}"
        )
    return Table(tuple(dict.fromkeys(column for table in tables for column in table.columns)), rows)


def _cut(field: str, table: Table, start: str, stop: str) -> Table:
    return table._replace(rows=table.rows[slices.rows_of(field, start, stop, len(table.rows))])


def _of_heretic(path: pathlib.Path, section: str) -> Source:
    parts, rows, notes = heretic.read(path, section), [], []
    framed = any(part.prefix or part.suffix for part in parts)
    for part in parts:
        found = _of_part(f"{path}, [{section}]", part)
        named = [part.column] if part.column else []
        column = columns.find(part.dataset, found.columns, {"prompt": named[0] if named else None})["prompt"]
        for row in found.rows:
            bare = prompt_tables.text_or_empty(f"{part.dataset}, {row.place}", column, row.values.get(column))
            own = {ONLY_COLUMN: part.around(bare) if bare else ""} | ({_BARE: bare} if framed else {})
            rows.append(Row(row.place, own))
        if part.system_prompt:
            notes.append(f"{path}, [{section}]: its system_prompt is not put in front; chat.system is what is")
    return Source(f"{path.stem}-{section}", Table((ONLY_COLUMN, *([_BARE] if framed else [])), rows), tuple(notes))


def _of_part(where: str, part: heretic.Part) -> Table:
    """A data set of heretic's: a path where there is one, else of the hub."""
    if os.path.lexists(part.dataset) or prompt_tables.is_readable(part.dataset):
        path = pathlib.Path(part.dataset)
        if path.is_dir():
            return _of_directory(path, ":".join(filter(None, (part.config, part.split)))).table
        _, start, stop = slices.parse(f"{where}: split", part.split)
        return _cut(where, prompt_tables.read_table(path), start, stop)
    address = ":".join(filter(None, (part.dataset, part.config, part.split)))
    return _of_hub(address, part.commit or None).table
