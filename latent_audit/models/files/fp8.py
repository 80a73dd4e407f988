"""Checkpoints whose matrices are stored in eight bits (float8_e4m3fn) with scales beside them, dequantised on load.

Scales are those of blocks of 128 x 128 (DeepSeek V3, Qwen 3 FP8), of rows or of the whole matrix (compressed-tensors,
FBGEMM, ModelOpt, Ministral 3), named `weight_scale_inv` or `weight_scale`; the weight is multiplied with either.
"""

import functools
import json
import math
import os
import pathlib
import struct
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from latent_audit.errors import InputError
from latent_audit.models.fields import shown
from latent_audit.models.files import mxfp4
from latent_audit.models.headers import Header

DTYPE = "F8_E4M3"
# What may stand behind a weight's name.
SCALES = ("_scale_inv", "_scale")
# Scales of activations and of caches, which are not quantised here.
_UNUSED = (".input_scale", ".k_scale", ".v_scale", ".q_scale", ".output_scale", ".activation_scale", ".input_scale_ub")
_BLOCK = (128, 128)
_METHODS = ("fp8", "fbgemm_fp8", "compressed-tensors", "modelopt")
_REMEDY = "use the bfloat16 or float32 checkpoint, or dequantise it once with transformers and save it"


def split_config(hf: dict) -> tuple[dict, dict | None]:
    """(config.json without its quantization, that part where it is one that is read, None where there is none).

    Raises InputError for any other quantization, with the remedy.
    """
    inner: Any = hf.get("text_config") if isinstance(hf.get("text_config"), dict) else {}
    found = [one.get(key) for one in (hf, inner) for key in ("quantization_config", "compression_config")]
    given: Any = next((one for one in found if one), None)
    if given is None:
        return hf, None
    _check(given)
    dropped = ("quantization_config", "compression_config")
    plain = {key: value for key, value in hf.items() if key not in dropped}
    if inner:
        plain["text_config"] = {key: value for key, value in inner.items() if key not in dropped}
    return plain, given


def _check(given: Any) -> None:
    where = f"config.json: quantization_config = {shown(given)}"
    if not isinstance(given, dict):
        raise InputError(f"{where}, expected an object; {_REMEDY}")
    method = given.get("quant_method")
    if method == mxfp4.METHOD:
        return
    if method not in _METHODS:
        raise InputError(
            f"{where}: quant_method = {shown(method)} is not read, of quantised weights only FP8 and MXFP4 are: "
            f"{_REMEDY}"
        )
    kind = given.get("format") if method == "compressed-tensors" else given.get("quant_algo", "FP8")
    if kind not in ("float-quantized", "naive-quantized", "FP8"):
        raise InputError(
            f"{where}: {method} with {shown(kind)} is not read, of quantised weights only FP8 is: {_REMEDY}"
        )
    if method == "compressed-tensors":
        for group in _groups(given):
            weights = group.get("weights") or {}
            if (weights.get("num_bits"), weights.get("type")) != (8, "float"):
                raise InputError(
                    f"{where}: weights = {shown(weights)}: of quantised weights only FP8 is read: {_REMEDY}"
                )
    block = given.get("weight_block_size")
    if block not in (None, list(_BLOCK)):
        raise InputError(f"{where}: weight_block_size = {shown(block)}, expected {list(_BLOCK)}: {_REMEDY}")
    if given.get("fmt", "e4m3") not in ("e4m3", "float8_e4m3fn"):
        raise InputError(f"{where}: fmt = {shown(given['fmt'])}, expected e4m3: {_REMEDY}")


def _groups(given: dict) -> list[dict]:
    groups = given.get("config_groups")
    return [one for one in groups.values() if isinstance(one, dict)] if isinstance(groups, dict) else []


def describe(given: dict) -> str:
    """What a report calls such weights."""
    if given.get("quant_method") == mxfp4.METHOD:
        return mxfp4.DTYPE
    return "FP8 (blocks of 128 x 128)" if given.get("weight_block_size") else "FP8"


def is_scale(canonical: str) -> bool:
    """Whether a tensor belongs to a weight of eight bits instead of being one."""
    return canonical.endswith(tuple(f".weight{end}" for end in SCALES))


def is_unused(canonical: str) -> bool:
    """Whether a tensor scales what is not quantised here."""
    return canonical.endswith(_UNUSED)


def scale_shapes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The shapes that the scale of a matrix may have: of its blocks, of the whole, of its rows."""
    rows, columns = shape
    return (math.ceil(rows / _BLOCK[0]), math.ceil(columns / _BLOCK[1])), (), (1,), (1, 1), (rows, 1), (rows,)


def check_scales(
    found: dict[pathlib.Path, Header], tensors: dict[str, tuple[pathlib.Path, str]]
) -> list[tuple[str, str]]:
    """(kind of problem, tensor) of all weights of eight bits whose scale is missing, twice there or of no known shape.

    tensors: canonical name -> (file, name in it), the scales among them; a scale beside other weights is taken out.
    """
    problems = []
    for canonical, (file, name) in list(tensors.items()):
        if is_scale(canonical):
            continue
        scales = [canonical + end for end in SCALES if canonical + end in tensors]
        shape, kind = found[file][name]
        if kind != DTYPE:
            for scale in scales:
                problems.append(("a scale beside a weight that is not FP8", f"{scale} in {file.name}"))
            continue
        if len(scales) != 1 or len(shape) != 2:
            what = "no scale" if not scales else "two scales" if len(shape) == 2 else "no matrix"
            problems.append((what, f"{name} in {file.name}"))
            continue
        at, in_file = tensors[scales[0]]
        of_scale, its_kind = found[at][in_file]
        if of_scale not in scale_shapes(shape) or its_kind not in ("F32", "BF16", "F16"):
            expected = " or ".join(str(list(one)) for one in scale_shapes(shape))
            problems.append(("wrong scale", f"{in_file} is {list(of_scale)} of {its_kind}, expected {expected}, no F8"))
    return problems


def rows_of(path: pathlib.Path, name: str, scale: np.ndarray) -> Callable[[slice], np.ndarray]:
    """A function of a slice of a matrix's rows: float32, scaled; scale: of scale_shapes, float32."""
    stored = raw(path, name)

    def read(rows: slice) -> np.ndarray:
        values = np.ascontiguousarray(stored[rows]).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
        if scale.size == 1:
            return values * scale.reshape(())
        if scale.size == len(stored):
            return values * scale.reshape(-1, 1)[rows]
        numbers = np.arange(*rows.indices(len(stored))) // _BLOCK[0]
        return values * np.repeat(scale[numbers], _BLOCK[1], axis=1)[:, : values.shape[1]]

    return read


def raw(path: pathlib.Path, name: str) -> np.ndarray:
    """The bytes of a tensor of one byte a number in a safetensors file, which NumPy has no dtype for."""
    status = os.stat(path)
    begin, header = _header(path, status.st_size, status.st_mtime_ns)
    return np.memmap(path, np.uint8, "r", begin + header[name]["data_offsets"][0], tuple(header[name]["shape"]))


@functools.lru_cache(maxsize=4)
def _header(path: pathlib.Path, size: int, changed: int) -> tuple[int, dict]:
    """(where the numbers begin, the header) of a safetensors file; size, changed: of the file as it is remembered."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return 8 + length, json.loads(file.read(length))
