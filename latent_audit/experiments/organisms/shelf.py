"""Make a checkpoint or take up the one that is there: a folder beside a JSON record that says how it was made.

The record is written last, so that what a stopped run left half made is made again.
"""

import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable

from latent_audit.errors import InputError
from latent_audit.models import target
from latent_audit.models.headers import listed
from latent_audit.user_files import path_of, read_json

_MOST_RECORD_BYTES = 2**24
# What a killed write or a killed save leaves, see runtime/files.py and models/target.py; and who makes it now.
_LEFT = re.compile(r"\..+\.[a-z0-9_]{8}\.part|\.making")


def as_stored(recipe) -> dict:
    """The recipe as JSON gives it back, to compare with the one in a record."""
    return json.loads(json.dumps(recipe))


def is_complete(folders: Iterable[pathlib.Path]) -> bool:
    """Whether every one of them holds a checkpoint (models.save moves one into place as a whole)."""
    return all((folder / "config.json").exists() for folder in folders)


def stored(
    record: pathlib.Path, folders: Iterable[pathlib.Path], *, field: str, expected, otherwise: Callable[[object], str]
) -> dict | None:
    """The record of what lies in `folders`; None where it, or one of them, is still to be made.

    field, expected: what must stand where in the record; otherwise: the message for what stands there instead, raised
    as an InputError. One is raised as well for a file of that name that is damaged, or no record of this tool.
    """
    if not os.path.lexists(record):
        return None
    advice = "remove it together with what it describes, which is then made again, or use another directory"
    try:
        content = read_json("the record", record, kind=dict, most=_MOST_RECORD_BYTES)
    except InputError as error:
        raise InputError(f"{error}; {advice}") from error
    if field not in content:
        raise InputError(f"{record} is no record of this tool, it has no {field!r}; {advice}")
    if not is_complete(folders := tuple(folders)):
        return None
    found = content[field]
    if found != expected:
        raise InputError(otherwise(found))
    for folder in folders:
        check_unchanged(folder)
    return content


def check_unchanged(folder: pathlib.Path) -> None:
    """InputError for a checkpoint of ours that was changed since: the record beside it is of another one then."""
    odd = target.changed(folder)
    if odd is None:
        raise InputError(
            f"{folder} holds no {target.MARKER}, so that nobody knows whether it is what was recorded; remove it, and "
            "it is made again"
        )
    if odd:
        raise InputError(
            f"{folder}: {listed(odd)} was changed since this tool wrote it, so that the record is of another model; "
            "remove that directory, and it is made again"
        )


def check_place(directory: str | pathlib.Path, *, field: str) -> pathlib.Path:
    """The directory that checkpoints are to be made in, ~ expanded; InputError where none can be."""
    directory = path_of(field, directory)
    try:
        directory.is_dir()  # Raises for a name that no file system takes.
        there = directory
        while not os.path.lexists(there) and there != there.parent:
            there = there.parent
        is_fit, is_open = there.is_dir(), os.access(there, os.W_OK | os.X_OK)
    except OSError as error:
        raise InputError(f"{field} = {directory}: {error.strerror}; give another directory") from error
    if not is_fit:
        raise InputError(f"{field} = {directory}: {there} is no directory; give another directory")
    if not is_open:
        raise InputError(f"{field} = {directory}: {there} cannot be written; give another directory")
    return directory


def refuse_foreign(directory: pathlib.Path, *, field: str, ours: Iterable[str]) -> None:
    """InputError for a directory without a record of ours that holds anything but entries of the names `ours`."""
    if not directory.is_dir():
        return
    ours = set(ours)
    foreign = sorted(name for name in os.listdir(directory) if name not in ours and not _LEFT.fullmatch(name))
    if foreign:
        raise InputError(
            f"{field} = {directory} holds {listed(foreign)} and no record of this tool; give an empty directory or a "
            "new one"
        )
