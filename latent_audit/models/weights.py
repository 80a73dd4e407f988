"""Reading and writing checkpoints: safetensors files in Hugging Face's layout <-> stacked parameters."""

import contextlib
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from latent_audit.errors import InputError
from latent_audit.models import families, hub, names, sharding
from latent_audit.models.config import ModelConfig, Params, block_shapes, parameter_shapes
from latent_audit.runtime import files, processes

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
FILE_DTYPES = ("F32", "BF16", "F16")
# A saved checkpoint is cut into files of about this size, so that saving never holds more on the host.
SHARD_BYTES = 4 * 2**30
_INDEX = "model.safetensors.index.json"
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
    problems: list[str] = []
    _compare_tied_head(cfg, tensors)
    for name in [*(name for name in shapes if name != "blocks"), *shapes["blocks"]]:
        stacked = name in shapes["blocks"]
        array, bad = _read(name, cfg, tensors, DTYPES[dtype])
        problems += bad
        if not problems:
            target = params["blocks"] if stacked else params
            target[name] = place(f"blocks/{name}" if stacked else name, array)
        del array  # Before the next one is made.
    _raise_problems(directory, problems)
    return cfg, params


def check(path: str | pathlib.Path, *, revision: str | None = None) -> Checkpoint:
    """Validate a checkpoint from config.json and the headers of its files alone, in well under a second.

    Raises InputError: no such directory, missing or malformed config.json, unsupported architecture, no
    safetensors files, a pickle-only checkpoint, a missing or damaged file; and, all named at once, tensors that
    are missing, unknown, duplicate, of the wrong shape or of an unsupported dtype.
    """
    directory = hub.resolve(path, revision=revision)
    try:
        cfg = families.config_from_hf(_read_json(directory, "config.json"))
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error
    expected = names.tensor_names(cfg)
    shapes = block_shapes(cfg) | {name: shape for name, shape in parameter_shapes(cfg).items() if name != "blocks"}
    tensors: dict[str, tuple[pathlib.Path, str]] = {}
    problems: list[str] = []
    for file, header in _read_headers(directory).items():
        for in_file, (shape, kind) in header.items():
            canonical = names.canonical_name(in_file)
            if canonical is None:
                continue
            if canonical in tensors:
                problems.append(
                    f"duplicate: {in_file} in {file.name} and {tensors[canonical][1]} in {tensors[canonical][0].name}"
                )
                continue
            tensors[canonical] = (file, in_file)
            tied = cfg.tied_head and canonical == names.TOP_TENSORS["head"]
            if canonical not in expected and not tied:
                problems.append(f"unknown: {in_file} {list(shape)} in {file.name}")
                continue
            name = "embed" if tied else expected[canonical][0]
            wanted = names.file_shape(name, shapes[name])
            if shape != wanted:
                problems.append(f"wrong shape: {in_file} is {list(shape)}, expected {list(wanted)}")
            if kind not in FILE_DTYPES:
                problems.append(f"wrong dtype: {in_file} is {kind}, expected one of {', '.join(FILE_DTYPES)}")
    problems += [f"missing: {canonical}" for canonical in expected if canonical not in tensors]
    _raise_problems(directory, problems)
    return Checkpoint(cfg, tensors)


