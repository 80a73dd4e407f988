"""The gated delta rule (Qwen 3.5's linear attention; arXiv 2412.06464) as pure functions of arrays.

Each head keeps a matrix S [key_dim, value_dim], which maps keys to values. A token fades it, S <- exp(decay) S, and
writes the part of its value that S does not answer to its key already, S <- S + beta k (v - S^T k)^T; its output is
S^T q. Queries, keys and values come from a causal convolution over the few columns before.

Rows are left-padded, and a packed row holds several texts one behind the other: `starts` int32 [B, T] is the column at
which the text of each column begins. Nothing is read across it, so padding leaves no trace.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from latent_audit.models.config import DeltaRule, ModelConfig, Params

# Columns that are worked out at once; all between two of these are products of matrices.
CHUNK = 64
# transformers' constant inside the root of the L2 norm of queries and keys.
_NORM_EPS = 1e-6


class Memory(NamedTuple):
    """What a layer remembers of the columns behind it.

    columns: [B, kernel - 1, channels], the last inputs of the convolution, zero where there were none.
    matrices: float32 [B, value_heads, key_dim, value_dim].
    """

    columns: jax.Array
    matrices: jax.Array


class Columns(NamedTuple):
    """What the rule reads.

    query, key: float32 [B, T, N, key_dim]; value: float32 [B, T, N, value_dim]; decay, beta: float32 [B, T, N], decay
    at most 0, the logarithm of what is left of the matrix; starts: int32 [B, T], see the module docstring.
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array
    decay: jax.Array
    beta: jax.Array
    starts: jax.Array


def empty_memory(rows: int, sizes: DeltaRule, dtype: DTypeLike) -> Memory:
    """What is remembered before the first column."""
    return Memory(
        jnp.zeros((rows, sizes.kernel - 1, sizes.channels), dtype),
        jnp.zeros((rows, sizes.value_heads, sizes.key_dim, sizes.value_dim), jnp.float32),
    )


def mix(
    layer: Params, x: jax.Array, starts: jax.Array, memory: Memory, *, cfg: ModelConfig, first_query: int = 0
) -> tuple[jax.Array, Memory]:
    """What one layer adds to its columns, and its memory behind them.

    Args:
      layer: its parameters; x: [B, T, D], normed; starts: int32 [B, T], counted from x's first column, negative where
        the text begins within `memory`.
      first_query: static; columns before it are left out of the output [B, T - first_query, D].
    """
    sizes = cfg.delta_rule
    assert sizes is not None
    real = (starts <= jnp.arange(x.shape[1]))[..., None]
    mixed = jnp.where(real, x @ layer["delta_mixed"], 0)
    columns = jnp.concatenate([memory.columns.astype(mixed.dtype), mixed], axis=1)
    query, key, value = _heads(jax.nn.silu(_convolve(columns, layer["delta_convolution"], starts)), sizes)
    beta = jax.nn.sigmoid(x @ layer["delta_beta"]).astype(jnp.float32)
    step = (x @ layer["delta_decay"]).astype(jnp.float32) + layer["delta_rate_bias"].astype(jnp.float32)
    decay = -jnp.exp(layer["delta_rate"].astype(jnp.float32)) * jax.nn.softplus(step)
    rule = recurrent if x.shape[1] == 1 else chunked
    out, matrices = rule(Columns(query, key, value, decay, beta, starts), memory.matrices)
    out = out[:, first_query:].astype(x.dtype)
    gate = jnp.einsum("btd,dnh->btnh", x[:, first_query:], layer["delta_gate"])
    out = _gated_norm(out, gate, layer["delta_norm"], eps=cfg.norm_eps)
    kept = columns[:, columns.shape[1] - (sizes.kernel - 1) :]
    # The next column reads nothing before the text that it continues.
    of_text = jnp.arange(1 - sizes.kernel, 0) + x.shape[1] >= starts[:, -1:]
    kept = jnp.where(of_text[..., None], kept, 0).astype(memory.columns.dtype)
    return jnp.einsum("btnh,nhd->btd", out, layer["delta_output"]), Memory(kept, matrices)


