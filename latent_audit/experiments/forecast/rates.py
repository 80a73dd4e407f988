"""How fast this machine is at a model's own shapes: three short programs of the kind that a run consists of.

A few blocks of the model's width with made-up weights are searched, decoded and read out. What differs from a real run
(how rows fall into batches, weights that do not fit into a cache, other jobs) is the reason why a forecast is a range.
"""

import dataclasses
import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.experiments.forecast.amounts import Rates
from latent_audit.interventions import finetune as ft
from latent_audit.interventions import latent
from latent_audit.models import generate, sizes
from latent_audit.models.config import FULL_ATTENTION, ModelConfig, Rope, parameter_shapes

# Operations of one call of a measured program, about: a fraction of a second on each kind of device.
CALL_OPERATIONS = {"cpu": 2e10, "gpu": 5e12, "tpu": 5e12}
SECONDS = 1.5  # of each of the three
DEPTH, VOCABULARY, STEPS, NEW_TOKENS, TRAINED = 4, 512, 4, 16, 32
# Bytes of weights of the measured blocks, where the model has that many: more than the caches of most processors hold.
BLOCK_BYTES = 64e6


def measure(
    cfg: ModelConfig, dtype: str, *, rows: int, budgets: int, columns: int, answered: int, trains: bool = False
) -> Rates:
    """Rates of a model of this shape on this machine; takes some seconds.

    rows: prompts searched together, each under `budgets` budgets; columns: of a prompt; answered: rows decoded
    together; trains: whether training is measured too, or taken for as dear as a backward pass.
    """
    blocks = _blocks(cfg, dtype)
    most = CALL_OPERATIONS.get(jax.default_backend(), CALL_OPERATIONS["cpu"])
    params = _weights(blocks, dtype)
    compiling, found = [], []
    one_row = sizes.block_operations(cfg, columns) * columns * blocks.num_layers
    searched = _fitting(rows * budgets, most / (2 * STEPS * one_row))
    rows_answered = _fitting(answered, most / (one_row + NEW_TOKENS * one_row / columns))
    for program in (
        _search(params, blocks, searched, columns),
        _answers(params, blocks, rows_answered, columns),
        _head(cfg, dtype, rows_answered),
    ):
        began = time.monotonic()
        program()
        first = time.monotonic() - began
        found.append(_fastest(program))
        compiling.append(max(first - found[-1], 0.0))
    L = blocks.num_layers
    # The clean pass gives the first gradient: STEPS forward passes and STEPS - 1 backward.
    passes = found[0] / (searched * columns * L * (2 * STEPS - 1))
    decoding = max(found[1] - rows_answered * columns * L * passes, 0.2 * found[1]) / (NEW_TOKENS - 1)
    decoded = (decoding * cfg.num_layers / L + found[2]) / rows_answered
    weights = passes
    if trains:
        step, tokens = _training(params, blocks, _fitting(TRAINED, most / (3 * one_row)), columns)
        step()
        weights = max(_fastest(step) / (tokens * L) - 2 * passes, passes)
    operations = sizes.block_operations(cfg, columns)
    return Rates(passes, passes, weights, decoded, 2e9 * passes / operations, sum(compiling[:2]) / 2)


def _blocks(cfg: ModelConfig, dtype: str) -> ModelConfig:
    """A plain decoder of a few blocks with as many active weights: what a family does besides takes little."""
    attention = 2 * cfg.embed_dim * cfg.head_dim * (cfg.num_heads + cfg.num_kv_heads)
    wide = max(1, round((sizes.active_weights(cfg) - attention) / (3 * cfg.embed_dim)))
    size = sizes.active_weights(cfg) * jnp.dtype(dtype).itemsize
    depth = min(cfg.num_layers, max(1, min(DEPTH, math.ceil(BLOCK_BYTES / size))))
    return dataclasses.replace(
        ModelConfig(
            "llama",
            VOCABULARY,
            depth,
            *_heads(cfg),
            wide,
            cfg.norm_eps,
            cfg.query_scale,
            tied_head=True,
            ropes=(Rope(),),
            rope_of_layer=(0,) * depth,
            windows=(FULL_ATTENTION,) * depth,
        )
    )


def _heads(cfg: ModelConfig) -> tuple[int, int, int, int]:
    return cfg.embed_dim, cfg.num_heads, cfg.num_kv_heads, cfg.head_dim


def _weights(cfg: ModelConfig, dtype: str) -> dict:
    return jax.tree.map(
        lambda shape: jnp.full(shape, 0.01, dtype), parameter_shapes(cfg), is_leaf=lambda one: type(one) is tuple
    )


def _fitting(rows: int, most: float) -> int:
    """As many rows as there are, or as one call may compute."""
    return max(1, min(rows, int(most)))


def _tokens(rows: int, columns: int) -> tuple[jax.Array, jax.Array]:
    return jnp.ones((rows, columns), jnp.int32), jnp.ones((rows, columns), bool)


def _search(params: dict, cfg: ModelConfig, rows: int, columns: int) -> Callable[[], object]:
    options, goal = latent.Search(steps=STEPS, controls=False), jnp.ones(2, jnp.int32)
    tokens, mask = _tokens(rows, columns - 1)
    clean = latent.clean_pass(params, tokens, mask, goal, cfg=cfg, search=options)
    budget = jnp.full(1, 0.01, jnp.float32)
    keys = jax.random.split(jax.random.key(0), (rows, 1))

    def call() -> object:
        found = latent.attack_state(params, clean, mask, goal, 0, budget, keys, cfg=cfg, search=options)
        return jax.block_until_ready(found.nll_last)

    return call


def _answers(params: dict, cfg: ModelConfig, rows: int, columns: int) -> Callable[[], object]:
    tokens, mask = _tokens(rows, columns)

    def call() -> object:
        new = generate.generate(params, tokens, mask, cfg=cfg, max_new_tokens=NEW_TOKENS, eos_ids=())
        return jax.block_until_ready(new.tokens)

    return call


def _training(params: dict, cfg: ModelConfig, rows: int, columns: int) -> tuple[Callable[[], object], int]:
    """(one training step with its optimiser, the tokens that it reads)."""
    tokens, mask = (np.asarray(array) for array in _tokens(rows, columns))
    order = np.tile(np.arange(rows), (1000, 1))
    optimizer = ft.make_optimizer(learning_rate=1e-9, steps=len(order))
    steps = ft.finetune(params, ft.Examples(tokens, mask, mask), order, cfg=cfg, optimizer=optimizer)
    return lambda: jax.block_until_ready(next(steps).loss), rows * columns


def _head(cfg: ModelConfig, dtype: str, rows: int) -> Callable[[], object]:
    x, head = jnp.full((rows, cfg.embed_dim), 0.01, dtype), jnp.full((cfg.vocab_size, cfg.embed_dim), 0.01, dtype)
    read = jax.jit(lambda x, head: jnp.argmax(x @ head.T, axis=-1))
    return lambda: jax.block_until_ready(read(x, head))


def _fastest(program: Callable[[], object]) -> float:
    """The middle of the seconds of as many calls as fit."""
    taken: list[float] = []
    while sum(taken) < SECONDS and len(taken) < 9:
        began = time.monotonic()
        program()
        taken.append(time.monotonic() - began)
    return sorted(taken)[len(taken) // 2]
