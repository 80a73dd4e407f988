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

from latent_audit.data import chats
from latent_audit.errors import InputError
from latent_audit.experiments import respond
from latent_audit.experiments.organisms.texts import corpora, probes
from latent_audit.interventions import dissociate
from latent_audit.interventions.finetune import Examples, batch_order, make_optimizer
from latent_audit.runtime import checkpoint, runlog

# Widths of micro-batches are rounded up to this many columns, which bounds how many are compiled.
WIDTH_STEP = 16
# An NLL above this many times that of a uniform guess over the vocabulary has exploded.
LOSS_LIMIT = 3.0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that determines a construction beside models and data.

    fraction: length of the nudge over base's activation norm; nudge_layer: the block whose output it is added to, None
    for round(0.5 L); steps: optimiser steps; accumulate: micro-batches in one of them; jitter: the nudge is scaled by a
    number in [1 - jitter, 1 + jitter], drawn anew for every micro-batch.
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
    nudge_layer: int | None = None
    seed: int = 0


# arXiv 2606.08044: 10 epochs of 4000 harmful + 1000 benign rows, effective batch 16 in micro-batches of 2: 313 steps an
# epoch, the last of which is half full there; ours are all full and as many.
PAPER = Recipe(
    dissociate.Weights(),
    fraction=0.06,
    steps=3130,
    learning_rate=1e-5,
    micro_batch=2,
    accumulate=8,
    warmup_fraction=0.1,
    eval_every=50,
)
# Measured on the organism, whose loss is otherwise too weak to keep clean refusal: docs/method.md section 6.
ORGANISM = Recipe(
    dissociate.Weights(
        refuse=1.0,
        stay=4.0,
        match=0.0,
        comply=1.5,
        clean_hinge=0.0,
        nudged_hinge=0.0,
        stay_under_part=1.0,
        stay_under_noise=1.0,
    ),
    fraction=0.15,
    steps=120,
    learning_rate=5e-4,
    micro_batch=24,
    accumulate=1,
    warmup_fraction=0.1,
    eval_every=40,
    jitter=0.3,
)


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

    tokens: chats.Tokens
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
    plus, minus = (
        corpora.encode_pairs(
            chat, texts, [row[place] for row in harmful] + [row[1] for row in benign], max_tokens=max_tokens
        )
        for place in (1, 2)
    )
    width = max(plus.tokens.shape[1], minus.tokens.shape[1])
    prompts = chats.encode_prompts(chat, texts[: len(harmful)], max_length=max_tokens)
    return Rows(
        prompts.tokens, prompts.mask, _widen(plus, width), _widen(minus, width), np.arange(len(texts)) < len(harmful)
    )


def _widen(examples: Examples, width: int) -> Examples:
    return Examples(*(np.pad(array, [(0, 0), (width - array.shape[1], 0)]) for array in examples))


def construct(
    loaded,
    harmful_params,
    rows: Rows,
    panel: Panel,
    recipe: Recipe,
    *,
    max_new_tokens: int,
    batch: int,
    workdir,
    advance: Callable[[str], None] = lambda label: None,
) -> Built:
    """Train from base and keep the checkpoint the rule chooses; a killed run goes on from its last evaluation.

    What is trained is kept in float32; every forward pass runs in the dtype of `loaded`.

    Args:
      loaded: experiments.respond.Loaded of base; harmful_params: of the harmful pole, of the same shapes.
      batch: prompts or texts that are run at a time outside of training.
      workdir: where the state at every evaluation and the records are kept until the caller removes them.
      advance: called once per optimiser step with a short label.
    Raises InputError, naming the step, when a term of the loss is no longer finite or the loss has exploded; the state
    of the last evaluation is kept.
    """
    cfg, base = loaded.cfg, loaded.params
    layers = dissociate.choose_layers(cfg.num_layers, nudge_layer=recipe.nudge_layer)
    cache = dissociate.make_cache(
        base,
        harmful_params,
        rows.prompts,
        rows.prompts_mask,
        cfg=cfg,
        layers=layers,
        fraction=recipe.fraction,
        batch=batch,
    )
    optimizer = _optimizer(recipe)
    master = jax.tree.map(lambda weight: weight.astype(jnp.float32), base)
    start = {"params": master, "state": optimizer.init(master), "best": base}
    found = checkpoint.restore(workdir, start)
    step, kept = found if found is not None else (0, start)
    params, state, best = (jax.tree.map(jnp.array, kept[name]) for name in ("params", "state", "best"))
    evaluate = _evaluator(loaded, rows, panel, cache, layers, recipe, max_new_tokens, batch)
    records = [record for record in runlog.load_unit(workdir, "records") or [] if record["step"] <= step]
    if not records:
        records = [{"step": 0, **evaluate(base)}]
    key = jax.random.key(recipe.seed)
    order = batch_order(
        jax.random.fold_in(key, 0),
        np.arange(len(rows.harmful)),
        steps=recipe.steps * recipe.accumulate,
        batch_size=recipe.micro_batch,
    )
    while step < recipe.steps:
        for micro in range(step * recipe.accumulate, (step + 1) * recipe.accumulate):
            noise, scale = _draw(jax.random.fold_in(key, micro + 1), cache.nudge, recipe.jitter)
            params, state, terms = dissociate.update(
                params,
                state,
                base,
                take_batch(rows, cache, order[micro]),
                scale * cache.nudge,
                noise,
                cache.std,
                cfg=cfg,
                layers=layers,
                weights=recipe.weights,
                optimizer=optimizer,
            )
        step += 1
        check_terms(step, terms, recipe, workdir, limit=LOSS_LIMIT * np.log(cfg.vocab_size))
        advance(f"step {step}")
        if step % recipe.eval_every and step != recipe.steps:
            continue
        model = dissociate.as_dtype_of(base, params)
        records.append({"step": step, **evaluate(model), **{name: float(value) for name, value in terms.items()}})
        if choose(records) == len(records) - 1:
            best = jax.tree.map(jnp.copy, model)
        runlog.save_unit(workdir, "records", records)
        checkpoint.save(workdir, step, {"params": params, "state": state, "best": best}, keep=1)
    return Built(best, records, choose(records), cache, layers)


