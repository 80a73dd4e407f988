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
import safetensors
from absl import logging

from latent_audit.errors import InputError
from latent_audit.models import families, headers, hub, names, sharding
from latent_audit.models.config import ModelConfig, Params, parameter_shapes
from latent_audit.models.fields import MOST_CONFIG_BYTES, check_finite, number, shown, token_ids
from latent_audit.models.fingerprint import check_files
from latent_audit.models.values import check_values, chunks
from latent_audit.user_files import read_json

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
FILE_DTYPES = ("F32", "BF16", "F16")
# Tensors are read in pieces of this many numbers, so that an embedding is never held twice (and caches are used).
CHUNK_ELEMENTS = 2**18


class Checkpoint(NamedTuple):
    """A checkpoint found whole: its cfg, and canonical tensor name -> (file, name in the file)."""

    cfg: ModelConfig
    tensors: dict[str, tuple[pathlib.Path, str]]


def load(
    path: str | pathlib.Path, *, dtype: str = "float32", revision: str | None = None, place: Callable | None = None
) -> tuple[ModelConfig, Params]:
    """Read a checkpoint into stacked parameters.

    Args:
      path: a directory or a hub id (see hub.resolve); revision: of a hub id.
      dtype: "float32" or "bfloat16"; files may hold float32, bfloat16, float16 or a mixture.
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
    cfg, tensors = check(directory)
    place = place or sharding.place
    shapes = parameter_shapes(cfg)
    params: Params = {"blocks": {}}
    problems: list[tuple[str, str]] = []
    _compare_tied_head(cfg, tensors)
    for name in [*(name for name in shapes if name != "blocks"), *shapes["blocks"]]:
        stacked = name in shapes["blocks"]
        array, bad = _read(name, cfg, tensors, DTYPES[dtype])
        problems += bad
        if not problems:
            target = params["blocks"] if stacked else params
            target[name] = place(f"blocks/{name}" if stacked else name, array)
        del array  # Before the next one is made.
    headers.raise_problems(directory, problems)
    return cfg, params


def check(path: str | pathlib.Path, *, revision: str | None = None) -> Checkpoint:
    """Validate a checkpoint from config.json and the headers of its files alone, in well under a second.

    Raises InputError: no such directory, missing or malformed config.json, unsupported architecture, no
    safetensors files, a pickle-only checkpoint, a missing or damaged file; and, all named at once, tensors that
    are missing, unknown, duplicate, of the wrong shape or of an unsupported dtype.
    """
    directory = hub.resolve(path, revision=revision)
    if not os.path.lexists(directory / "config.json"):
        headers.refuse_adapter(directory)
        raise InputError(f"{directory} has no config.json; expected a checkpoint in Hugging Face's layout")
    hf = read_json("the checkpoint's config", directory / "config.json", kind=dict, most=MOST_CONFIG_BYTES)
    try:
        cfg = families.config_from_hf(hf)
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error
    found = headers.read_headers(directory)
    held = [name for header in found.values() for name in map(names.canonical_name, header) if name is not None]
    _tell_left_out(directory, [name for header in found.values() for name in header], held)
    if cfg.tied_head and families.leaves_tying_open(hf) and names.TOP_TENSORS["head"] in held:
        cfg = dataclasses.replace(cfg, tied_head=False)
    headers.compare_layers(f"{directory}: config.json: num_hidden_layers", cfg.num_layers, held, "model.layers.")
    tensors, problems = _place_tensors(cfg, found)
    headers.raise_problems(directory, problems)
    return Checkpoint(cfg, tensors)


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


def check_whole(path: str | pathlib.Path) -> None:
    """As check, and all that load, fingerprint and read_generation_config would refuse later; every value is read."""
    directory = hub.resolve(path)
    cfg, tensors = check(directory)
    check_files(directory)
    read_generation_config(directory)
    check_values(directory, tensors.values())
    _compare_tied_head(cfg, tensors)


def _place_tensors(
    cfg: ModelConfig, found: dict[pathlib.Path, headers.Header]
) -> tuple[dict[str, tuple[pathlib.Path, str]], list[tuple[str, str]]]:
    """(canonical name -> (file, name in the file), every (kind of problem, tensor)) of the headers of all files."""
    expected = names.file_shapes(cfg)
    tensors: dict[str, tuple[pathlib.Path, str]] = {}
    problems: list[tuple[str, str]] = []
    for file, header in found.items():
        for in_file, (shape, kind) in header.items():
            canonical = names.canonical_name(in_file)
            if canonical is None:
                continue
            if canonical in tensors:
                other, other_name = tensors[canonical][0].name, tensors[canonical][1]
                problems.append(("duplicate", f"{in_file} in {file.name} and {other_name} in {other}"))
                continue
            tensors[canonical] = (file, in_file)
            tied = cfg.tied_head and canonical == names.TOP_TENSORS["head"]
            if canonical not in expected and not tied:
                problems.append(("unknown", f"{in_file} {shown(list(shape))} in {file.name}"))
                continue
            wanted = (cfg.vocab_size, cfg.embed_dim) if tied else expected[canonical]
            if shape != wanted:
                tables = (names.TOP_TENSORS["embed"], names.TOP_TENSORS["head"])
                by = f" (vocab_size = {cfg.vocab_size})" if canonical in tables else ""
                problems.append(("wrong shape", f"{in_file} is {shown(list(shape))}, expected {list(wanted)}{by}"))
            if kind not in FILE_DTYPES:
                problems.append(("wrong dtype", f"{in_file} is {kind}, expected one of {', '.join(FILE_DTYPES)}"))
    problems += [("missing", canonical) for canonical in expected if canonical not in tensors]
    return tensors, problems


def read_generation_config(path: str | pathlib.Path, *, revision: str | None = None) -> dict | None:
    """The checkpoint's generation_config.json, or None where it has none.

    Raises InputError: no readable JSON object, NaN in it, a repetition penalty or token ids that are none.
    """
    directory = hub.resolve(path, revision=revision)
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
    name: str, cfg: ModelConfig, tensors: dict[str, tuple[pathlib.Path, str]], dtype: np.dtype
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """One parameter, all layers stacked, as (host array, problems)."""
    shapes = parameter_shapes(cfg)
    array = np.empty(shapes["blocks"][name] if name in shapes["blocks"] else shapes[name], dtype)
    problems = []
    for canonical, tensor in names.tensor_names(cfg).items():
        if name not in tensor.parts:
            continue
        file, in_file = tensors[canonical]
        target = names.to_file(name, array[tensor.place])
        before = names.rows_before(name, tensor.parts, names.piece_shapes(cfg))
        finite = True
        # Opened for one tensor at a time: what was read of an open file counts as memory of this process.
        with safetensors.safe_open(file, framework="numpy") as opened:
            source = opened.get_slice(in_file)
            for rows in chunks(target.shape, CHUNK_ELEMENTS):
                target[rows] = source[before + rows.start : before + rows.stop]
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
    pair = (tensors[names.TOP_TENSORS["embed"]], tensors[head])
    with contextlib.ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(safetensors.safe_open(file, framework="numpy")).get_slice(in_file)
            for file, in_file in pair
        )
        equal = all(
            np.array_equal(ours[rows], theirs[rows]) for rows in chunks((cfg.vocab_size, cfg.embed_dim), CHUNK_ELEMENTS)
        )
    if not equal:
        raise InputError(
            f"{tensors[head][0]}: {tensors[head][1]} differs from the embedding, but config.json "
            "says tie_word_embeddings = true; expected equal matrices, or false in config.json"
        )
