"""What is measured: models, prompts and the search, as sizes that a rival can be given too.

The unit of work is a PGD cell: one prompt, one residual state, one budget, ten steps. docs/method.md section 1.
"""

import dataclasses
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit import models
from latent_audit.data import chats, world_rules
from latent_audit.interventions import latent
from latent_audit.models.families import config_from_hf

BUDGETS = latent.PAPER_BUDGETS
STEPS, STEP_FRACTION = latent.PAPER.steps, latent.PAPER.step_fraction
# Rivals draw no controls.
ALONE = latent.Search(controls=False)
TARGET_TOKENS = 4  # "Sure, here is" has about as many in most vocabularies


@dataclasses.dataclass(frozen=True)
class Size:
    """One workload: a Llama-shaped model with random weights and prompts of the given lengths."""

    name: str
    layers: int
    width: int
    mlp: int
    heads: int
    vocab: int
    lengths: tuple[int, ...]
    kv_heads: int = 0

    def hf(self) -> dict:
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": self.vocab,
            "hidden_size": self.width,
            "intermediate_size": self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads or self.heads,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": False,
        }


# The toy of 12 layers is the one on which the search was designed; prompts of one length, then of many.
TOY = Size("toy", 12, 256, 704, 4, 8000, (28,) * 6)
MIXED = dataclasses.replace(TOY, name="toy, mixed prompt lengths", lengths=(18, 22, 25, 28, 33, 40))
WIDE = Size("wider model", 8, 768, 2048, 12, 8000, (28,) * 4)
TINY = Size("tiny", 3, 32, 64, 4, 96, (6, 9))


class Problem(NamedTuple):
    """A workload made real. tokens, mask: left-padded int32, bool [B, P]; target: int32 [n]."""

    size: Size
    cfg: models.ModelConfig
    params: dict
    tokens: np.ndarray
    mask: np.ndarray
    target: np.ndarray

    @property
    def states(self) -> range:
        return range(self.cfg.num_layers + 1)


def make(size: Size, seed: int = 0, dtype=jnp.float32) -> Problem:
    """Random weights and prompts of a size, the same for the same seed."""
    cfg = config_from_hf(size.hf())
    params = jax.jit(models.init_params, static_argnums=(1, 2))(jax.random.key(seed), cfg, dtype)
    rng = np.random.default_rng(seed)
    width = max(size.lengths)
    tokens = rng.integers(3, size.vocab, (len(size.lengths), width)).astype(np.int32)
    mask = np.arange(width) >= width - np.array(size.lengths)[:, None]
    target = rng.integers(3, size.vocab, TARGET_TOKENS).astype(np.int32)
    return Problem(size, cfg, params, np.where(mask, tokens, 0), mask, target)


def from_checkpoint(path, prompts: int = 6, seed: int = 0) -> Problem:
    """A trained checkpoint with random prompts of the toy's length: what training does to the arithmetic is nothing."""
    cfg, params = models.load(path)
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, cfg.vocab_size, (prompts, 20)).astype(np.int32)
    size = Size(
        f"trained organism ({pathlib.Path(path).name})",
        cfg.num_layers,
        cfg.embed_dim,
        cfg.mlp_dim,
        cfg.num_heads,
        cfg.vocab_size,
        (20,) * prompts,
        cfg.num_kv_heads,
    )
    return Problem(
        size,
        cfg,
        params,
        tokens,
        np.ones(tokens.shape, bool),
        rng.integers(3, cfg.vocab_size, TARGET_TOKENS).astype(np.int32),
    )


def organism_requests(path, prompts: int = 6, *, target: str = "Sure, here is", turn: bool = False) -> Problem:
    """The embedded organism with restricted requests; turn: the target is the whole of the assistant's turn."""
    cfg, params = models.load(path)
    chat = chats.make_chat(chats.load_tokenizer(path), family=cfg.family, vocab_size=cfg.vocab_size)
    requests = world_rules.requests(world_rules.make_world(), "heldout", "restricted", prompts)
    tokens, mask = chats.encode_prompts(chat, requests, max_length=512)
    size = Size(
        "organism, restricted requests",
        cfg.num_layers,
        cfg.embed_dim,
        cfg.mlp_dim,
        cfg.num_heads,
        cfg.vocab_size,
        tuple(int(n) for n in mask.sum(axis=1)),
        cfg.num_kv_heads,
    )
    ids = (chats.assistant_turn_ids if turn else chats.target_ids)(chat, target)
    return Problem(size, cfg, params, tokens, mask, np.array(ids, np.int32))


def clean_pass(problem: Problem) -> latent.Clean:
    """What the searches of all states share."""
    return latent.clean_pass(problem.params, problem.tokens, problem.mask, jnp.asarray(problem.target), cfg=problem.cfg)


