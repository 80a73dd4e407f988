"""Whether weights are numbers at all, told before anything is computed: every value of a file is looked at once."""

import concurrent.futures
import functools
import math
import os
import pathlib
from collections.abc import Iterable

import numpy as np
import safetensors
from absl import logging

from latent_audit import gguf_files
from latent_audit.models import headers
from latent_audit.models.files import fp8, gguf_weights, mxfp4

# An exponent of ones stands for infinity and NaN; by bits, because 16-bit floats are slow to ask for it.
_EXPONENT = {"F32": (np.uint32, 0x7F800000), "BF16": (np.uint16, 0x7F80), "F16": (np.uint16, 0x7C00)}
# Of eight bits, all but the sign: the only value that is no number.
_NAN_OF_FP8 = 0x7F
_CHUNK_ELEMENTS = 2**20
_THREADS = 8
# Beyond this it takes long enough to be told.
_TOLD_BYTES = 2**33


def check_values(directory: pathlib.Path, tensors: Iterable[tuple[pathlib.Path, str]]) -> None:
    """InputError, all tensors named at once, where one of (file, name in it) holds NaN or infinity.

    What was found of a file is remembered for the rest of the process.
    """
    by_file: dict[pathlib.Path, list[str]] = {}
    for file, name in tensors:
        by_file.setdefault(file, []).append(name)
    sizes = {file: os.stat(file) for file in by_file}
    total = sum(size.st_size for size in sizes.values())
    if total > _TOLD_BYTES:
        logging.info("looking for NaN in %s: %.1f GB", directory, total / 1e9)
    problems = []
    for file, names in by_file.items():
        bad = _not_finite(file, tuple(names), sizes[file].st_size, sizes[file].st_mtime_ns)
        problems += [("NaN or infinite values", f"{name} in {file.name}") for name in bad]
    headers.raise_problems(directory, problems)


@functools.lru_cache(maxsize=1024)
def _not_finite(file: pathlib.Path, names: tuple[str, ...], size: int, changed: int) -> list[str]:
    """The tensors of a file that hold NaN or infinity; size and changed: of the file as it is remembered."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(functools.partial(_is_finite, file), names))
    return [name for name, finite in zip(names, found, strict=True) if not finite]


def _is_finite(file: pathlib.Path, name: str) -> bool:
    if gguf_files.is_gguf(file):
        return gguf_weights.is_finite(file, name)
    # Opened for one tensor at a time: what was read of an open file counts as memory of this process.
    with safetensors.safe_open(file, framework="numpy") as opened:
        source = opened.get_slice(name)
        if source.get_dtype() == fp8.DTYPE:
            stored = fp8.raw(file, name)
            return not any(
                ((stored[rows] & 0x7F) == _NAN_OF_FP8).any() for rows in chunks(stored.shape, _CHUNK_ELEMENTS)
            )
        if source.get_dtype() == mxfp4.STORED:
            return name.endswith(mxfp4.BLOCKS) or not (opened.get_tensor(name) == mxfp4.NO_SCALE).any()
        kind, mask = _EXPONENT[source.get_dtype()]
        shape = tuple(source.get_shape())
        for rows in chunks(shape, _CHUNK_ELEMENTS):
            bits = np.ascontiguousarray(source[rows] if shape else opened.get_tensor(name)).view(kind)
            if ((bits & kind(mask)) == mask).any():
                return False
    return True


def chunks(shape: tuple[int, ...], elements: int) -> list[slice]:
    """Slices that cover the first axis, each of about so many numbers."""
    if not shape:
        return [slice(None)]
    step = max(1, elements * shape[0] // math.prod(shape))
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]
