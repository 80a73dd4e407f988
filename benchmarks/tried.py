"""What was tried beside the design; every attempt is a line {what, seconds, programs, note}.

How prompts are put together, what blocks keep for the backward pass, a program for every state in place of one, what
stopping early could save, what further starts bring, and compiling anew against a filled cache.
"""

import functools
import os
import subprocess
import sys
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import work
from latent_audit.interventions import directions, latent, sphere, suffix

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
    ways = {
        "all prompts in one padded batch": [problem],
        "prompts of one length together": [
            part(problem, every[lengths == length], cut=True) for length in np.unique(lengths)
        ],
    }
    for size in (1, 2):
        ways[f"{size} at a time"] = [part(problem, every[start : start + size]) for start in range(0, len(every), size)]
    found = []
    for name, parts in ways.items():
        for one in parts:
            work.search(one)
        seconds, _ = work.timed(lambda parts=parts: [work.search(one) for one in parts], repeats=2)
        found.append(
            {
                "what": f"{problem.size.name}: {name}",
                "seconds": seconds,
                "programs": len({one.tokens.shape for one in parts}),
                "note": "",
            }
        )
    return found


def residuals(problem: work.Problem) -> list[dict]:
    """The search from state 0 with other choices of what a block keeps for its backward pass; ours comes first."""
    policies = jax.checkpoint_policies
    choices = {
        "the products with weights, turned": suffix.RESIDUALS,
        "attention scores too": policies.dots_saveable,
        "everything": policies.everything_saveable,
        "its input alone": policies.nothing_saveable,
    }
    arguments = work.arguments(problem, work.clean_pass(problem), 0)
    programs, seconds, found = {}, dict.fromkeys(choices, np.inf), {}
    for name, policy in choices.items():
        with mock.patch.object(suffix, "RESIDUALS", policy):
            jax.clear_caches()
            programs[name] = latent.attack_state.lower(*arguments, cfg=problem.cfg, search=work.ALONE).compile()
    # In turn, so that a slow moment of the machine meets all of them.
    for _ in range(6):
        for name, program in programs.items():
            took, found[name] = work.timed(lambda program=program: jax.block_until_ready(program(*arguments)), 1)
            seconds[name] = min(seconds[name], took)
    ours = next(iter(found.values()))
    notes = {
        name: f"{program.memory_analysis().temp_size_in_bytes / 1e6:.0f} MB of temporaries; "
        f"{float((found[name].delta != ours.delta).mean()):.1e} of coordinates differ"
        for name, program in programs.items()
    }
    return [
        {
            "what": f"{problem.size.name}, state 0: a block keeps {name}",
            "seconds": seconds[name],
            "programs": 1,
            "note": notes[name],
        }
        for name in choices
    ]


def static_starts(problem: work.Problem) -> list[dict]:
    """Four states by the one program whose state is traced, and by a program for each, whose loops have fixed ends."""
    states = sorted({0, problem.cfg.num_layers // 3, 2 * problem.cfg.num_layers // 3, problem.cfg.num_layers})
    options, clean = {"cfg": problem.cfg, "search": work.ALONE}, work.clean_pass(problem)
    fixed = jax.jit(latent.attack_state.__wrapped__, static_argnums=4, static_argnames=("cfg", "search"))
    found = []
    for name, search in (("traced", latent.attack_state), ("fixed", fixed)):

        def every(search=search):
            return jax.block_until_ready(
                [search(*work.arguments(problem, clean, state), **options) for state in states]
            )

        jax.clear_caches()
        first, _ = work.timed(every, 1)
        seconds, _ = work.timed(every)
        found.append(
            {
                "what": f"{problem.size.name}, states {states}: start of the loops {name}",
                "seconds": seconds,
                "programs": 1 if name == "traced" else len(states),
                "note": f"first call {first:.1f} s",
            }
        )
    return found


def early_stop(problem: work.Problem, budgets=(0.005, 0.01, 0.015, 0.02)) -> list[dict]:
    """What stopping at the target could save: steps after which every token of it surely has more than half.

    Tokens whose mean NLL times their number is below ln 2 all have a probability above one half: greedy decoding
    writes them. Rows of a batch go together, so that a step is saved only where all of them are there.
    """

    def every():
        clean = work.clean_pass(problem)
        return [
            np.asarray(
                latent.attack_state(
                    *work.arguments(problem, clean, state, budgets), cfg=problem.cfg, search=work.ALONE
                ).nll_trace
            )
            for state in problem.states
        ]

    seconds, traces = work.timed(every, 2)
    certain = np.stack(traces)[:, : work.STEPS].reshape(len(traces), work.STEPS, -1) * len(problem.target) < np.log(2)
    reached = np.maximum.accumulate(certain, axis=1)
    return [
        {
            "what": f"{problem.size.name}: the search as it is",
            "seconds": seconds,
            "programs": 1,
            "note": f"{reached.mean():.0%} of all row steps follow one that reached the target, "
            f"{reached.all(axis=2).mean():.0%} of the steps of whole batches",
        }
    ]


def restarts(problem: work.Problem, starts=(1, 4)) -> list[dict]:
    """The L2 attack at the paper's radius on every state, from zero alone and from random points of the sphere too."""
    norm = directions.moments(problem.params, problem.tokens, problem.mask, cfg=problem.cfg).norm
    shape, found, lasts = (len(problem.tokens), 1), [], {}
    for count in starts:
        search = functools.partial(
            sphere.sphere_attack,
            problem.params,
            problem.tokens,
            problem.mask,
            jnp.asarray(problem.target),
            cfg=problem.cfg,
            search=sphere.Search(starts=count),
        )

        def every(search=search):
            return jax.block_until_ready(
                [
                    search(
                        state,
                        jnp.full(shape, sphere.PAPER_FRACTION * norm[state]),
                        latent.row_keys(jax.random.key(0), np.arange(shape[0], dtype=np.uint32), state, jnp.ones(1)),
                    )
                    for state in problem.states
                ]
            )

        every()
        seconds, attacked = work.timed(every)
        lasts[count] = np.stack([one.nll_last for one in attacked])
        better = np.mean(lasts[count] < lasts[starts[0]] - 0.01)
        found.append(
            {
                "what": f"{problem.size.name}: L2 attack, {count} start{'s' * (count > 1)}",
                "seconds": seconds,
                "programs": 1,
                "note": f"mean last NLL {lasts[count].mean():.3f}; lower by more than .01 in {better:.0%} of cells",
            }
        )
    return found


def cache(*, tiny: bool) -> list[dict]:
    """Seconds of the first search of a new process, with an empty and with a filled compilation cache."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": folder}
        for name in ("empty", "filled"):
            done = subprocess.run(
                [sys.executable, "-c", _FIRST_CALL, "tiny" if tiny else "toy"],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            found.append(
                {
                    "what": f"first search of a process, {name} compilation cache",
                    "seconds": float(done.stdout.split()[-1]),
                    "programs": 1,
                    "note": "",
                }
            )
    jax.clear_caches()
    return found
