"""Low-rank adapters as PEFT saves them, merged into their base while it is read: W + scale * B A in float32.

The format is PEFT's (github.com/huggingface/peft, docs: checkpoint format); what it holds is LoRA (arXiv 2106.09685),
with rsLoRA's scale (arXiv 2312.03732) where the adapter says so. A tied head keeps the base's embedding unless the
adapter says otherwise, as in the adapted model that was trained; the two are then two matrices.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import safetensors

from latent_audit.errors import InputError
from latent_audit.models import headers, names
from latent_audit.models.config import ModelConfig
from latent_audit.models.fields import MOST_CONFIG_BYTES, flag, shown
from latent_audit.user_files import read_json

CONFIG, WEIGHTS = headers.ADAPTER_FILES
# Fields that change nothing of what is merged, or that are read below; any other that is set is refused by name.
_KNOWN = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "lora_alpha", "lora_dropout", "bias", "use_rslora", "modules_to_save", "target_modules"),
    *("exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_config"),
    *("megatron_core", "runtime_config", "qalora_group_size", "ensure_weight_tying", "eva_config", "loftq_config"),
    # For layers that keep their matrices transposed; PEFT itself switches it off for those of these families.
    *("fan_in_fan_out", "init_lora_weights", "corda_config", "lora_ga_config", "unsloth_fixed", "parent_library"),
}
# Ways to begin that leave the base as it is; others subtract the start from it.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_DTYPES = ("F32", "BF16", "F16")
_PREFIX = "base_model.model."
_SIDES = {"lora_A.weight": "a", "lora_B.weight": "b", "lora_embedding_A": "a", "lora_embedding_B": "b"}
_EMBED, _HEAD = names.TOP_TENSORS["embed"], names.TOP_TENSORS["head"]

Place = tuple[pathlib.Path, str]


class Product(NamedTuple):
    """A matrix's addition: names of A and B in the file; scale; whether it is an embedding's, which is transposed."""

    file: pathlib.Path
    a: str
    b: str
    scale: float
    is_embedding: bool


def apply(
    directory: pathlib.Path, cfg: ModelConfig, tensors: dict[str, Place]
) -> tuple[ModelConfig, dict[str, Place], dict[str, Product]]:
    """An adapter laid over a checkpoint: (cfg, where each tensor lies now, canonical name -> what is added to it).

    Args:
      directory: with adapter_config.json and adapter_model.safetensors; cfg, tensors: the base's, see weights.check.
    Raises:
      InputError: no whole adapter there, another kind than LoRA, a feature that is not read; or, each once, tensors
        that do not fit the base or the adapter's own config.
    """
    config = read_config(directory)
    header = headers.read_header(directory / WEIGHTS)
    shapes = _shapes(cfg)
    matrices = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if len(shape) == 2}
    pairs, replaced, problems = _sort(header, shapes)
    problems += _check_targets(config, pairs, matrices)
    products = {}
    for module, pair in pairs.items():
        if module not in matrices or len(pair) < 2:
            continue
        rank, alpha = (
            _of_module(config, "rank_pattern", "r", module),
            _of_module(config, "alpha_pattern", "lora_alpha", module),
        )
        is_embedding = "lora_embedding_" in pair["a"]
        rows, columns = matrices[module]
        wanted = (
            {"a": (rank, rows), "b": (columns, rank)} if is_embedding else {"a": (rank, columns), "b": (rows, rank)}
        )
        for side, name in pair.items():
            if header[name][0] != wanted[side]:
                problems.append(f"{name} is {list(header[name][0])}, expected {list(wanted[side])}")
        scale = alpha / (rank**0.5 if config["use_rslora"] else rank)
        products[f"{module}.weight"] = Product(directory / WEIGHTS, pair["a"], pair["b"], scale, is_embedding)
    _raise(directory, config, problems)
    return _lay_over(directory, config, cfg, tensors, replaced, products)


def read_config(directory: pathlib.Path) -> dict:
    """The checked adapter_config.json of a directory, with PEFT's defaults filled in."""
    if not os.path.lexists(directory / CONFIG):
        raise InputError(f"{directory} has no {CONFIG}; expected a LoRA adapter as PEFT saves it")
    if not os.path.lexists(directory / WEIGHTS):
        pickled = os.path.lexists(directory / "adapter_model.bin")
        what = "adapter_model.bin, a pickle, which can run code when opened" if pickled else f"no {WEIGHTS}"
        raise InputError(f"{directory} has {what}; expected {WEIGHTS}: load it with PEFT and save_pretrained it")
    given = read_json("the adapter's config", directory / CONFIG, kind=dict, most=MOST_CONFIG_BYTES)
    where = f"{directory}: {CONFIG}"
    merge = "merge it into its base with PEFT (merge_and_unload) and give the merged model"
    if given.get("peft_type") != "LORA":
        raise InputError(f"{where}: peft_type = {shown(given.get('peft_type'))} is not read, only LORA is: {merge}")
    odd = [f"{key} = {shown(value)}" for key, value in given.items() if key not in _KNOWN and value]
    if odd:
        raise InputError(f"{where}: {headers.listed(odd)} is not read here: {merge}")
    if given.get("init_lora_weights", True) not in _STARTS:
        raise InputError(
            f"{where}: init_lora_weights = {shown(given['init_lora_weights'])} changes the base itself: convert it to "
            "a plain LoRA when saving (path_initial_model_for_weight_conversion), or " + merge
        )
    config = {"r": 8, "lora_alpha": 8, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}} | given
    for name in ("rank_pattern", "alpha_pattern"):
        config[name] = config[name] or {}
        if not isinstance(config[name], dict):
            raise InputError(f"{where}: {name} = {shown(config[name])}, expected an object")
    for name in ("r", "lora_alpha"):
        pattern = "rank_pattern" if name == "r" else "alpha_pattern"
        for value in (config[name], *config[pattern].values()):
            whole = isinstance(value, int) or (name == "lora_alpha" and isinstance(value, float))
            if isinstance(value, bool) or not whole or not 0 < value < 2**20:
                raise InputError(
                    f"{where}: {name} or {pattern} holds {shown(value)}, expected a number from 1 to {2**20}"
                )
    flag(config, "use_rslora", where=where)
    _check_patterns(config, where)
    return config


