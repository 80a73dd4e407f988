"""Directories that this tool writes: filled beside their place and moved there whole, never over what is not ours.

A directory of ours carries MARKER, which lists every file in it with its SHA-256. One that holds anything else, or a
file that was changed since, is not replaced.
"""

import contextlib
import ctypes
import fcntl
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator

from latent_audit.errors import InputError
from latent_audit.models.fingerprint import SUFFIXES, sha256_of_files
from latent_audit.models.headers import listed
from latent_audit.runtime import files
from latent_audit.user_files import path_of, read_json

MARKER = "latent_audit_files.json"
_VERSION = 1  # Of the marker, not of this package: equal weights give equal directories.
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_MARKER_BYTES = 2**24
_AT_CWD, _EXCHANGE = -100, 2  # Linux: AT_FDCWD, RENAME_EXCHANGE.


def check_target(
    path: str | pathlib.Path, *, field: str = "path", reading: Iterable[str | pathlib.Path] = ()
) -> pathlib.Path:
    """The path of a directory that is to be written, found fit for it; nothing is written here.

    Args:
      field: what the message calls it; reading: checkpoints that are still to be read, none of which it may be.
    Raises:
      InputError: a file, a link, a mount point or a directory that holds what this tool did not write or what was
        changed since; a parent that is missing or cannot be written; one of `reading`.
    """
    given = path_of(field, path)
    try:
        path = given if given.name not in ("", "..") else given.resolve()
        where = f"{field} = {path}"
        if path.is_symlink():
            raise InputError(f"{where} is a link; give the directory itself, or another one")
        _check_parent(where, path.parent)
        if not os.path.lexists(path):
            return path
        if not path.is_dir():
            raise InputError(f"{where} is a file; give a directory that does not exist yet")
        for other in reading:
            if os.path.exists(other) and os.path.samefile(path, other):
                raise InputError(f"{where} is the checkpoint that is read; give another directory")
        if os.path.ismount(path):
            raise InputError(f"{where} is a mount point, which cannot be replaced; give a directory inside of it")
        _check_ours(where, path)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{field} = {given} cannot be written: {reason}; give another directory") from error
    return path


def read_marker(directory: pathlib.Path) -> dict[str, str] | None:
    """File -> SHA-256 of what this tool wrote there, None without a marker; InputError for one that is damaged."""
    file = directory / MARKER
    if not os.path.lexists(file):
        return None
    listed_files = read_json("the marker", file, kind=dict, most=_MOST_MARKER_BYTES).get("files")
    if not isinstance(listed_files, dict) or not all(
        isinstance(digest, str) and _SHA256.fullmatch(digest) for digest in listed_files.values()
    ):
        raise InputError(f"{file} does not list files with their SHA-256: it is damaged, or not of this tool")
    return listed_files


def changed(directory: pathlib.Path) -> list[str] | None:
    """Files that are missing, changed or added since this tool wrote a directory; None where it did not write it.

    Those of fingerprint.SUFFIXES, which can change a result: a card may be edited. Raises InputError for a damaged
    marker.
    """
    ours = read_marker(directory)
    if ours is None:
        return None
    ours = {name: digest for name, digest in ours.items() if pathlib.PurePath(name).suffix in SUFFIXES}
    inside = _files(directory)
    there = [name for name in ours if name in inside]
    hashes = sha256_of_files([directory / name for name in there], beside=directory)
    odd = {name for name, digest in zip(there, hashes, strict=True) if ours[name] != digest}
    added = {name for name in set(inside) - set(ours) if pathlib.PurePath(name).suffix in SUFFIXES}
    return sorted(odd | (set(ours) - set(there)) | added)


