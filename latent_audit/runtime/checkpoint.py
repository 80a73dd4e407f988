"""Training state on disk, through orbax: written aside, the last good one kept, read back bit for bit.

A tree of arrays is one directory, DIRECTORY/STEP, beside a checksum, DIRECTORY/STEP.json; without it the step does not
count. Orbax writes the directory under another name and renames it when it is whole. Of several processes each writes
and reads what lies on its own devices, in one directory that all of them see.
"""

import contextlib
import errno
import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import logging

from latent_audit import user_files
from latent_audit.runtime import files, processes, runlog


def save(directory: str | pathlib.Path, step: int, tree: Any, *, keep: int = 2) -> None:
    """Store a tree of arrays (PRNG keys too) as `step`, then delete all but the newest `keep`.

    Raises OSError when the disk refuses; older steps are then untouched.
    """
    directory = pathlib.Path(directory).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    tree = jax.tree.map(_plain, tree)
    drop(directory, step)
    try:
        with _quiet(), _checkpointer() as checkpointer:
            checkpointer.save(directory / str(step), tree, force=True)
    except Exception as error:  # tensorstore reports a full disk as a ValueError.
        if isinstance(error, OSError) or not any(word in str(error) for word in ("ENOSPC", "No space left")):
            raise
        raise OSError(errno.ENOSPC, "No space left on device", str(directory / str(step))) from error
    record = {"digest": runlog.digest(directory), "sha256": _checksum(tree), "leaves": _describe(tree)}
    files.write_json(directory / f"{step}.json", record)
    for old in steps(directory)[:-keep]:
        drop(directory, old)


def steps(directory: str | pathlib.Path) -> list[int]:
    """The steps that are stored, ascending; what was being written when a run was killed is not among them."""
    directory = pathlib.Path(directory)
    return processes.on_first(
        lambda: sorted(int(path.stem) for path in directory.glob("*.json") if path.stem.isdecimal())
    )


def drop(directory: str | pathlib.Path, step: int) -> None:
    """Delete one step, its checksum first."""
    if processes.is_first():
        (pathlib.Path(directory) / f"{step}.json").unlink(missing_ok=True)
    files.remove_tree(pathlib.Path(directory) / str(step))


def restore(directory: str | pathlib.Path, like: Any, *, at_most: int | None = None) -> tuple[int, Any] | None:
    """The newest step that can be read, up to `at_most`, as (step, tree); None where there is none.

    `like` is a tree of the structure, shapes, dtypes and shardings to expect: what was saved, or what would be. A step
    that cannot be read, or holds other arrays, is named in the log and passed over.
    """
    directory = pathlib.Path(directory).resolve()
    expected = jax.tree.map(_expected, like)
    for step in reversed(steps(directory)):
        if at_most is not None and step > at_most:
            continue
        found, problem = _read(directory, step, expected)
        if problem:
            logging.warning("checkpoint %s cannot be used (%s)", directory / str(step), problem)
            continue
        return step, jax.tree.map(_as_before, like, found)
    return None


def _read(directory: pathlib.Path, step: int, expected: Any) -> tuple[Any, str]:
    """(tree, "") of one step, or (None, what is wrong with it), the same in every process."""
    found, record, problem = None, {}, ""
    try:
        record = user_files.read_json("the checkpoint's record", directory / f"{step}.json", kind=dict)
        if record["digest"] != runlog.digest(directory):
            raise ValueError("it is of another config or of other inputs")
        if record["leaves"] != _describe(expected):
            raise ValueError("it holds other arrays than expected")
        with _quiet(), _checkpointer() as checkpointer:
            found = checkpointer.restore(directory / str(step), expected)
    except Exception as error:  # Damage surfaces as many different exceptions.
        problem = " ".join(str(error).split())[:200]
    if b"x" in processes.gather(b"x" if problem else b"."):
        return None, problem or "another process cannot read it"
    if _checksum(found) != record["sha256"]:
        return None, "its arrays are not those that were saved"
    return found, ""


def _checkpointer() -> Any:
    """Of all processes, or of this one alone where the others only wait for it."""
    # Importing it takes a second, and most tasks train nothing.
    import orbax.checkpoint as ocp

    if not processes.is_solo():
        return ocp.StandardCheckpointer()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="alone"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax logs thirty lines a save to the same log as this program."""
    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.WARNING))
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _checksum(tree: Any) -> str:
    """Of all bytes, leaf by leaf: orbax does not see damage inside an array. Of several processes, each of its own."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        whole = processes.count() == 1 or leaf.is_fully_replicated
        own = [leaf] if whole else [shard.data for shard in leaf.addressable_shards if shard.replica_id == 0]
        for array in own:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    if processes.count() == 1:
        return digest.hexdigest()
    return hashlib.sha256(b"".join(processes.gather(digest.digest()))).hexdigest()


def _describe(tree: Any) -> dict[str, str]:
    """Name -> dtype and shape of every leaf: orbax would cast to another dtype without a word."""
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype} {tuple(leaf.shape)}"
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    leaf = jax.numpy.asarray(leaf)
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    # Orbax takes no array of one process's own devices while there are several processes.
    return np.asarray(leaf) if processes.is_solo() else leaf


def _expected(leaf: Any) -> Any:
    leaf = _plain(leaf)
    return leaf if processes.is_solo() else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _as_before(leaf: Any, found: Any) -> Any:
    leaf = jax.numpy.asarray(leaf)
    return jax.random.wrap_key_data(found, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else found
