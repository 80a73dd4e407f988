"""The MLP of a block: one, or a mixture of experts of which a router picks a few for each token."""

import jax
import jax.numpy as jnp

from latent_audit.models import ops
from latent_audit.models.config import ClampedGate, ModelConfig, Params

# Their hidden activations are held for all tokens at once.
_EXPERTS_AT_ONCE = 8
_MATRICES = ("expert_gate", "expert_up", "expert_down")


def mlp(layer: Params, x: jax.Array, cfg: ModelConfig) -> jax.Array:
    """What the MLP of a block adds, as the family has it; x: [B, T, D], normed."""
    if not cfg.num_experts:
        return ops.gated_mlp(x, layer, activation=cfg.activation)
    out = experts(layer, x, shares(layer, x, cfg), cfg)
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
    share = shares(layer, plain * layer["router_scale"] * cfg.embed_dim**-0.5, cfg) * layer["router_expert_scale"]
    mixed = experts(layer, ops.norm(x, layer["experts_norm"], cfg), share, cfg)
    return ops.norm(dense, layer["post_dense_norm"], cfg) + ops.norm(mixed, layer["post_experts_norm"], cfg)


def shares(layer: Params, x: jax.Array, cfg: ModelConfig) -> jax.Array:
    """Each expert's share of a token's output, 0 for all but the largest; x [B, T, D] -> [B, T, X].

    The softmax is over all experts in float32; where the picked shares are divided by their sum, they are the softmax
    over the picked scores alone.
    """
    scores = x @ layer["router"]
    if cfg.expert_bias:
        scores = scores + layer["router_bias"]
    probability = jax.nn.softmax(scores.astype(jnp.float32), axis=-1)
    largest, chosen = jax.lax.top_k(probability, cfg.experts_per_token)
    if cfg.renormalise_experts:
        largest = largest / largest.sum(axis=-1, keepdims=True)
    places = jax.nn.one_hot(chosen, probability.shape[-1], dtype=jnp.float32)
    return jnp.einsum("btk,btkx->btx", largest, places).astype(x.dtype)


def experts(layer: Params, x: jax.Array, share: jax.Array, cfg: ModelConfig) -> jax.Array:
    """The sum of the experts' gated MLPs by their shares [B, T, X]; x: [B, T, D].

    Every expert sees every token, a few at a time: exact for any routing, in one program, at the arithmetic of all
    experts. Experts are a batch dimension of the products, so that a search recomputes them and stores none
    (suffix.RESIDUALS).
    """
    X = share.shape[-1]
    together = max(size for size in range(1, _EXPERTS_AT_ONCE + 1) if X % size == 0)

    def add(total: jax.Array, taken: tuple[dict[str, jax.Array], jax.Array]) -> tuple[jax.Array, None]:
        some, share = taken
        copies = jnp.broadcast_to(x, (together, *x.shape))
        gate = _dense("xbtd,xdf->xbtf", copies, some, "expert_gate")
        up = _dense("xbtd,xdf->xbtf", copies, some, "expert_up")
        out = _dense("xbtf,xfd->xbtd", _gated(gate, up, cfg), some, "expert_down")
        return total + (share[..., None] * out).sum(axis=0), None

    biases = [f"{name}_bias" for name in _MATRICES] if cfg.expert_bias else []
    stacked = {name: layer[name] for name in (*_MATRICES, *biases)}
    cut = jax.tree.map(
        lambda array: array.reshape(-1, together, *array.shape[1:]), (stacked, jnp.moveaxis(share, -1, 0))
    )
    return jax.lax.scan(add, jnp.zeros_like(x), cut)[0]


def _dense(sums: str, x: jax.Array, some: dict[str, jax.Array], name: str) -> jax.Array:
    product = jnp.einsum(sums, x, some[name])
    bias = some.get(f"{name}_bias")
    return product if bias is None else product + bias[:, None, None]


def _gated(gate: jax.Array, up: jax.Array, cfg: ModelConfig) -> jax.Array:
    if cfg.clamped_gate is None:
        return ops.ACTIVATIONS[cfg.activation](gate) * up
    return _clamped(gate, up, cfg.clamped_gate)


def _clamped(gate: jax.Array, up: jax.Array, sizes: ClampedGate) -> jax.Array:
    gate = jnp.minimum(gate, sizes.limit)
    up = jnp.clip(up, -sizes.limit, sizes.limit)
    return (up + 1) * (gate * jax.nn.sigmoid(gate * sizes.alpha))
