"""A GPT-2 sequence classifier as pure functions: the shape of the harmlessness reward model.

Parameters are a dict of float32 arrays, blocks stacked [L, ...]; rows are padded on the right.
"""

import dataclasses
import functools
import math
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from latent_audit.errors import InputError
from latent_audit.models import headers
from latent_audit.models.config import Params
from latent_audit.models.fields import MOST_CONFIG_BYTES, choice, number, shown
from latent_audit.models.ops import ACTIVATIONS, MASKED_SCORE
from latent_audit.models.values import check_values
from latent_audit.user_files import read_json

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
# GPT2Config's whole numbers -> config.json's.
_SIZES = {
    "vocab_size": "vocab_size",
    "max_positions": "n_positions",
    "num_layers": "n_layer",
    "embed_dim": "n_embd",
    "num_heads": "n_head",
    "mlp_dim": "n_inner",
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
    if not os.path.lexists(path / "config.json"):
        raise InputError(f"{path}: no config.json; expected the directory of a {ARCHITECTURE} checkpoint")
    given, where = (
        read_json("the reward model's config", path / "config.json", kind=dict, most=MOST_CONFIG_BYTES),
        f"{path}/config.json",
    )
    if given.get("architectures") != [ARCHITECTURE]:
        raise InputError(f"{where}: architectures = {shown(given.get('architectures'))}, expected [{ARCHITECTURE!r}]")
    for field, value in _FIXED.items():
        if given.get(field, value) != value:
            raise InputError(f"{where}: {field} = {shown(given[field])} is not supported, expected {value!r}")
    fields: dict[str, Any] = _DEFAULTS | given
    activation = choice(fields, "activation_function", _ACTIVATION_NAMES, where=where)
    width = number(fields, "n_embd", where=where)
    if fields["n_inner"] is None:
        fields["n_inner"] = 4 * width
    sizes = {ours: number(fields, theirs, where=where) for ours, theirs in _SIZES.items()}
    if width % sizes["num_heads"]:
        raise InputError(f"{where}: n_embd = {width} is not a multiple of n_head = {sizes['num_heads']}")
    epsilon = number(fields, "layer_norm_epsilon", where=where)
    return GPT2Config(**sizes, norm_eps=epsilon, activation=_ACTIVATION_NAMES[activation])


def check(path: str | pathlib.Path) -> tuple[GPT2Config, int]:
    """Validate a checkpoint from config.json and file headers alone; returns (config, number of labels).

    Raises InputError: see read_config; no safetensors file, or only pickles; and, all named at once, tensors that are
    missing, unknown, of the wrong shape or of an unsupported dtype.
    """
    cfg, path = read_config(path), pathlib.Path(path)
    held = _read_header(_weight_file(path))
    headers.compare_layers(f"{path}/config.json: n_layer", cfg.num_layers, held, "transformer.h.")
    num_labels = held.get(_TOP_TENSORS["score"], ((1, cfg.embed_dim), ""))[0][0]
    expected = _tensor_shapes(cfg, num_labels=num_labels)
    problems = [("missing", name) for name in expected if name not in held]
    for name, (shape, dtype) in held.items():
        if name not in expected:
            problems.append(("unknown", f"{name} {shown(list(shape))}"))
        elif shape != expected[name]:
            problems.append(("wrong shape", f"{name} is {shown(list(shape))}, expected {list(expected[name])}"))
        elif dtype not in _FILE_DTYPES:
            problems.append(("wrong dtype", f"{name} is {dtype}, expected one of {', '.join(_FILE_DTYPES)}"))
    headers.raise_problems(path, problems)
    return cfg, num_labels


def check_whole(path: str | pathlib.Path) -> tuple[GPT2Config, int]:
    """As check, and every value read: NaN and infinity are refused as well."""
    path = pathlib.Path(path)
    cfg, num_labels = check(path)
    file = _weight_file(path)
    check_values(path, [(file, name) for name in _tensor_shapes(cfg, num_labels=num_labels)])
    return cfg, num_labels


def load(path: str | pathlib.Path) -> tuple[GPT2Config, dict]:
    """Read a checkpoint directory as (config, float32 parameters); InputError as for check, and for NaN or infinity."""
    cfg, _ = check(path)
    with safetensors.safe_open(_weight_file(pathlib.Path(path)), framework="numpy") as file:

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


def _weight_file(path: pathlib.Path) -> pathlib.Path:
    headers.refuse_adapter(path)
    file = path / headers.WEIGHTS
    if not os.path.lexists(file):
        headers.refuse_pickles(path)
        raise InputError(f"{path}: no weights; expected {headers.WEIGHTS}")
    return file


def _read_header(file: pathlib.Path) -> headers.Header:
    """Tensor name -> (shape, dtype), without the ones that are knowingly left out."""
    return {name: entry for name, entry in headers.read_header(file).items() if not name.endswith(_IGNORED)}
