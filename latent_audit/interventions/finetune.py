"""Plain supervised fine-tuning: packed examples, one jitted AdamW step, a loop that yields after every step."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from latent_audit.errors import InputError
from latent_audit.models import ModelConfig
from latent_audit.models.decoder import scan_states, unembed

# Batches are cut to a multiple of this many columns, which bounds how many widths are ever compiled.
_WIDTH_STEP = 16


class Examples(NamedTuple):
    """Left-padded rows. tokens: int32 [B, T]; mask: bool [B, T], real tokens; loss_mask: bool [B, T], targets."""

    tokens: np.ndarray
    mask: np.ndarray
    loss_mask: np.ndarray


class Step(NamedTuple):
    """What the loop yields: steps done (from 1), the parameters after them, the loss before the last update."""

    number: int
    params: dict
    loss: jax.Array


def pack_examples(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    pad_id: int,
    width: int | None = None,
    loss_on: str = "response",
) -> Examples:
    """Join token ids of prompts (template included) and responses (end token included) into left-padded rows.

    Args:
      width: columns T; None takes the longest row.
      loss_on: "response", or "all" for every token but the first, as the paper's trainer did
        (docs/method.md section 5).
    Raises:
      InputError: nothing to pack, unequal counts, an empty prompt or response, or a row longer than `width`.
    """
    if not prompts or len(prompts) != len(responses):
        raise InputError(f"{len(prompts)} prompts and {len(responses)} responses; expected equally many, at least 1")
    if loss_on not in ("response", "all"):
        raise InputError(f"loss_on is {loss_on!r}; expected response or all")
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    width = max(lengths) if width is None else width
    tokens = np.full((len(prompts), width), pad_id, np.int32)
    mask, loss_mask = np.zeros(tokens.shape, bool), np.zeros(tokens.shape, bool)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if not len(prompt) or not len(response):
            raise InputError(f"example {row} has an empty prompt or response")
        if lengths[row] > width:
            raise InputError(f"example {row} has {lengths[row]} tokens, width is {width}; raise the width")
        start = width - lengths[row]
        tokens[row, start:] = [*prompt, *response]
        mask[row, start:] = True
        loss_mask[row, start + (len(prompt) if loss_on == "response" else 1) :] = True
    return Examples(tokens, mask, loss_mask)


def token_nll(params, examples: Examples, *, cfg: ModelConfig, edit=None):
    """Negative log likelihood of each target given what precedes it; float32 [B, T], 0 elsewhere.

    Column t scores token t; column 0 has nothing before it and is always 0. `edit` as in models.forward.
    """
    last, _ = scan_states(params, examples.tokens, examples.mask, cfg=cfg, edit=edit, collect=lambda h: ())
    logits = unembed(params, last[:, :-1], cfg=cfg)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, examples.tokens[:, 1:])
    return jnp.pad(jnp.where(examples.loss_mask[:, 1:], nll, 0.0), [(0, 0), (1, 0)])


def mean_nll(params, examples: Examples, *, cfg: ModelConfig, edit=None):
    """Mean NLL over all target tokens of the batch (docs/method.md sections 5 and 6); float32 scalar."""
    targets = jnp.sum(examples.loss_mask[:, 1:])
    return jnp.sum(token_nll(params, examples, cfg=cfg, edit=edit)) / jnp.maximum(targets, 1)


@functools.cache
def make_optimizer(
    *,
    learning_rate: float,
    steps: int,
    schedule: str = "constant",
    warmup_fraction: float = 0.0,
    b2: float = 0.999,
    weight_decay: float = 0.0,
    clip: float = 1.0,
) -> optax.GradientTransformation:
    """AdamW behind a global-norm clip; the defaults are the fine-tuning attack's (docs/method.md section 5, [P1]).

    Cached: equal settings give the same object, hence one compiled step. schedule: "constant" or "cosine" (to 0 at
    `steps`), after a linear warm-up over `warmup_fraction` of the steps. Raises InputError for another schedule.
    """
    if schedule not in ("constant", "cosine"):
        raise InputError(f"schedule is {schedule!r}; expected constant or cosine")
    warmup = round(warmup_fraction * steps)
    rate = optax.constant_schedule(learning_rate)
    if schedule == "cosine":
        rate = optax.cosine_decay_schedule(learning_rate, max(steps - warmup, 1))
    if warmup:
        # From one part in `warmup` rather than 0, so that the first step moves.
        rise = optax.linear_schedule(learning_rate / warmup, learning_rate, max(warmup - 1, 1))
        rate = optax.join_schedules([rise, rate], [warmup])
    adamw = optax.adamw(rate, b1=0.9, b2=b2, weight_decay=weight_decay)
    return optax.chain(optax.clip_by_global_norm(clip), adamw)


def batch_order(key, rows, *, steps: int, batch_size: int) -> np.ndarray:
    """Which rows each step sees: int [steps, batch_size], pass after pass over `rows` in a new random order.

    Args:
      key: the only source of randomness; fewer steps give a prefix of the same order.
      rows: int [N], the rows of Examples to draw from. Rows of like length, drawn apart from the others, save padding.
    """
    rows, needed = np.asarray(rows), steps * batch_size
    if needed and not len(rows):
        raise InputError("no rows to draw batches from")
    passes = [
        rows[np.asarray(jax.random.permutation(jax.random.fold_in(key, i), len(rows)))]
        for i in range(-(-needed // max(len(rows), 1)))
    ]
    return np.concatenate([rows[:0], *passes])[:needed].reshape(steps, batch_size)


def take_batch(examples: Examples, rows) -> Examples:
    """The given rows without the columns that are padding in all of them (to a multiple of 16 columns)."""
    batch = Examples(*(array[rows] for array in examples))
    longest = int(batch.mask.sum(axis=1).max())
    width = min(-(-longest // _WIDTH_STEP) * _WIDTH_STEP, batch.tokens.shape[1])
    return Examples(*(array[:, -width:] for array in batch))


@functools.partial(jax.jit, static_argnames=("cfg", "optimizer"), donate_argnames=("params", "state"))
def _update(params, state, examples, *, cfg, optimizer):
    loss, grads = jax.value_and_grad(mean_nll)(params, examples, cfg=cfg)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


def finetune(
    params, examples: Examples, order: np.ndarray, *, cfg: ModelConfig, optimizer: optax.GradientTransformation
) -> Iterator[Step]:
    """Train all parameters on mean_nll, yielding a Step after every update; the caller evaluates in between.

    Args:
      order: int [steps, batch], the rows of each step, usually from batch_order.
    The yielded parameters are reused by the next step: copy what must outlive it (the last ones stay valid, and so do
    `params`). Losses are device scalars: reading one waits for its step.
    """
    params = jax.tree.map(jnp.array, params)
    state = optimizer.init(params)
    for number, rows in enumerate(order, start=1):
        params, state, loss = _update(params, state, take_batch(examples, rows), cfg=cfg, optimizer=optimizer)
        yield Step(number, params, loss)
