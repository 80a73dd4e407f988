"""What one decode step takes against what reading weights and cache once allows.

`python -m benchmarks.gpu --decode` measures it on an accelerator, `--decode --quick` a tiny model on whatever there is.
"""

import time

import jax
import numpy as np

from benchmarks import work
from latent_audit.models import continuing, generate

BATCHES = (1, 64, 512)


def measure(problem: work.Problem, batch: int, *, new: int, bandwidth: float, peak: float) -> dict:
    """Seconds of a step behind half of `new` tokens, of the first half with compiling, and the bounds of the device.

    bandwidth: bytes per second; peak: operations per second. bound_seconds: the slower of two things that no step can
    do faster, which could at best go on at the same time: reading weights and cache, and the products with weights.
    """
    rows = np.arange(batch) % len(problem.tokens)
    tokens, mask = problem.tokens[rows], problem.mask[rows]
    cfg, params, rules = problem.cfg, problem.params, continuing.Rules(new, ())
    half = new // 2
    began = time.perf_counter()
    going, _ = generate.begin(params, tokens, mask, None, None, cfg=cfg, rules=rules)
    program = continuing.go_on.lower(params, going, None, None, new, 0, 0, cfg=cfg, rules=rules).compile()
    going = jax.block_until_ready(program(params, going, None, None, half, 0, 0))
    first = time.perf_counter() - began
    began = time.perf_counter()
    jax.block_until_ready(program(params, going, None, None, new, 0, 0))
    took = (time.perf_counter() - began) / (new - half)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    column = 2 * cfg.num_layers * cfg.num_kv_heads * cfg.head_dim * params["blocks"]["query"].dtype.itemsize
    # Keys and values of the columns that are there, though a step reads the room behind them too.
    reading = (weights + batch * column * (tokens.shape[1] + new)) / bandwidth
    computing = 2 * count * batch / peak
    return {
        "model": problem.size.name,
        "batch": batch,
        "step_seconds": took,
        "reading_seconds": reading,
        "computing_seconds": computing,
        "bound_seconds": max(reading, computing),
        "times_bound": took / max(reading, computing),
        "first_seconds": first,
    }
