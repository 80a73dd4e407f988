"""A short hash of a checkpoint over every byte of every file that can change a result, and hashes of single files.

Hashes of large files are kept in the user's cache under the file's device, inode, size, and times of content and of
inode: a content put back under an old date has another inode or another ctime, which no user can set.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable

from absl import logging

from latent_audit import gguf_files
from latent_audit.errors import InputError
from latent_audit.models import headers
from latent_audit.runtime import files
from latent_audit.user_files import read_json

# Weights, configs, tokenizers, templates, and merges or vocabularies.
SUFFIXES = (".json", ".jinja", ".model", ".safetensors", ".txt")
# Where transformers keeps a checkpoint's further templates.
_TEMPLATES = "additional_chat_templates"
_CHUNK_BYTES = 2**22
_THREADS = 8
# Smaller files are hashed faster than looked up; and what was changed this recently could change again within the
# clock's own resolution, so it is not kept.
_LEAST_CACHED_BYTES, _SETTLED_SECONDS = 2**20, 2.0
_MOST_CACHED, _MOST_CACHE_BYTES = 4096, 2**22
_FIRST_LOG_SECONDS, _LOG_SECONDS = 4.0, 10.0
_SHA256 = re.compile(r"[0-9a-f]{64}")


def fingerprint(path: str | pathlib.Path) -> str:
    """Sixteen hexadecimal digits over names, sizes and whole contents of a checkpoint directory's files of SUFFIXES.

    Of a GGUF file, over that one file under whatever name.

    Raises InputError: a file that cannot be read, is a pipe or a broken link, or changes while it is read.
    """
    directory = pathlib.Path(path)
    if gguf_files.is_gguf(directory) and not directory.is_dir():
        (digest,) = sha256_of_files([directory], beside=directory.parent)
        return hashlib.sha256(json.dumps([digest]).encode()).hexdigest()[:16]
    if not directory.is_dir():
        raise InputError(f"{directory} is no directory and no GGUF file; expected a checkpoint")
    names = _names(directory)
    hashes = sha256_of_files([directory / name for name in names], beside=directory)
    entries = [[name, (directory / name).stat().st_size, digest] for name, digest in zip(names, hashes, strict=True)]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:16]


def check_files(directory: pathlib.Path) -> None:
    """InputError for what fingerprint could not read, told without reading: pipes, devices, broken links."""
    if gguf_files.is_gguf(directory) and not directory.is_dir():
        return headers.check_regular(directory)
    for name in _names(directory):
        headers.check_regular(directory / name)


def _names(directory: pathlib.Path) -> list[str]:
    return sorted(
        str(file.relative_to(directory))
        for file in (*directory.glob("*"), *directory.glob(f"{_TEMPLATES}/*.jinja"))
        if file.suffix in SUFFIXES and not file.is_dir()
    )


def sha256_of_files(paths: Iterable[pathlib.Path], *, beside: pathlib.Path | None = None) -> list[str]:
    """SHA-256 of each whole file, several at a time; long work is told in the log. InputError as fingerprint.

    beside: a directory in which no cache is kept, whatever the environment says.
    """
    paths = list(paths)
    store = _cache_file(beside)
    known, found = _read_cache(store), {}
    with contextlib.ExitStack() as stack:
        stopped = threading.Event()
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(_THREADS))
        stack.callback(stopped.set)  # Before the pool waits for its threads: an interrupt is not kept waiting.
        advance = _progress(paths, stopped)
        hashed = list(pool.map(lambda path: _hash(path, known, advance), paths))
    for key, digest, is_settled in hashed:
        if is_settled and known.get(key) != digest:
            found[key] = digest
    if found and store is not None:
        _write_cache(store, found)
    return [digest for _, digest, _ in hashed]


def _hash(path: pathlib.Path, known: dict[str, str], advance: Callable[[int], None]) -> tuple[str, str, bool]:
    """(key in the cache, SHA-256, whether it may be kept) of one file."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)), "rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise InputError(f"{path} is a pipe, a device or a directory, expected a regular file")
            key = _key(before)
            if before.st_size >= _LEAST_CACHED_BYTES and key in known:
                advance(before.st_size)
                return key, known[key], True
            digest, buffer = hashlib.sha256(), memoryview(bytearray(_CHUNK_BYTES))
            while size := file.readinto(buffer):
                digest.update(buffer[:size])
                advance(size)
            after = os.fstat(file.fileno())
    except OSError as error:
        what = "is a link to a file that is not there" if os.path.islink(path) else f"cannot be read: {error.strerror}"
        raise InputError(f"{path} {what}; fetch it again, or take it out") from error
    if _key(after) != key:
        raise InputError(f"{path} changed while it was read; wait until it is written, then start again")
    is_settled = time.time() - max(after.st_mtime, after.st_ctime) > _SETTLED_SECONDS
    return key, digest.hexdigest(), is_settled and after.st_size >= _LEAST_CACHED_BYTES


def _key(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _progress(paths: list[pathlib.Path], stopped: threading.Event) -> Callable[[int], None]:
    """advance(bytes) for the threads: it logs now and then, and ends them where this one has been interrupted."""
    lock, started = threading.Lock(), time.monotonic()
    done, logged = 0, started + _FIRST_LOG_SECONDS - _LOG_SECONDS
    total = sum(path.stat().st_size for path in paths if path.is_file())

    def advance(size: int) -> None:
        nonlocal done, logged
        if stopped.is_set():
            raise RuntimeError("interrupted")
        with lock:
            done += size
            if time.monotonic() - logged > _LOG_SECONDS:
                logged = time.monotonic()
                logging.info("hashing the checkpoint: %.1f of %.1f GB", done / 1e9, total / 1e9)

    return advance


def _cache_file(beside: pathlib.Path | None) -> pathlib.Path | None:
    """Where the cache is kept, None for nowhere: no home, or a cache directory within the checkpoint itself."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        root = pathlib.Path(home) if os.path.isabs(home) else pathlib.Path.home() / ".cache"
        store = root.resolve() / "latent_audit" / "fingerprints.json"
        return None if beside is not None and store.is_relative_to(beside.resolve()) else store
    except (OSError, RuntimeError, ValueError):
        return None


def _read_cache(store: pathlib.Path | None) -> dict[str, str]:
    """Key -> SHA-256; empty where there is no cache, or one that cannot be read."""
    if store is None:
        return {}
    try:
        kept = read_json("the cache of fingerprints", store, kind=dict, most=_MOST_CACHE_BYTES)
    except InputError:
        return {}
    return {key: value for key, value in kept.items() if isinstance(value, str) and _SHA256.fullmatch(value)}


def _write_cache(store: pathlib.Path, found: dict[str, str]) -> None:
    """Add entries, the newest last; a cache that cannot be written is done without."""
    with contextlib.suppress(OSError):
        store.parent.mkdir(parents=True, exist_ok=True)
        # Read again: another run may have added to it meanwhile.
        entries = list((_read_cache(store) | found).items())[-_MOST_CACHED:]
        files.write_json(store, dict(entries))
