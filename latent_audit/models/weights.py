"""Reading and writing checkpoints: safetensors files in Hugging Face's layout <-> stacked parameters."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from latent_audit.errors import InputError
from latent_audit.models import families, hub, names
from latent_audit.models.config import ModelConfig, block_shapes, parameter_shapes
from latent_audit.runtime import files

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
FILE_DTYPES = ("F32", "BF16", "F16")
# A saved checkpoint is cut into files of at most about this size, so that saving never holds more on the host.
SHARD_BYTES = 4 * 2**30


class Checkpoint(NamedTuple):
    """A checkpoint whose headers were found whole: cfg, and canonical tensor name -> (file, name in the file)."""

    cfg: ModelConfig
    tensors: dict[str, tuple[pathlib.Path, str]]


def load(path, *, dtype: str = "float32", revision: str | None = None, place: Callable | None = None):
    """Read a checkpoint into stacked parameters.

    Args:
      path: a directory or a hub id (see hub.resolve); revision: of a hub id.
      dtype: "float32" or "bfloat16"; files may hold float32, bfloat16, float16 or a mixture.
      place: place(name, array) -> jax.Array, called once per parameter ("embed", "blocks/query", ...) as soon as it
        is complete, to shard it; None puts it on the default device. Only one parameter is held on the host.
    Returns:
      (ModelConfig, params), the tree of config.parameter_shapes.
    Raises:
      InputError: see check; and for NaN or infinite values, all named at once.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype = {dtype!r}, expected one of {', '.join(DTYPES)}")
    directory = hub.resolve(path, revision=revision)
    cfg, tensors = check(directory)
    place = place or (lambda name, array: jax.device_put(array))
    shapes = parameter_shapes(cfg)
    params, problems = {"blocks": {}}, []
    with _Files() as opened:
        _compare_tied_head(cfg, tensors, opened)
        for name in [*(name for name in shapes if name != "blocks"), *shapes["blocks"]]:
            stacked = name in shapes["blocks"]
            array, bad = _read(name, cfg, tensors, opened, DTYPES[dtype])
            problems += bad
            if not problems:
                target = params["blocks"] if stacked else params
                target[name] = place(f"blocks/{name}" if stacked else name, array)
    _raise_problems(directory, problems)
    return cfg, params


def check(path, *, revision: str | None = None) -> Checkpoint:
    """Validate a checkpoint from config.json and the headers of its files alone, in well under a second.

    Raises InputError: no such directory, missing or malformed config.json, unsupported architecture, no safetensors
    files, a pickle-only checkpoint, a missing or damaged file; and, all named at once, tensors that are missing,
    unknown, duplicate, of the wrong shape or of an unsupported dtype.
    """
    directory = hub.resolve(path, revision=revision)
    try:
        cfg = families.config_from_hf(_read_json(directory, "config.json"))
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error
    expected = names.tensor_names(cfg)
    shapes = block_shapes(cfg) | {name: shape for name, shape in parameter_shapes(cfg).items() if name != "blocks"}
    tensors, problems = {}, []
    for file, header in _read_headers(directory).items():
        for in_file, (shape, kind) in header.items():
            canonical = names.canonical_name(in_file)
            if canonical is None:
                continue
            if canonical in tensors:
                problems.append(f"duplicate: {in_file} in {file.name} and {tensors[canonical][1]} in "
                                f"{tensors[canonical][0].name}")
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


def read_generation_config(path, *, revision: str | None = None) -> dict | None:
    """The checkpoint's generation_config.json, or None where it has none; InputError if it is malformed."""
    directory = hub.resolve(path, revision=revision)
    if not (directory / "generation_config.json").is_file():
        return None
    return _read_json(directory, "generation_config.json")


