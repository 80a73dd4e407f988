"""The working directory of a run: its config, its lock, and one small file per finished unit of work.

What a run depends on is pinned there once everything was checked, and counts from the first result on: a directory
without results takes another config, one with results refuses it. Every unit names the digest of what was pinned.

A unit is finished when its file is there: files are written aside and renamed, and carry a checksum of what they
hold. A run that is killed and started again reads the finished units back and computes only the rest; how several
jobs share the units of one directory is said in runtime/shards.py. Of several processes that compute one run together
the first reads and writes here and tells the others.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
from collections.abc import Callable, Iterable, Mapping

from absl import logging

from latent_audit import user_files
from latent_audit.errors import InputError
from latent_audit.runtime import files, processes, shards, typed

# Fields of a config that say how its work is done or what a figure shows of it, not what comes out: they may differ
# between starts.
HOW = (
    "shard",
    "distributed",
    "distributed_coordinator",
    "distributed_processes",
    "distributed_process",
    "distributed_timeout",
    "plot",
    "where",
)
# What is pinned beside results, and by which names results go.
PINNED = ("config.json", "inputs.json", "recipe.json")
RESULTS = ("units", "checkpoints", "training", "attacks", "points", "models", "report.json")
# How far above a directory of results its pinned records are looked for: training/NAME, attacks/FAMILY, checkpoints/...
LEVELS = 5
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "transformers", "orbax-checkpoint", "safetensors")


def flatten(tree: Mapping, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}, values as JSON would give them back."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.loads(json.dumps(value))
    return flat


def prepare_workdir(workdir, config: Mapping) -> pathlib.Path:
    """Create `workdir` or take up an old one of the same config; write config.json and versions.json.

    Raises InputError when the directory cannot be written, when it holds results whose config.json is gone or
    unreadable, or results of another config (the differing fields are named).
    """
    workdir = pathlib.Path(workdir)
    processes.on_first(lambda: _prepare(workdir, config))
    return workdir


def _prepare(workdir, config):
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"--workdir={workdir} cannot be written: {error.strerror or error}. "
            "Give a directory you own, with space left."
        ) from error
    if holds_results(workdir) and not (workdir / "config.json").exists():
        raise InputError(
            f"{workdir} holds results, but the config.json that says whose they are is gone. {_another(workdir)}"
        )
    pin(workdir / "config.json", _without_how(config))
    _note_versions(workdir / "versions.json")


def _without_how(config: Mapping) -> dict:
    return {
        key: _without_how(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in HOW
    }


def _note_versions(path):
    now = versions()
    with contextlib.suppress(InputError):
        if path.exists() and user_files.read_json("the versions", path) != now:
            logging.warning("%s differs from this machine: units read back were computed with other versions", path)
    files.write_json(path, now)


def holds_results(workdir: pathlib.Path) -> bool:
    """Whether anything was computed in a directory."""
    return any((workdir / name).exists() for name in RESULTS) or any(workdir.glob("[0-9]*.json"))


def pin(path, record: Mapping) -> None:
    """Write what a run depends on to `path`, or compare with what an earlier start of it wrote there.

    Raises InputError naming every field that differs, if there are results: those of two configs never mix in one
    workdir. Where there are none the new record takes the place of the old one.
    """
    processes.on_first(lambda: _pin(pathlib.Path(path), record))


def _pin(path, record):
    new = flatten(record)
    if not path.exists() or not holds_results(path.parent):
        files.write_json(path, record)
        return
    old = flatten(user_files.read_json("the workdir's record", path, kind=dict))
    changed = [
        f"{key}: {old.get(key, '(absent)')!r} there, {new.get(key, '(absent)')!r} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if changed:
        raise InputError(f"{path} is of another run. Differing fields: {'; '.join(changed)}. {_another(path.parent)}")


def _another(workdir) -> str:
    """What to do about a workdir that cannot be taken up."""
    return f"Another directory works: {typed.with_workdir(typed.next_free(workdir))}"


def digest(directory) -> str:
    """A hash of what is pinned for the results in `directory`: there, or in the nearest directory above it."""
    found = hashlib.sha256()
    for level in (pathlib.Path(directory), *pathlib.Path(directory).absolute().parents[:LEVELS]):
        pinned = [level / name for name in PINNED if (level / name).is_file()]
        if pinned:
            for file in pinned:
                found.update(file.name.encode() + b"\0" + file.read_bytes())
            break
    return found.hexdigest()[:16]


@contextlib.contextmanager
def lock(workdir, shard: str = ""):
    """Hold the directory for this run; InputError if another holds it. Released when the process ends.

    Shards of one number share it with each other, each number once, and with no other run.
    """
    with contextlib.ExitStack() as stack:
        processes.on_first(lambda: _lock(stack, pathlib.Path(workdir), shards.parse(shard)))
        removed = files.clear_parts(workdir)
        if removed:
            logging.info("%d files that a stopped run was writing are removed from %s", removed, workdir)
        yield


def _lock(stack, workdir, shard):
    if shard is None:
        _hold(stack, workdir / ".lock", fcntl.LOCK_EX, "a run")
        return
    _hold(stack, workdir / ".lock", fcntl.LOCK_SH, f"{shard.count} shards, one of them")
    for path in workdir.glob(".lock-*-of-*"):
        # Another split gives the same units to two jobs.
        if not path.name.endswith(f"-of-{shard.count}"):
            with contextlib.ExitStack() as passing:
                _hold(passing, path, fcntl.LOCK_SH)
    _hold(stack, workdir / f".lock-{shard.index}-of-{shard.count}", fcntl.LOCK_EX, f"shard {shard.index}")


def _hold(stack, path, kind, who=""):
    if path.exists() and not path.is_file():
        raise InputError(
            f"{path} is no file, where a run says that it is at work: remove it, or give another --workdir"
        )
    handle = stack.enter_context(open(path, "a+", encoding="utf-8"))
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.seek(0)
        raise InputError(
            f"another run is writing {path.parent} ({handle.read().strip() or 'unknown process'}). "
            "Wait for it, or give another --workdir."
        ) from error
    if who:
        handle.truncate(0)
        handle.write(f"{who}: process {os.getpid()} on {platform.node()}")
        handle.flush()


@contextlib.contextmanager
def turn(path):
    """Hold the file `path` for this process, waiting for those who hold it: for what only one job is to make.

    Where nothing can be written nothing can be made either, and nobody is waited for.
    """
    try:
        handle = open(path, "a+", encoding="utf-8")
    except OSError:
        yield
        return
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.info("waiting for another job, which holds %s", path)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def versions() -> dict:
    """Versions of Python, this package's dependencies and the platform, and XLA's flags, for versions.json."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    about = {"python": platform.python_version(), "platform": platform.platform(), "packages": found}
    return about | {"xla_flags": os.environ.get("XLA_FLAGS", "")}


