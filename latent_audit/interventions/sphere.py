"""Adaptive L2 attack: one vector per prompt, of fixed length, added to every position at one residual state.

docs/method.md section 2, arXiv 2606.08044. Everything is batched over prompts x budgets; the state and the budgets are
traced, so one compile serves them all. The blocks below the state run once, not at every step.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.errors import InputError
from latent_audit.interventions import edits, latent, suffix
from latent_audit.interventions import goals as goals_of
from latent_audit.models import decoder, sharding
from latent_audit.models.config import ModelConfig

# Radius over the activation norm: arXiv 2606.08044, docs/method.md section 2.
PAPER_FRACTION = 0.06


@dataclasses.dataclass(frozen=True)
class Search:
    """What is compiled into the search, one static argument of its program; docs/method.md section 2.

    steps: gradient steps; step_fraction: step size over the radius; starts: searches per cell, of which the one with
    the lowest last NLL is kept. The first starts from zero; further ones, from random points of the sphere, run one
    after the other. keep: which iterate of a search is its result, the last (paper) or the one of lowest loss.
    """

    steps: int = 16  # arXiv 2606.08044
    step_fraction: float = 0.3  # arXiv 2606.08044
    starts: int = 1  # arXiv 2606.08044; more are ours
    keep: str = "last"  # arXiv 2606.08044; "best" is ours


PAPER = Search()


class SphereAttack(NamedTuple):
    """Vectors and diagnostics of one state.

    delta: float32 [B, E, D], the search's; control: float32 [B, E, D], a Gaussian direction of the same norm.
    nll_first: float32 [B, E], of the clean model; nll_last, control_nll_last: float32 [B, E], under delta and control.
    nll_trace: float32 [steps + 1, B, E], of the start that was kept; kept: int32 [B, E], which start that was.
    lowered: bool [B, E], whether nll_last is below nll_first; where it is not, a safe answer shows nothing.
    """

    delta: jax.Array
    control: jax.Array
    nll_first: jax.Array
    nll_last: jax.Array
    control_nll_last: jax.Array
    nll_trace: jax.Array
    kept: jax.Array
    lowered: jax.Array


class Brackets(NamedTuple):
    """Where each prompt falls, that is complies; float64 [B], relative budgets.

    lo: the largest budget tried at which the prompt did not fall, 0 where it fell at the smallest.
    hi: the smallest budget tried at which it fell, infinite where it did not fall at the largest: the value to report.
    """

    lo: np.ndarray
    hi: np.ndarray


@functools.partial(jax.jit, static_argnames=("cfg", "search"))
def sphere_attack(
    params, tokens, mask, goal, state, radius, row_keys, *, cfg: ModelConfig, search: Search = PAPER
) -> SphereAttack:
    """Search one residual state at every radius and draw the control; docs/method.md section 2.

    From delta = 0, each step goes step_fraction * radius along the negative normalised gradient of the loss, which is
    the mean NLL of the target, and is then rescaled to length `radius`. Where the gradient is exactly zero the vector
    stays where it is: at length `radius`, or at zero if it never moved (then `lowered` is False).

    To generate under the result: edits.add_at(state, delta[:, None]) as prompt_edit and as decode_edit.

    Args:
      tokens: int32 [B, P]; mask: bool [B, P], left-padded; goal: int32 [n], a whole assistant turn with its
        end-of-turn token (chats.assistant_turn_ids), or Goals of B rows.
      state: int scalar (traced) in [0, L]; radius: float32 [B, E], absolute: a budget times the activation norm.
      row_keys: PRNG keys [B, E] of latent.row_keys; search: static.
    """
    B, E = radius.shape
    rows, goals = B * E, goals_of.as_goals(goal, B)
    tokens, mask = latent.with_target(tokens, mask, goals.tokens)
    goals = goals_of.repeat(goals, E)
    reached = decoder.state_and_beside(params, tokens, mask, state, cfg=cfg)
    (h, beside), real = jax.tree.map(lambda leaf: jnp.repeat(leaf, E, axis=0), (reached, mask))
    context = decoder.make_context(real, cfg=cfg)._replace(beside=beside)
    length = radius.astype(jnp.float32).reshape(rows, 1)

    def perturbed(delta):
        return edits.only_where(edits.add_at(state, delta[:, None]), real)(h, state)

    def place(carry):
        return perturbed(carry[0])

    def move(carry, losses, gradient):
        delta, best = carry
        gradient = jnp.where(real[..., None], gradient.astype(jnp.float32), 0.0).sum(axis=1)
        moved = length * unit(delta - search.step_fraction * length * unit(gradient))
        return moved, latent.better(best, delta, losses)

    def loss_under(delta):
        return suffix.loss(params, perturbed(delta), state, context, goals, cfg=cfg)

    def descend(start):
        best = (start, jnp.full((rows,), jnp.inf)) if search.keep == "best" else None
        (delta, best), losses = suffix.descend(
            move, place, (start, best), search.steps, params, state, context, goals, cfg=cfg
        )
        last = loss_under(delta)
        delta, last = latent.better(best, delta, last) or (delta, last)
        return delta, losses, last

    # Vector 0 is the control; the others are where the further starts begin.
    noise = length * unit(_gaussian(row_keys.reshape(rows), search.starts, cfg.embed_dim))
    deltas, losses, lasts = jax.lax.map(descend, noise.at[0].set(0.0))
    control_last = loss_under(noise[0])
    kept = jnp.argmin(jnp.where(jnp.isnan(lasts), jnp.inf, lasts), axis=0)
    every = jnp.arange(rows)
    first, last = losses[0, 0], lasts[kept, every]
    trace = jnp.concatenate([losses[kept, :, every].T, last[None]])
    cells = functools.partial(jnp.reshape, shape=(B, E))
    return sharding.replicate(
        SphereAttack(
            deltas[kept, every].reshape(B, E, -1),
            noise[0].reshape(B, E, -1),
            cells(first),
            cells(last),
            cells(control_last),
            trace.reshape(search.steps + 1, B, E),
            cells(kept),
            cells(last < first),
        )
    )


def first_falls(budgets, fell) -> Brackets:
    """Where each prompt first falls on a grid of budgets: what bisect then narrows. Ours.

    The grid is needed because falling is not monotone: a push far too large ends in noise, not in compliance.

    Args:
      budgets: float [E], ascending; fell: bool [E, B].
    Returns:
      Brackets. Fallen at the smallest budget: (0, it). Never fallen: (largest, infinity). A prompt that falls only
      between two budgets of the grid is missed.
    """
    budgets, fell = np.asarray(budgets, np.float64), np.asarray(fell, bool)
    if len(budgets) != len(fell) or not len(budgets) or (np.diff(budgets) <= 0).any() or not budgets[0] > 0:
        raise InputError(
            f"break budgets on the grid {budgets.tolist()}, expected budgets above 0, ascending, and as "
            f"many rows of outcomes, got {len(fell)}"
        )
    first = np.where(fell.any(axis=0), fell.argmax(axis=0), len(budgets))
    below = np.concatenate([[0.0], budgets])
    return Brackets(below[first], np.concatenate([budgets, [np.inf]])[first])


def bisect(falls: Callable, brackets: Brackets, *, rounds: int) -> Brackets:
    """Halve every prompt's bracket on a logarithmic scale, all prompts at once.

    Within a bracket it assumes that a prompt which falls at some budget falls at every larger one. Where that does not
    hold there is still a fall at the upper end and none at the lower, but smaller budgets may break the prompt too.

    Args:
      falls: falls(budgets float64 [B]) -> bool [B], called once a round while any prompt is left to narrow. A prompt
        that is settled (fallen at the smallest budget, or never) is asked again at one of its ends.
      rounds: halvings; the ratio of a bracket's ends becomes its (1 / 2 ** rounds)th power.
    Raises:
      InputError: negative rounds.
    """
    if rounds < 0:
        raise InputError(f"break budgets by rounds = {rounds}, expected 0 or more")
    below, above = (np.array(ends, np.float64) for ends in brackets)
    unsettled = (below > 0) & np.isfinite(above)
    for _ in range(rounds if unsettled.any() else 0):
        middle = np.sqrt(below * np.where(unsettled, above, 1.0))
        fell = np.asarray(falls(np.where(unsettled, middle, np.where(below > 0, below, above))), bool)
        above = np.where(unsettled & fell, middle, above)
        below = np.where(unsettled & ~fell, middle, below)
    return Brackets(below, above)


def _gaussian(keys, count: int, D: int):
    """Standard normal [count, R, D] from PRNG keys [R]; vector k depends on its key and k, not on `count`."""
    draw = jax.vmap(lambda key, index: jax.random.normal(jax.random.fold_in(key, index), (D,)), in_axes=(0, None))
    return jax.vmap(draw, in_axes=(None, 0))(keys, jnp.arange(count))


def unit(x):
    """x [..., D] over its L2 norm along the last axis, zero where x is zero."""
    # Divided by the largest coordinate first: the squares of a small gradient are zero in float32.
    largest = jnp.abs(x).max(axis=-1, keepdims=True)
    x = x / jnp.where(largest > 0, largest, 1.0)
    # The largest coordinate is now 1, so that only a vector of zeros is shorter than 1.
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1.0)
