"""A GPT-2 sequence classifier as pure functions: the shape of the harmlessness reward model.

Parameters are a dict of float32 arrays, blocks stacked [L, ...]; rows are padded on the right.
"""

import dataclasses
import functools
import json
import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from latent_audit.errors import InputError
from latent_audit.models.config import Params
from latent_audit.models.ops import ACTIVATIONS, MASKED_SCORE

ARCHITECTURE = "GPT2ForSequenceClassification"
_ACTIVATION_NAMES = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "silu": "silu"}
# What transformers' GPT2Config fills in for a field that config.json leaves out.
_DEFAULTS = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
}
# Switches away from GPT-2's own arithmetic, with the values that keep it.
_FIXED = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
# Ours -> theirs inside "transformer.h.{i}."; Conv1D stores its matrices [in, out], the order used here.
_BLOCK_TENSORS = {
    "attention_norm": "ln_1.weight",
    "attention_norm_bias": "ln_1.bias",
    "qkv": "attn.c_attn.weight",
    "qkv_bias": "attn.c_attn.bias",
    "output": "attn.c_proj.weight",
    "output_bias": "attn.c_proj.bias",
    "mlp_norm": "ln_2.weight",
    "mlp_norm_bias": "ln_2.bias",
    "up": "mlp.c_fc.weight",
    "up_bias": "mlp.c_fc.bias",
    "down": "mlp.c_proj.weight",
    "down_bias": "mlp.c_proj.bias",
}
_TOP_TENSORS = {
    "embed": "transformer.wte.weight",
    "positions": "transformer.wpe.weight",
    "final_norm": "transformer.ln_f.weight",
    "final_norm_bias": "transformer.ln_f.bias",
    "score": "score.weight",
}
# Causal masks that old versions of transformers saved among the weights.
_IGNORED = (".attn.bias", ".attn.masked_bias")
_FILE_DTYPES = ("F32", "F16", "BF16")


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """Static sizes; hashable, so that it can be a static argument of jit.

    Attributes:
      vocab_size, num_layers, embed_dim, num_heads, mlp_dim: V, L, D, N, F.
      max_positions: the longest row; norm_eps: inside every layer norm; activation: a key of ops.ACTIVATIONS.
    """

    vocab_size: int
    max_positions: int
    num_layers: int
    embed_dim: int
    num_heads: int
    mlp_dim: int
    norm_eps: float
    activation: str


def read_config(path: str | pathlib.Path) -> GPT2Config:
    """The sizes in a checkpoint directory's config.json; InputError if it is not a GPT-2 sequence classifier's."""
    path = pathlib.Path(path)
    if not (path / "config.json").is_file():
        raise InputError(f"{path}: no config.json; expected the directory of a {ARCHITECTURE} checkpoint")
    try:
        given = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}/config.json is not readable JSON: {error}") from error
    if not isinstance(given, dict) or given.get("architectures") != [ARCHITECTURE]:
        found = given.get("architectures") if isinstance(given, dict) else given
        raise InputError(f"{path}/config.json: architectures = {found!r}, expected [{ARCHITECTURE!r}]")
    for field, value in _FIXED.items():
        if given.get(field, value) != value:
            raise InputError(f"{path}/config.json: {field} = {given[field]!r} is not supported, expected {value!r}")
    fields: dict[str, Any] = _DEFAULTS | given
    activation = fields["activation_function"]
    if activation not in _ACTIVATION_NAMES:
        raise InputError(
            f"{path}/config.json: activation_function = {activation!r}, expected one of {', '.join(_ACTIVATION_NAMES)}"
        )
    if fields["n_inner"] is None:
        fields["n_inner"] = 4 * fields["n_embd"]
    for field in ("vocab_size", "n_positions", "n_layer", "n_embd", "n_head", "n_inner"):
        if isinstance(fields[field], bool) or not isinstance(fields[field], int) or fields[field] < 1:
            raise InputError(f"{path}/config.json: {field} = {fields[field]!r}, expected a positive integer")
    if fields["n_embd"] % fields["n_head"]:
        raise InputError(
            f"{path}/config.json: n_embd = {fields['n_embd']} is not a multiple of n_head = {fields['n_head']}"
        )
    return GPT2Config(
        fields["vocab_size"],
        fields["n_positions"],
        fields["n_layer"],
        fields["n_embd"],
        fields["n_head"],
        fields["n_inner"],
        float(fields["layer_norm_epsilon"]),
        _ACTIVATION_NAMES[activation],
    )


def check(path: str | pathlib.Path) -> tuple[GPT2Config, int]:
    """Validate a checkpoint from config.json and file headers alone; returns (config, number of labels).

    Raises InputError: see read_config; no safetensors file, or only pickles; and, all named at once, tensors that are
    missing, unknown, of the wrong shape or of an unsupported dtype.
    """
    cfg = read_config(path)
    headers = _read_header(_weight_file(path))
    label_shape = headers.get(_TOP_TENSORS["score"], ((1, cfg.embed_dim), ""))[0]
    expected = _tensor_shapes(cfg, num_labels=label_shape[0])
    problems = [f"missing: {name}" for name in expected if name not in headers]
    for name, (shape, dtype) in headers.items():
        if name not in expected:
            problems.append(f"unknown: {name} {list(shape)}")
        elif shape != expected[name]:
            problems.append(f"wrong shape: {name} is {list(shape)}, expected {list(expected[name])}")
        elif dtype not in _FILE_DTYPES:
            problems.append(f"wrong dtype: {name} is {dtype}, expected one of {', '.join(_FILE_DTYPES)}")
    if problems:
        shown = problems[:40] + ([f"... and {len(problems) - 40} more"] if len(problems) > 40 else [])
        raise InputError(f"{path}: the weights do not fit config.json:\n  " + "\n  ".join(shown))
    return cfg, label_shape[0]


