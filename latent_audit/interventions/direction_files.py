"""Directions that others have found: .npy, .safetensors, and the GGUF control vectors of repeng and llama.cpp.

Which row belongs to which residual state; docs/prompts.md. No pickle is opened.
"""

import hashlib
import io
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from latent_audit import gguf_files, user_files
from latent_audit.errors import InputError

# Far beyond a direction at every layer of the largest models.
MOST_BYTES = 2**28
# Beside refusal_direction's direction: which position and block it was taken at.
BESIDE = "direction_metadata.json"
_PICKLED = (".pt", ".pth", ".bin", ".pkl", ".ckpt", ".joblib")
_NUMBERED = re.compile(r"(?:.*\.)?(\d{1,4})")
_GGUF = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_SAFETENSORS = _GGUF | {"F64": np.float64}


class Found(NamedTuple):
    """vectors: residual state -> unit vector float32 [D]; sha256: of the file; words: which rows are which states."""

    vectors: dict[int, np.ndarray]
    sha256: str
    words: str

    def describe(self) -> dict:
        """For the record of a run."""
        return {"sha256": self.sha256, "states": self.words}


def read(path: str | pathlib.Path, *, num_layers: int, embed_dim: int) -> Found:
    """The directions of a file, for a model of L blocks and width D.

    One vector [D] serves every state, or the one that BESIDE names: the input of block `layer`, as refusal_direction
    takes it. Of rows [L, D] row i is the output of block i, of [L + 1, D] row s is state s. Tensors whose names end in
    a number (repeng's direction.12) are outputs of that block. Rows of zeros are left out. Lengths are not kept.

    Raises InputError: no such form, a pickle (with the line that converts it), another width or number of rows, a
    block that the model does not have, numbers that are not finite, or nothing but zeros.
    """
    path = user_files.path_of("the file of directions", path)
    suffix = path.suffix.lower()
    if suffix in _PICKLED:
        raise InputError(
            f"{path} is a pickle, which runs whatever code is in it and is not opened here; convert it where it is "
            f'trusted: python -c "import numpy, torch; numpy.save({str(path.with_suffix(".npy"))!r}, '
            f"torch.load({str(path)!r}, map_location='cpu', weights_only=True).float().numpy())\""
        )
    if suffix not in _READERS:
        raise InputError(f"{path}: the suffix {path.suffix!r} is not one of {', '.join(_READERS)}")
    data = user_files.read_bytes("the file of directions", path, most=MOST_BYTES)
    named = _READERS[suffix](path, data)
    if len(named) == 1 and None in named:
        rows, words = _of_rows(path, named[None], num_layers, embed_dim)
    else:
        rows = {int(number) + 1: array for number, array in named.items() if number is not None}
        words = f"outputs of blocks {_spans([state - 1 for state in sorted(rows) if np.any(rows[state])])}"
        if not all(1 <= state <= num_layers for state in rows):
            blocks = _spans([state - 1 for state in sorted(rows)])
            raise InputError(f"{path} holds blocks {blocks}, but this model has blocks 0 to {num_layers - 1}")
    units = {state: _unit(path, state, row, embed_dim) for state, row in sorted(rows.items())}
    vectors = {state: vector for state, vector in units.items() if vector is not None}
    if not vectors:
        raise InputError(f"{path} holds zeros alone: there is no direction in it")
    return Found(vectors, hashlib.sha256(data).hexdigest(), words)


def _of_rows(path: pathlib.Path, array: np.ndarray, L: int, D: int) -> tuple[dict[int, np.ndarray], str]:
    """State -> row of a nameless array."""
    if array.ndim == 2 and array.shape == (1, D) and L > 1:
        array = array[0]
    if array.ndim == 1:
        place = _beside(path, L)
        if place is not None:
            return {place: array}, f"one vector, at the input of block {place} as {BESIDE} says"
        return dict.fromkeys(range(L + 1), array), "one vector for every state"
    if array.ndim == 2 and len(array) in (L, L + 1):
        first = L + 1 - len(array)
        words = "outputs of the blocks" if first else "every state, the embedding first"
        return {first + row: vector for row, vector in enumerate(array)}, f"rows of {words}"
    raise InputError(
        f"{path} holds an array {list(array.shape)}, expected [{D}], [{L}, {D}] (outputs of the blocks) or "
        f"[{L + 1}, {D}] (every state); of several positions take one"
    )


