"""Tensor names and layouts of Hugging Face checkpoints <-> our parameters, as one table."""

import math
import re
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from latent_audit.models.config import (
    SHARED_KINDS,
    ModelConfig,
    block_shapes,
    kind_shapes,
    layers_with,
    parameter_shapes,
    plain_name,
)

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
    "layer_scale": "layer_scalar",
    "inputs_gate": "per_layer_input_gate.weight",
    "inputs_output": "per_layer_projection.weight",
    "post_inputs_norm": "post_per_layer_input_norm.weight",
    "router_scale": "router.scale",
    "router_expert_scale": "router.per_expert_scale",
    "post_dense_norm": "post_feedforward_layernorm_1.weight",
    "experts_norm": "pre_feedforward_layernorm_2.weight",
    "post_experts_norm": "post_feedforward_layernorm_2.weight",
    "sinks": "self_attn.sinks",
    "shared_router": "mlp.shared_expert_gate.weight",
    "shared_gate": "mlp.shared_expert.gate_proj.weight",
    "shared_up": "mlp.shared_expert.up_proj.weight",
    "shared_down": "mlp.shared_expert.down_proj.weight",
    "delta_mixed": "linear_attn.in_proj_qkv.weight",
    "delta_gate": "linear_attn.in_proj_z.weight",
    "delta_beta": "linear_attn.in_proj_b.weight",
    "delta_decay": "linear_attn.in_proj_a.weight",
    "delta_convolution": "linear_attn.conv1d.weight",
    "delta_rate": "linear_attn.A_log",
    "delta_rate_bias": "linear_attn.dt_bias",
    "delta_norm": "linear_attn.norm.weight",
    "delta_output": "linear_attn.out_proj.weight",
}
# With four norms around a block (Gemma 2, 3) the same words name another place.
POST_NORM_TENSORS = {
    "post_attention_norm": "post_attention_layernorm.weight",
    "mlp_norm": "pre_feedforward_layernorm.weight",
    "post_mlp_norm": "post_feedforward_layernorm.weight",
}
# Tensors that hold several of our matrices, one after the other along their rows, by family.
FUSED_TENSORS = {
    "phi3": {"self_attn.qkv_proj.weight": ("query", "key", "value"), "mlp.gate_up_proj.weight": ("gate", "up")},
    "granitemoehybrid": {
        "shared_mlp.input_linear.weight": ("gate", "up"),
        "shared_mlp.output_linear.weight": ("down",),
    },
}
TOP_TENSORS = {
    "embed": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
    "inputs_embed": "model.embed_tokens_per_layer.weight",
    "inputs_projection": "model.per_layer_model_projection.weight",
    "inputs_norm": "model.per_layer_projection_norm.weight",
}

_EACH_EXPERT: dict[str, tuple[str, ...]] = {
    "mlp.gate.weight": ("router",),
    "mlp.experts.{}.gate_proj.weight": ("expert_gate",),
    "mlp.experts.{}.up_proj.weight": ("expert_up",),
    "mlp.experts.{}.down_proj.weight": ("expert_down",),
}
_STACKED_EXPERTS: dict[str, tuple[str, ...]] = {
    "mlp.experts.gate_up_proj": ("expert_gate", "expert_up"),
    "mlp.experts.down_proj": ("expert_down",),
}
# Experts' matrices lie one by one in a file, {} being their number, or stacked. Family -> the ways in which its files
# have them, the first being the one that is written.
EXPERT_TENSORS: dict[str, tuple[dict[str, tuple[str, ...]], ...]] = {
    "qwen3_moe": (_EACH_EXPERT,),
    "qwen3_5_moe_text": ({"mlp.gate.weight": ("router",)} | _STACKED_EXPERTS, _EACH_EXPERT),
    "mixtral": (
        {
            "block_sparse_moe.gate.weight": ("router",),
            "block_sparse_moe.experts.{}.w1.weight": ("expert_gate",),
            "block_sparse_moe.experts.{}.w3.weight": ("expert_up",),
            "block_sparse_moe.experts.{}.w2.weight": ("expert_down",),
        },
    ),
    "gemma4_text": (
        {
            "router.proj.weight": ("router",),
            "experts.gate_up_proj": ("expert_gate", "expert_up"),
            "experts.down_proj": ("expert_down",),
        },
    ),
    "gpt_oss": (
        {
            "mlp.router.weight": ("router",),
            "mlp.router.bias": ("router_bias",),
            "mlp.experts.gate_up_proj_bias": ("expert_gate_bias", "expert_up_bias"),
            "mlp.experts.down_proj_bias": ("expert_down_bias",),
        }
        | _STACKED_EXPERTS,
    ),
}
# Families whose stacked experts lie as ours do, inputs first, gate and up by turns along the last axis.
_INTERLEAVED = ("gpt_oss",)