def recurrent(columns: Columns, matrices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The rule column by column, as it is written down.

    Args:
      matrices: float32 [B, N, key_dim, value_dim], what is remembered before the first column.
    Returns:
      (output float32 [B, T, N, value_dim], matrices after the last column).
    """

    def step(matrices: jax.Array, column: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
        query, key, value, decay, beta, continues = column
        matrices = matrices * (jnp.exp(decay) * continues[:, None])[..., None, None]
        new = (value - jnp.einsum("bnkv,bnk->bnv", matrices, key)) * beta[..., None]
        matrices = matrices + key[..., None] * new[..., None, :]
        return matrices, jnp.einsum("bnkv,bnk->bnv", matrices, query)

    continues = (columns.starts < jnp.arange(columns.starts.shape[1])).astype(jnp.float32)
    by_column = [jnp.moveaxis(array, 1, 0) for array in (*columns[:-1], continues)]
    matrices, out = jax.lax.scan(step, matrices, by_column)
    return jnp.moveaxis(out, 0, 1), matrices


def chunked(columns: Columns, matrices: jax.Array, *, chunk: int = CHUNK) -> tuple[jax.Array, jax.Array]:
    """The rule in chunks of columns, arguments and results as of recurrent.

    Within a chunk the corrections of all columns solve one unit lower triangular system (the WY form of a product of
    Householder-like factors; arXiv 2412.06464, section 3.3), so that only one matrix per chunk is kept for a backward
    pass, not one per column.
    """
    T = columns.starts.shape[1]
    chunk = min(chunk, T)
    behind = -T % chunk
    arrays = [jnp.pad(a, [(0, 0), (0, behind)] + [(0, 0)] * (a.ndim - 2)) for a in columns[:-1]]
    starts = jnp.pad(columns.starts, [(0, 0), (0, behind)], mode="edge")
    count = (T + behind) // chunk
    # [chunks, B, N, columns of a chunk, ...]
    cut = [jnp.moveaxis(a.reshape(a.shape[0], count, chunk, *a.shape[2:]), (1, 3), (0, 2)) for a in arrays]
    starts = jnp.moveaxis(starts.reshape(-1, count, chunk), 1, 0)
    later = jnp.arange(chunk)[:, None] - jnp.arange(chunk)[None]
    # These decide what is remembered: never in an accelerator's reduced float32.
    einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

    def step(matrices: jax.Array, taken: tuple) -> tuple[jax.Array, jax.Array]:
        (query, key, value, decay, beta), starts, begin = taken
        # Sums of what lies between two columns: differences of running totals would cancel where much is forgotten.
        between = jnp.cumsum(jnp.where(later > 0, decay[..., :, None], 0.0), axis=-2)
        seen = (later >= 0) & (begin + jnp.arange(chunk) >= starts[:, :, None])[:, None]
        fade = jnp.where(seen, jnp.exp(between), 0.0)
        carried = jnp.exp(jnp.cumsum(decay, axis=-1)) * (starts < begin)[:, None]
        system = jnp.where(later > 0, einsum("bnik,bnjk->bnij", beta[..., None] * key, key) * fade, 0.0)
        known = beta[..., None] * (value - carried[..., None] * einsum("bnik,bnkv->bniv", key, matrices))
        new = jax.scipy.linalg.solve_triangular(system + jnp.eye(chunk), known, lower=True, unit_diagonal=True)
        out = carried[..., None] * einsum("bnik,bnkv->bniv", query, matrices)
        out = out + einsum("bnij,bnjv->bniv", einsum("bnik,bnjk->bnij", query, key) * fade, new)
        matrices = carried[..., -1, None, None] * matrices
        return matrices + einsum("bnj,bnjk,bnjv->bnkv", fade[..., -1, :], key, new), out

    matrices, out = jax.lax.scan(step, matrices, (cut, starts, chunk * jnp.arange(count)))
    # [chunks, B, N, columns, value_dim] -> [B, T, N, value_dim]
    out = jnp.moveaxis(out, (0, 2), (1, 3))
    return out.reshape(out.shape[0], -1, *out.shape[3:])[:, :T], matrices


def _convolve(columns: jax.Array, weight: jax.Array, starts: jax.Array) -> jax.Array:
    """Causal convolution of each channel: columns [B, kernel - 1 + T, C], weight [C, kernel]; [B, T, C]."""
    T, kernel = starts.shape[1], weight.shape[1]
    total = jnp.zeros((), jnp.float32)
    for back in range(kernel):
        reached = columns[:, kernel - 1 - back : kernel - 1 - back + T].astype(jnp.float32)
        of_text = (jnp.arange(T) - back >= starts)[..., None]
        total = total + jnp.where(of_text, reached, 0.0) * weight[:, kernel - 1 - back].astype(jnp.float32)
    return total.astype(columns.dtype)


def _heads(mixed: jax.Array, sizes: DeltaRule) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(query, key, value) of the rule, float32, from the convolution's output [B, T, channels]."""
    B, T, _ = mixed.shape
    wide, keys = mixed.astype(jnp.float32), sizes.key_heads * sizes.key_dim
    query, key = (
        part.reshape(B, T, sizes.key_heads, sizes.key_dim) for part in (wide[..., :keys], wide[..., keys : 2 * keys])
    )
    value = wide[..., 2 * keys :].reshape(B, T, sizes.value_heads, sizes.value_dim)
    query, key = (part * jax.lax.rsqrt(jnp.square(part).sum(-1, keepdims=True) + _NORM_EPS) for part in (query, key))
    # A head of queries and keys serves several heads of values, side by side.
    each = sizes.value_heads // sizes.key_heads
    return jnp.repeat(query * sizes.key_dim**-0.5, each, axis=2), jnp.repeat(key, each, axis=2), value


def _gated_norm(x: jax.Array, gate: jax.Array, weight: jax.Array, *, eps: float) -> jax.Array:
    """weight * x / rms(x), then silu(gate), each rounded to x's dtype where transformers rounds it."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return ((weight * wide.astype(x.dtype)) * jax.nn.silu(gate.astype(jnp.float32))).astype(x.dtype)
