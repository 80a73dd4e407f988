"""What one decode step takes by the ways to write it, against what reading weights and cache once allows.

`python -m benchmarks.gpu --decode` measures it on an accelerator, `--decode --quick` a tiny model on whatever there is.
"""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import work
from latent_audit.models import continuing, decode, decoder, generate

BATCHES = (1, 64, 512)
# What continuing.to_the_end does where memory allows; what it does otherwise; and what it did until 2026-11-27.
APART, CUT, STACKED = "layers apart", "layers cut in each step", "stacks, layer traced"
WAYS = (APART, CUT, STACKED)


@functools.partial(jax.jit, static_argnames="cfg", donate_argnums=(1, 2))
def on_stacks(params, token, cache, slot, until, *, cfg):
    """Greedy steps from column `slot` up to `until` by generate.decode_step: (last token, cache)."""

    def body(carry):
        token, cache, slot = carry
        x, cache = generate.decode_step(params, token, slot, cache, cfg=cfg)
        return jnp.argmax(decoder.unembed(params, x, cfg=cfg), axis=-1).astype(jnp.int32), cache, slot + 1

    return jax.lax.while_loop(lambda carry: carry[2] < until, body, (token, cache, slot))[:2]


def _by_layer(problem: work.Problem, tokens, mask, new: int, way: str) -> tuple[Callable, object, Callable]:
    """(run(state, tokens so far) -> state, the first state, its last token) of the package's own steps."""
    cfg, params, rules = problem.cfg, problem.params, continuing.Rules(new, ())
    going, _ = generate.begin(params, tokens, mask, None, None, cfg=cfg, rules=rules)
    layers = jax.jit(decode.layers_of, static_argnames="cfg")(params, cfg=cfg) if way == APART else None
    program = continuing.go_on.lower(params, layers, going, None, None, new, 0, 0, cfg=cfg, rules=rules).compile()

    def run(going, count):
        return program(params, layers, going, None, None, count, 0, 0)

    return run, going, lambda going: going.out[:, going.step - 1]


def _by_stacks(problem: work.Problem, tokens, mask, new: int) -> tuple[Callable, object, Callable]:
    cfg, params, P = problem.cfg, problem.params, tokens.shape[1]
    prefill = jax.jit(generate.prefill, static_argnames=("cfg", "room"))
    x, cache = prefill(params, tokens, mask, cfg=cfg, room=new - 1)
    token = jnp.argmax(decoder.unembed(params, x, cfg=cfg), axis=-1).astype(jnp.int32)
    program = on_stacks.lower(params, token, cache, 0, 0, cfg=cfg).compile()

    def run(state, count):
        token, cache, done = state
        return (*program(params, token, cache, P + done - 1, P + count - 1), count)

    return run, (token, cache, 1), lambda state: state[0]


def measure(problem: work.Problem, batch: int, *, new: int, bandwidth: float, peak: float) -> list[dict]:
    """A line for every way: seconds of a step behind half of `new` tokens, of compiling, and the bounds of the device.

    bandwidth: bytes per second; peak: operations per second. equal: the share of rows with the first way's last token.
    """
    rows = np.arange(batch) % len(problem.tokens)
    tokens, mask = problem.tokens[rows], problem.mask[rows]
    blocks, half = problem.params["blocks"], new // 2
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(problem.params))
    count = sum(leaf.size for leaf in jax.tree.leaves(problem.params))
    cfg, width = problem.cfg, blocks["query"].dtype.itemsize
    column = 2 * cfg.num_layers * cfg.num_kv_heads * cfg.head_dim * width
    lines, said = [], {}
    for way in WAYS:
        began = time.perf_counter()
        make = _by_stacks if way == STACKED else functools.partial(_by_layer, way=way)
        run, state, last = make(problem, tokens, mask, new)
        state = jax.block_until_ready(run(state, half))
        first = time.perf_counter() - began
        began = time.perf_counter()
        state = jax.block_until_ready(run(state, new))
        took = (time.perf_counter() - began) / (new - half)
        said[way] = np.asarray(last(state))
        del state, run
        # Keys and values of the columns that are there, though a step reads the room behind them too.
        bound = max((weights + batch * column * (tokens.shape[1] + new)) / bandwidth, 2 * count * batch / peak)
        lines.append(
            {
                "model": problem.size.name,
                "batch": batch,
                "way": way,
                "step_seconds": took,
                "bound_seconds": bound,
                "times_bound": took / bound,
                "first_seconds": first,
                "equal": float((said[way] == said[APART]).mean()),
            }
        )
    return lines