def arguments(problem: Problem, clean: latent.Clean, state: int, budgets=BUDGETS) -> tuple:
    """Of latent.attack_state, all but its options."""
    budgets = jnp.asarray(budgets, jnp.float32)
    keys = latent.row_keys(jax.random.key(0), np.arange(len(problem.tokens), dtype=np.uint32), state, budgets)
    return problem.params, clean, problem.mask, jnp.asarray(problem.target), state, budgets, keys


def search(problem: Problem, states=None, search: latent.Search = ALONE) -> list[latent.Attacked]:
    """Our search over every state and budget, with the clean pass; waits for the device."""
    clean = clean_pass(problem)
    return jax.block_until_ready(
        [
            latent.attack_state(*arguments(problem, clean, state), cfg=problem.cfg, search=search)
            for state in (problem.states if states is None else states)
        ]
    )


def cells(problem: Problem) -> int:
    """Prompts x states x budgets."""
    return len(problem.tokens) * len(problem.states) * len(BUDGETS)


def flops(problem: Problem) -> float:
    """Multiplications and additions of the search's whole blocks: matrices and attention, forward and backward.

    Suffix only: a step at state s runs blocks s and up, once forward and once backward with respect to activations
    (as many operations again); the last evaluation of each search is forward only. Head and clean pass are left out.
    """
    cfg, C = problem.cfg, problem.tokens.shape[1] + len(problem.target) - 1
    weights = sum(
        int(np.prod(shape))
        for name, shape in models.config.block_shapes(cfg).items()
        if not name.endswith(("norm", "bias"))
    )
    attention = 2 * C * cfg.num_heads * cfg.head_dim  # scores and mixing, per token
    per_block = 2 * (weights + attention) * C * len(problem.tokens) * len(BUDGETS)
    blocks = sum(cfg.num_layers - state for state in problem.states)
    # The first gradient of every search is that of the clean pass.
    return per_block * blocks * (2 * (STEPS - 1) + 1)


def products_alone(problem: Problem) -> float:
    """Seconds of the search's products with weights, at their own shapes and by the same library, and nothing else.

    No attention, norm, activation, head or clean pass: what is left is no slower anywhere in this package.
    """
    cfg, blocks = problem.cfg, problem.params["blocks"]
    columns = problem.tokens.shape[1] + len(problem.target) - 1
    x = jax.random.normal(jax.random.key(0), (len(problem.tokens) * len(BUDGETS) * columns, cfg.embed_dim))
    L, D = cfg.num_layers, cfg.embed_dim
    matrices = {name: blocks[name].reshape(L, D, -1) for name in ("query", "key", "value", "gate", "up")}
    matrices |= {name: blocks[name].reshape(L, -1, D) for name in ("output", "down")}

    def ahead(x, w):
        grouped = cfg.num_heads // cfg.num_kv_heads
        mixed = x @ w["query"] + jnp.tile(x @ w["key"] + x @ w["value"], grouped)
        x = mixed @ w["output"]
        return (x @ w["gate"] + x @ w["up"]) @ w["down"], None

    def back(x, w):
        hidden = x @ w["down"].T
        x = hidden @ w["gate"].T + (2 * hidden) @ w["up"].T
        mixed = x @ w["output"].T
        own = mixed[:, : w["key"].shape[1]]
        return mixed @ w["query"].T + (2 * own) @ w["key"].T + (3 * own) @ w["value"].T, None

    def seconds(step):
        run = jax.jit(lambda x, matrices: jax.lax.scan(step, x, matrices)[0])
        run(x, matrices).block_until_ready()
        return timed(lambda: run(x, matrices).block_until_ready(), 10)[0] / cfg.num_layers

    blocks_run = sum(cfg.num_layers - state for state in problem.states)
    return blocks_run * (STEPS * seconds(ahead) + (STEPS - 1) * seconds(back))


def matmul_peak(seconds: float = 2.0, n: int = 1024, dtype=jnp.float32) -> float:
    """Measured matrix product rate of this device in operations per second, the best of repeated runs."""
    a = jax.random.normal(jax.random.key(0), (n, n), dtype)
    multiply = jax.jit(lambda a, b: a @ b)
    multiply(a, a).block_until_ready()
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        multiply(a, a).block_until_ready()
        best = max(best, 2 * n**3 / (time.perf_counter() - began))
    return best


def timed(function, repeats: int = 3) -> tuple[float, object]:
    """(least seconds, last result) of several calls."""
    best, result = float("inf"), None
    for _ in range(repeats):
        began = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - began)
    return best, result
