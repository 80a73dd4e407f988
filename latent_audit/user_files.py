"""The door for files of others: what is opened, how much of it is read, and what their text and JSON may hold.

Every file that a user names or a checkpoint brings comes in here, so that a pipe, a device, a lone surrogate, a NUL or
a thousand brackets is one line of an InputError instead of a run that hangs or a traceback. Weights have a door of
their own (models/weights.py).
"""

import contextlib
import json
import os
import pathlib
import re
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

from latent_audit.errors import InputError

# Ours, generous: the longest published tokenizer.json has 33 MB, the longest prompt set below 1 GB.
MOST_BYTES = 2**30
MOST_DEPTH = 100
# A Python float ends near 1e308; a whole number of more digits is no setting and no id.
MOST_DIGITS = 400
# What lies in a checkout in place of a large file that git-lfs has not fetched.
_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_BYTES = 2**10
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def path_of(field: str, text: str | pathlib.Path) -> pathlib.Path:
    """A path as typed, with ~ expanded; InputError for an empty one, a NUL, or the home of nobody."""
    if not isinstance(text, str | pathlib.Path):
        raise InputError(f"{field} = {text!r:.200}, expected a path")
    if not str(text).strip():
        raise InputError(f"{field} is empty, expected a path")
    if "\0" in str(text):
        raise InputError(f"{field} = {str(text)!r} holds a NUL, which no path can")
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{field} = {str(text)!r}: {error}; give the whole path") from error


def check_file(field: str, path: str | pathlib.Path, *, most: int = MOST_BYTES) -> pathlib.Path:
    """The path of a regular file that others will read, ~ expanded; InputError as read_bytes."""
    path = path_of(field, path)
    with _opened(field, path, most) as (file, size):
        if size < _POINTER_BYTES:
            _check_no_pointer(field, path, file.read(_POINTER_BYTES))
    return path


def read_bytes(field: str, path: str | pathlib.Path, *, most: int = MOST_BYTES) -> bytes:
    """All of a regular file, at most `most` bytes; InputError for what is missing, unreadable, longer or no file.

    Opened without waiting: a pipe that nobody writes to is refused instead of waited for.
    """
    path = path_of(field, path)
    with _opened(field, path, most) as (file, size):
        # Files of /proc have content but no size; None is one that would have to be waited for.
        data = file.read(min(most, max(size, 2**20)) + 1) or b""
    if len(data) > min(most, max(size, 2**20)):
        raise InputError(f"{field} = {str(path)!r} grew while it was read, or never ends")
    _check_no_pointer(field, path, data)
    return data


@contextlib.contextmanager
def _opened(field: str, path: pathlib.Path, most: int) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file of at most `most` bytes, and its size."""
    shown = f"{field} = {str(path)!r:.300}"
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError) as error:
        raise InputError(f"{shown} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        kind = os.fstat(handle)
        if not stat.S_ISREG(kind.st_mode):
            what = "a directory" if stat.S_ISDIR(kind.st_mode) else "a pipe or a device"
            raise InputError(f"{shown} is {what}, expected a regular file")
        if kind.st_size > most:
            raise InputError(f"{shown} has {kind.st_size} bytes, more than the {most} that are read here")
        with open(handle, "rb", closefd=False) as file:
            yield file, kind.st_size
    except OSError as error:
        raise InputError(f"{shown} cannot be read: {error.strerror or error}") from error
    finally:
        os.close(handle)


def _check_no_pointer(field: str, path: pathlib.Path, data: bytes) -> None:
    if data.startswith(_POINTER):
        raise InputError(
            f"{field} = {str(path)!r} is a git-lfs pointer, not the file itself: run `git lfs pull` in its directory"
        )


def read_text(field: str, path: str | pathlib.Path, *, most: int = MOST_BYTES) -> str:
    """A file's text, UTF-8 with or without a mark at its start; InputError as read_bytes, and for other encodings."""
    data = read_bytes(field, path, most=most)
    try:
        # Decoded with the mark still in place, so that an offset in a message counts from the file's first byte.
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{field} = {str(path)!r} is not UTF-8: byte {data[error.start]:#04x} at offset {error.start}; "
            "save it as UTF-8"
        ) from error


def read_json(field: str, path: str | pathlib.Path, *, kind: type | None = None, most: int = MOST_BYTES) -> Any:
    """A file's JSON value; InputError as read_text and parse_json, and for one that is no `kind` (dict, list)."""
    value = parse_json(f"{field} = {str(path)!r}", read_text(field, path, most=most))
    if kind is not None and not isinstance(value, kind):
        wanted = "an object" if kind is dict else "a list" if kind is list else kind.__name__
        raise InputError(f"{field} = {str(path)!r} holds {type(value).__name__}, expected {wanted}")
    return value


def parse_json(where: str, text: str) -> Any:
    """The value that a JSON text stands for.

    Raises InputError for damage, a depth over MOST_DEPTH, endless numbers, or an object that says one key twice.
    """
    try:
        value = json.loads(text, parse_int=_whole, object_pairs_hook=_distinct)
    except RecursionError:
        raise InputError(f"{where}: lists or objects nested too deep, at most {MOST_DEPTH} levels are read") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except ValueError as error:
        raise InputError(f"{where} is no JSON that is read here: {error}") from error
    if _is_deep(value):
        raise InputError(f"{where}: lists or objects nested too deep, at most {MOST_DEPTH} levels are read")
    return value


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits, at most {MOST_DIGITS} are read")
    return int(digits)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:100]!r} stands twice in one object, and which of the two counts is not said")
    return found


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def check_text(field: str, text: object, *, lines: bool = True) -> str:
    """`text` itself; InputError for what is no text, or holds a surrogate, a NUL or another control character.

    lines: whether it may have several lines and tabs, as prompts do and names do not.
    """
    if not isinstance(text, str):
        raise InputError(f"{field} = {text!r:.200}, expected text")
    found = _SURROGATE.search(text) or _CONTROL.search(text) or (None if lines else re.search(r"[\t\n\r]", text))
    if found:
        code = f"U+{ord(found.group()):04X}"
        what = "half a surrogate pair" if 0xD800 <= ord(found.group()) < 0xE000 else "a control character"
        raise InputError(f"{field} holds {what}, {code} at character {found.start()}: take it out of {text[:80]!r}")
    return text