def save(path, cfg: ModelConfig, params, tokenizer, *, dtype: str | None = None,
         generation_config: dict | None = None, extra_files: dict[str, str | bytes] | None = None) -> None:
    """Write a directory that transformers' AutoModelForCausalLM loads to the same logits.

    Args:
      path: the directory; written beside itself and renamed, so that it is never seen half done. An older
        checkpoint at `path` is replaced.
      cfg, params: as load returns them; tokenizer: a transformers tokenizer, or None to write none.
      dtype: "float32" or "bfloat16"; None keeps the parameters' own.
      generation_config: contents of generation_config.json; None writes greedy decoding with cfg's special tokens.
      extra_files: further files, name -> contents.
    Raises:
      InputError: `path` exists and is no checkpoint, or cfg cannot be expressed by its family.
    """
    path = pathlib.Path(path)
    if path.exists() and not (path.is_dir() and (any(path.glob("model*.safetensors")) or not any(path.iterdir()))):
        raise InputError(f"{path} exists and is no checkpoint directory; expected a new path or an old checkpoint")
    dtype = dtype or str(params["embed"].dtype)
    if dtype not in DTYPES:
        raise InputError(f"dtype = {dtype!r}, expected one of {', '.join(DTYPES)}")
    pad_id = getattr(tokenizer, "pad_token_id", None)
    config = families.hf_from_config(cfg, dtype=dtype, pad_id=pad_id)
    if generation_config is None:
        generation_config = {"do_sample": False, "bos_token_id": config["bos_token_id"],
                             "eos_token_id": config["eos_token_id"], "pad_token_id": pad_id}
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
            write = files.write_bytes if isinstance(contents, bytes) else files.write_text
            write(aside / name, contents)
        _replace_directory(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


class _Files(contextlib.ExitStack):
    """Safetensors files, each opened once, closed together."""

    def __init__(self):
        super().__init__()
        self._open = {}

    def slice(self, file, name):
        if file not in self._open:
            self._open[file] = self.enter_context(safetensors.safe_open(file, framework="numpy"))
        return self._open[file].get_slice(name)


def _read(name, cfg, tensors, opened, dtype):
    """One parameter, all layers stacked, as (host array, problems)."""
    shapes = parameter_shapes(cfg)
    shape = shapes[name] if name in shapes else shapes["blocks"][name]
    array = np.empty(shape, dtype)
    problems = []
    for canonical, (ours, layer) in names.tensor_names(cfg).items():
        if ours != name:
            continue
        file, in_file = tensors[canonical]
        part = array if layer is None else array[layer]
        part[...] = names.from_file(name, opened.slice(file, in_file)[:], part.shape)
        # Of the array after the cast, so that an overflow of bfloat16 is seen too.
        if not np.isfinite(part).all():
            problems.append(f"NaN or infinite values: {in_file} in {file.name}")
    return array, problems


def _compare_tied_head(cfg, tensors, opened):
    """A tied checkpoint may carry a second copy of the embedding; a different matrix there is a contradiction."""
    head = names.TOP_TENSORS["head"]
    if not cfg.tied_head or head not in tensors:
        return
    ours, theirs = (opened.slice(*tensors[name]) for name in (names.TOP_TENSORS["embed"], head))
    rows = 4096
    if not all(np.array_equal(ours[i:i + rows], theirs[i:i + rows]) for i in range(0, cfg.vocab_size, rows)):
        raise InputError(f"{tensors[head][0]}: {tensors[head][1]} differs from the embedding, but config.json says "
                         "tie_word_embeddings = true; expected equal matrices, or false in config.json")


def _read_headers(directory) -> dict[pathlib.Path, dict]:
    """File -> {tensor name: (shape, dtype)} of all weight files, checked against the index where there is one."""
    index = None
    if (directory / "model.safetensors").is_file():
        paths = [directory / "model.safetensors"]
    elif (directory / "model.safetensors.index.json").is_file():
        index = _read_json(directory, "model.safetensors.index.json").get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()) or not index:
            raise InputError(f"{directory}/model.safetensors.index.json: weight_map = {str(index)[:80]}, expected "
                             "tensor name -> file name")
        paths = [directory / pathlib.PurePath(file).name for file in sorted(set(index.values()))]
    else:
        pickles = sorted(file.name for suffix in ("*.bin", "*.pt", "*.pth") for file in directory.glob(suffix))
        if pickles:
            raise InputError(f"{directory} holds its weights only as pickles ({', '.join(pickles[:3])}), which run "
                             "code when opened; expected model.safetensors: load and save the model once with "
                             "transformers (save_pretrained) in a place where you trust the file")
        raise InputError(f"{directory}: no weights; expected model.safetensors, or model.safetensors.index.json and "
                         "its files")
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{directory}: files named in model.safetensors.index.json are missing: {', '.join(missing)}")
    headers = {path: _read_header(path) for path in paths}
    if index is not None:
        absent = [name for name, file in index.items() if name not in headers[directory / pathlib.PurePath(file).name]]
        _raise_problems(directory, [f"missing: {name}, which the index places in {index[name]}" for name in absent])
    return headers


def _read_header(path) -> dict:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or not a whole safetensors file ({error}); fetch it again") from error


def _read_json(directory, name: str) -> dict:
    path = directory / name
    if not path.is_file():
        raise InputError(f"{directory}: no {name}; expected a checkpoint directory in Hugging Face's layout")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, expected an object")
    return value


def _raise_problems(directory, problems: list[str]) -> None:
    if problems:
        shown = problems[:40] + ([f"... and {len(problems) - 40} more"] if len(problems) > 40 else [])
        raise InputError(f"{directory}: the weights do not fit config.json:\n  " + "\n  ".join(shown))


def _write_tensors(directory, cfg, params, dtype) -> None:
    """Write every tensor, in shards with an index where one file would be too large."""
    expected = names.tensor_names(cfg)
    shapes = block_shapes(cfg) | parameter_shapes(cfg)
    shards, size = [[]], 0
    for canonical, (name, _) in expected.items():
        tensor_bytes = int(np.prod(shapes[name])) * dtype.itemsize
        if shards[-1] and size + tensor_bytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(canonical)
        size += tensor_bytes
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        single = len(shards) == 1
        file = "model.safetensors" if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(shard, file)
        tensors = {}
        for canonical in shard:
            name, layer = expected[canonical]
            array = np.asarray(params[name] if layer is None else params["blocks"][name][layer])
            tensors[canonical] = np.ascontiguousarray(names.to_file(name, array.astype(dtype)))
        # transformers refuses files that do not name their format.
        safetensors.numpy.save_file(tensors, directory / file, metadata={"format": "pt"})
    if len(shards) > 1:
        total = sum(int(np.prod(shapes[name])) * dtype.itemsize for name, _ in expected.values())
        files.write_json(directory / "model.safetensors.index.json",
                         {"metadata": {"total_size": total}, "weight_map": weight_map})


def _replace_directory(aside, path) -> None:
    """Rename `aside` to `path`; an older directory there is moved away first and then removed."""
    if not path.exists():
        os.rename(aside, path)
        return
    old = pathlib.Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
    os.rename(path, old / path.name)
    os.rename(aside, path)
    shutil.rmtree(old, ignore_errors=True)
