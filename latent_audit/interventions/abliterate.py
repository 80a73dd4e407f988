"""Taking a refusal direction out of a model: in its weights, or as an edit of its states.

The idea is that of arXiv 2406.11717: one direction of the residual stream carries much of the decision to refuse. The
three ways here are named in WAYS; see docs/method.md section 6.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.errors import InputError
from latent_audit.interventions import edits
from latent_audit.models import families
from latent_audit.models.config import ModelConfig

# What writes to the residual stream inside a block, and the norm its output passes before it is added, where a family
# has one (Gemma 2, 3).
_WRITERS = {"output": "post_attention_norm", "output_bias": "post_attention_norm", "down": "post_mlp_norm",
            "down_bias": "post_mlp_norm"}


def orthogonalize(params, direction, *, cfg: ModelConfig, value: float = 0.0):
    """Weights that can write nothing along `direction`: every state's coordinate there is `value`, at every token.

    The embedding, attention's and the MLP's output matrices and their biases lose that component; with a `value` other
    than zero every token's embedding carries it (affine ablation of all states at once, in any family).
    A norm behind a writer multiplies each dimension by its weight w before the sum: such a writer is made orthogonal
    to w * direction instead, which is exact, because the norm's division by the root mean square keeps zero zero. That
    division is by a slightly smaller number than before, and what is left grows by the same factor.
    A tied head keeps the embedding it had: it is stored on its own from then on (V x D numbers more).

    Args:
      params, cfg: as models.load returns them; direction: [D], any non-zero length.
      value: coordinate along the unit vector. It is exact up to the rounding of the parameters' dtype.
    Returns:
      (ModelConfig, params), new ones; the arrays that change nothing are shared.
    """
    head = {"head": params["embed"].T} if cfg.tied_head else {}
    changed = _orthogonalized(params, jnp.asarray(direction, jnp.float32), jnp.float32(value), cfg=cfg)
    blocks = params["blocks"] | changed["blocks"]
    return dataclasses.replace(cfg, tied_head=False), params | head | changed | {"blocks": blocks}


@functools.partial(jax.jit, static_argnames="cfg")
def _orthogonalized(params, direction, value, *, cfg: ModelConfig):
    unit = direction / jnp.linalg.norm(direction)
    scale = math.sqrt(cfg.embed_dim) if cfg.scale_embedding else 1.0
    embed = params["embed"].astype(jnp.float32)
    embed = embed + (value / scale - embed @ unit)[:, None] * unit
    blocks = {}
    for name, norm in _WRITERS.items():
        if name not in params["blocks"]:
            continue
        weight = params["blocks"][name].astype(jnp.float32)
        readers = jnp.broadcast_to(unit, (cfg.num_layers, cfg.embed_dim))
        if cfg.post_norms:
            readers = readers * (params["blocks"][norm].astype(jnp.float32) + float(cfg.norm_plus_one))
            readers = readers / jnp.maximum(jnp.linalg.norm(readers, axis=1, keepdims=True), 1e-30)
        along = jnp.einsum("l...d,ld->l...", weight, readers)
        removed = jnp.einsum("l...,ld->l...d", along, readers)
        blocks[name] = (weight - removed).astype(params["blocks"][name].dtype)
    return {"embed": embed.astype(params["embed"].dtype), "blocks": blocks}
