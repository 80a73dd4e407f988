"""One tensor of a checkpoint as a function of rows, whatever kind of file it lies in."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import safetensors

from latent_audit import gguf_files
from latent_audit.models.files import fp8, gguf_weights, mxfp4

Rows = Callable[[slice], np.ndarray]


@contextlib.contextmanager
def opened(tensors: dict[str, tuple[pathlib.Path, str]], canonical: str) -> Iterator[Rows]:
    """rows -> numbers of a tensor, of the file's dtype, or float32 where it was quantised.

    tensors: canonical name -> (file, name in the file), scales of quantised weights among them. Opened for one tensor
    at a time: what was read of an open file counts as memory of this process.
    """
    file, name = tensors[canonical]
    scale = next((tensors[canonical + end] for end in fp8.SCALES if canonical + end in tensors), None)
    if gguf_files.is_gguf(file):
        yield gguf_weights.rows_of(file, name)
    elif canonical + mxfp4.SCALES in tensors:
        yield mxfp4.rows_of((file, name), tensors[canonical + mxfp4.SCALES])
    elif scale is not None:
        with safetensors.safe_open(scale[0], framework="numpy") as of_scale:
            numbers = np.asarray(of_scale.get_tensor(scale[1])).astype(np.float32)
        yield fp8.rows_of(file, name, numbers)
    else:
        with safetensors.safe_open(file, framework="numpy") as source:
            yield source.get_slice(name).__getitem__
