"""What a model takes by its shape alone: parameters, operations of a token, bytes of weights and of a search."""

import math

import jax
import jax.numpy as jnp

from latent_audit.models.config import ModelConfig, kind_shapes, parameter_shapes


def parameters(cfg: ModelConfig) -> int:
    """How many numbers the parameter tree holds."""
    shapes = jax.tree.leaves(parameter_shapes(cfg), is_leaf=lambda one: type(one) is tuple)
    return sum(math.prod(shape) for shape in shapes)


def weight_bytes(cfg: ModelConfig, dtype: str) -> int:
    """Bytes of all parameters."""
    return parameters(cfg) * jnp.dtype(dtype).itemsize


def active_weights(cfg: ModelConfig) -> float:
    """Weights of matrices that one token meets in a block, on average over blocks; of experts those that are picked."""
    kinds = cfg.kinds or ("softmax",) * cfg.num_layers
    picked = cfg.experts_per_token / cfg.num_experts if cfg.num_experts else 1.0
    of_kind = {}
    for kind in set(kinds):
        matrices = {name: math.prod(shape) for name, shape in kind_shapes(cfg, kind).items() if len(shape) > 1}
        of_kind[kind] = sum(
            size * (picked if name.startswith("expert_") and not name.endswith("bias") else 1.0)
            for name, size in matrices.items()
        )
    return sum(of_kind[kind] for kind in kinds) / len(kinds)


def block_operations(cfg: ModelConfig, columns: int) -> float:
    """Multiplications and additions of one token in one block, among `columns` columns: matrices and attention."""
    return 2 * active_weights(cfg) + 4 * columns * cfg.num_heads * cfg.head_dim


def head_operations(cfg: ModelConfig) -> float:
    """Multiplications and additions of one column's logits."""
    return 2.0 * cfg.vocab_size * cfg.embed_dim


def search_bytes(cfg: ModelConfig, rows: int, columns: int, dtype: str) -> int:
    """What a search over `rows` rows keeps of each block for its backward pass, at most: an estimate.

    The products' results of every block (queries, keys, values, mixed values, gate, up, down) and its input. Measured
    on a CPU it is less: XLA computes part of it again.
    """
    widths = (2 * cfg.num_heads + 2 * cfg.num_kv_heads) * cfg.head_dim + 4 * cfg.embed_dim
    inner = cfg.mlp_dim * (cfg.experts_per_token if cfg.num_experts else 1)
    return cfg.num_layers * rows * columns * (widths + 2 * inner) * jnp.dtype(dtype).itemsize
