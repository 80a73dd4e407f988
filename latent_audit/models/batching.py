"""How many rows of a batch are computed together: no more than there are, than were allowed, and than memory holds."""

import jax
import jax.numpy as jnp

from latent_audit.models import decode
from latent_audit.models.config import ModelConfig, parameter_shapes

# What is left of the free memory for fragments, and for what a compiler keeps beside what is counted here.
SPARED = 0.2


def rows_at_a_time(most: int, count: int) -> int:
    """Rows of one compiled shape for `count` of them, `most` at a time: `most`, or hardly more than there are.

    A short batch is filled up to its shape. A power of two, times the devices that rows are split over, keeps the
    shapes few and what is computed for nothing below as much again.

    >>> rows_at_a_time(24, 100), rows_at_a_time(10000, 3)
    (24, 4)
    """
    devices = dict(jax.sharding.get_abstract_mesh().shape).get("data", 1)
    fitting = devices
    while fitting < count:
        fitting *= 2
    return min(most, fitting)


def rows_that_fit(cfg: ModelConfig, prompt: int, new: int, dtype: jnp.dtype, bytes_free: int) -> int:
    """Rows whose generation of `new` tokens behind `prompt` columns fits into `bytes_free` beside the weights.

    A power of two, 1 at least: what is free changes from call to call, and shapes should not.
    An estimate from shapes: of each row the cache, once more while the prompt's part of it is laid out, the widest
    arrays of a block over the prompt, its attention scores in float32, and the logits three times.
    """
    width = jnp.dtype(dtype).itemsize
    kept = cache_bytes(cfg, prompt + new, dtype) + cache_bytes(cfg, prompt, dtype)
    widest = max(cfg.mlp_dim, cfg.num_heads * cfg.head_dim, cfg.embed_dim)
    block = prompt * (3 * widest + 4 * cfg.embed_dim) * width + 2 * 4 * cfg.num_heads * prompt**2
    row = kept + block + 3 * 4 * cfg.vocab_size
    return 2 ** max(0, int((1 - SPARED) * bytes_free / row).bit_length() - 1)


def cache_bytes(cfg: ModelConfig, columns: int, dtype: jnp.dtype) -> int:
    """Bytes of one row's cache over so many columns, of any kind of layer."""
    shapes = parameter_shapes(cfg)
    blocks = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.pop("blocks").items()}
    params = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()} | {"blocks": blocks}
    tokens, mask = jax.ShapeDtypeStruct((1, columns), jnp.int32), jax.ShapeDtypeStruct((1, columns), bool)

    def read(params: dict, tokens: jax.Array, mask: jax.Array) -> tuple:
        return decode.prefill(params, tokens, mask, cfg=cfg, room=0)

    _, cache = jax.eval_shape(read, params, tokens, mask)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache[:-1]))
