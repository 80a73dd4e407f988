"""Which checkpoint fits which device, how many answers are decoded at once, and how many minutes a pole takes.

    python -m benchmarks.hardware            prints the table that docs/performance.md holds

Nothing here is measured but the shares below: memory follows from shapes, minutes from published peaks times the
shares of them that were reached on one H100. The default main job: 24 prompts of 40 tokens x every residual state x 3
budgets x {pgd, two random controls}, 128 tokens answered to each; bfloat16, no judge.
"""

import sys
from typing import NamedTuple

import jax.numpy as jnp

from latent_audit.experiments.forecast import amounts
from latent_audit.models import batching, sizes
from latent_audit.models.config import ModelConfig
from latent_audit.models.families import config_from_hf

PROMPTS, COLUMNS, BUDGETS, ATTACKS, STEPS, NEW = 24, 40, 3, 3, 10, 128
# docs/benchmark_gpu.json: python -m benchmarks.gpu --models "Llama 3.2 3B" --no-rival, one H100 (80 GB), jax 0.11.2,
# bfloat16, 2026-11-27. Search: the share of the peak of products that it reached. A step of 512 rows: over what memory
# or products allow, keys and values included. A step of one row (3.8 ms, 2.5 of it weights): seconds of a block beyond.
REACHED, OVER_BOUND, BLOCK_SECONDS = 0.5, 1.8, 4.5e-5
# Of the device's memory: what is left free.
SPARE = 0.08
MOST_ROWS = 512


class Device(NamedTuple):
    """gigabytes of memory, operations and bytes per second, as its maker gives them; the H100's as measured."""

    gigabytes: float
    peak: float
    bandwidth: float


DEVICES = {
    "RTX 4090": Device(24, 165e12, 1008e9),
    "A100 40 GB": Device(40, 312e12, 1555e9),
    "H100 80 GB": Device(80, 694e12, 2560e9),
    "TPU v5e, 8 chips": Device(8 * 16, 8 * 197e12, 8 * 819e9),
    "H100, 8 of them": Device(8 * 80, 8 * 694e12, 8 * 2560e9),
}


def _llama(layers, width, mlp, heads, kv_heads, vocab, *, head_dim=None, tied=False) -> ModelConfig:
    fields = {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim or width // heads,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": tied,
    }
    return config_from_hf(fields)


# The shapes of published checkpoints.
MODELS = {
    "SmolLM2 135M": _llama(30, 576, 1536, 9, 3, 49152, tied=True),
    "Qwen2.5 0.5B": _llama(24, 896, 4864, 14, 2, 151936, tied=True),
    "Llama 3.2 1B": _llama(16, 2048, 8192, 32, 8, 128256, tied=True),
    "Gemma 2 2B": _llama(26, 2304, 9216, 8, 4, 256000, head_dim=256, tied=True),
    "Llama 3.2 3B": _llama(28, 3072, 8192, 24, 8, 128256, tied=True),
    "Llama 3.1 8B": _llama(32, 4096, 14336, 32, 8, 128256),
    "Qwen2.5 14B": _llama(48, 5120, 13824, 40, 8, 152064),
    "Gemma 2 27B": _llama(46, 4608, 36864, 32, 16, 256000, head_dim=128, tied=True),
    "Llama 3.3 70B": _llama(80, 8192, 28672, 64, 8, 128256),
}


class Fit(NamedTuple):
    """rows: answers decoded together; search, generation: minutes of one pole; of several devices as if they were one
    (what they tell each other is left out)."""

    rows: int
    search: float
    generation: float


def fit(cfg: ModelConfig, device: Device, *, attacks: int = ATTACKS) -> Fit | None:
    """How a pole is audited on a device; None where a search of one prompt does not fit beside the weights."""
    weights = 2 * sizes.parameters(cfg)
    free = device.gigabytes * 1e9 * (1 - SPARE) - weights
    one = batching.cache_bytes(cfg, COLUMNS + NEW, jnp.bfloat16) + 4 * cfg.vocab_size
    if free < max(one, sizes.search_bytes(cfg, BUDGETS, COLUMNS, "bfloat16")):
        return None
    answers = PROMPTS * (cfg.num_layers + 1) * BUDGETS * attacks
    rows = int(min(free // one, MOST_ROWS, answers))
    searched = amounts.total(
        [
            amounts.search(PROMPTS * BUDGETS, COLUMNS + amounts.GOAL, cfg.num_layers - state, STEPS - 1)
            for state in range(cfg.num_layers + 1)
        ]
    )
    search = amounts.operations(searched, cfg, COLUMNS) / (REACHED * device.peak)
    step = max((weights + rows * one) / device.bandwidth, 2 * sizes.parameters(cfg) * rows / device.peak)
    step = max(OVER_BOUND * step, BLOCK_SECONDS * cfg.num_layers)
    return Fit(rows, search / 60, answers / rows * NEW * step / 60)


def table() -> str:
    """The table as Markdown: minutes of one pole, and answers decoded at once."""
    lines = [f"| checkpoint | weights, GB | {' | '.join(DEVICES)} |", "|---|---" + "|---" * len(DEVICES) + "|"]
    for name, cfg in MODELS.items():
        cells = [_cell(fit(cfg, device)) for device in DEVICES.values()]
        lines.append(f"| {name} | {2 * sizes.parameters(cfg) / 1e9:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(found: Fit | None) -> str:
    if found is None:
        return "does not fit"
    minutes = found.search + found.generation
    return f"{minutes:.1f} min ({found.rows})" if minutes < 9.95 else f"{minutes:.0f} min ({found.rows})"


def costs() -> str:
    """Cost of 1000 cells (a prompt, a state, a budget; searched, and answered thrice) on an H100, as Markdown."""
    lines = ["| checkpoint | search, s | answers, s |", "|---|---|---|"]
    for name, cfg in MODELS.items():
        found = fit(cfg, DEVICES["H100 80 GB"])
        if found is not None:
            cells = PROMPTS * (cfg.num_layers + 1) * BUDGETS / 1000
            lines.append(f"| {name} | {60 * found.search / cells:.1f} | {60 * found.generation / cells:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(), costs(), sep="\n\n")
    sys.exit()
