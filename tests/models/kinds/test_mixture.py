"""Experts in blocks of their own tokens: the plain sum over all experts, for any routing, gradient and batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latent_audit.models import sharding
from latent_audit.models.config import ClampedGate, ModelConfig
from latent_audit.models.kinds import mixture
from latent_audit.runtime import mesh

D, F, X = 6, 5, 7
CFG = ModelConfig(
    "mixtral", 9, 1, D, 1, 1, 6, F, 1e-6, 1.0, windows=(9,), rope_of_layer=(0,), num_experts=X, experts_per_token=3
)
GPT_OSS = dataclasses.replace(CFG, expert_bias=True, renormalise_experts=True, clamped_gate=ClampedGate(1.7, 0.8))


def layer_of(cfg, seed=0):
    shapes = {"router": (D, X), "expert_gate": (X, D, F), "expert_up": (X, D, F), "expert_down": (X, F, D)}
    if cfg.expert_bias:
        shapes |= {
            "router_bias": (X,),
            "expert_gate_bias": (X, F),
            "expert_up_bias": (X, F),
            "expert_down_bias": (X, D),
        }
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(0.5 * rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def in_blocks(layer, x, cfg):
    return mixture.experts(layer, x, *mixture.picks(layer, x, cfg), cfg)


def plain(layer, x, cfg):
    """Every expert on every token, weighed by its share."""
    share, chosen = mixture.picks(layer, x, cfg)
    weight = (jax.nn.one_hot(chosen, X) * share[..., None]).sum(axis=1)
    bias = {name: layer.get(f"{name}_bias", np.zeros((X, 1)))[:, None] for name in mixture._MATRICES}
    gate, up = (jnp.einsum("nd,xdf->xnf", x, layer[name]) + bias[name] for name in mixture._MATRICES[:2])
    if cfg.clamped_gate is None:
        hidden = jax.nn.silu(gate) * up
    else:
        limit = cfg.clamped_gate.limit
        gate = jnp.minimum(gate, limit)
        hidden = gate * jax.nn.sigmoid(cfg.clamped_gate.alpha * gate) * (1 + jnp.clip(up, -limit, limit))
    out = jnp.einsum("xnf,xfd->xnd", hidden, layer["expert_down"]) + bias["expert_down"]
    return jnp.einsum("nx,xnd->nd", weight, out)


@pytest.mark.parametrize("cfg", [CFG, GPT_OSS], ids=["plain", "gpt_oss"])
@pytest.mark.parametrize("tokens, push", [(1, 0.0), (150, 0.0), (150, 3.0)], ids=str)
def test_blocks_equal_the_sum_over_all_experts(cfg, tokens, push):
    layer, x = layer_of(cfg), np.random.default_rng(1).normal(size=(tokens, D)).astype(np.float32)
    # Pushed, all tokens pick the same experts and the others are given nothing.
    layer["router"] = layer["router"] + push * (np.arange(X) < 3)
    x = np.abs(x) if push else x

    def run(function):
        return jax.jit(jax.value_and_grad(lambda *given: (jnp.sin(function(*given, cfg))).sum(), argnums=(0, 1)))(
            layer, x
        )

    found, wanted = run(in_blocks), run(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max())), found, wanted)


def test_each_pick_has_a_row_of_its_own_in_a_block_of_its_expert():
    rng = np.random.default_rng(0)
    chosen = np.stack([rng.permutation(X)[:3] for _ in range(90)]).astype(np.int32)
    blocks = mixture.lay_out(jnp.asarray(chosen), X)
    rows = blocks.token.shape[1]
    assert len(np.unique(blocks.row)) == chosen.size and int(blocks.used) <= len(blocks.expert)
    np.testing.assert_array_equal(blocks.expert[blocks.row // rows], chosen)
    np.testing.assert_array_equal(np.asarray(blocks.token).reshape(-1)[blocks.row], np.arange(90)[:, None].repeat(3, 1))
    assert (np.asarray(blocks.token) < 90).sum() == chosen.size


def test_rows_of_a_batch_under_vmap_equal_those_alone():
    layer, x = layer_of(CFG), np.random.default_rng(1).normal(size=(3, 11, D)).astype(np.float32)
    together = jax.jit(jax.vmap(lambda x: in_blocks(layer, x, CFG)))(x)
    np.testing.assert_allclose(together.reshape(-1, D), in_blocks(layer, x.reshape(-1, D), CFG), atol=2e-5)


def test_a_mesh_changes_nothing():
    layer, x = layer_of(CFG), np.random.default_rng(1).normal(size=(40, D)).astype(np.float32)
    wanted = in_blocks(layer, x, CFG)
    with jax.set_mesh(mesh.make_mesh(data=2, model=1)):
        found = jax.jit(lambda x: in_blocks(layer, sharding.constrain(x, "data"), CFG))(x)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