def load(path: str | pathlib.Path) -> tuple[GPT2Config, dict]:
    """Read a checkpoint directory as (config, float32 parameters); InputError as for check, and for NaN or infinity."""
    cfg, _ = check(path)
    with safetensors.safe_open(_weight_file(path), framework="numpy") as file:

        def read(name: str) -> np.ndarray:
            array = file.get_tensor(name).astype(np.float32)
            if not np.isfinite(array).all():
                raise InputError(f"{path}: NaN or infinite values in {name}")
            return array

        params: Params = {ours: jnp.asarray(read(theirs)) for ours, theirs in _TOP_TENSORS.items()}
        params["blocks"] = {
            ours: jnp.asarray(np.stack([read(f"transformer.h.{i}.{theirs}") for i in range(cfg.num_layers)]))
            for ours, theirs in _BLOCK_TENSORS.items()
        }
    return cfg, params


@functools.partial(jax.jit, static_argnames="cfg")
def classify(params: Params, tokens: jax.Array, mask: jax.Array, *, cfg: GPT2Config) -> jax.Array:
    """Logits at each row's last real token.

    Args:
      tokens: int32 [B, T] with T <= cfg.max_positions, padded on the right; mask: bool [B, T], False on padding, at
        least one True in each row.
    Returns:
      float32 [B, labels]. transformers finds the last token by comparing with pad_token_id instead; the two agree
      unless a text itself ends with that token.
    """
    # A reward's differences are what is measured: full precision also where a fast product is the default.
    with jax.default_matmul_precision("highest"):
        T = tokens.shape[1]
        causal = jnp.tril(jnp.ones((T, T), bool))  # Padding comes after every real token, so this hides it too.
        x = params["embed"][tokens] + params["positions"][:T]
        x, _ = jax.lax.scan(lambda x, layer: (_block(x, layer, causal, cfg), None), x, params["blocks"])
        last = jnp.sum(mask, axis=1) - 1
        x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        return _layer_norm(x, params["final_norm"], params["final_norm_bias"], cfg.norm_eps) @ params["score"].T


def _block(x: jax.Array, layer: Params, causal: jax.Array, cfg: GPT2Config) -> jax.Array:
    """One pre-norm block; x: [B, T, D]."""
    B, T, D = x.shape
    H = D // cfg.num_heads
    normed = _layer_norm(x, layer["attention_norm"], layer["attention_norm_bias"], cfg.norm_eps)
    query, key, value = jnp.split((normed @ layer["qkv"] + layer["qkv_bias"]).reshape(B, T, -1, H), 3, axis=2)
    scores = jnp.einsum("btnh,bsnh->bnts", query, key) / math.sqrt(H)
    weights = jax.nn.softmax(jnp.where(causal, scores, MASKED_SCORE), axis=-1)
    attended = jnp.einsum("bnts,bsnh->btnh", weights, value).reshape(B, T, D)
    x = x + attended @ layer["output"] + layer["output_bias"]
    normed = _layer_norm(x, layer["mlp_norm"], layer["mlp_norm_bias"], cfg.norm_eps)
    inner = ACTIVATIONS[cfg.activation](normed @ layer["up"] + layer["up_bias"])
    return x + inner @ layer["down"] + layer["down_bias"]


def _layer_norm(x: jax.Array, weight: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + eps) * weight + bias


def _tensor_shapes(cfg: GPT2Config, num_labels: int) -> dict[str, tuple[int, ...]]:
    """Name in the file -> shape, of every tensor."""
    D, F = cfg.embed_dim, cfg.mlp_dim
    block: dict[str, tuple[int, ...]] = {
        "qkv": (D, 3 * D),
        "qkv_bias": (3 * D,),
        "output": (D, D),
        "up": (D, F),
        "up_bias": (F,),
        "down": (F, D),
    }
    top: dict[str, tuple[int, ...]] = {
        "embed": (cfg.vocab_size, D),
        "positions": (cfg.max_positions, D),
        "score": (num_labels, D),
    }
    shapes = {theirs: top.get(ours, (D,)) for ours, theirs in _TOP_TENSORS.items()}
    for i in range(cfg.num_layers):
        shapes |= {f"transformer.h.{i}.{theirs}": block.get(ours, (D,)) for ours, theirs in _BLOCK_TENSORS.items()}
    return shapes


def _weight_file(path: str | pathlib.Path) -> pathlib.Path:
    path = pathlib.Path(path)
    file = path / "model.safetensors"
    if file.is_file():
        return file
    pickles = sorted(item.name for suffix in ("*.bin", "*.pt", "*.pth") for item in path.glob(suffix))
    if pickles:
        raise InputError(
            f"{path} holds its weights only as pickles ({', '.join(pickles[:3])}), which run code when "
            "opened; expected model.safetensors: load and save the model once with transformers in a "
            "place where you trust the file"
        )
    raise InputError(f"{path}: no weights; expected model.safetensors")


def _read_header(file: pathlib.Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Tensor name -> (shape, dtype), without the ones that are knowingly left out."""
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys() if not name.endswith(_IGNORED)}
            return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{file} is damaged or not a whole safetensors file ({error}); fetch it again") from error