def _check_patterns(config: dict, where: str) -> None:
    """InputError for a regular expression that is none, or lists that hold anything but text."""
    targets = [config.get(name) or [] for name in ("target_modules", "exclude_modules", "modules_to_save")]
    flat = [
        one
        for given in targets
        for one in ([given] if isinstance(given, str) else given if isinstance(given, list) else [None])
    ]
    if not all(isinstance(one, str) for one in flat):
        raise InputError(
            f"{where}: target_modules = {shown(config.get('target_modules'))}, expected text or a list of text"
        )
    expressions = [given for given in targets[:2] if isinstance(given, str)]
    for expression in (*expressions, *config["rank_pattern"], *config["alpha_pattern"]):
        try:
            re.compile(expression)
        except re.error as error:
            raise InputError(f"{where}: {shown(expression)} is no regular expression: {error}") from error


def _shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name -> shape of every tensor of the base, a tied head among them."""
    found = names.file_shapes(cfg)
    return found | {_HEAD: found[_EMBED]}


def _sort(
    header: headers.Header, shapes: dict[str, tuple[int, ...]]
) -> tuple[dict[str, dict[str, str]], dict[str, tuple[str, bool]], list[str]]:
    """(module -> its A and B, canonical name -> (what replaces it, whether in the base itself), problems)."""
    pairs: dict[str, dict[str, str]] = {}
    replaced, problems = {}, []
    for name, (shape, kind) in header.items():
        plain = names.canonical_name(name.removeprefix(_PREFIX))
        if plain is None:
            continue
        if kind not in _DTYPES:
            problems.append(f"{name} is {kind}, expected one of {', '.join(_DTYPES)}")
        end = next((end for end in _SIDES if plain.endswith(f".{end}")), None)
        if end is not None:
            module = plain.removesuffix(f".{end}")
            pairs.setdefault(module, {})[_SIDES[end]] = name
            if len(shapes.get(f"{module}.weight", ())) != 2:
                problems.append(f"{name} {list(shape)} belongs to no matrix of the base")
            continue
        canonical = plain.replace(".base_layer.", ".")
        if canonical not in shapes:
            problems.append(f"{name} {list(shape)} belongs to nothing in the base")
        elif shape != shapes[canonical]:
            problems.append(f"{name} is {list(shape)}, expected {list(shapes[canonical])}")
        else:
            replaced[canonical] = (name, canonical != plain)
    problems += [f"{module} has only one of A and B" for module, pair in pairs.items() if len(pair) < 2]
    return pairs, replaced, problems


def _check_targets(config: dict, pairs: Iterable[str], matrices: Iterable[str]) -> list[str]:
    """What of the file the adapter's own config does not name, or names and lacks."""
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    if targets is None:
        return []
    layers = config.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers

    def is_target(module: str) -> bool:
        if _matches(excluded, module) or not (targets == "all-linear" or _matches(targets, module)):
            return False
        number = re.search(r"\.layers\.(\d+)\.", module)
        return layers is None or isinstance(targets, str) or (number is not None and int(number.group(1)) in layers)

    wanted = {module for module in matrices if is_target(module)}
    if targets == "all-linear":
        wanted -= {_EMBED.removesuffix(".weight"), _HEAD.removesuffix(".weight")}
    known = set(matrices)
    problems = [f"{module} is adapted, but {CONFIG} does not name it" for module in pairs if module in known - wanted]
    return problems + [f"{module} is named by {CONFIG}, but has no matrices" for module in sorted(wanted - set(pairs))]


