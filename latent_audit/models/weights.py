"""Reading checkpoints: safetensors files in Hugging Face's layout -> stacked parameters."""

import collections
import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np
from absl import logging

from latent_audit import gguf_files
from latent_audit.errors import InputError
from latent_audit.models import families, headers, hub, names, sharding
from latent_audit.models.config import ModelConfig, Params, parameter_shapes
from latent_audit.models.fields import MOST_CONFIG_BYTES, check_finite, number, shown, token_ids
from latent_audit.models.files import adapters, fp8, gguf_config, gguf_weights, mxfp4, reading
from latent_audit.models.fingerprint import check_files
from latent_audit.models.values import check_values, chunks
from latent_audit.user_files import read_json

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
FILE_DTYPES = ("F32", "BF16", "F16")
# Tensors are read in pieces of this many numbers, so that an embedding is never held twice (and caches are used).
CHUNK_ELEMENTS = 2**18


class Checkpoint(NamedTuple):
    """A checkpoint found whole: its cfg, and canonical tensor name -> (file, name in the file).

    The scale of a quantised weight stands under the weight's name and an end, fp8.SCALES or mxfp4.SCALES. products:
    what an adapter adds, by canonical name.
    """

    cfg: ModelConfig
    tensors: dict[str, tuple[pathlib.Path, str]]
    products: dict[str, adapters.Product] = {}


