"""The decoder as a thin linen shell, which declares its parameters and draws their first values."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from latent_audit.models import decoder
from latent_audit.models.config import ModelConfig, Params, parameter_shapes
from latent_audit.models.names import INPUT_AXES

# The order in which a block's parameters are drawn: organisms are trained from these draws, so that another order would
# make other organisms of the same seeds.
DRAWN_FIRST = (
    *("attention_norm", "query", "key", "value", "output", "mlp_norm", "gate", "up", "down"),
    *("query_bias", "key_bias", "value_bias", "output_bias", "gate_bias", "up_bias", "down_bias"),
    *("query_norm", "key_norm", "post_attention_norm", "post_mlp_norm"),
)


class Block(nn.Module):
    """Declares the stacked parameters of all L blocks under one scope; the arithmetic is decoder.block."""

    cfg: ModelConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self) -> Params:
        shapes = parameter_shapes(self.cfg)["blocks"]
        # linen draws each parameter by its place among those declared before it.
        first = [name for name in DRAWN_FIRST if name in shapes]
        return {
            name: self.param(name, _initializer(name, shapes[name], self.cfg), shapes[name], self.dtype)
            for name in (*first, *(name for name in shapes if name not in first))
        }


class Decoder(nn.Module):
    """`Decoder(cfg).init(key, tokens, mask)["params"]` is the tree that decoder's functions take."""

    cfg: ModelConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, mask: jax.Array, edit: decoder.Edit | None = None) -> decoder.ForwardOutput:
        shapes = parameter_shapes(self.cfg)
        params = {
            name: self.param(name, _initializer(name, shape, self.cfg), shape, self.dtype)
            for name, shape in shapes.items()
            if name != "blocks"
        }
        params["blocks"] = Block(self.cfg, self.dtype, name="blocks")()
        return decoder.forward(params, tokens, mask, cfg=self.cfg, edit=edit)


def init_params(key: jax.Array, cfg: ModelConfig, dtype: DTypeLike = jnp.float32) -> Params:
    """Random parameters of `cfg`; use under jax.eval_shape for sizes that do not fit this machine."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return Decoder(cfg, dtype).init(key, tokens, tokens == 0)["params"]


def _initializer(name: str, shape: tuple[int, ...], cfg: ModelConfig) -> Callable:
    # The fan-in of a matrix: the axes, after the stacked ones, that it sums over.
    if name in ("delta_norm", "delta_rate") or name.endswith("scale"):
        return nn.initializers.ones
    if name == "delta_convolution":
        return nn.initializers.normal(shape[-1] ** -0.5)
    if name.endswith("norm"):
        return nn.initializers.zeros if cfg.norm_plus_one else nn.initializers.ones
    if name.endswith("bias") or name == "sinks":
        return nn.initializers.zeros
    if name in ("embed", "head", "inputs_projection"):
        return nn.initializers.normal(cfg.embed_dim**-0.5)
    if name == "inputs_embed":
        return nn.initializers.normal(shape[-1] ** -0.5)
    # Behind the stacked L, and X of experts, come the axes that a matrix sums over.
    first = 2 if name.startswith("expert_") else 1
    fan_in = int(np.prod(shape[first : first + INPUT_AXES[name]]))
    return nn.initializers.normal(fan_in**-0.5)