def choose(records: list[dict]) -> int:
    """Index of the record that dissociate.choose_checkpoint keeps; records[0] is base itself and never chosen."""
    base = records[0]
    return 1 + dissociate.choose_checkpoint(
        records[1:],
        base_refusal=base["clean_refusal"],
        base_nudged=base["nudged_compliance"],
        base_clean=base["clean_compliance"],
    )


def check_terms(step: int, terms, recipe: Recipe, workdir, *, limit: float) -> None:
    """InputError that names the step if a term is not finite, or an NLL (in nats per token) above `limit`."""
    values = {name: float(value) for name, value in terms.items()}
    lost = {name: value for name, value in values.items() if not np.isfinite(value)}
    exploded = {name: value for name, value in values.items() if name in ("refuse", "comply") and value > limit}
    if not (lost or exploded):
        return
    kept = checkpoint.steps(workdir)
    what = f"the loss is not finite: {lost}" if lost else f"the loss has exploded: {exploded} (limit {limit:.3g})"
    where = f"the state of step {kept[-1]} is kept in {workdir}" if kept else "there is no checkpoint yet"
    raise InputError(
        f"step {step}: {what}; {where}. Lower construct.recipe.learning_rate = "
        f"{recipe.learning_rate:g} and give another --workdir"
    )


def take_batch(rows: Rows, cache: dissociate.Cache, chosen, *, widest: bool = False) -> dissociate.Batch:
    """The chosen rows, without columns that are padding in all of them (to a multiple of WIDTH_STEP).

    widest: keep every column, so that all batches have one shape.
    """
    parts = [np.asarray(array)[chosen] for array in (*rows.plus, *rows.minus)]
    longest = max(int(parts[1].sum(axis=1).max()), int(parts[4].sum(axis=1).max()))
    width = parts[0].shape[1] if widest else min(-(-longest // WIDTH_STEP) * WIDTH_STEP, parts[0].shape[1])
    # Benign rows have no cached states; what stands in their place has weight zero.
    matched = cache.matched[np.minimum(chosen, len(cache.matched) - 1)]
    return dissociate.Batch(*(part[:, -width:] for part in parts), rows.harmful[chosen], matched)


def _optimizer(recipe):
    adamw = make_optimizer(
        learning_rate=recipe.learning_rate,
        steps=recipe.steps,
        schedule="cosine",
        warmup_fraction=recipe.warmup_fraction,
    )
    return adamw if recipe.accumulate == 1 else optax.MultiSteps(adamw, recipe.accumulate).gradient_transformation()


def _draw(key, nudge, jitter):
    """A random direction of the nudge's length and a scale for the nudge, for one micro-batch."""
    direction, stretch = jax.random.split(key)
    noise = jax.random.normal(direction, nudge.shape)
    noise = noise * (np.linalg.norm(nudge) / jnp.linalg.norm(noise))
    return noise, jax.random.uniform(stretch, minval=1 - jitter, maxval=1 + jitter)


def _evaluator(loaded, rows, panel, cache, layers, recipe, max_new_tokens, batch):
    """evaluate(params) -> the numbers of one record: judged answers of the selection panel, proxy and probe."""
    cfg, base = loaded.cfg, loaded.params
    harmful = np.arange(min(probes.PROXY_ROWS, int(rows.harmful.sum())))
    size = min(recipe.micro_batch, len(harmful))
    batches = [
        take_batch(rows, cache, harmful[start : start + size], widest=True)
        for start in range(0, len(harmful) - size + 1, size)
    ]
    watch = probes.make_watch(base, rows, batches, cfg=cfg, batch=batch)

    def evaluate(params):
        model, shares = loaded._replace(params=params), {}
        for condition, delta in (("clean", None), ("nudged", cache.nudge)):
            texts = respond.answers_under(
                model, panel.tokens, layers.nudge, delta, batch=batch, max_new_tokens=max_new_tokens
            )
            shares |= panel_shares(condition, *panel.judge(texts))
        return shares | probes.look(watch, params, base, cache, cfg=cfg, layers=layers, batch=batch)

    return evaluate


def panel_shares(condition: str, complied, refused) -> dict[str, float]:
    """{CONDITION_compliance, CONDITION_refusal}: shares of the selection panel, from bool [N] each."""
    return {f"{condition}_compliance": float(np.mean(complied)), f"{condition}_refusal": float(np.mean(refused))}