def load(
    path: str | pathlib.Path,
    *,
    adapter: pathlib.Path | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    place: Callable | None = None,
) -> tuple[ModelConfig, Params]:
    """Read a checkpoint into stacked parameters.

    Args:
      path: a directory, a GGUF file or a hub id (see hub.resolve); revision: of a hub id.
      adapter: a local directory with a PEFT LoRA adapter, which is merged in float32.
      dtype: "float32" or "bfloat16"; files may hold float32, bfloat16, float16, FP8 or MXFP4 with scales, GGUF's
        quantised blocks or a mixture.
      place: place(name, array) -> jax.Array, called once per parameter ("embed", "blocks/query", ...) as soon as
        it is complete; None is sharding.place: over the mesh in force, else on the default device. The host holds one
        parameter at a time.
    Returns:
      (ModelConfig, params), the tree of config.parameter_shapes.
    Raises:
      InputError: see check; and for NaN or infinite values, all named at once.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype = {dtype!r}, expected one of {', '.join(DTYPES)}")
    directory = hub.resolve(path, revision=revision)
    headers.refuse_adapter(directory, named=adapter)
    cfg, tensors, products = check(directory, adapter=adapter)
    place = place or sharding.place
    shapes = parameter_shapes(cfg)
    params: Params = {"blocks": {}}
    problems: list[tuple[str, str]] = []
    _compare_tied_head(cfg, tensors)
    for name in [*(name for name in shapes if name != "blocks"), *shapes["blocks"]]:
        stacked = name in shapes["blocks"]
        array, bad = _read(name, cfg, tensors, products, DTYPES[dtype])
        problems += bad
        if not problems:
            target = params["blocks"] if stacked else params
            target[name] = place(f"blocks/{name}" if stacked else name, array)
        del array  # Before the next one is made.
    headers.raise_problems(directory, problems)
    return cfg, params


def check(path: str | pathlib.Path, *, adapter: pathlib.Path | None = None, revision: str | None = None) -> Checkpoint:
    """Validate a checkpoint, with an adapter laid over it, from configs and headers alone, in well under a second.

    Raises InputError: no such directory, missing or malformed config.json, unsupported architecture, no
    safetensors files, a pickle-only checkpoint, a missing or damaged file; and, all named at once, tensors that
    are missing, unknown, duplicate, of the wrong shape or of an unsupported dtype. GGUF files: as gguf_files.read;
    adapters: as adapters.apply.
    """
    directory = hub.resolve(path, revision=revision)
    if gguf_files.is_gguf(directory):
        hf, found = gguf_config.config(directory), {directory: gguf_weights.header(directory)}
    else:
        hf, found = _read_config(directory), None
    try:
        hf, quantised = fp8.split_config(hf)
        cfg = families.config_from_hf(hf)
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error
    found = found or headers.read_headers(directory)
    if quantised is not None:
        found = {file: mxfp4.as_weights(header) for file, header in found.items()}
    held = _canonical_names(found)
    _tell_left_out(directory, [name for header in found.values() for name in header], held)
    both = {names.TOP_TENSORS["embed"], names.TOP_TENSORS["head"]} <= set(held)
    if cfg.tied_head and families.leaves_tying_open(hf) and both:
        cfg = dataclasses.replace(cfg, tied_head=False)
    headers.compare_layers(f"{directory}: config.json: num_hidden_layers", cfg.num_layers, held, "model.layers.")
    tensors, problems = _place_tensors(cfg, found, quantised is not None)
    headers.raise_problems(directory, problems)
    return Checkpoint(cfg, tensors) if adapter is None else Checkpoint(*adapters.apply(adapter, cfg, tensors))


def _canonical_names(found: dict[pathlib.Path, headers.Header]) -> list[str]:
    return [name for header in found.values() for name in map(names.canonical_name, header) if name is not None]


def _tell_left_out(directory: pathlib.Path, in_files: list[str], held: list[str]) -> None:
    """Name once what is not read of a multimodal checkpoint; InputError where there is nothing else."""
    parts = collections.Counter(part for part in map(names.part_left_out, in_files) if part)
    if not parts:
        return
    counted = ", ".join(f"{part} ({count} tensors)" for part, count in sorted(parts.items()))
    if not held:
        raise InputError(
            f"{directory}: the weight files hold {counted} but no text decoder (model.language_model. or "
            "language_model.model.), and only text is audited; fetch the whole checkpoint"
        )
    _log_once(f"{directory}: only the text decoder is read; left out: {counted}")


@functools.cache
def _log_once(line: str) -> None:
    logging.info("%s", line)


def quantization(path: str | pathlib.Path) -> str | None:
    """What a report calls the weights of a checkpoint that is stored in fewer bits, such as "Q4_K_M"; else None."""
    directory = hub.resolve(path)
    if gguf_files.is_gguf(directory):
        return gguf_config.quantization(directory)
    _, quantised = fp8.split_config(_read_config(directory))
    return None if quantised is None else fp8.describe(quantised)


def _read_config(directory: pathlib.Path) -> dict:
    """config.json; InputError where there is none, as in a directory that is only an adapter."""
    if not os.path.lexists(directory / "config.json"):
        headers.refuse_adapter(directory)
        raise InputError(f"{directory} has no config.json; expected a checkpoint in Hugging Face's layout")
    return read_json("the checkpoint's config", directory / "config.json", kind=dict, most=MOST_CONFIG_BYTES)


def check_whole(path: str | pathlib.Path, *, adapter: pathlib.Path | None = None) -> None:
    """As check, and all that load, fingerprint and read_generation_config would refuse later; every value is read."""
    directory = hub.resolve(path)
    headers.refuse_adapter(directory, named=adapter)
    cfg, tensors, products = check(directory, adapter=adapter)
    check_files(directory)
    read_generation_config(directory)
    added = [(product.file, name) for product in products.values() for name in (product.a, product.b)]
    check_values(directory, [*tensors.values(), *added])
    _compare_tied_head(cfg, tensors)


def _place_tensors(
    cfg: ModelConfig, found: dict[pathlib.Path, headers.Header], quantised: bool
) -> tuple[dict[str, tuple[pathlib.Path, str]], list[tuple[str, str]]]:
    """(canonical name -> (file, name in the file), every (kind of problem, tensor)) of the headers of all files."""
    expected = names.file_shapes(cfg, _canonical_names(found))
    tensors: dict[str, tuple[pathlib.Path, str]] = {}
    problems: list[tuple[str, str]] = []
    for file, header in found.items():
        for in_file, (shape, kind) in header.items():
            packed = kind == mxfp4.DTYPE
            canonical = names.canonical_name(in_file.removesuffix(mxfp4.BLOCKS) if packed else in_file)
            if canonical is None or names.is_unused(cfg, canonical) or (quantised and fp8.is_unused(canonical)):
                continue
            if canonical in tensors:
                other, other_name = tensors[canonical][0].name, tensors[canonical][1]
                problems.append(("duplicate", f"{in_file} in {file.name} and {other_name} in {other}"))
                continue
            tensors[canonical] = (file, in_file)
            if quantised and (fp8.is_scale(canonical) or canonical.endswith(mxfp4.SCALES)):
                continue
            tied = cfg.tied_head and canonical == names.TOP_TENSORS["head"]
            if canonical not in expected and not tied:
                problems.append(("unknown", f"{in_file} {shown(list(shape))} in {file.name}"))
                continue
            wanted = (cfg.vocab_size, cfg.embed_dim) if tied else expected[canonical]
            if shape != wanted:
                tables = (names.TOP_TENSORS["embed"], names.TOP_TENSORS["head"])
                by = f" (vocab_size = {cfg.vocab_size})" if canonical in tables else ""
                problems.append(("wrong shape", f"{in_file} is {shown(list(shape))}, expected {list(wanted)}{by}"))
            if kind not in FILE_DTYPES and not (quantised and kind in (fp8.DTYPE, mxfp4.DTYPE)):
                problems.append(("wrong dtype", f"{in_file} is {kind}, expected one of {', '.join(FILE_DTYPES)}"))
    problems += fp8.check_scales(found, tensors) + mxfp4.check_scales(found, tensors) if quantised else []
    if cfg.tied_head and names.TOP_TENSORS["embed"] not in tensors and names.TOP_TENSORS["head"] in tensors:
        tensors[names.TOP_TENSORS["embed"]] = tensors[names.TOP_TENSORS["head"]]
    problems += [("missing", canonical) for canonical in expected if canonical not in tensors]
    return tensors, problems


def read_generation_config(path: str | pathlib.Path, *, revision: str | None = None) -> dict | None:
    """The checkpoint's generation_config.json, or None where it has none; of a GGUF file its ends of an answer.

    Raises InputError: no readable JSON object, NaN in it, a repetition penalty or token ids that are none.
    """
    directory = hub.resolve(path, revision=revision)
    if gguf_files.is_gguf(directory):
        return {"eos_token_id": gguf_config.end_ids(gguf_files.read(directory))}
    file = directory / "generation_config.json"
    if not os.path.lexists(file):
        return None
    config = read_json("the checkpoint's generation config", file, kind=dict, most=MOST_CONFIG_BYTES)
    where = f"{directory}: generation_config.json"
    check_finite(config, where=where)
    if config.get("repetition_penalty") is not None:
        number(config, "repetition_penalty", where=where)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token_ids(config, name, where=where)
    return config


def _read(
    name: str,
    cfg: ModelConfig,
    tensors: dict[str, tuple[pathlib.Path, str]],
    products: dict[str, adapters.Product],
    dtype: np.dtype,
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """One parameter, all layers stacked, as (host array, problems)."""
    shapes = parameter_shapes(cfg)
    array = np.empty(shapes["blocks"][name] if name in shapes["blocks"] else shapes[name], dtype)
    problems = []
    for canonical, tensor in names.tensor_names(cfg, tensors).items():
        if name not in tensor.parts:
            continue
        file, in_file = tensors[canonical]
        target = names.to_file(name, array[tensor.place], tensor.form)
        index = names.part_in(cfg, tensor, name)
        # Along the rows, other rows are not read at all.
        before, within = (index[0].start, ()) if tensor.form == "rows" else (0, index)
        finite = True
        with reading.opened(tensors, canonical) as source:
            added = adapters.rows_of(products[canonical]) if canonical in products else None
            for rows in chunks(target.shape, CHUNK_ELEMENTS):
                own = slice(before + rows.start, before + rows.stop)
                target[rows] = source(own)[within] if added is None else source(own).astype(np.float32) + added(own)
                # After the cast, so that an overflow of bfloat16 is seen too.
                finite = finite and bool(np.isfinite(target[rows]).all())
        if not finite:
            problems.append(("NaN or infinite values", f"{in_file} in {file.name}"))
    return array, problems


def _compare_tied_head(cfg: ModelConfig, tensors: dict[str, tuple[pathlib.Path, str]]) -> None:
    """A tied checkpoint may carry a second copy of the embedding; a different matrix there is a contradiction."""
    head = names.TOP_TENSORS["head"]
    if not cfg.tied_head or head not in tensors:
        return
    with contextlib.ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(reading.opened(tensors, name)) for name in (names.TOP_TENSORS["embed"], head)
        )
        equal = all(
            np.array_equal(ours(rows), theirs(rows)) for rows in chunks((cfg.vocab_size, cfg.embed_dim), CHUNK_ELEMENTS)
        )
    if not equal:
        raise InputError(
            f"{tensors[head][0]}: {tensors[head][1]} differs from the embedding, but config.json "
            "says tie_word_embeddings = true; expected equal matrices, or false in config.json"
        )
