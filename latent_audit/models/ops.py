"""The decoder's arithmetic as plain functions of arrays: norms, rotary positions, attention, gated MLP."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.models.config import ModelConfig, Params, Rope

# Finite, so that a query that sees no key (a padding column) gives a mean of values instead of NaN.
MASKED_SCORE = -0.7 * float(np.finfo(np.float32).max)

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


def rms_norm(x: jax.Array, weight: jax.Array, *, eps: float, plus_one: bool, wide_product: bool = False) -> jax.Array:
    """x / rms(x) * weight over the axes of `weight`, the last ones; computed in float32 and returned in x's dtype.

    Families round at different places in low precision: with `plus_one` (Gemma) the product with (1 + weight), and
    with `wide_product` (OLMo) that with weight, is taken before the cast back, otherwise (Llama) after it.
    """
    axes = tuple(range(-weight.ndim, 0))
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=axes, keepdims=True) + eps)
    if plus_one or wide_product:
        return (wide * (float(plus_one) + weight.astype(jnp.float32))).astype(x.dtype)
    return weight * wide.astype(x.dtype)


def norm(x: jax.Array, weight: jax.Array, cfg: ModelConfig) -> jax.Array:
    """rms_norm as the family has it."""
    return rms_norm(x, weight, eps=cfg.norm_eps, plus_one=cfg.norm_plus_one, wide_product=cfg.norm_wide)


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
    """cap * tanh(x / cap), or x where cap is None."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def inverse_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Angular frequency of each rotated pair of dimensions; float32, half as many as dimensions are rotated."""
    head_dim = rope.head_dim or head_dim
    rotated = head_dim if rope.kind == "proportional" else int(head_dim * rope.rotated_share)
    inverse = 1.0 / rope.theta ** (np.arange(0, rotated, 2, dtype=np.float32) / rotated)
    if rope.kind == "none":
        inverse = np.zeros_like(inverse)
    elif rope.kind == "proportional":
        # All pairs are in the table, and the later ones stand still.
        inverse = np.where(np.arange(len(inverse)) < int(head_dim * rope.rotated_share) // 2, inverse / rope.factor, 0)
    elif rope.kind == "longrope":
        inverse = inverse / np.asarray(rope.short_factors, np.float32)
    elif rope.kind == "linear":
        inverse = inverse / rope.factor
    elif rope.kind == "llama3":
        wavelength = 2 * np.pi / inverse
        turns = rope.original_max_positions / wavelength
        # 0 where a wave turns too rarely within the original context (divide), 1 where often enough (keep).
        keep = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        keep = np.clip(keep, 0.0, 1.0)
        inverse = (1 - keep) * inverse / rope.factor + keep * inverse
    elif rope.kind == "yarn":
        keep = _yarn_kept(rope, rotated)
        inverse = (1 - keep) * inverse / rope.factor + keep * inverse
    elif rope.kind != "default":
        raise ValueError(f"unknown rope kind {rope.kind!r}")
    return inverse.astype(np.float32)


def _yarn_kept(rope: Rope, rotated: int) -> np.ndarray:
    """How much of each frequency is kept: 1 where a wave turns often within the original context, 0 where rarely."""

    def pair_that_turns(times: float) -> float:
        return rotated * math.log(rope.original_max_positions / (times * 2 * math.pi)) / (2 * math.log(rope.theta))

    first, last = pair_that_turns(rope.beta_fast), pair_that_turns(rope.beta_slow)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotated - 1)
    # A band of no width is a step, as in the published code.
    width = last - first if last != first else 1e-3
    return 1 - np.clip((np.arange(rotated // 2, dtype=np.float32) - first) / width, 0, 1)


def rotary_tables(ropes: tuple[Rope, ...], head_dim: int, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """cos and sin of every rope setting at `positions` int [B, T]: two float32 [R, B, T, pairs that are rotated].

    Settings for narrower heads than others fill the front of their tables.
    """
    each = [inverse_frequencies(rope, head_dim) for rope in ropes]
    widest = max(len(one) for one in each)
    inverse = jnp.asarray(np.stack([np.pad(one, (0, widest - len(one))) for one in each]))
    angles = positions[None, :, :, None].astype(jnp.float32) * inverse[:, None, None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    if any(rope.table_scale != 1 for rope in ropes):
        scale = jnp.asarray([rope.table_scale for rope in ropes], jnp.float32)[:, None, None, None]
        cos, sin = cos * scale, sin * scale
    return cos, sin


def query_gain(ropes: tuple[Rope, ...], positions: jax.Array) -> jax.Array | None:
    """The factor of the queries of every rope setting at `positions` int [B, T]: float32 [R, B, T], None if all are 1.

    Llama 4's rule, see config.Rope.query_beta.
    """
    if not any(rope.query_beta for rope in ropes):
        return None
    beta = jnp.asarray([rope.query_beta for rope in ropes], jnp.float32)[:, None, None]
    length = jnp.asarray([rope.original_max_positions for rope in ropes], jnp.int32)[:, None, None]
    return 1 + beta * jnp.log1p((positions // length).astype(jnp.float32))


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotate each head's front by cos, sin [B, T, pairs]: x [B, T, N, H], in float32, x's dtype back.

    The two halves of the front, 2 * pairs dimensions, make the pairs; what is behind it stays.
    """
    pairs = cos.shape[-1]
    wide = x.astype(jnp.float32)
    first, second, rest = wide[..., :pairs], wide[..., pairs : 2 * pairs], wide[..., 2 * pairs :]
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)
    return turned.astype(x.dtype)


def key_distance(query_positions: jax.Array, key_positions: jax.Array, key_mask: jax.Array) -> jax.Array:
    """How far back each key lies from each query; int32 [B, T, S], negative where the key must not be seen.

    Args:
      query_positions: int [B, T]; key_positions: int [B, S]; key_mask: bool [B, S], False on padding.
    """
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    return jnp.where(key_mask[:, None, :], distance, -1)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    distance: jax.Array,
    window: jax.Array | int,
    *,
    scale: float,
    cap: float | None,
    sinks: jax.Array | None = None,
) -> jax.Array:
    """Grouped-query attention, softmax in float32.

    Args:
      query: [B, N, T, H]; key, value: [B, K, S, H] with N a multiple of K: what one head reads lies in one piece.
      distance: int32 [B, T, S] of key_distance; window: int scalar, keys at 0 <= distance < window are seen.
      sinks: [N], a score of each head that is summed up beside those of the keys and has no value, or None.
    Returns:
      [B, T, N, H] in the query's dtype.
    """
    B, N, T, H = query.shape
    K, S = key.shape[1:3]
    # All queries that read one head's keys go together: both products are then plain ones of matrices.
    grouped = query.reshape(B, K, N // K * T, H)
    scores = jnp.einsum("bkqh,bksh->bkqs", grouped, key, preferred_element_type=jnp.float32) * scale
    scores = softcap(scores, cap).reshape(B, K, N // K, T, S)
    visible = (distance >= 0) & (distance < window)
    scores = jnp.where(visible[:, None, None], scores, MASKED_SCORE)
    weights = _softmax(scores, None if sinks is None else sinks.reshape(K, N // K, 1, 1)).astype(query.dtype)
    return jnp.einsum("bkqs,bksh->bkqh", weights.reshape(B, K, N // K * T, S), value).reshape(B, N, T, H).swapaxes(1, 2)


def _softmax(scores: jax.Array, sinks: jax.Array | None) -> jax.Array:
    """Softmax over the last axis; sinks [K, G, 1, 1], or None: one more score, whose share is left out."""
    if sinks is None:
        return jax.nn.softmax(scores, axis=-1)
    sinks = sinks.astype(scores.dtype)
    largest = jax.lax.stop_gradient(jnp.maximum(scores.max(axis=-1, keepdims=True), sinks))
    powers = jnp.exp(scores - largest)
    return powers / (powers.sum(axis=-1, keepdims=True) + jnp.exp(sinks - largest))


def gated_mlp(x: jax.Array, layer: Params, *, activation: str) -> jax.Array:
    """down(act(gate(x)) * up(x)) with optional biases; x: [B, T, D]."""
    gate = _dense(x, layer["gate"], layer.get("gate_bias"))
    up = _dense(x, layer["up"], layer.get("up_bias"))
    return _dense(ACTIVATIONS[activation](gate) * up, layer["down"], layer.get("down_bias"))


def _dense(x: jax.Array, weight: jax.Array, bias: jax.Array | None) -> jax.Array:
    # As one matrix of rows: with rows along two axes, the weight's gradient copies what it multiplies across first.
    rows = x.reshape(-1, x.shape[-1])
    product = (rows @ weight).reshape(*x.shape[:-1], weight.shape[-1])
    return product if bias is None else product + bias
