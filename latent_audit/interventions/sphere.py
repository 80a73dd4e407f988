"""Adaptive L2 attack: one vector per prompt, of fixed length, added to every position at one residual state.

docs/method.md section 2, arXiv 2606.08044. Everything is batched over prompts x budgets; the state and the budgets are
traced, so one compile serves them all. The blocks below the state run once, not at every step.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.errors import InputError
from latent_audit.interventions import edits, latent, suffix
from latent_audit.models import decoder
from latent_audit.models.config import ModelConfig

# Steps, step size over the radius, and radius over the activation norm: arXiv 2606.08044, docs/method.md section 2.
PAPER_STEPS = 16
PAPER_STEP_FRACTION = 0.3
PAPER_FRACTION = 0.06


class SphereAttack(NamedTuple):
    """Vectors and diagnostics of one state.

    delta: float32 [B, E, D], the search's; control: float32 [B, E, D], a Gaussian direction of the same norm.
    nll_first: float32 [B, E], of the clean model; nll_last, control_nll_last: float32 [B, E], under delta and control.
    nll_trace: float32 [steps + 1, B, E], of the start that was kept; kept: int32 [B, E], which start that was.
    fell: bool [B, E], whether nll_last is below nll_first; where it is not, a safe answer shows nothing.
    """

    delta: jax.Array
    control: jax.Array
    nll_first: jax.Array
    nll_last: jax.Array
    control_nll_last: jax.Array
    nll_trace: jax.Array
    kept: jax.Array
    fell: jax.Array


class Brackets(NamedTuple):
    """Where each prompt falls; float64 [B], relative budgets.

    lo: the largest budget tried at which the prompt did not fall, 0 where it fell at the smallest.
    hi: the smallest budget tried at which it fell, infinite where it did not fall at the largest: the value to report.
    """

    lo: np.ndarray
    hi: np.ndarray


@functools.partial(jax.jit, static_argnames=("cfg", "steps", "step_fraction", "starts"))
def sphere_attack(params, tokens, mask, target, state, radius, row_keys, *, cfg: ModelConfig, steps: int = PAPER_STEPS,
                  step_fraction: float = PAPER_STEP_FRACTION, starts: int = 1) -> SphereAttack:
    """Search one residual state at every radius and draw the control; docs/method.md section 2.

    From delta = 0, each step goes step_fraction * radius along the negative normalised gradient of the mean NLL of the
    target, and is then rescaled to length `radius`. Where the gradient is exactly zero the vector stays where it is: at
    length `radius`, or at zero if it never moved (then `fell` is False).

    To generate under the result: edits.add_at(state, delta[:, None]) as prompt_edit and as decode_edit.

    Args:
      tokens: int32 [B, P]; mask: bool [B, P], left-padded; target: int32 [n], a whole assistant turn with its
        end-of-turn token (chat.assistant_turn_ids).
      state: int scalar (traced) in [0, L]; radius: float32 [B, E], absolute: a budget times the activation norm.
      row_keys: PRNG keys [B, E] of latent.row_keys.
      starts: searches per cell, static; the one with the lowest last NLL is kept. The first starts from zero as in the
        paper; further ones, from random points of the sphere, are ours. They run one after the other.
    """
    (B, E), n = radius.shape, target.shape[0]
    rows = B * E
    tokens, mask = latent.with_target(tokens, mask, target)
    h = jnp.repeat(decoder.state_at(params, tokens, mask, state, cfg=cfg), E, axis=0)
    real = jnp.repeat(mask, E, axis=0)
    context = decoder.make_context(real, cfg=cfg)
    targets = jnp.broadcast_to(target, (rows, n))
    length = radius.astype(jnp.float32).reshape(rows, 1)

    def perturbed(delta):
        return edits.only_where(edits.add_at(state, delta[:, None]), real)(h, state)

    def step(delta, _):
        loss, gradient = suffix.nll_and_gradient(params, perturbed(delta), state, context, targets, cfg=cfg)
        gradient = jnp.where(real[..., None], gradient.astype(jnp.float32), 0.0).sum(axis=1)
        return length * _unit(delta - step_fraction * length * _unit(gradient)), loss

    # Vector 0 is the control; the others are where the further starts begin.
    noise = length * _unit(_gaussian(row_keys.reshape(rows), starts, cfg.embed_dim))
    deltas, losses = jax.lax.map(lambda start: jax.lax.scan(step, start, length=steps), noise.at[0].set(0.0))
    lasts = jax.lax.map(lambda delta: suffix.nll(params, perturbed(delta), state, context, targets, cfg=cfg),
                        jnp.concatenate([deltas, noise[:1]]))
    lasts, control_last = lasts[:-1], lasts[-1]
    kept = jnp.argmin(jnp.where(jnp.isnan(lasts), jnp.inf, lasts), axis=0)
    every = jnp.arange(rows)
    first, last = losses[0, 0], lasts[kept, every]
    trace = jnp.concatenate([losses[kept, :, every].T, last[None]])
    cells = functools.partial(jnp.reshape, shape=(B, E))
    return SphereAttack(deltas[kept, every].reshape(B, E, -1), noise[0].reshape(B, E, -1), cells(first), cells(last),
                        cells(control_last), trace.reshape(steps + 1, B, E), cells(kept), cells(last < first))


def break_budgets(params, tokens, mask, target, state, norm, row_keys, falls: Callable, *, cfg: ModelConfig, lo: float,
                  hi: float, rounds: int, **search) -> Brackets:
    """The smallest relative budget at which each prompt falls, by bisection of the sphere attack's radius. Ours.

    Every evaluation attacks all prompts at once, each at its own radius, in one compiled call.

    Args:
      tokens, mask, target, state: as in sphere_attack; norm: float, the activation norm that budgets multiply.
      row_keys: PRNG keys [B], the same in every round (they matter for `starts` above 1 only); of latent.row_keys, any
        one column.
      falls: falls(deltas float32 [B, D]) -> bool [B], by generating under each prompt's vector and judging.
      lo, hi, rounds: as in bisect; search: steps, step_fraction and starts of sphere_attack.
    Returns, Raises and what is assumed: as in bisect.
    """
    def evaluate(budgets):
        radius = jnp.asarray(budgets * norm, jnp.float32)[:, None]
        found = sphere_attack(params, tokens, mask, target, state, radius, row_keys[:, None], cfg=cfg, **search)
        return falls(found.delta[:, 0])

    return bisect(evaluate, len(tokens), lo=lo, hi=hi, rounds=rounds)


def bisect(falls: Callable, count: int, *, lo: float, hi: float, rounds: int) -> Brackets:
    """Bracket the budget at which each of `count` prompts begins to fall, on a logarithmic scale, all at once.

    It assumes that a prompt which falls at some budget falls at every larger one. Where that does not hold, the bracket
    still has a fall at its upper end and none at its lower, but smaller budgets may break the prompt too, and a
    prompt that falls between lo and hi only is missed.

    Args:
      falls: falls(budgets float64 [count]) -> bool [count], called 2 + rounds times: at lo, at hi, then in between;
        2 times where no prompt is left to bracket. A prompt that is settled is asked again at one of its ends.
      lo, hi: the smallest and largest relative budget, 0 < lo < hi.
      rounds: halvings of log(hi / lo); the ratio of a bracket's ends is (hi / lo) ** (1 / 2 ** rounds).
    Returns:
      Brackets. Fallen at lo already: (0, lo). Not fallen at hi: (hi, infinity).
    Raises:
      InputError: budgets that are not 0 < lo < hi < infinity, or negative rounds.
    """
    if not 0 < lo < hi < float("inf"):
        raise InputError(f"break budgets between lo = {lo} and hi = {hi}, expected 0 < lo < hi, both finite")
    if rounds < 0:
        raise InputError(f"break budgets by rounds = {rounds}, expected 0 or more")
    at_lo = np.asarray(falls(np.full(count, lo)), bool)
    at_hi = np.asarray(falls(np.full(count, hi)), bool)
    below, above = np.full(count, float(lo)), np.full(count, float(hi))
    unsettled = ~at_lo & at_hi
    for _ in range(rounds if unsettled.any() else 0):
        middle = np.sqrt(below * above)
        fell = np.asarray(falls(np.where(unsettled, middle, np.where(at_lo, lo, hi))), bool)
        above = np.where(unsettled & fell, middle, above)
        below = np.where(unsettled & ~fell, middle, below)
    return Brackets(np.select([at_lo, ~at_hi], [0.0, hi], below), np.select([at_lo, ~at_hi], [lo, np.inf], above))


def _gaussian(keys, count: int, D: int):
    """Standard normal [count, R, D] from PRNG keys [R]; vector k depends on its key and k, not on `count`."""
    draw = jax.vmap(lambda key, index: jax.random.normal(jax.random.fold_in(key, index), (D,)), in_axes=(0, None))
    return jax.vmap(draw, in_axes=(None, 0))(keys, jnp.arange(count))


def _unit(x):
    """x over its L2 norm along the last axis, zero where x is zero."""
    # Divided by the largest coordinate first: the squares of a small gradient are zero in float32.
    largest = jnp.abs(x).max(axis=-1, keepdims=True)
    x = x / jnp.where(largest > 0, largest, 1.0)
    # The largest coordinate is now 1, so that only a vector of zeros is shorter than 1.
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1.0)
