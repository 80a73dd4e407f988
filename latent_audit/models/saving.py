"""Writing checkpoints: stacked parameters -> a directory in Hugging Face's layout, and whatever belongs beside them."""

import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from latent_audit.errors import InputError
from latent_audit.models import families, names, sharding, target
from latent_audit.models.config import ModelConfig, Params, parameter_shapes
from latent_audit.models.headers import INDEX, WEIGHTS
from latent_audit.models.weights import DTYPES
from latent_audit.runtime import files, processes

# A checkpoint is cut into files of about this size, so that saving never holds more on the host.
SHARD_BYTES = 4 * 2**30


def save(
    path: str | pathlib.Path,
    cfg: ModelConfig,
    params: Params,
    tokenizer: Any,
    *,
    dtype: str | None = None,
    generation_config: dict | None = None,
    extra_files: dict[str, str | bytes] | None = None,
) -> None:
    """Write a directory that transformers' AutoModelForCausalLM loads to the same logits.

    Args:
      path: the directory, whose parent exists; written beside itself and renamed, so that it is never seen half done.
        One that this tool wrote is replaced, see target.check_target.
      cfg, params: as load returns them; tokenizer: a transformers tokenizer, or None to write none.
      dtype: "float32" or "bfloat16"; None keeps the parameters' own.
      generation_config: contents of generation_config.json; None writes greedy decoding with cfg's special tokens.
      extra_files: further files, name -> contents.
    Raises:
      InputError: as target.check_target; the parameters are not of cfg's shapes, or cfg cannot be expressed by its
        family.
    """
    processes.on_first(lambda: str(target.check_target(path)))
    shapes = jax.tree.map(np.shape, params)
    if shapes != parameter_shapes(cfg):
        raise InputError(f"the parameters' shapes {shapes} are not those of cfg, {parameter_shapes(cfg)}")
    dtype = dtype or str(params["embed"].dtype)
    if dtype not in DTYPES:
        raise InputError(f"dtype = {dtype!r}, expected one of {', '.join(DTYPES)}")
    pad_id = getattr(tokenizer, "pad_token_id", None)
    config = families.hf_from_config(cfg, dtype=dtype, pad_id=pad_id)
    if generation_config is None:
        generation_config = {
            "do_sample": False,
            "bos_token_id": config["bos_token_id"],
            "eos_token_id": config["eos_token_id"],
            "pad_token_id": pad_id,
        }
    if not processes.is_first():
        for _ in _tensors_by_file(cfg, params, DTYPES[dtype]):
            pass  # Parts of the parameters may lie here.
        processes.meet()
        return
    with target.replacing(path) as aside:
        if tokenizer is not None:
            tokenizer.save_pretrained(aside)
        files.write_json(aside / "config.json", config)
        files.write_json(aside / "generation_config.json", generation_config)
        _write_tensors(aside, cfg, params, DTYPES[dtype])
        for name, contents in (extra_files or {}).items():
            files.write_bytes(aside / name, contents if isinstance(contents, bytes) else contents.encode("utf-8"))
    processes.meet()


def _write_tensors(directory: pathlib.Path, cfg: ModelConfig, params: Params, dtype: np.dtype) -> None:
    """Write every tensor, in several files with an index where one would be too large."""
    weight_map: dict[str, str] = {}
    total = 0
    for file, tensors in _tensors_by_file(cfg, params, dtype):
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
        # transformers refuses files that do not name their format.
        safetensors.numpy.save_file(tensors, directory / file, metadata={"format": "pt"})
    if len(set(weight_map.values())) > 1:
        files.write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _tensors_by_file(cfg: ModelConfig, params: Params, dtype: np.dtype) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(file name, {name in the file: host array}) of every file, one at a time."""
    expected = names.tensor_names(cfg)
    shapes = names.file_shapes(cfg)
    shards: list[list[str]] = [[]]
    size = 0
    for canonical in expected:
        tensor_bytes = int(np.prod(shapes[canonical])) * dtype.itemsize
        if shards[-1] and size + tensor_bytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(canonical)
        size += tensor_bytes
    for number, shard in enumerate(shards, start=1):
        single = len(shards) == 1
        tensors = {}
        for canonical in shard:
            tensor = expected[canonical]
            whole = np.empty(shapes[canonical], dtype)
            for name in tensor.parts:
                part = params["blocks"][name][tensor.place] if tensor.place else params[name]
                whole[names.part_in(cfg, tensor, name)] = names.to_file(name, sharding.to_host(part), tensor.form)
            tensors[canonical] = whole
        yield WEIGHTS if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors", tensors
