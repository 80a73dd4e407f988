"""In which dtype a checkpoint is computed with: as it was asked for, or by what its files hold and where it runs."""

import collections
import math
import pathlib

from latent_audit import gguf_files
from latent_audit.models import headers, hub
from latent_audit.models.weights import quantization

AUTO = "auto"
WHOLE = ("F32", "F64")  # in a safetensors header, and GGUF's F32


def resolve_dtype(asked: str, platform: str, held: str | None) -> str:
    """The dtype of parameters and states, "float32" or "bfloat16".

    asked: one of these, which then holds, or "auto"; platform: of the devices, as jax names it; held: of held_dtype,
    None for the embedded organism. Auto is float32 on a CPU, which gains nothing by less, and for the organism, whose
    numbers were measured in it; elsewhere what the files hold.

    >>> resolve_dtype("auto", "cpu", "bfloat16"), resolve_dtype("auto", "gpu", "bfloat16")
    ('float32', 'bfloat16')
    >>> resolve_dtype("auto", "tpu", None), resolve_dtype("bfloat16", "cpu", "float32")
    ('float32', 'bfloat16')
    """
    if asked != AUTO:
        return asked
    return held if held is not None and platform != "cpu" else "float32"


def held_dtype(path: str | pathlib.Path) -> str:
    """ "float32" for a checkpoint most of whose weights are stored so, by their headers; else "bfloat16".

    So of bfloat16, and of float16 and quantised weights (FP8, MXFP4, GGUF's blocks), which no dtype here holds as they
    are. path: a directory, a GGUF file or a hub id. Raises InputError as weights.quantization and headers.read_headers.
    """
    directory = hub.resolve(path)
    if (kind := quantization(directory)) is not None:
        return "float32" if gguf_files.is_gguf(directory) and kind in WHOLE else "bfloat16"
    counted: collections.Counter = collections.Counter()
    for header in headers.read_headers(directory).values():
        for shape, stored in header.values():
            counted[stored] += math.prod(shape)
    return "float32" if counted.most_common(1)[0][0] in WHOLE else "bfloat16"