def _beside(path: pathlib.Path, L: int) -> int | None:
    """The block whose input a single vector was taken at, of the file that refusal_direction writes beside it."""
    file = path.parent / BESIDE
    if not file.is_file():
        return None
    layer = user_files.read_json("the direction's metadata", file, kind=dict, most=2**16).get("layer")
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer <= L:
        raise InputError(f"{file}: layer = {layer!r:.100}, expected a block from 0 to {L - 1}")
    return layer


def _unit(path: pathlib.Path, state: int, row: np.ndarray, D: int) -> np.ndarray | None:
    """A row at length 1, None for zeros."""
    vector = np.asarray(row, np.float64).ravel()
    where = f"{path}: the direction at state {state}"
    if vector.shape != (D,) or np.ndim(row) != 1:
        raise InputError(f"{where} is {list(np.shape(row))}, expected [{D}], this model's width")
    if not np.isfinite(vector).all():
        raise InputError(f"{where} holds NaN or infinity")
    # Divided by the largest first: squares of a half-precision vector may be zero or infinite.
    largest = np.abs(vector).max()
    if not largest:
        return None
    vector = vector / largest
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _read_npy(path: pathlib.Path, data: bytes) -> dict[int | None, np.ndarray]:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, KeyError, TypeError, MemoryError, SyntaxError) as error:
        raise InputError(f"{path} is no .npy of numbers: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise InputError(
            f"{path} holds {getattr(array, 'dtype', type(array).__name__)}, expected floating point numbers"
        )
    return {None: array}


def _read_safetensors(path: pathlib.Path, data: bytes) -> dict[int | None, np.ndarray]:
    try:
        tensors = safetensors.deserialize(data)
    except Exception as error:  # safetensors' own, and what its parser raises.
        raise InputError(f"{path} is no safetensors file: {' '.join(str(error).split())[:200]}") from error
    arrays = {name: _array(path, name, entry) for name, entry in tensors}
    if len(arrays) == 1 and not _number(next(iter(arrays))):
        return {None: next(iter(arrays.values()))}
    return _by_number(path, arrays)


def _array(path: pathlib.Path, name: str, entry: dict[str, Any]) -> np.ndarray:
    kind = _SAFETENSORS.get(entry["dtype"])
    if kind is None:
        raise InputError(f"{path}: {name!r:.100} is {entry['dtype']}, expected one of {', '.join(_SAFETENSORS)}")
    return np.frombuffer(bytes(entry["data"]), kind).reshape(entry["shape"])


def _read_gguf(path: pathlib.Path, data: bytes) -> dict[int | None, np.ndarray]:
    header = gguf_files.read(path)
    arch = header.metadata.get("general.architecture")
    if arch != "controlvector":
        raise InputError(f"{path} is a GGUF of {arch!r:.100}, expected a control vector (repeng's export_gguf)")
    arrays = {}
    for name, tensor in header.tensors.items():
        kind = _GGUF.get(tensor.kind)
        if kind is None:
            raise InputError(f"{path}: {name!r:.100} is {tensor.kind}, expected one of {', '.join(_GGUF)}")
        count = int(np.prod(tensor.shape))
        arrays[name] = np.frombuffer(data, kind, count, tensor.start).reshape(tensor.shape)
    return _by_number(path, arrays)


def _by_number(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> dict[int | None, np.ndarray]:
    """The block in a tensor's name -> tensor."""
    found: dict[int | None, np.ndarray] = {}
    for name, array in arrays.items():
        number = _number(name)
        if number is None or int(number) in found:
            raise InputError(
                f"{path} holds {', '.join(sorted(arrays))[:200]}, expected one tensor, or one for each block whose "
                "name ends in its number (direction.12)"
            )
        found[int(number)] = array
    if not found:
        raise InputError(f"{path} holds no tensor")
    return found


def _number(name: str) -> str | None:
    found = _NUMBERED.fullmatch(name)
    return found and found[1]


def _spans(numbers: list[int]) -> str:
    """[1, 2, 3, 7] -> "1 to 3, 7"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    return ", ".join(" to ".join(map(str, span)) for span in spans)


_READERS: dict[str, Callable[[pathlib.Path, bytes], dict[int | None, np.ndarray]]] = {
    ".npy": _read_npy,
    ".safetensors": _read_safetensors,
    ".gguf": _read_gguf,
}