@contextlib.contextmanager
def replacing(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty directory to fill, which on leaving becomes `path` as a whole, with its marker.

    Stopped at any moment, `path` is what it was or what it is to be; what a killed save left beside it is removed by
    the next. Raises InputError as check_target, and OSError where the disk refuses.
    """
    path = check_target(path)
    # What a first save left may be all there is: it is removed once there is something better.
    if path.exists():
        _clear(path)
    aside = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    handle = os.open(aside, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.chmod(aside, 0o755)
        _write_marker(aside, {})  # Says whose it is, should it be left behind.
        yield aside
        inside = _files(aside)
        hashes = sha256_of_files([aside / name for name in inside], beside=aside)
        _write_marker(aside, dict(zip(inside, hashes, strict=True)))
        check_target(path)  # Again: saving takes a while.
        _move(aside, path)
    finally:
        _remove(aside)
        os.close(handle)
    _clear(path)


def _check_parent(where: str, parent: pathlib.Path) -> None:
    if not parent.is_dir():
        what = "is no directory" if os.path.lexists(parent) else "does not exist"
        raise InputError(f"{where}: its parent {parent} {what}; make it first, or give another path")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{where}: its parent {parent} cannot be written; give a path elsewhere")


def _check_ours(where: str, path: pathlib.Path) -> None:
    """InputError unless a directory is empty or holds what its marker lists, unchanged, and nothing else."""
    entries = sorted(entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in os.scandir(path))
    if not entries:
        return
    ours = read_marker(path)
    if ours is None:
        raise InputError(
            f"{where} holds {listed(entries)}, which this tool did not write (there is no {MARKER}); give another "
            "directory, or remove it yourself"
        )
    inside = _files(path)
    foreign = sorted(set(inside) - set(ours))
    if foreign:
        raise InputError(
            f"{where} holds {listed(foreign)} beside what this tool wrote; give another directory, or move them away"
        )
    # Links first: they are ours in name only.
    changed = [name for name in inside if os.path.islink(path / name)]
    if not changed:
        hashes = sha256_of_files([path / name for name in inside], beside=path)
        changed = [name for name, digest in zip(inside, hashes, strict=True) if ours[name] != digest]
    if changed:
        raise InputError(
            f"{where}: {listed(changed)} was changed since this tool wrote it; give another directory, or remove it "
            "yourself"
        )


def _files(directory: pathlib.Path) -> list[str]:
    """Everything in a directory but its own marker, as relative paths: files, links, and directories without files."""

    def unreadable(error: OSError) -> None:
        raise error

    found = []
    for folder, folders, names in os.walk(directory, onerror=unreadable):
        inner = pathlib.Path(folder).relative_to(directory)
        found += [str(inner / name) for name in names]
        found += [str(inner / name) for name in folders if os.path.islink(os.path.join(folder, name))]
        if not folders and not names and inner.parts:
            found.append(f"{inner}/")
    return sorted(name for name in found if name != MARKER)


def _write_marker(directory: pathlib.Path, hashes: dict[str, str]) -> None:
    files.write_json(directory / MARKER, {"written_by": "latent_audit", "version": _VERSION, "files": hashes})


def _move(aside: pathlib.Path, path: pathlib.Path) -> None:
    """Put `aside` in the place of `path`; what was there is then at `aside`, or gone if it was empty."""
    try:
        os.rename(aside, path)  # Over nothing, or an empty directory.
        return
    except OSError:
        if not path.is_dir():
            raise
    if not _exchange(aside, path):
        # Not at once, where the file system cannot: a kill in between leaves both, under their other names.
        old = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.rename(path, old)
        os.rename(aside, path)
        os.rename(old, aside)


def _exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Let two directories change places in one step; False where this system or file system has no such step."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return rename(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _EXCHANGE) == 0


def _clear(path: pathlib.Path) -> None:
    """Remove what killed saves to `path` left beside it; what another process is filling now is locked, and stays."""
    left = re.compile(re.escape(f".{path.name}.") + r"[a-z0-9_]{8}\.part")
    for entry in path.parent.iterdir():
        if not left.fullmatch(entry.name) or entry.is_symlink() or not entry.is_dir():
            continue
        with contextlib.suppress(OSError):
            handle = os.open(entry, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (entry / MARKER).is_file() or not any(entry.iterdir()):
                    _remove(entry)
            finally:
                os.close(handle)


def _remove(directory: pathlib.Path) -> None:
    """Delete a directory, its marker last: stopped in between it is still known as ours."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name != MARKER:
                os.unlink(entry.path)
    shutil.rmtree(directory, ignore_errors=True)
