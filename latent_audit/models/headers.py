"""What the weight files of a checkpoint hold, read from their headers alone; what is no weight file is refused here."""

import errno
import os
import pathlib
import stat
from collections.abc import Iterable

import safetensors

from latent_audit.errors import InputError
from latent_audit.models.fields import shown
from latent_audit.text import printable
from latent_audit.user_files import read_json

Header = dict[str, tuple[tuple[int, ...], str]]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# A file of PEFT's beside the weights; either of them says that an adapter lies there.
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_LFS = b"version https://git-lfs.github.com/spec/"
# Published ones have less than one MB.
_MOST_INDEX_BYTES = 2**26
# Names that one message shows of each kind of problem.
_SHOWN = 5


def read_headers(directory: pathlib.Path) -> dict[pathlib.Path, Header]:
    """File -> {tensor name: (shape, dtype)} of all weight files, checked against the index where there is one.

    Raises InputError: no safetensors files, or only pickles; a file that is missing, damaged, a pipe or a git-lfs
    pointer; an index that names anything but files of this directory, or tensors that are not where it says.
    """
    if os.path.lexists(directory / WEIGHTS):
        path = directory / WEIGHTS
        return {path: read_header(path)}
    if not os.path.lexists(directory / INDEX):
        refuse_pickles(directory)
        refuse_adapter(directory)
        raise InputError(f"{directory} has no weights; expected {WEIGHTS}, {INDEX} with its files, or one .gguf file")
    index = read_json("the checkpoint's index", directory / INDEX, kind=dict, most=_MOST_INDEX_BYTES).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
        raise InputError(f"{directory / INDEX}: weight_map = {shown(index)}, expected tensor name -> file name")
    names = sorted(set(index.values()))
    odd = [name for name in names if pathlib.PurePath(name).name != name or not name.endswith(".safetensors")]
    if odd:
        raise InputError(
            f"{directory / INDEX} names {listed(odd)}, expected names of safetensors files in this directory"
        )
    lost = [name for name in names if "\0" in name or not os.path.lexists(directory / name)]
    if lost:
        raise InputError(f"{directory}: files named in {INDEX} are missing: {listed(lost)}; fetch them again")
    headers = {directory / name: read_header(directory / name) for name in names}
    absent = [f"{name} in {file}" for name, file in index.items() if name not in headers[directory / file]]
    if absent:
        raise InputError(
            f"{directory}: tensors are not in the files that {INDEX} places them in: {listed(absent)}; fetch it again"
        )
    return headers


def read_header(path: pathlib.Path) -> Header:
    """{tensor name: (shape, dtype)} of one safetensors file; InputError for anything that is not a whole one."""
    check_regular(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (safetensors.SafetensorError, OSError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path} is damaged or not a whole safetensors file ({str(error)[:200]}); fetch it again"
        ) from error


def check_regular(path: pathlib.Path) -> None:
    """InputError unless a file is a regular, readable file and no git-lfs pointer; never waits for a pipe."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        if os.path.islink(path):
            what = "is a link to a file that is not there"
        elif error.errno == errno.ENXIO:
            what = "is a socket or a device, expected a regular file"
        raise InputError(f"{path} {what}; fetch it again") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise InputError(f"{path} is a directory, a pipe or a device, expected a regular file")
        start = os.read(handle, len(_LFS))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; fetch it again") from error
    finally:
        os.close(handle)
    if start == _LFS:
        raise InputError(f"{path} is a git-lfs pointer, not the file itself; run `git lfs pull` in that repository")


def refuse_adapter(directory: pathlib.Path, *, named: pathlib.Path | None = None) -> None:
    """InputError where an adapter that is not `named` lies in a checkpoint's directory: it would be left out."""
    found = [name for name in ADAPTER_FILES if os.path.lexists(directory / name)]
    if not found or (named is not None and os.path.realpath(named) == os.path.realpath(directory)):
        return
    if not any(os.path.lexists(directory / name) for name in (WEIGHTS, INDEX)):
        raise InputError(
            f"{directory} is only an adapter ({', '.join(found)}); give the model it was made for and the adapter: "
            f"model.path=BASE model.adapter={directory}"
        )
    raise InputError(
        f"{directory} holds an adapter ({', '.join(found)}) beside a whole model; name it to merge it (of model.path: "
        f"model.adapter={directory}), or take its files out to use the model alone"
    )


def refuse_pickles(directory: pathlib.Path) -> None:
    """InputError where a directory without safetensors holds its weights as pickles."""
    pickles = sorted(file.name for suffix in ("bin", "pt", "pth") for file in directory.glob(f"*.{suffix}"))
    if pickles:
        raise InputError(
            f"{directory} holds its weights only as pickles ({listed(pickles)}), which can run code when opened; "
            f"expected {WEIGHTS}: load it once with transformers where you trust the file, and save_pretrained it"
        )


def compare_layers(where: str, given: int, names: Iterable[str], prefix: str) -> None:
    """InputError where fewer blocks lie in the files than config.json says: told before lists as long are made.

    names: of tensors, plain; prefix: what stands before a block's number, such as "model.layers.".
    """
    numbers = {name[len(prefix) :].partition(".")[0] for name in names if name.startswith(prefix)}
    held = 1 + max((int(one) for one in numbers if one.isdecimal() and len(one) < 10), default=-1)
    if held < given:
        raise InputError(
            f"{where} = {given}, but the weight files hold {held} blocks; fetch config.json and them again"
        )


def listed(names: Iterable[str]) -> str:
    """Foreign names in a message: the first few, each cut to a fair length, and how many there are."""
    names = list(names)
    first = ", ".join(printable(name, most=120) for name in names[:_SHOWN])
    return first if len(names) <= _SHOWN else f"{first}, ... ({len(names)} in all)"


def raise_problems(directory: pathlib.Path, problems: Iterable[tuple[str, str]]) -> None:
    """One InputError that names all (kind, name) at once, a few of each kind; none where there are none."""
    by_kind: dict[str, list[str]] = {}
    for kind, name in problems:
        by_kind.setdefault(kind, []).append(name)
    if by_kind:
        shown_kinds = "; ".join(f"{kind}: {listed(names)}" for kind, names in by_kind.items())
        raise InputError(f"{directory}: the weights do not fit config.json: {shown_kinds}")
