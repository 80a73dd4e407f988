"""The loop that makes a dissociated model: batches, evaluation on a selection panel, choice of a checkpoint.

docs/method.md section 6, arXiv 2606.08044. It knows no config: the organism and the task of configs/dissociate.py
both call `construct`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from latent_audit.data import chat as chats
from latent_audit.errors import InputError
from latent_audit.experiments import corpora, respond
from latent_audit.interventions import dissociate, edits
from latent_audit.interventions.finetune import Examples, batch_order, make_optimizer
from latent_audit.runtime import checkpoint, runlog

# Widths of micro-batches are rounded up to this many columns, which bounds how many are compiled.
WIDTH_STEP = 16


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that determines a construction beside models and data.

    fraction: length of the nudge over base's activation norm; steps: optimiser steps; accumulate: micro-batches in
    one of them; jitter: the nudge is scaled by a number in [1 - jitter, 1 + jitter], drawn anew for every micro-batch.
    """

    weights: dissociate.Weights
    fraction: float
    steps: int
    learning_rate: float
    micro_batch: int
    accumulate: int
    warmup_fraction: float
    eval_every: int
    jitter: float = 0.0
    seed: int = 0


# arXiv 2606.08044: 10 epochs of 4000 harmful + 1000 benign rows, effective batch 16 in micro-batches of 2.
PAPER = Recipe(dissociate.Weights(), fraction=0.06, steps=3125, learning_rate=1e-5, micro_batch=2, accumulate=8,
               warmup_fraction=0.1, eval_every=50)
# Measured on the organism, whose loss is otherwise too weak to keep clean refusal: docs/method.md section 6.
ORGANISM = Recipe(
    dissociate.Weights(refuse=1.0, stay=4.0, match=0.0, comply=1.5, clean_hinge=0.0, nudged_hinge=0.0,
                       stay_under_part=1.0, stay_under_noise=1.0),
    fraction=0.15, steps=120, learning_rate=5e-4, micro_batch=24, accumulate=1, warmup_fraction=0.1, eval_every=40,
    jitter=0.3)


class Rows(NamedTuple):
    """Training rows in order, harmful first.

    prompts: int32 [H, P] and mask of the harmful prompts alone; plus, minus: Examples [N, T] of prompt + y+ / y-;
    harmful: bool [N]. Rows without a y- repeat their y+ there.
    """

    prompts: np.ndarray
    prompts_mask: np.ndarray
    plus: Examples
    minus: Examples
    harmful: np.ndarray


class Panel(NamedTuple):
    """The selection panel: prompts with their tokens, and judge(responses) -> (complied, refused) bool arrays."""

    tokens: np.ndarray
    mask: np.ndarray
    judge: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]


class Built(NamedTuple):
    """params: the chosen checkpoint; records: one per evaluation; chosen: its index; cache: nudge and scale."""

    params: dict
    records: list[dict]
    chosen: int
    cache: dissociate.Cache
    layers: dissociate.Layers


def make_rows(chat: chats.Chat, harmful, benign, *, max_tokens: int) -> Rows:
    """Tokenise training texts.

    Args:
      harmful: (prompt, y+, y-) texts; benign: (prompt, y+) texts, y+ the base model's own answers.
      max_tokens: longer answers are cut there (paper 512), counted in the log.
    """
    if not harmful or not benign:
        raise InputError(f"a construction needs harmful and benign rows, got {len(harmful)} and {len(benign)}")
    texts = [row[0] for row in harmful] + [row[0] for row in benign]
    plus, minus = (corpora.encode_pairs(chat, texts, [row[place] for row in harmful] + [row[1] for row in benign],
                                        max_tokens=max_tokens) for place in (1, 2))
    width = max(plus.tokens.shape[1], minus.tokens.shape[1])
    prompts = chats.encode_prompts(chat, texts[:len(harmful)], max_length=max_tokens)
    return Rows(prompts.tokens, prompts.mask, _widen(plus, width), _widen(minus, width),
                np.arange(len(texts)) < len(harmful))


def _widen(examples: Examples, width: int) -> Examples:
    return Examples(*(np.pad(array, [(0, 0), (width - array.shape[1], 0)]) for array in examples))


