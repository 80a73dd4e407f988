"""What fine-tuning an 8B model needs on one device, from shapes alone: no weights are made and no accelerator is used.

    python -m benchmarks.finetune_memory

Sizes of parameters and training state are exact (jax.eval_shape). Temporaries are those of the step as compiled for
this machine (memory_analysis); those of a CPU are an upper bound, for it multiplies in float32 and keeps a float32 copy
of every bf16 matrix.
"""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp

from latent_audit import models
from latent_audit.interventions import finetune as ft
from latent_audit.interventions import lora
from latent_audit.models.families import config_from_hf

# config.json of Llama 3.1 8B, the fields that decide sizes.
LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 131072,
}
BATCH, TOKENS = 4, 512  # the attack's, docs/method.md section 5
DEVICE_BYTES = 80e9
ALL_MATRICES = ("query", "key", "value", "output", "gate", "up", "down")


class Mode(NamedTuple):
    """One way to train: a row of the table."""

    name: str
    lora: lora.LoraConfig | None
    remat: bool
    master: bool = False
    accumulate: int = 1


MODES = (
    Mode("LoRA 16 on query, value; remat", lora.LoraConfig(), True),
    Mode("LoRA 16 on all matrices; remat", lora.LoraConfig(targets=ALL_MATRICES), True),
    Mode("LoRA 16 on all matrices; remat, 4 micro-batches", lora.LoraConfig(targets=ALL_MATRICES), True, False, 4),
    Mode("LoRA 16 on query, value; no remat", lora.LoraConfig(), False),
    Mode("full, bf16 weights; remat", None, True),
    Mode("full, float32 master; remat", None, True, True),
)


class Memory(NamedTuple):
    """Bytes. params: the model, frozen or (without a master copy) trained; training: adapters or master copy, and the
    optimiser's state; temporaries: activations, gradients, logits and everything else at the step's peak."""

    params: float
    training: float
    temporaries: float

    @property
    def total(self) -> float:
        return sum(self)


def measure(cfg: models.ModelConfig, mode: Mode, *, batch: int = BATCH, tokens: int = TOKENS) -> Memory:
    """Memory of one training step of `cfg` on `batch` rows of `tokens`; the step is compiled, never run."""
    return Memory(*sizes(cfg, mode), _temporaries(cfg, mode, batch, tokens))


def sizes(cfg: models.ModelConfig, mode: Mode) -> tuple[int, int]:
    """Bytes of what is there before a step: (params, training) of Memory."""
    params, state = _shapes(cfg, mode)
    trained, optimizer = _bytes(state.weights), _bytes(state.optimizer)
    if mode.lora is not None:
        return _bytes(params), trained + optimizer
    return (0, trained + optimizer) if mode.master else (trained, optimizer)


def _shapes(cfg, mode: Mode):
    """(parameters, TrainState) as ShapeDtypeStructs."""
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    params = jax.eval_shape(lambda k: models.init_params(k, cfg, jnp.bfloat16), key)
    weights = params if mode.lora is None else jax.eval_shape(lambda k: lora.init_adapters(k, cfg, mode.lora), key)
    return params, jax.eval_shape(lambda w: ft.start(w, optimizer=_optimizer(), master=mode.master), weights)


def _optimizer():
    return ft.make_optimizer(learning_rate=1e-5, steps=150)


def _temporaries(cfg, mode: Mode, batch: int, tokens: int) -> int:
    params, state = _shapes(cfg, mode)
    kinds = (jnp.int32, jnp.bool, jnp.bool)
    examples = ft.Examples(*(jax.ShapeDtypeStruct((batch, tokens), kind) for kind in kinds))
    method = ft.Method(
        mode.accumulate, mode.remat, "bfloat16" if mode.master else None, None if mode.lora is None else mode.lora.scale
    )
    frozen = None if mode.lora is None else params
    compiled = ft.update.lower(state, frozen, examples, cfg=cfg, optimizer=_optimizer(), method=method).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def table(rows: dict[str, Memory]) -> str:
    """Markdown, in GB of 10^9 bytes."""
    header = f"Llama 3.1 8B in bf16, {BATCH} x {TOKENS} tokens, GB"
    lines = [
        f"| {header} | params | adapters or master, optimiser | temporaries | total | fits 80 GB |",
        "|---|---|---|---|---|---|",
    ]
    for name, memory in rows.items():
        numbers = " | ".join(f"{value / 1e9:.1f}" for value in (*memory, memory.total))
        lines.append(f"| {name} | {numbers} | {'yes' if memory.total < DEVICE_BYTES else 'no'} |")
    return "\n".join(lines)


def main() -> int:
    cfg = config_from_hf(LLAMA_8B)
    print(table({mode.name: measure(cfg, mode) for mode in MODES}))
    if jax.default_backend() == "cpu":
        # All block matrices, twice as wide as in bf16.
        blocks = _bytes(jax.eval_shape(lambda k: models.init_params(k, cfg), jax.random.key(0))["blocks"])
        print(f"\nTemporaries hold up to {blocks / 1e9:.1f} GB of float32 copies of blocks, made by CPUs only.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
