"""Supervised fine-tuning: examples, the loss, one jitted AdamW step of parameters or adapters, and the loop."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from latent_audit.errors import InputError
from latent_audit.interventions import lora
from latent_audit.models import ModelConfig, decoder, ops, sharding
from latent_audit.models.kinds import switch

# Batches are cut to a multiple of this many columns, which bounds how many widths are ever compiled.
_WIDTH_STEP = 16


class Examples(NamedTuple):
    """Left-padded rows. tokens: int32 [B, T]; mask: bool [B, T], real tokens; loss_mask: bool [B, T], targets."""

    tokens: np.ndarray
    mask: np.ndarray
    loss_mask: np.ndarray


@dataclasses.dataclass(frozen=True)
class Method:
    """How a step is computed.

    accumulate: micro-batches whose gradients are summed before one update; the loss is still the mean over the whole
    batch. remat: blocks are computed again in the backward pass instead of being kept. dtype: of the forward pass;
    None is the trained weights' own, "bfloat16" with float32 weights makes these a master copy. lora_scale: alpha /
    rank where adapters are trained, None where the parameters are.
    """

    accumulate: int = 1
    remat: bool = False
    dtype: str | None = None
    lora_scale: float | None = None


PLAIN = Method()


class TrainState(NamedTuple):
    """All that training needs to go on. weights: the trained ones, parameters or adapters; optimizer: optax's state,
    float32; step: int32, updates done."""

    weights: dict
    optimizer: tuple
    step: jax.Array


class Step(NamedTuple):
    """What the loop yields: updates done (from 1), the trained weights after them, mean NLL and global gradient norm
    before the last one, and the state to go on from."""

    number: int
    params: dict
    loss: jax.Array
    gradient_norm: jax.Array
    state: TrainState


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


def _context(examples, cfg: ModelConfig) -> decoder.Context:
    """The shared tables of one pass; rows that hold several examples (packing.Packed) keep them apart."""
    if not hasattr(examples, "segments"):
        return decoder.make_context(examples.mask, cfg=cfg)
    segments = jnp.asarray(examples.segments)
    slots = jnp.broadcast_to(jnp.arange(segments.shape[1]), segments.shape)
    begins = segments != jnp.pad(segments[:, :-1], [(0, 0), (1, 0)])
    starts = jax.lax.cummax(jnp.where(begins, slots, 0), axis=1)
    distance = ops.key_distance(slots, slots, examples.mask)
    distance = jnp.where(segments[:, :, None] == segments[:, None, :], distance, -1)
    return decoder.context_at(slots - starts, distance, cfg=cfg, starts=starts)


def token_nll(params, examples, *, cfg: ModelConfig, edit=None, adapters=None, method: Method = PLAIN):
    """Negative log likelihood of each target given what precedes it; float32 [B, T], 0 elsewhere.

    Column t scores token t; column 0 has nothing before it and is always 0. `examples`: Examples or packing.Packed;
    `edit` as in models.forward. Adapters are merged inside each block, so that the merged weights of only one exist
    at a time.
    """
    x, context = decoder.enter(params, examples.tokens, _context(examples, cfg), cfg=cfg)
    apply_edit = edit if edit is not None else lambda h, s: h

    params, adapters = _merge_stacks(params, adapters or {}, cfg, method.lora_scale)

    def step(carry, layer, numbers, adapter, index):
        if adapter:
            layer = lora.merge_layer(layer, adapter, scale=method.lora_scale)  # type: ignore[arg-type]  # set with them
        x, shared = decoder.block(layer, numbers, carry[0], carry[1], context, cfg=cfg)
        return (apply_edit(x, index + 1), shared), None

    if method.remat:
        step = jax.checkpoint(step, prevent_cse=False)  # a scan is its own barrier
    start = (apply_edit(x, jnp.int32(0)), context.beside.shared)
    (last, _), _ = decoder.scan_blocks(step, start, params, (adapters, jnp.arange(cfg.num_layers)), cfg=cfg)
    logits = decoder.unembed(params, last[:, :-1], cfg=cfg)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, examples.tokens[:, 1:])
    return jnp.pad(jnp.where(examples.loss_mask[:, 1:], nll, 0.0), [(0, 0), (1, 0)])


def _merge_stacks(params, adapters, cfg: ModelConfig, scale):
    """(params with the adapters of what not every layer has merged in, the other adapters): blocks get whole stacks."""
    whole = {name: pair for name, pair in adapters.items() if name in switch.split_blocks(params, cfg)[1]}
    if not whole:
        return params, adapters
    merged = params | {"blocks": lora.merge_layer(params["blocks"], whole, scale=scale)}
    return merged, {name: pair for name, pair in adapters.items() if name not in whole}


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
    `steps`), after a linear warm-up over `warmup_fraction` of the steps, rounded up (arXiv 2606.08044).
    Raises InputError for another schedule.
    """
    if schedule not in ("constant", "cosine"):
        raise InputError(f"schedule is {schedule!r}; expected constant or cosine")
    # .07 of 100 is 7.000000000000001 in floats, which is 7 and not 8.
    warmup = math.ceil(round(warmup_fraction * steps, 6))
    rate = optax.constant_schedule(learning_rate)
    if schedule == "cosine":
        rate = optax.cosine_decay_schedule(learning_rate, max(steps - warmup, 1))
    if warmup:
        # From one part in `warmup` rather than 0, so that the first step moves.
        rise = optax.linear_schedule(learning_rate / warmup, learning_rate, max(warmup - 1, 1))
        rate = optax.join_schedules([rise, rate], [warmup])
    adamw = optax.adamw(rate, b1=0.9, b2=b2, weight_decay=weight_decay)
    return optax.chain(optax.clip_by_global_norm(clip), adamw)


