"""Tensor names and layouts of Hugging Face checkpoints <-> our parameters, as one table."""

import math
import re

import numpy as np

from latent_audit.models.config import ModelConfig, block_shapes, parameter_shapes

# Ours -> theirs, inside "model.layers.{i}.".
BLOCK_TENSORS = {
    "attention_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "query": "self_attn.q_proj.weight",
    "query_bias": "self_attn.q_proj.bias",
    "key": "self_attn.k_proj.weight",
    "key_bias": "self_attn.k_proj.bias",
    "value": "self_attn.v_proj.weight",
    "value_bias": "self_attn.v_proj.bias",
    "query_norm": "self_attn.q_norm.weight",
    "key_norm": "self_attn.k_norm.weight",
    "output": "self_attn.o_proj.weight",
    "output_bias": "self_attn.o_proj.bias",
    "gate": "mlp.gate_proj.weight",
    "gate_bias": "mlp.gate_proj.bias",
    "up": "mlp.up_proj.weight",
    "up_bias": "mlp.up_proj.bias",
    "down": "mlp.down_proj.weight",
    "down_bias": "mlp.down_proj.bias",
}
# With four norms around a block (Gemma 2, 3) the same words name another place.
POST_NORM_TENSORS = {
    "post_attention_norm": "post_attention_layernorm.weight",
    "mlp_norm": "pre_feedforward_layernorm.weight",
    "post_mlp_norm": "post_feedforward_layernorm.weight",
}
TOP_TENSORS = {"embed": "model.embed_tokens.weight", "final_norm": "model.norm.weight", "head": "lm_head.weight"}

# How many leading axes a matrix of ours sums over. torch's Linear keeps [outputs, inputs]: the transpose.
INPUT_AXES = {"query": 1, "key": 1, "value": 1, "output": 2, "gate": 1, "up": 1, "down": 1, "head": 1}

# The text tower of a multimodal checkpoint lies under model.language_model. or language_model.model.
_TEXT_TOWER = re.compile(r"^(?:model\.)?language_model\.(?:model\.)?")
# Rotary frequencies are computed here (old Llama files carry them); images are not audited.
_IGNORED = re.compile(r"rotary_emb\.inv_freq$|^(?:model\.)?(?:vision_tower|multi_modal_projector)\.")


def tensor_names(cfg: ModelConfig) -> dict[str, tuple[str, int | None]]:
    """Every tensor a checkpoint of `cfg` holds: Hugging Face name -> (our name, layer or None)."""
    inside = BLOCK_TENSORS | (POST_NORM_TENSORS if cfg.post_norms else {})
    shapes = parameter_shapes(cfg)
    names: dict[str, tuple[str, int | None]] = {TOP_TENSORS[name]: (name, None) for name in shapes if name != "blocks"}
    for layer in range(cfg.num_layers):
        names |= {f"model.layers.{layer}.{inside[name]}": (name, layer) for name in shapes["blocks"]}
    return names


def file_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of tensor_names(cfg)."""
    shapes = parameter_shapes(cfg) | block_shapes(cfg)
    return {canonical: file_shape(name, shapes[name]) for canonical, (name, _) in tensor_names(cfg).items()}


def canonical_name(name: str) -> str | None:
    """The plain decoder's name of a tensor in a file, or None for one that is knowingly left out."""
    if _IGNORED.search(name):
        return None
    plain = _TEXT_TOWER.sub("", name)
    return name if plain == name else plain if plain.startswith("lm_head.") else f"model.{plain}"


def file_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape in a checkpoint of one layer's parameter `name` of our `shape`."""
    if name in INPUT_AXES:
        return math.prod(shape[INPUT_AXES[name] :]), math.prod(shape[: INPUT_AXES[name]])
    return shape if name == "embed" else (math.prod(shape),)


def to_file(name: str, array: np.ndarray) -> np.ndarray:
    """One layer's parameter `name` in a checkpoint's layout; a view, so writing into it fills `array`."""
    if name not in INPUT_AXES:
        return array.reshape(file_shape(name, array.shape))
    return array.reshape(file_shape(name, array.shape)[::-1]).T