def _unit_path(workdir, key: str) -> pathlib.Path:
    return pathlib.Path(workdir) / "units" / f"{key}.json"


def _checksum(columns, of: str) -> str:
    return hashlib.sha256(json.dumps([of, columns], sort_keys=True).encode()).hexdigest()


def save_unit(workdir, key: str, columns: Mapping[str, list]) -> None:
    """Store the columns of one finished unit, e.g. key "base/lvs/L3/p00000"."""
    path = _unit_path(workdir, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    of = digest(workdir)
    payload = {"key": key, "digest": of, "sha256": _checksum(columns, of), "columns": columns}
    files.write_text(path, json.dumps(payload) + "\n")


def load_unit(workdir, key: str) -> dict | None:
    """The columns of a finished unit, or None if it must be computed; a damaged file is named, dropped and redone.

    Raises InputError for a unit of another config or of other inputs than those that are pinned.
    """
    return processes.on_first(lambda: _load_unit(_unit_path(workdir, key), key, workdir))


def _load_unit(path, key, workdir):
    if not path.exists():
        return None
    payload = _payload(path, key)
    if payload and payload["digest"] != digest(workdir):
        raise InputError(
            f"{path} was computed under another config or with other inputs than the records of {workdir} say. "
            f"{_another(workdir)}"
        )
    if payload:
        return payload["columns"]
    logging.warning("%s is damaged (checksum or form); computing this unit again", path)
    path.unlink()
    return None


def _payload(path, key) -> dict:
    """What a unit's file holds; {} of a damaged one."""
    payload: dict = {}
    with contextlib.suppress(InputError, ValueError, KeyError, TypeError):
        payload = user_files.read_json("the unit", path, kind=dict)
        if payload["key"] != key or payload["sha256"] != _checksum(payload["columns"], payload["digest"]):
            payload = {}
    return payload


def copy_units(workdir, other) -> list[str]:
    """Copy the units of `workdir`, which is only read, to the directory `other`; returns the keys of damaged ones,
    which are left out."""
    damaged = []
    for key in unit_keys(workdir):
        path, copy = _unit_path(workdir, key), _unit_path(other, key)
        if not _payload(path, key):
            damaged.append(key)
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return damaged


def unit_keys(workdir) -> list[str]:
    """The keys of all units that lie in a directory, whole or damaged, in the order of their files."""
    root = pathlib.Path(workdir) / "units"
    return [path.relative_to(root).as_posix().removesuffix(".json") for path in sorted(root.rglob("*.json"))]


def unit(
    workdir, key: str, compute: Callable[[], dict], advance: Callable[..., None], *, mine: bool = True
) -> dict | None:
    """The columns of a unit of work, read back, or computed and saved; counted by `advance` (Progress.advance).

    mine: whether this job computes it where it is not there; None is returned for what another one is to compute.
    """
    columns = load_unit(workdir, key)
    reused = columns is not None
    if not reused and mine:
        columns = compute()
        save_unit(workdir, key, columns)
    advance(key, reused=reused, missing=columns is None)
    return columns


def units(
    workdir,
    keys: Mapping[object, str],
    compute: Callable[[list], Iterable[tuple[object, dict]]],
    advance: Callable[..., None],
    *,
    mine: bool = True,
) -> dict:
    """The columns of units that are computed together, by the item each stands for; as `unit` for one of them.

    Args:
      keys: item -> key of its unit; compute: compute(missing items) -> their (item, columns), each saved as it comes.
      mine: whether this job computes those that are not there; they stay None where another one is to.
    """
    columns = {item: load_unit(workdir, key) for item, key in keys.items()}
    missing = [item for item, read in columns.items() if read is None]
    for item, key in keys.items():
        if item not in missing:
            advance(key, reused=True)
    for item, computed in compute(missing) if missing and mine else ():
        save_unit(workdir, keys[item], computed)
        columns[item] = computed
        advance(keys[item])
    for item in missing:
        if columns[item] is None:
            advance(keys[item], missing=True)
    return columns
