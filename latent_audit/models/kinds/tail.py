"""The end of a block behind its attention: the residual additions and the MLP between them."""

import jax
import jax.numpy as jnp

from latent_audit.models import ops
from latent_audit.models.config import ModelConfig, Params
from latent_audit.models.kinds import mixture


def finish(layer: Params, x: jax.Array, mixed: jax.Array, *, cfg: ModelConfig) -> jax.Array:
    """Residual state x [B, T, D] with what attention found, `mixed`, and what the MLP makes of both added to it."""
    if cfg.post_norms:
        mixed = ops.norm(mixed, layer["post_attention_norm"], cfg)
    x = _add(x, mixed, cfg)
    hidden = ops.norm(x, layer["mlp_norm"], cfg) if cfg.pre_norms else x
    if cfg.expert_dim is None:
        hidden = mixture.mlp(layer, hidden, cfg)
    else:
        hidden = mixture.dense_and_experts(layer, x, hidden, cfg)
    if cfg.post_norms:
        hidden = ops.norm(hidden, layer["post_mlp_norm"], cfg)
    return _add(x, hidden, cfg)


def _add(x: jax.Array, update: jax.Array, cfg: ModelConfig) -> jax.Array:
    if cfg.residual_scale != 1:
        # Most scales are no bfloat16 numbers: the product is rounded, not the scale.
        update = (update.astype(jnp.float32) * cfg.residual_scale).astype(x.dtype)
    return x + update
