"""Writing files so that a reader never sees half of one; of several processes of a run, the first alone writes."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import stat
import tempfile
from typing import Any

from latent_audit.runtime import processes

_PART = ".part"
# As tempfile names what write_bytes fills.
_LEFT = re.compile(r"\..+\.[a-z0-9_]{8}\.part", re.DOTALL)


def write_bytes(path: str | pathlib.Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to disk, then rename it into place (atomic on one file system).

    Raises OSError (disk full, read-only directory); the old file at `path`, if any, is then untouched.
    """
    if not processes.is_first():
        return
    path = pathlib.Path(path)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
    try:
        with os.fdopen(handle, "wb") as file:
            # Held until it is in place: clear_parts leaves what somebody is writing.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            # mkstemp creates private files; results are meant to be shared like any other file.
            os.chmod(aside, 0o644)
            os.replace(aside, path)
    except BaseException as error:
        if os.path.exists(aside):
            os.unlink(aside)
        if isinstance(error, OSError):
            # Of the file that was to be, not of the one beside it.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_text(path: str | pathlib.Path, text: str) -> None:
    """Write `text` as UTF-8, aside and renamed; see write_bytes."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | pathlib.Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline; NaN is refused because JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def clear_parts(directory: str | pathlib.Path) -> int:
    """Remove what killed writes left in a directory and below; returns how many files.

    Only files that write_bytes made, and of these none that another process is writing now. No link is followed.
    """
    removed = 0
    if not processes.is_first():
        return removed
    for folder, _, names in os.walk(directory):
        for name in filter(_LEFT.fullmatch, names):
            with contextlib.suppress(OSError):
                handle = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    if stat.S_ISREG(os.fstat(handle).st_mode):
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        os.unlink(os.path.join(folder, name))
                        removed += 1
                finally:
                    os.close(handle)
    return removed


def remove_tree(path: str | pathlib.Path) -> None:
    """Delete a directory and all in it, if it is there."""
    if processes.is_first():
        shutil.rmtree(path, ignore_errors=True)
