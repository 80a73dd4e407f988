"""gpt-oss's experts as published: four bits a number in blocks of 32 with one power of two each, dequantised on load.

The format is OCP Microscaling MXFP4 (E2M1 numbers, E8M0 scales). Of a tensor NAME, [experts, inputs, outputs] in
Hugging Face's layout, a file holds NAME_blocks uint8 [experts, outputs, inputs / 32, 16], two numbers a byte, the lower
four bits first, and NAME_scales uint8 [experts, outputs, inputs / 32].
"""

import pathlib
from collections.abc import Callable

import numpy as np
import safetensors

from latent_audit.models.headers import Header

METHOD, DTYPE, STORED = "mxfp4", "MXFP4", "U8"
BLOCKS, SCALES = "_blocks", "_scales"
# A scale that is no number.
NO_SCALE = 255
_BYTES, _BIAS = 16, 127
_NUMBERS = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
# Of every byte, the two numbers that it holds.
_PAIRS = np.stack([_NUMBERS[np.arange(256) & 15], _NUMBERS[np.arange(256) >> 4]], axis=-1)


def as_weights(header: Header) -> Header:
    """A file's header with the shape and the kind that each tensor of blocks stands for."""
    return {name: _as_weight(*entry) if name.endswith(BLOCKS) else entry for name, entry in header.items()}


def _as_weight(shape: tuple[int, ...], kind: str) -> tuple[tuple[int, ...], str]:
    if kind != STORED or len(shape) != 4 or shape[-1] != _BYTES:
        return shape, kind
    experts, outputs, blocks, _ = shape
    return (experts, blocks * 2 * _BYTES, outputs), DTYPE


def check_scales(
    found: dict[pathlib.Path, Header], tensors: dict[str, tuple[pathlib.Path, str]]
) -> list[tuple[str, str]]:
    """(kind of problem, tensor) of all tensors of blocks whose scales are missing or do not fit.

    tensors: canonical name -> (file, name in it), the scales among them.
    """
    problems = []
    for canonical, (file, name) in tensors.items():
        shape, kind = found[file][name]
        if kind != DTYPE:
            continue
        if canonical + SCALES not in tensors:
            problems.append(("no scale", f"{name} in {file.name}"))
            continue
        at, in_file = tensors[canonical + SCALES]
        wanted = (shape[0], shape[2], shape[1] // (2 * _BYTES))
        if found[at][in_file] != (wanted, STORED):
            of_scale, its_kind = found[at][in_file]
            problems.append(("wrong scale", f"{in_file} is {list(of_scale)} of {its_kind}, expected {list(wanted)}"))
    return problems


def rows_of(blocks: tuple[pathlib.Path, str], scales: tuple[pathlib.Path, str]) -> Callable[[slice], np.ndarray]:
    """A function of a slice of experts: float32 [experts, inputs, outputs]."""

    def read(rows: slice) -> np.ndarray:
        packed, powers = (_slice(*place, rows) for place in (blocks, scales))
        numbers = _PAIRS[packed].reshape(*powers.shape, 2 * _BYTES)
        # A scale beyond float32 becomes infinity, which the reader refuses.
        with np.errstate(over="ignore"):
            numbers = np.ldexp(numbers, powers.astype(np.int32)[..., None] - _BIAS)
        return numbers.reshape(*powers.shape[:2], -1).swapaxes(1, 2)

    return read


def _slice(path: pathlib.Path, name: str, rows: slice) -> np.ndarray:
    with safetensors.safe_open(path, framework="numpy") as file:
        return file.get_slice(name)[rows]
