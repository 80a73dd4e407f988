"""Which working directory a run has, and whether it may have it; nothing is written here."""

import os
import pathlib
import re
from collections.abc import Sequence

from latent_audit import user_files
from latent_audit.errors import InputError

# Letters of a file name that no shell, browser or file system takes for something else; and how many of them.
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
MOST_LETTERS = 80
# Models in a name; of more their number is said.
MOST_MODELS = 2


def default(task: str, models: Sequence[str]) -> pathlib.Path:
    """runs/TASK for the organism, else runs/TASK-MODEL by the last part of the model's path or id.

    >>> default("lvs", []).as_posix(), default("lvs", ["meta-llama/Llama-3.1-8B-Instruct"]).as_posix()
    ('runs/lvs', 'runs/lvs-Llama-3.1-8B-Instruct')
    """
    named = [_last_part(model) for model in models[:MOST_MODELS]]
    more = [f"{len(models) - MOST_MODELS}-more"] if len(models) > MOST_MODELS else []
    return pathlib.Path("runs") / safe("-".join([task, *named, *more]))


def safe(name: str) -> str:
    """A name as one part of a path.

    >>> safe("../a b/c"), safe("...")
    ('a_b_c', '_')
    """
    return _UNSAFE.sub("_", name).lstrip("._-")[:MOST_LETTERS] or "_"


def _last_part(model: str) -> str:
    # An attack success rate may stand behind a colon, configs/ras.py.
    text = re.sub(r":[0-9.]+$", "", model)
    try:
        path = user_files.path_of("model", text)
        return (path.resolve() if path.is_dir() else path).name or "root"
    except (InputError, OSError, RuntimeError):
        return text.rstrip("/").rpartition("/")[2]


def check(workdir: pathlib.Path) -> None:
    """InputError for a workdir that is a file, cannot be written, or lies inside of a checkpoint."""
    nearest = next(place for place in (workdir.absolute(), *workdir.absolute().parents) if _is_there(place))
    if not nearest.is_dir():
        raise InputError(f"--workdir={workdir} cannot be written: {nearest} is no directory. Give another one")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(
            f"--workdir={workdir} cannot be written: no right to write in {nearest}. Give a directory you own"
        )
    for place in (workdir.resolve(), *workdir.resolve().parents):
        if _is_checkpoint(place):
            raise InputError(
                f"--workdir={workdir} lies inside of the checkpoint {place}, whose files would change with it. Give "
                "a directory outside of it"
            )


def _is_there(place: pathlib.Path) -> bool:
    try:
        os.lstat(place)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--workdir={place} cannot be used: {reason}. Give another one") from error
    return True


def _is_checkpoint(place: pathlib.Path) -> bool:
    try:
        if not any(place.glob("*.safetensors")):
            return False
        return "model_type" in user_files.read_json("config.json", place / "config.json", kind=dict)
    except (OSError, InputError):
        return False
