"""How cost grows: seconds and temporaries of the search by layers, prompts, budgets, prompt length, vocabulary."""

import dataclasses

import jax
import numpy as np

from benchmarks import work
from latent_audit.interventions import latent

BASE = work.Size("growth", 6, 128, 320, 4, 2000, (24,) * 4)
AXES = {
    "layers": (3, 6, 12, 24),
    "prompts": (2, 4, 8, 16),
    "budgets": (1, 2, 4, 8),
    "prompt length": (12, 24, 48, 96),
    "vocabulary": (500, 2000, 8000, 32000),
}


def at(axis: str, value: int) -> tuple[work.Size, int]:
    """(size, budgets) of one point: the base with one thing changed."""
    changes = {
        "layers": {"layers": value},
        "prompts": {"lengths": (24,) * value},
        "budgets": {},
        "prompt length": {"lengths": (value,) * 4},
        "vocabulary": {"vocab": value},
    }[axis]
    return dataclasses.replace(BASE, **changes), value if axis == "budgets" else 3


def measure(axis: str, value: int) -> dict:
    """Seconds of one state in the middle (best of three, warm) and bytes of temporaries of its compiled search."""
    size, count = at(axis, value)
    problem = work.make(size)
    arguments = work.arguments(
        problem, work.clean_pass(problem), problem.cfg.num_layers // 2, np.linspace(0.001, 0.01, count)
    )
    temporaries = latent.attack_state.lower(*arguments, cfg=problem.cfg).compile().memory_analysis().temp_size_in_bytes

    def run():
        return jax.block_until_ready(latent.attack_state(*arguments, cfg=problem.cfg))

    run()
    seconds, _ = work.timed(run)
    return {"axis": axis, "value": value, "seconds": seconds, "temporaries": temporaries}


def exponents(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Axis -> least-squares slopes of log seconds and log temporaries against the log of the value."""
    found = {}
    for axis in AXES:
        own = [row for row in rows if row["axis"] == axis]
        x = np.log([row["value"] for row in own])
        found[axis] = {
            what: float(np.polyfit(x, np.log([row[what] for row in own]), 1)[0]) for what in ("seconds", "temporaries")
        }
    return found
