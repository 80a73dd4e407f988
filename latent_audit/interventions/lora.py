"""Low-rank adapters of a decoder's matrices, W + alpha / rank * A B, as pure functions.

docs/method.md section 5. Adapters are a tree {name: {"a": [L, *inputs, R], "b": [L, R, *outputs]}} beside the
parameters, L the layers that have the matrix, R the rank; names and axes are those of models.config.block_shapes.
Embedding, head, routers and experts' matrices are not adapted.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.errors import InputError
from latent_audit.models import ModelConfig
from latent_audit.models.config import block_shapes, distinct_kinds, layers_with
from latent_audit.models.names import ADAPTED, INPUT_AXES, block_tensors


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """rank; alpha: the product is scaled by alpha / rank; targets: regular expressions, each for whole names."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ("query", "value")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def check_lora(lora: LoraConfig, cfg: ModelConfig) -> tuple[str, ...]:
    """The names that `lora` adapts, in the order of the model's own; InputError for a bad rank, alpha or target."""
    if isinstance(lora.rank, bool) or not isinstance(lora.rank, int) or not 1 <= lora.rank <= cfg.embed_dim:
        raise InputError(f"LoRA rank = {lora.rank!r}, expected a whole number from 1 to the width, {cfg.embed_dim}")
    if not 0 < lora.alpha < float("inf"):
        raise InputError(f"LoRA alpha = {lora.alpha!r}, expected a number above 0")
    names = [name for name in block_shapes(cfg) if name in ADAPTED]
    found = set()
    for target in lora.targets:
        try:
            matched = [name for name in names if re.fullmatch(target, name)]
        except re.error as error:
            raise InputError(f"LoRA target {target!r} is no regular expression: {error}") from error
        if not matched:
            raise InputError(f"LoRA target {target!r} matches no matrix of this model; there are {', '.join(names)}")
        found.update(matched)
    if not found:
        raise InputError(f"LoRA targets are empty; there are {', '.join(names)}")
    return tuple(name for name in names if name in found)


def init_adapters(key, cfg: ModelConfig, lora: LoraConfig) -> dict:
    """Fresh float32 adapters: A normal with variance 1 / inputs, B zero, so that training starts at the model itself.

    Raises InputError as check_lora does.
    """
    adapters, shapes, layers = {}, block_shapes(cfg), layers_with(cfg)
    for index, name in enumerate(check_lora(lora, cfg)):
        inputs, outputs = shapes[name][: INPUT_AXES[name]], shapes[name][INPUT_AXES[name] :]
        normal = jax.random.normal(jax.random.fold_in(key, index), (len(layers[name]), *inputs, lora.rank))
        b = jnp.zeros((len(layers[name]), lora.rank, *outputs))
        adapters[name] = {"a": normal * np.prod(inputs) ** -0.5, "b": b}
    return adapters


def merge_layer(block: dict, adapters: dict, *, scale: float) -> dict:
    """Parameters with the adapters' products added, in float32 and rounded once to the parameters' dtype.

    Args:
      block: one block's parameters, or all L stacked; adapters: accordingly.
    """
    return block | {name: _add(block[name], INPUT_AXES[name], scale, **pair) for name, pair in adapters.items()}


def merge(params: dict, adapters: dict, *, scale: float) -> dict:
    """The parameters of the adapted model; `params` are left as they are."""
    return params | {"blocks": merge_layer(params["blocks"], adapters, scale=scale)}


def _add(weight, input_axes: int, scale: float, *, a, b):
    stacked = a.shape[: a.ndim - 1 - input_axes]
    rank = a.shape[-1]
    product = a.reshape(*stacked, -1, rank) @ b.reshape(*stacked, rank, -1)
    return (weight.astype(jnp.float32) + scale * product.reshape(weight.shape)).astype(weight.dtype)


def peft_files(cfg: ModelConfig, adapters: dict, lora: LoraConfig, *, base: str) -> tuple[dict, dict]:
    """The adapters as PEFT keeps them: (adapter_config.json's fields, adapter_model.safetensors' tensors).

    Matrices that a file holds in one tensor (Phi's qkv_proj) have one adapter there: their ranks add up, and each B
    reaches its own rows alone. rank_pattern and alpha_pattern say so, with the same scale.

    Args:
      base: the checkpoint they belong to, as a user would name it.
    Returns:
      lora_A.weight [R, inputs] and lora_B.weight [outputs, R] of every layer and target, float32.
    """
    tensors, modules, ranks = {}, [], {}
    by_kind = [part for kind in distinct_kinds(cfg) for part in block_tensors(cfg, kind).items()]
    for inside, parts in dict.fromkeys(by_kind):
        adapted = [part for part in parts if part in adapters]
        if not adapted:
            continue
        path = inside.removesuffix(".weight")
        modules.append(path.split(".")[-1])
        if len(adapted) > 1:
            ranks[modules[-1]] = lora.rank * len(adapted)
        for place, layer in enumerate(layers_with(cfg)[parts[0]]):
            a, b = _stacked(cfg, adapters, parts, place, lora.rank)
            prefix = f"base_model.model.model.layers.{layer}.{path}"
            tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"] = a, b
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "rank_pattern": ranks,
        "alpha_pattern": {module: lora.scale * rank for module, rank in ranks.items()},
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "target_modules": sorted(set(modules)),
        "inference_mode": True,
    }
    return config, tensors


def _stacked(cfg: ModelConfig, adapters: dict, parts: tuple[str, ...], layer: int, rank: int):
    """(A [R, inputs], B [outputs, R]) of a tensor that holds `parts` along its rows, R the sum of the adapted ranks."""
    shapes = block_shapes(cfg)
    heights = [int(np.prod(shapes[part][INPUT_AXES[part] :])) for part in parts]
    columns, rows = [], []
    for part, above, height in zip(parts, np.cumsum([0, *heights]), heights, strict=False):
        if part in adapters:
            a, b = (np.asarray(adapters[part][side][layer], np.float32) for side in "ab")
            columns.append(a.reshape(-1, rank).T)
            rows.append(np.pad(b.reshape(rank, -1).T, [(above, sum(heights) - above - height), (0, 0)]))
    return np.ascontiguousarray(np.concatenate(columns)), np.ascontiguousarray(np.concatenate(rows, axis=1))
