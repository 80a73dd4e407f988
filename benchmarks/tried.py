"""What was tried beside the design: how prompts are put together, and compiling anew against a filled cache."""

import os
import subprocess
import sys
import tempfile

import jax
import numpy as np

from benchmarks import work

_FIRST_CALL = """
import sys, time
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
from benchmarks import work
problem = work.make(work.TINY if sys.argv[1] == "tiny" else work.TOY)
began = time.perf_counter()
work.search(problem, states=[1])
print(time.perf_counter() - began)
"""


def part(problem: work.Problem, rows, *, cut: bool = False) -> work.Problem:
    """Some prompts of a workload; cut: without the columns that are padding in all of them."""
    tokens, mask = problem.tokens[rows], problem.mask[rows]
    first = int(mask.any(axis=0).argmax()) if cut else 0
    return problem._replace(tokens=tokens[:, first:], mask=mask[:, first:])


def batching(problem: work.Problem) -> list[dict]:
    """Seconds of the whole search, warm: all prompts in one padded batch, prompts of one length, fewer at a time.

    Programs: how often the search was compiled for it.
    """
    lengths, every = problem.mask.sum(axis=1), np.arange(len(problem.tokens))
    ways = {"all prompts in one padded batch": [problem],
            "prompts of one length together": [part(problem, every[lengths == length], cut=True)
                                               for length in np.unique(lengths)]}
    for size in (1, 2):
        ways[f"{size} at a time"] = [part(problem, every[start:start + size]) for start in range(0, len(every), size)]
    found = []
    for name, parts in ways.items():
        for one in parts:
            work.search(one)
        seconds, _ = work.timed(lambda parts=parts: [work.search(one) for one in parts], repeats=2)
        found.append({"what": f"{problem.size.name}: {name}", "seconds": seconds,
                      "programs": len({one.tokens.shape for one in parts})})
    return found


def cache(*, tiny: bool) -> list[dict]:
    """Seconds of the first search of a new process, with an empty and with a filled compilation cache."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": folder}
        for name in ("empty", "filled"):
            done = subprocess.run([sys.executable, "-c", _FIRST_CALL, "tiny" if tiny else "toy"], env=environment,
                                  capture_output=True, text=True, check=True)
            found.append({"what": f"first search of a process, {name} compilation cache",
                          "seconds": float(done.stdout.split()[-1]), "programs": 1})
    jax.clear_caches()
    return found