# The matrices of every block that adapters can change (experts' matrices and routers are left as they are).
ADAPTED = (
    *("query", "key", "value", "output", "gate", "up", "down"),
    *("delta_mixed", "delta_gate", "delta_beta", "delta_decay", "delta_output"),
    *("global_query", "global_key", "global_value", "global_output"),
    *("shared_router", "shared_gate", "shared_up", "shared_down"),
    *("wide_gate", "wide_up", "wide_down", "inputs_gate", "inputs_output"),
)
# How many leading axes a matrix of ours sums over, of one layer and one expert. torch's Linear keeps
# [outputs, inputs]: the transpose.
INPUT_AXES = dict.fromkeys((*ADAPTED, "router", "expert_gate", "expert_up", "expert_down", "head"), 1)
INPUT_AXES |= {"inputs_projection": 1}
INPUT_AXES |= {"output": 2, "delta_output": 2, "global_output": 2}

# The text tower of a multimodal checkpoint lies under model.language_model. or language_model.model.
_TEXT_TOWER = re.compile(r"^(?:model\.)?language_model\.(?:model\.)?")
# Rotary frequencies are computed here; old Llama files carry them.
_COMPUTED = re.compile(r"rotary_emb\.inv_freq$")
_KEY_VALUE = re.compile(r"^model\.layers\.(\d+)\.self_attn\.(?:k_proj|v_proj|k_norm|v_norm)\.")
# The parts of a checkpoint that see and hear, and those that guess several tokens ahead (mtp): only the text decoder
# is audited.
_NO_TEXT = re.compile(
    r"^(?:model\.)?(vision_tower|vision_model|visual|multi_modal_projector|embed_vision|audio_tower|embed_audio|mtp)\."
)


class FileTensor(NamedTuple):
    """What one tensor of a checkpoint holds.

    parts: our parameters; most tensors hold one. place: where in each of them: () of a parameter that is not stacked,
    else (its place in the stack,) or (that, expert). form: "rows", the parts lie one after the other along the rows;
    "stacked", so do those of each expert; "interleaved", they lie by turns along the last axis.
    """

    parts: tuple[str, ...]
    place: tuple[int, ...]
    form: str = "rows"


def block_tensors(cfg: ModelConfig, kind: str = "softmax") -> dict[str, tuple[str, ...]]:
    """Name inside "model.layers.{i}." of a layer of this kind -> our parameters that it holds."""
    single = BLOCK_TENSORS | (POST_NORM_TENSORS if cfg.post_norms else {})
    fused = FUSED_TENSORS.get(cfg.family, {})
    elsewhere = {
        part for table in (fused, *EXPERT_TENSORS.get(cfg.family, ())) for parts in table.values() for part in parts
    }
    return {single[plain_name(name)]: (name,) for name in kind_shapes(cfg, kind) if name not in elsewhere} | fused


def tensor_names(cfg: ModelConfig, held: Collection[str] = ()) -> dict[str, FileTensor]:
    """Every tensor a checkpoint of `cfg` holds, by its Hugging Face name.

    held: names that a checkpoint has; they decide where a family's files have their experts in several ways.
    """
    names = {TOP_TENSORS[name]: FileTensor((name,), ()) for name in parameter_shapes(cfg) if name != "blocks"}
    layers, of_experts = layers_with(cfg), _expert_tensors(cfg, held)
    for layer, kind in enumerate(cfg.kinds or ("softmax",) * cfg.num_layers):
        block = f"model.layers.{layer}."
        for inside, parts in block_tensors(cfg, kind).items():
            names[block + inside] = FileTensor(parts, (layers[parts[0]].index(layer),))
        for inside, parts in of_experts.items():
            places = [(layer, expert) for expert in range(cfg.num_experts)] if "{}" in inside else [(layer,)]
            form = _form(cfg, inside)
            names |= {block + inside.format(*place[1:]): FileTensor(parts, place, form) for place in places}
    return names


def _expert_tensors(cfg: ModelConfig, held: Collection[str]) -> dict[str, tuple[str, ...]]:
    ways = EXPERT_TENSORS[cfg.family] if cfg.num_experts else ({},)
    fits = (way for way in ways if {f"model.layers.0.{inside.format(0)}" for inside in way} <= {*held})
    return next(fits, ways[0])