def read_generation_config(path: str | pathlib.Path, *, revision: str | None = None) -> dict | None:
    """The checkpoint's generation_config.json, or None where it has none; InputError if it is malformed."""
    directory = hub.resolve(path, revision=revision)
    if not (directory / "generation_config.json").is_file():
        return None
    return _read_json(directory, "generation_config.json")


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
      path: the directory; written beside itself and renamed, so that it is never seen half done. An older
        checkpoint at `path` is replaced.
      cfg, params: as load returns them; tokenizer: a transformers tokenizer, or None to write none.
      dtype: "float32" or "bfloat16"; None keeps the parameters' own.
      generation_config: contents of generation_config.json; None writes greedy decoding with cfg's special tokens.
      extra_files: further files, name -> contents.
    Raises:
      InputError: `path` exists and is no checkpoint, the parameters are not of cfg's shapes, or cfg cannot be
        expressed by its family.
    """
    path = pathlib.Path(path)
    if path.exists() and not (path.is_dir() and (_weight_files(path) or not any(path.iterdir()))):
        raise InputError(f"{path} exists and is no checkpoint; expected a new path or an old checkpoint")
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
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    try:
        os.chmod(aside, 0o755)
        if tokenizer is not None:
            tokenizer.save_pretrained(aside)
        files.write_json(aside / "config.json", config)
        files.write_json(aside / "generation_config.json", generation_config)
        _write_tensors(aside, cfg, params, DTYPES[dtype])
        for name, contents in (extra_files or {}).items():
            files.write_bytes(aside / name, contents if isinstance(contents, bytes) else contents.encode("utf-8"))
        _replace_directory(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    processes.meet()


def _read(
    name: str, cfg: ModelConfig, tensors: dict[str, tuple[pathlib.Path, str]], dtype: np.dtype
) -> tuple[np.ndarray, list[str]]:
    """One parameter, all layers stacked, as (host array, problems)."""
    shapes = block_shapes(cfg) | parameter_shapes(cfg)
    stacked = name not in parameter_shapes(cfg)
    array = np.empty((cfg.num_layers, *shapes[name]) if stacked else shapes[name], dtype)
    problems = []
    for canonical, (ours, layer) in names.tensor_names(cfg).items():
        if ours != name:
            continue
        file, in_file = tensors[canonical]
        target = names.to_file(name, array if layer is None else array[layer])
        finite = True
        # Opened for one tensor at a time: what was read of an open file counts as memory of this process.
        with safetensors.safe_open(file, framework="numpy") as opened:
            source = opened.get_slice(in_file)
            for rows in _chunks(target.shape):
                target[rows] = source[rows]
                # After the cast, so that an overflow of bfloat16 is seen too.
                finite = finite and bool(np.isfinite(target[rows]).all())
        if not finite:
            problems.append(f"NaN or infinite values: {in_file} in {file.name}")
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
        equal = all(np.array_equal(ours[rows], theirs[rows]) for rows in _chunks((cfg.vocab_size, cfg.embed_dim)))
    if not equal:
        raise InputError(
            f"{tensors[head][0]}: {tensors[head][1]} differs from the embedding, but config.json "
            "says tie_word_embeddings = true; expected equal matrices, or false in config.json"
        )


def _chunks(shape: tuple[int, ...]) -> list[slice]:
    """Slices that cover the first axis, each of about CHUNK_ELEMENTS numbers."""
    step = max(1, CHUNK_ELEMENTS * shape[0] // math.prod(shape))
    return [slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step)]


def _weight_files(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(directory.glob("model*.safetensors"))


def _read_headers(directory: pathlib.Path) -> dict[pathlib.Path, dict]:
    """File -> {tensor name: (shape, dtype)} of all weight files, checked against the index where there is one."""
    if (directory / "model.safetensors").is_file():
        path = directory / "model.safetensors"
        return {path: _read_header(path)}
    if not (directory / _INDEX).is_file():
        pickles = sorted(file.name for suffix in ("bin", "pt", "pth") for file in directory.glob(f"*.{suffix}"))
        if pickles:
            raise InputError(
                f"{directory} holds its weights only as pickles ({', '.join(pickles[:3])}), which "
                "can run code when opened; expected model.safetensors: load it once with transformers "
                "where you trust the file, and save_pretrained it"
            )
        raise InputError(f"{directory} has no weights; expected model.safetensors, or {_INDEX} with its files")
    index = _read_json(directory, _INDEX).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
        raise InputError(f"{directory / _INDEX}: weight_map = {str(index)[:80]}, expected tensor name -> file name")
    # Only names: an index must not reach outside of its directory.
    paths = {file: directory / pathlib.PurePath(file).name for file in sorted(set(index.values()))}
    lost = [path.name for path in paths.values() if not path.is_file()]
    if lost:
        raise InputError(f"{directory}: files named in {_INDEX} are missing: {', '.join(lost)}; fetch them again")
    headers = {path: _read_header(path) for path in paths.values()}
    absent = [
        f"missing: {name}, which the index places in {file}"
        for name, file in index.items()
        if name not in headers[paths[file]]
    ]
    _raise_problems(directory, absent)
    return headers


def _read_header(path: pathlib.Path) -> dict:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or no whole safetensors file ({error}); fetch it again") from error


def _read_json(directory: pathlib.Path, name: str) -> dict:
    path = directory / name
    if not path.is_file():
        raise InputError(f"{directory} has no {name}; expected a checkpoint in Hugging Face's layout")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, expected an object")
    return value


def _raise_problems(directory: pathlib.Path, problems: list[str]) -> None:
    if problems:
        shown = problems[:40] + ([f"... and {len(problems) - 40} more"] if len(problems) > 40 else [])
        raise InputError(f"{directory}: the weights do not fit config.json:\n  " + "\n  ".join(shown))


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
        files.write_json(directory / _INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _tensors_by_file(cfg: ModelConfig, params: Params, dtype: np.dtype) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(file name, {name in the file: host array}) of every file, one at a time."""
    expected = names.tensor_names(cfg)
    shapes = block_shapes(cfg) | parameter_shapes(cfg)
    shards: list[list[str]] = [[]]
    size = 0
    for canonical, (name, _) in expected.items():
        tensor_bytes = int(np.prod(shapes[name])) * dtype.itemsize
        if shards[-1] and size + tensor_bytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(canonical)
        size += tensor_bytes
    for number, shard in enumerate(shards, start=1):
        single = len(shards) == 1
        tensors = {}
        for canonical in shard:
            name, layer = expected[canonical]
            array = sharding.to_host(params[name] if layer is None else params["blocks"][name][layer])
            tensors[canonical] = np.ascontiguousarray(names.to_file(name, array.astype(dtype)))
        yield "model.safetensors" if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors", tensors


def _replace_directory(aside: pathlib.Path, path: pathlib.Path) -> None:
    """Rename `aside` to `path`; an older directory there is moved away first and then removed."""
    if not path.exists():
        os.rename(aside, path)
        return
    old = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
    os.rename(path, old / path.name)
    os.rename(aside, path)
    shutil.rmtree(old, ignore_errors=True)
