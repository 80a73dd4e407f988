"""The MLP of a block: one, or a mixture of experts of which a router picks a few for each token.

What the experts are given is laid out in blocks of rows, each of one expert's tokens and its end filled with zeros. So
each expert is computed for its own tokens, in one program for any routing, and nothing is dropped.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from latent_audit.models import ops, sharding
from latent_audit.models.config import ClampedGate, ModelConfig, Params

# Rows of one block: a power of two, about what an expert gets. Fewer waste less, more make larger products.
_FEWEST_ROWS, _MOST_ROWS = 8, 64
# Blocks that are computed together; over a mesh each device takes its part of them.
_TOGETHER = 4
_MATRICES = ("expert_gate", "expert_up", "expert_down")


class Blocks(NamedTuple):
    """Which rows the experts are given; N tokens, k picks of each, G blocks of M rows.

    token: int32 [G, M], the token in each row, N in one that is filled; expert: int32 [G], whose block it is; row:
    int32 [N, k], the row of each pick, blocks one behind the other; used: int32 scalar, the blocks that hold a token.
    """

    token: jax.Array
    expert: jax.Array
    row: jax.Array
    used: jax.Array


def mlp(layer: Params, x: jax.Array, cfg: ModelConfig) -> jax.Array:
    """What the MLP of a block adds, as the family has it; x: [B, T, D], normed."""
    if not cfg.num_experts:
        return ops.gated_mlp(x, layer, activation=cfg.activation)
    out = experts(layer, x, *picks(layer, x, cfg), cfg)
    if cfg.shared_expert_dim:
        shared = {name: layer[f"shared_{name}"] for name in ("gate", "up", "down")}
        open_by = jax.nn.sigmoid(x @ layer["shared_router"])
        out = out + open_by * ops.gated_mlp(x, shared, activation=cfg.activation)
    return out


def dense_and_experts(layer: Params, x: jax.Array, normed: jax.Array, cfg: ModelConfig) -> jax.Array:
    """What a dense MLP and experts beside it add (Gemma 4 26B-A4B); x: [B, T, D], and as the dense MLP reads it.

    The router reads x under a norm without weight, times its own scale; each picked expert's share has a factor more.
    """
    dense = ops.gated_mlp(normed, layer, activation=cfg.activation)
    plain = ops.norm(x, jnp.ones(x.shape[-1], x.dtype), cfg)
    share, chosen = picks(layer, plain * layer["router_scale"] * cfg.embed_dim**-0.5, cfg)
    share = share.astype(x.dtype) * layer["router_expert_scale"][chosen]
    mixed = experts(layer, ops.norm(x, layer["experts_norm"], cfg), share, chosen, cfg)
    return ops.norm(dense, layer["post_dense_norm"], cfg) + ops.norm(mixed, layer["post_experts_norm"], cfg)


def picks(layer: Params, x: jax.Array, cfg: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """(shares in float32, experts int32) of each token's picks, [..., k]; x: [..., D].

    The softmax is over all experts in float32; where the picked shares are divided by their sum, they are the softmax
    over the picked scores alone.
    """
    scores = x @ layer["router"]
    if cfg.expert_bias:
        scores = scores + layer["router_bias"]
    share, chosen = jax.lax.top_k(jax.nn.softmax(scores.astype(jnp.float32), axis=-1), cfg.experts_per_token)
    if cfg.renormalise_experts:
        share = share / share.sum(axis=-1, keepdims=True)
    return share, chosen


def lay_out(chosen: jax.Array, experts: int) -> Blocks:
    """Blocks for picks `chosen` int32 [N, k] of so many experts; their number depends on the shapes alone."""
    N, k = chosen.shape
    total = N * k
    rows = _FEWEST_ROWS
    while rows < min(_MOST_ROWS, total // experts):
        rows *= 2
    # Each expert leaves at most one block unfilled, and a block holds a pick at least.
    count = -(-min(total, total // rows + experts) // _TOGETHER) * _TOGETHER
    flat = chosen.reshape(-1)
    order = jnp.argsort(flat)
    sizes = jnp.bincount(flat, length=experts)
    blocks = -(-sizes // rows)
    ends = jnp.cumsum(blocks)
    of_sorted = flat[order]
    place = jnp.arange(total) - (jnp.cumsum(sizes) - sizes)[of_sorted]
    row = ((ends - blocks)[of_sorted] * rows + place).astype(jnp.int32)
    token = jnp.full(count * rows, N, jnp.int32).at[row].set((order // k).astype(jnp.int32))
    expert = jnp.minimum(jnp.searchsorted(ends, jnp.arange(count), side="right"), experts - 1)
    unsorted = jnp.zeros(total, jnp.int32).at[order].set(row)
    return Blocks(token.reshape(count, rows), expert, unsorted.reshape(N, k), ends[-1])


def experts(layer: Params, x: jax.Array, share: jax.Array, chosen: jax.Array, cfg: ModelConfig) -> jax.Array:
    """The sum of the picked experts' gated MLPs by their shares; x: [..., D]; share, chosen: [..., k], of picks.

    Blocks are a batch dimension of the products and are computed again for a backward pass, so that a search stores
    neither weights nor activations of experts (suffix.RESIDUALS).
    """
    D, k = x.shape[-1], cfg.experts_per_token
    blocks = lay_out(chosen.reshape(-1, k), cfg.num_experts)
    given = jnp.concatenate([x.reshape(-1, D), jnp.zeros((1, D), x.dtype)])[blocks.token]
    given = sharding.constrain(given.reshape(-1, _TOGETHER, *given.shape[1:]), None, "data")
    names = [*_MATRICES, *(f"{name}_bias" for name in _MATRICES if cfg.expert_bias)]

    @jax.checkpoint
    def run(given: jax.Array, expert: jax.Array) -> jax.Array:
        own = {name: layer[name][expert] for name in names}
        gate, up = (_dense("omd,odf->omf", given, own, name) for name in _MATRICES[:2])
        return _dense("omf,ofd->omd", _gated(gate, up, cfg), own, _MATRICES[2])

    def step(number: jax.Array, taken: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        empty = number * _TOGETHER >= blocks.used
        return number + 1, jax.lax.cond(empty, lambda given, expert: jnp.zeros_like(given), run, *taken)

    _, out = jax.lax.scan(step, jnp.int32(0), (given, blocks.expert.reshape(-1, _TOGETHER)))
    of_picks = out.reshape(-1, D)[blocks.row]
    return jnp.einsum("nk,nkd->nd", share.reshape(-1, k).astype(x.dtype), of_picks).reshape(x.shape)


def _dense(sums: str, x: jax.Array, own: dict[str, jax.Array], name: str) -> jax.Array:
    product = jnp.einsum(sums, x, own[name])
    bias = own.get(f"{name}_bias")
    return product if bias is None else product + bias[:, None]


def _gated(gate: jax.Array, up: jax.Array, cfg: ModelConfig) -> jax.Array:
    if cfg.clamped_gate is None:
        return ops.ACTIVATIONS[cfg.activation](gate) * up
    return _clamped(gate, up, cfg.clamped_gate)


def _clamped(gate: jax.Array, up: jax.Array, sizes: ClampedGate) -> jax.Array:
    gate = jnp.minimum(gate, sizes.limit)
    up = jnp.clip(up, -sizes.limit, sizes.limit)
    return (up + 1) * (gate * jax.nn.sigmoid(gate * sizes.alpha))
