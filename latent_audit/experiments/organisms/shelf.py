"""Make a checkpoint or take up the one that is there: a folder beside a JSON record that says how it was made.

The record is written last, so that what a stopped run left half made is made again.
"""

import json
import pathlib
from collections.abc import Callable, Iterable

from latent_audit.errors import InputError


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
    as an InputError.
    """
    if not (record.exists() and is_complete(folders)):
        return None
    content = json.loads(record.read_text(encoding="utf-8"))
    found = content.get(field)
    if found != expected:
        raise InputError(otherwise(found))
    return content