def _form(cfg: ModelConfig, inside: str) -> str:
    if "{}" in inside or "experts." not in inside:
        return "rows"
    return "interleaved" if cfg.family in _INTERLEAVED else "stacked"


def file_shapes(cfg: ModelConfig, held: Collection[str] = ()) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of tensor_names(cfg, held)."""
    names = tensor_names(cfg, held)
    # One of each: what differs between layers and experts is the place.
    each = {(tensor.parts, tensor.form): _whole_shape(cfg, tensor) for tensor in names.values()}
    return {name: each[tensor.parts, tensor.form] for name, tensor in names.items()}


def _whole_shape(cfg: ModelConfig, tensor: FileTensor) -> tuple[int, ...]:
    of_parts = [file_shape(part, _piece_shape(cfg, tensor, part), tensor.form) for part in tensor.parts]
    axis = _axis(tensor, len(of_parts[0]))
    return (*of_parts[0][:axis], sum(shape[axis] for shape in of_parts), *of_parts[0][axis + 1 :])


def _axis(tensor: FileTensor, axes: int) -> int:
    """The axis of a file's tensor along which its parts lie."""
    return {"rows": 0, "stacked": 1, "interleaved": axes - 1}[tensor.form]


def _piece_shape(cfg: ModelConfig, tensor: FileTensor, part: str) -> tuple[int, ...]:
    """The shape of what a tensor holds of our parameter `part`, without the axes that the file does not stack."""
    shape = block_shapes(cfg)[part] if tensor.place else parameter_shapes(cfg)[part]
    return shape[max(len(tensor.place) - 1, 0) :]


def part_in(cfg: ModelConfig, tensor: FileTensor, part: str) -> tuple[slice, ...]:
    """Where in a file's tensor our parameter `part` lies: its index."""
    shapes = [file_shape(one, _piece_shape(cfg, tensor, one), tensor.form) for one in tensor.parts]
    number, axis = tensor.parts.index(part), _axis(tensor, len(shapes[0]))
    before = sum(shape[axis] for shape in shapes[:number])
    own = slice(before, before + shapes[number][axis])
    if tensor.form == "interleaved":
        own = slice(number, None, len(tensor.parts))
    return (*[slice(None)] * axis, own)


def is_unused(cfg: ModelConfig, name: str) -> bool:
    """Whether a tensor is of keys and values in a layer that reuses another's: published files hold some, unread."""
    found = _KEY_VALUE.match(name)
    layer = int(found[1]) if found and len(found[1]) < 10 else len(cfg.kinds)
    return layer < len(cfg.kinds) and cfg.kinds[layer] in SHARED_KINDS


def canonical_name(name: str) -> str | None:
    """The plain decoder's name of a tensor in a file, or None for one that is knowingly left out."""
    if _COMPUTED.search(name) or part_left_out(name):
        return None
    plain = _TEXT_TOWER.sub("", name)
    return name if plain == name else plain if plain.startswith("lm_head.") else f"model.{plain}"


def part_left_out(name: str) -> str | None:
    """The part of a multimodal checkpoint, such as "vision_tower", of a tensor that is not the text decoder's."""
    found = _NO_TEXT.match(name)
    return found and found[1]


def file_shape(name: str, shape: tuple[int, ...], form: str = "rows") -> tuple[int, ...]:
    """Shape in a checkpoint of one layer's (and expert's) parameter `name` of our `shape`; form: of FileTensor."""
    if form != "rows":
        return (shape[0], *shape[:0:-1]) if form == "stacked" else shape
    if name in INPUT_AXES:
        return math.prod(shape[INPUT_AXES[name] :]), math.prod(shape[: INPUT_AXES[name]])
    if name == "delta_convolution":
        return shape[0], 1, shape[1]
    if name in ("embed", "inputs_embed"):
        return shape[0], math.prod(shape[1:])
    return (math.prod(shape),)


def to_file(name: str, array: np.ndarray, form: str = "rows") -> np.ndarray:
    """One layer's (and expert's) parameter `name` in a checkpoint's layout; a view: writing into it fills `array`."""
    if form != "rows":
        return array.swapaxes(1, -1) if form == "stacked" else array
    if name not in INPUT_AXES:
        return array.reshape(file_shape(name, array.shape))
    return array.reshape(file_shape(name, array.shape)[::-1]).T