def _matches(given: Any, module: str) -> bool:
    """PEFT's rule: an expression for the whole name, or a list of names or of their last parts."""
    if isinstance(given, str):
        return re.fullmatch(given, module) is not None
    return any(module == one or module.endswith(f".{one}") for one in given or ())


def _of_module(config: dict, pattern: str, default: str, module: str) -> Any:
    """PEFT's rule: the first expression that fits the end of a module's name, else the number for all."""
    fits = (value for key, value in config[pattern].items() if re.match(rf"(.*\.)?({key})$", module))
    return next(fits, config[default])


def _raise(directory: pathlib.Path, config: dict, problems: list[str]) -> None:
    """One short line: what is the same in every layer is said once."""
    each = {re.sub(r"\.layers\.\d+\.", ".layers.*.", problem.removeprefix(_PREFIX)): None for problem in problems}
    if each:
        made_for = shown(config.get("base_model_name_or_path"))
        raise InputError(
            f"{directory}: the adapter does not fit the base (it was made for {made_for}): {headers.listed(each)}; "
            "give the base it was trained on as model.path"
        )


def _lay_over(
    directory: pathlib.Path,
    config: dict,
    cfg: ModelConfig,
    tensors: dict[str, Place],
    replaced: dict[str, tuple[str, bool]],
    products: dict[str, Product],
) -> tuple[ModelConfig, dict[str, Place], dict[str, Product]]:
    tensors, untied = dict(tensors), dict(tensors)
    file = directory / WEIGHTS
    for canonical, (name, in_base) in replaced.items():
        tensors[canonical] = (file, name)
        if canonical == _EMBED and in_base:
            untied[_EMBED] = (file, name)
    touched = {_EMBED, _HEAD} & (replaced.keys() | products.keys())
    if not cfg.tied_head or not touched:
        return cfg, tensors, products
    if config.get("ensure_weight_tying") and touched == {_EMBED}:
        tensors.pop(_HEAD, None)
        return cfg, tensors, products
    if _HEAD not in replaced:
        tensors[_HEAD] = untied[_EMBED]
    return dataclasses.replace(cfg, tied_head=False), tensors, products


def rows_of(product: Product) -> Callable[[slice], np.ndarray]:
    """A function of a slice of a matrix's rows: what is added to them, float32."""
    with safetensors.safe_open(product.file, framework="numpy") as opened:
        a, b = (np.asarray(opened.get_tensor(name)).astype(np.float32) for name in (product.a, product.b))
    left, right = (a.T, b.T) if product.is_embedding else (b, a)
    scale = np.float32(product.scale)
    return lambda rows: (left[rows] @ right) * scale
