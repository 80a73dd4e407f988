"""Which checkpoint a directory stands for: itself, the one GGUF file in it, or a snapshot of the hub's cache."""

import os
import pathlib

from latent_audit.errors import InputError
from latent_audit.gguf_files import SUFFIX
from latent_audit.models.headers import ADAPTER_FILES, INDEX, WEIGHTS, listed

_CACHED = "models--"
_HAS_CHECKPOINT = ("config.json", WEIGHTS, INDEX, *ADAPTER_FILES)
# Projectors of pictures, which lie beside the text model of some repositories.
_PROJECTOR = "mmproj"


def find(directory: pathlib.Path) -> pathlib.Path:
    """The checkpoint of a local directory: a directory, or a GGUF file.

    Raises InputError: several GGUF files, a cache folder without one certain snapshot, a parent of checkpoints; each
    lists what is there.
    """
    if directory.name.startswith(_CACHED) and (directory / "snapshots").is_dir():
        directory = _snapshot(directory)
    if any(os.path.lexists(directory / name) for name in (WEIGHTS, INDEX)):
        return directory
    files = sorted(file.name for file in directory.iterdir() if file.name.lower().endswith(SUFFIX))
    models = [name for name in files if not name.lower().startswith(_PROJECTOR)]
    if len(models) > 1:
        raise InputError(f"{directory} holds {len(models)} GGUF files: {listed(models)}; give the path of one of them")
    if models:
        return directory / models[0]
    if not any(os.path.lexists(directory / name) for name in _HAS_CHECKPOINT):
        _refuse_parent(directory)
    return directory


def _snapshot(cache: pathlib.Path) -> pathlib.Path:
    """The snapshot that the hub's cache calls main, or its only one."""
    snapshots = sorted(one.name for one in (cache / "snapshots").iterdir() if one.is_dir())
    main = cache / "refs" / "main"
    named = main.read_text(encoding="utf-8", errors="replace").strip()[:64] if main.is_file() else ""
    if named in snapshots:
        return cache / "snapshots" / named
    if len(snapshots) == 1:
        return cache / "snapshots" / snapshots[0]
    what = f"the snapshots {listed(snapshots)}; give the path of one of them" if snapshots else "no snapshot; fetch it"
    raise InputError(f"{cache} is a folder of the Hugging Face cache with {what}")


def _refuse_parent(directory: pathlib.Path) -> None:
    """InputError where checkpoints lie in a directory that is none: they are listed."""
    inside = sorted(
        f"{one.name}/" if one.is_dir() else one.name
        for one in directory.iterdir()
        if one.is_dir() and (one.name.startswith(_CACHED) or any((one / name).is_file() for name in _HAS_CHECKPOINT))
    )
    if inside:
        raise InputError(f"{directory} is no checkpoint but holds some: {listed(inside)}; give the path of one of them")