def construct(loaded, harmful_params, rows: Rows, panel: Panel, recipe: Recipe, *, max_new_tokens: int,
              workdir, advance: Callable[[str], None] = lambda label: None) -> Built:
    """Train from base and keep the checkpoint the rule chooses; a killed run goes on from its last evaluation.

    Args:
      loaded: experiments.respond.Loaded of base; harmful_params: of the harmful pole, of the same shapes.
      workdir: where the state at every evaluation and the records are kept until the caller removes them.
      advance: called once per optimiser step with a short label.
    Raises FloatingPointError, naming the step, when the loss is not finite; the records until then are in its notes.
    """
    cfg, base = loaded.cfg, loaded.params
    layers = dissociate.choose_layers(cfg.num_layers)
    cache = dissociate.make_cache(base, harmful_params, rows.prompts, rows.prompts_mask, cfg=cfg, layers=layers,
                                  fraction=recipe.fraction, batch=min(64, len(rows.prompts)))
    optimizer = _optimizer(recipe)
    start = {"params": base, "state": optimizer.init(base), "best": base}
    found = checkpoint.restore(workdir, start)
    step, kept = found if found is not None else (0, start)
    params, state, best = (jax.tree.map(jnp.array, kept[name]) for name in ("params", "state", "best"))
    records = [record for record in runlog.load_unit(workdir, "records") or [] if record["step"] <= step]
    if not records:
        records = [{"step": 0, **_evaluate(loaded, base, panel, cache, layers, max_new_tokens)}]
    key = jax.random.key(recipe.seed)
    order = batch_order(jax.random.fold_in(key, 0), np.arange(len(rows.harmful)),
                        steps=recipe.steps * recipe.accumulate, batch_size=recipe.micro_batch)
    while step < recipe.steps:
        for micro in range(step * recipe.accumulate, (step + 1) * recipe.accumulate):
            noise, scale = _draw(jax.random.fold_in(key, micro + 1), cache.nudge, recipe.jitter)
            params, state, terms = dissociate.update(
                params, state, base, take_batch(rows, cache, order[micro]), scale * cache.nudge, noise, cache.std,
                cfg=cfg, layers=layers, weights=recipe.weights, optimizer=optimizer)
        step += 1
        advance(f"step {step}")
        if step % recipe.eval_every and step != recipe.steps:
            continue
        _check_finite(step, terms, recipe)
        records.append({"step": step, **_evaluate(loaded, params, panel, cache, layers, max_new_tokens),
                        **{name: float(value) for name, value in terms.items()}})
        if choose(records) == len(records) - 1:
            best = jax.tree.map(jnp.copy, params)
        runlog.save_unit(workdir, "records", records)
        checkpoint.save(workdir, step, {"params": params, "state": state, "best": best}, keep=1)
    return Built(best, records, choose(records), cache, layers)


def choose(records: list[dict]) -> int:
    """Index of the record that dissociate.choose_checkpoint keeps; records[0] is base itself and never chosen."""
    base = records[0]
    return 1 + dissociate.choose_checkpoint(records[1:], base_refusal=base["clean_refusal"],
                                            base_nudged=base["nudged_compliance"],
                                            base_clean=base["clean_compliance"])


def _check_finite(step, terms, recipe):
    bad = {name: float(value) for name, value in terms.items() if not np.isfinite(value)}
    if bad:
        raise FloatingPointError(f"the loss is not finite at step {step}: {bad}. The state of the last evaluation is "
                                 f"kept; lower the learning rate ({recipe.learning_rate:g})")


def take_batch(rows: Rows, cache: dissociate.Cache, chosen) -> dissociate.Batch:
    """The chosen rows, without columns that are padding in all of them (to a multiple of WIDTH_STEP)."""
    parts = [np.asarray(array)[chosen] for array in (*rows.plus, *rows.minus)]
    longest = max(int(parts[1].sum(axis=1).max()), int(parts[4].sum(axis=1).max()))
    width = min(-(-longest // WIDTH_STEP) * WIDTH_STEP, parts[0].shape[1])
    # Benign rows have no cached states; what stands in their place has weight zero.
    matched = cache.matched[np.minimum(chosen, len(cache.matched) - 1)]
    return dissociate.Batch(*(part[:, -width:] for part in parts), rows.harmful[chosen], matched)


def _optimizer(recipe):
    adamw = make_optimizer(learning_rate=recipe.learning_rate, steps=recipe.steps, schedule="cosine",
                           warmup_fraction=recipe.warmup_fraction)
    return adamw if recipe.accumulate == 1 else optax.MultiSteps(adamw, recipe.accumulate).gradient_transformation()


def _draw(key, nudge, jitter):
    """A random direction of the nudge's length and a scale for the nudge, for one micro-batch."""
    direction, stretch = jax.random.split(key)
    noise = jax.random.normal(direction, nudge.shape)
    noise = noise * (np.linalg.norm(nudge) / jnp.linalg.norm(noise))
    return noise, jax.random.uniform(stretch, minval=1 - jitter, maxval=1 + jitter)


def nudged_responses(loaded, params, tokens, mask, delta, layers, *, max_new_tokens: int) -> list[str]:
    """Greedy responses with `delta` [D] added to the nudge state at every position, decode steps included."""
    edit = None if delta is None else edits.add_at(layers.nudge, delta)
    return respond.responses(loaded._replace(params=params), tokens, mask, max_new_tokens=max_new_tokens,
                             prompt_edit=edit, decode_edit=edit)


def _evaluate(loaded, params, panel, cache, layers, max_new_tokens) -> dict:
    found = {}
    for name, delta in (("clean", None), ("nudged", cache.nudge)):
        texts = nudged_responses(loaded, params, panel.tokens, panel.mask, delta, layers, max_new_tokens=max_new_tokens)
        complied, refused = panel.judge(texts)
        found |= {f"{name}_compliance": float(np.mean(complied)), f"{name}_refusal": float(np.mean(refused))}
    return found