def start(weights, *, optimizer: optax.GradientTransformation, master: bool = False) -> TrainState:
    """A TrainState at step 0 that holds its own copy of `weights`; `master` keeps them in float32 whatever they are."""
    return _start(weights, optimizer=optimizer, master=master)


@functools.partial(jax.jit, static_argnames=("optimizer", "master"))
def _start(weights, *, optimizer, master):
    # jnp.array copies: the state is donated to every step, the caller's arrays must not be.
    weights = jax.tree.map(lambda w: jnp.array(w, jnp.float32 if master else w.dtype), weights)
    return sharding.constrain_parameters(TrainState(weights, optimizer.init(_float32(weights)), jnp.int32(0)))


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


def take_batch(examples, rows):
    """The given rows without the columns that are padding in all of them (to a multiple of 16 columns)."""
    batch = [array[rows] for array in examples]
    longest = int(examples.mask[rows].sum(axis=1).max())
    width = min(-(-longest // _WIDTH_STEP) * _WIDTH_STEP, examples.tokens.shape[1])
    return type(examples)(*(array[:, -width:] for array in batch))


def _float32(tree):
    return jax.tree.map(lambda a: a.astype(jnp.float32), tree)


def loss_and_gradient(weights, frozen, examples, *, cfg: ModelConfig, method: Method = PLAIN):
    """Mean NLL over the target tokens of the whole batch, and its gradient in the trained weights, float32.

    Args:
      weights: parameters, or adapters where method.lora_scale is set; frozen: then the parameters, otherwise None.
      examples: B rows, B a multiple of method.accumulate; neighbours share a micro-batch.
    """
    targets = jnp.maximum(jnp.sum(examples.loss_mask[:, 1:]), 1)

    def loss(weights, part):
        if method.lora_scale is not None:
            nll = token_nll(frozen, part, cfg=cfg, adapters=weights, method=method)
        else:
            params = weights if method.dtype is None else jax.tree.map(lambda w: w.astype(method.dtype), weights)
            nll = token_nll(params, part, cfg=cfg, method=method)
        return jnp.sum(nll) / targets

    if method.accumulate == 1:
        value, gradient = jax.value_and_grad(loss)(weights, examples)
        return value, _float32(gradient)

    def add(total, part):
        found = jax.value_and_grad(loss)(weights, part)
        return jax.tree.map(lambda t, f: t + f.astype(jnp.float32), total, found), None

    parts = jax.tree.map(lambda a: a.reshape(method.accumulate, -1, a.shape[-1]), examples)
    nothing = jnp.float32(0), jax.tree.map(lambda w: jnp.zeros(w.shape, jnp.float32), weights)
    return jax.lax.scan(add, nothing, parts)[0]


@functools.partial(jax.jit, static_argnames=("cfg", "optimizer", "method"), donate_argnames="state")
def update(state: TrainState, frozen, examples, *, cfg, optimizer, method):
    """One step: (TrainState, loss, gradient norm). The state given is used up. Arithmetic of the update is float32."""
    loss, gradient = loss_and_gradient(state.weights, frozen, examples, cfg=cfg, method=method)
    changes, inner = optimizer.update(gradient, state.optimizer, _float32(state.weights))
    weights = jax.tree.map(lambda w, c: (w.astype(jnp.float32) + c).astype(w.dtype), state.weights, changes)
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    return sharding.constrain_parameters(TrainState(weights, inner, state.step + 1)), loss, norm


def finetune(
    params,
    examples,
    order: np.ndarray,
    *,
    cfg: ModelConfig,
    optimizer: optax.GradientTransformation,
    method: Method = PLAIN,
    state: TrainState | None = None,
) -> Iterator[Step]:
    """Minimise the mean NLL, yielding a Step after every update; the caller evaluates in between.

    Args:
      examples: Examples or packing.Packed; order: int [steps, batch], the rows of each step, usually from batch_order.
      state: where to go on from, used up; None starts from a copy of `params`. With method.lora_scale it must hold
        adapters, and `params` stay as they are.
    The yielded weights are reused by the next step: copy what must outlive it (the last ones stay valid, and so do
    `params`). Losses are device scalars: reading one waits for its step.
    Raises:
      InputError: a batch that does not split into method.accumulate equal parts.
    """
    if order.shape[1] % method.accumulate:
        raise InputError(f"a batch of {order.shape[1]} cannot be cut into {method.accumulate} equal micro-batches")
    if (method.lora_scale is not None) and state is None:
        raise InputError("training adapters needs a state that holds them: finetune.start(lora.init_adapters(...))")
    state = start(params, optimizer=optimizer) if state is None else state
    frozen = params if method.lora_scale is not None else None
    done = int(state.step)
    for number, rows in enumerate(order[done:], start=done + 1):
        batch = take_batch(examples, rows)
        state, loss, norm = update(state, frozen, batch, cfg=cfg, optimizer=optimizer, method=method)
        yield Step(number, state.weights, loss, norm, state)


def check_step(step: Step, *, limit: float) -> None:
    """InputError that names the step if its loss or gradient is not finite, or its loss above `limit` (in nats)."""
    loss, norm = float(step.loss), float(step.gradient_norm)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise InputError(f"step {step.number}: the loss is {loss:g} and the gradient norm {norm:g}, no longer finite")
    if loss > limit:
        raise InputError(f"step {step.number}: the loss has exploded to {loss:.3g} (limit {limit:.3g})")
