"""Bounded perturbation searches at one residual state: projected gradient descent and its random controls.

Everything is batched over prompts x budgets and jitted once: the state index and the budgets are traced, so the
same compiled search serves every layer and every budget of every model of that shape (docs/method.md section 1).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from latent_audit.interventions import goals as goals_of
from latent_audit.interventions import suffix
from latent_audit.models import decoder, sharding
from latent_audit.models.config import ModelConfig
from latent_audit.models.kinds.beside import Beside

# The budgets swept: arXiv 2606.08044, docs/method.md section 1.
PAPER_BUDGETS = (0.0005, 0.001, 0.005)

BUDGET_MODES = ("linf_of_max", "linf_of_rms", "l2_of_norm")
ATTACKS = ("pgd", "random", "random_l2")


@dataclasses.dataclass(frozen=True)
class Search:
    """What is compiled into the search, one static argument of its programs; docs/method.md section 1.

    mode: budget mode; skip_first: see budget_scale; steps: gradient steps; step_fraction: step size over the absolute
    budget; controls: draw the random controls too; keep: which iterate is handed out, the last (paper) or the one of
    lowest loss.
    """

    mode: str = "linf_of_max"  # arXiv 2606.08044
    skip_first: bool = False  # arXiv 2606.08044; True is ours
    steps: int = 10  # arXiv 2606.08044
    step_fraction: float = 0.25  # arXiv 2606.08044
    controls: bool = True  # ours
    keep: str = "last"  # arXiv 2606.08044; "best" is ours


PAPER = Search()


class Clean(NamedTuple):
    """One clean pass of prompt + target, shared by the attacks on every state.

    states: [L+1, B, C, D] over C = P + n - 1 columns; gradient: [L+1, B, P, D] of each row's NLL with respect to the
    prompt columns of every state; nll: float32 [B]; scale: float32 [L+1, B], what a relative budget multiplies.
    beside: what blocks read beside their state, for passes that begin at any of them.
    """

    states: jax.Array
    gradient: jax.Array
    nll: jax.Array
    scale: jax.Array
    beside: Beside


class Attacked(NamedTuple):
    """Perturbations and diagnostics of one state; A is the order of ATTACKS, or pgd alone without controls.

    delta: float32 [A, B, E, P, D], zero on padding; nll_first, nll_last, l2, linf, at_bound: float32 [A, B, E];
    radius: float32 [B, E], the absolute budget; nll_trace: float32 [steps + 1, B, E] of pgd.
    rms: float32 [B, 1], root mean square of the state's real prompt coordinates, or their norm in the L2 mode: radius
    over it has one meaning for all models.
    at_bound is the share of real prompt coordinates on the bound (for the L2 mode, whether ||delta|| is).
    """

    delta: jax.Array
    nll_first: jax.Array
    nll_last: jax.Array
    l2: jax.Array
    linf: jax.Array
    at_bound: jax.Array
    radius: jax.Array
    nll_trace: jax.Array
    rms: jax.Array


def with_target(tokens, mask, target):
    """Append the target [n] or [B, n] but its last token, which predicts nothing: (tokens [B, C], mask [B, C])."""
    B, n = tokens.shape[0], target.shape[-1]
    behind = jnp.broadcast_to(target[..., :-1], (B, n - 1))
    return jnp.concatenate([tokens, behind], axis=1), jnp.pad(mask, [(0, 0), (0, n - 1)], constant_values=True)


def budget_scale(states, mask, *, mode: str, skip_first: bool):
    """What a relative budget multiplies at each state; docs/method.md section 1.

    Args:
      states: [S, B, P, D], prompt columns of the clean pass; mask: bool [B, P], left-padded.
      mode: "linf_of_max" (the paper: largest absolute coordinate), "linf_of_rms" (root mean square
        coordinate) or "l2_of_norm" (Frobenius norm of all prompt columns together).
      skip_first: leave each row's first token (BOS) out; massive activations there can set the scale alone.
    Returns:
      float32 [S, B].
    """
    if skip_first:
        mask = mask & (decoder.positions_of(mask) > 0)
    real = jnp.where(mask[None, :, :, None], states.astype(jnp.float32), 0.0)
    if mode == "linf_of_max":
        return jnp.abs(real).max(axis=(2, 3))
    squares = jnp.square(real).sum(axis=(2, 3))
    if mode == "l2_of_norm":
        return jnp.sqrt(squares)
    if mode == "linf_of_rms":
        return jnp.sqrt(squares / (mask.sum(axis=1) * states.shape[-1]))
    raise ValueError(f"unknown budget mode {mode!r}, expected one of {BUDGET_MODES}")


@functools.partial(jax.jit, static_argnames=("cfg", "search"))
def clean_pass(params, tokens, mask, goal, *, cfg: ModelConfig, search: Search = PAPER) -> Clean:
    """States, loss and its gradient at every state without any perturbation: one forward and one backward.

    Deltas start at zero, so this gradient is the first one of every search on every state and budget.

    Args:
      tokens: int32 [B, P]; mask: bool [B, P], left-padded; goal: int32 [n], the text that is made likely, or Goals of
        B rows.
      search: static; its mode and skip_first decide the scale.
    """
    P, goals = tokens.shape[1], goals_of.as_goals(goal, tokens.shape[0])
    tokens, mask = with_target(tokens, mask, goals.tokens)
    last, context, states = decoder.scan_states_beside(params, tokens, mask, cfg=cfg)

    def loss(x):
        losses = goals_of.losses(params, x[:, P - 1 :], goals, cfg=cfg)
        return losses.sum(), losses

    (_, nll), cotangent = jax.value_and_grad(loss, has_aux=True)(last)

    shared = context.beside.shared

    def back(above, layer, numbers, x, state):
        _, pull = jax.vjp(functools.partial(decoder.block, layer, numbers, context=context, cfg=cfg), x, shared)
        below, below_shared = pull(above)
        return (suffix.add_pull(below, state, goals), below_shared), below[:, :P]

    above = (cotangent, jax.tree.map(jnp.zeros_like, shared))
    scanned = (states[:-1], jnp.arange(cfg.num_layers))
    _, gradients = decoder.scan_blocks(back, above, params, scanned, cfg=cfg, reverse=True)
    gradients = jnp.concatenate([gradients, cotangent[None, :, :P]])
    scale = budget_scale(states[:, :, :P], mask[:, :P], mode=search.mode, skip_first=search.skip_first)
    return Clean(states, gradients, nll, scale, context.beside)


@functools.partial(jax.jit, static_argnames=("cfg", "search"))
def attack_state(
    params, clean: Clean, mask, goal, state, budgets, row_keys, starts=None, *, cfg: ModelConfig, search: Search = PAPER
) -> Attacked:
    """Search one residual state at every budget and draw the random controls; docs/method.md section 1.

    Args:
      clean: clean_pass of the same prompts and goal; mask: bool [B, P]; goal: int32 [n], or Goals of B rows.
      state: int scalar (traced) in [0, L]; budgets: float32 [E], relative, or [B, E]; row_keys: PRNG keys [B, E].
      starts: bool [E], whether a search begins at a random point of its ball; None: all at zero.
      search: static; its mode is the one that was given to clean_pass.
    """
    (B, P), E, D = mask.shape, budgets.shape[-1], clean.states.shape[-1]
    rows = B * E
    goals = goals_of.repeat(goals_of.as_goals(goal, B), E)
    n = goals.tokens.shape[1]
    take = functools.partial(jax.lax.dynamic_index_in_dim, index=state, axis=0, keepdims=False)
    h = jnp.repeat(take(clean.states), E, axis=0)
    real = jnp.repeat(mask, E, axis=0)[..., None]
    radius = take(clean.scale)[:, None] * budgets
    radius_rows = radius.reshape(rows, 1, 1)
    full_mask = jnp.pad(jnp.repeat(mask, E, axis=0), [(0, 0), (0, n - 1)], constant_values=True)
    beside = jax.tree.map(lambda leaf: jnp.repeat(leaf, E, axis=0), clean.beside)
    context = decoder.make_context(full_mask, cfg=cfg)._replace(beside=beside)

    def perturbed(delta):
        return (h.astype(jnp.float32) + jnp.pad(delta, [(0, 0), (0, n - 1), (0, 0)])).astype(h.dtype)

    def descend(delta, gradient):
        gradient = jnp.where(real, gradient.astype(jnp.float32), 0.0)
        if search.mode == "l2_of_norm":
            moved = delta - search.step_fraction * radius_rows * gradient / (_norm(gradient) + 1e-30)
            return moved * jnp.minimum(1.0, radius_rows / (_norm(moved) + 1e-30))
        moved = delta - search.step_fraction * radius_rows * jnp.sign(gradient)
        return jnp.clip(moved, -radius_rows, radius_rows)

    def place(carry):
        return perturbed(carry[0])

    def move(carry, losses, gradient):
        delta, best = carry
        return descend(delta, gradient[:, :P]), better(best, delta, losses)

    walk = functools.partial(
        suffix.descend, move, place, params=params, state=state, context=context, goals=goals, cfg=cfg
    )

    def loss_under(delta):
        return suffix.loss(params, perturbed(delta), state, context, goals, cfg=cfg)

    delta, best = jnp.zeros((rows, P, D), jnp.float32), None
    if search.keep == "best":
        best = (delta, jnp.full((rows,), jnp.inf))
    if starts is None:
        # From zero the first gradient is the clean pass's; one forward pass is saved for every cell.
        if goals.directions is None:
            best = better(best, delta, jnp.repeat(clean.nll, E))
        delta = descend(delta, jnp.repeat(take(clean.gradient), E, axis=0))
        (delta, best), losses = walk(start=(delta, best), length=search.steps - 1)
    else:
        noise = _random_deltas(row_keys.reshape(rows), delta, real, radius_rows, mode=search.mode)[0]
        delta = jnp.where(jnp.tile(starts, B)[:, None, None], noise, delta)
        (delta, best), losses = walk(start=(delta, best), length=search.steps)
        losses = losses[1:]
    last = loss_under(delta)
    delta, last = better(best, delta, last) or (delta, last)
    clean_nll = jnp.repeat(clean.nll, E)
    trace = jnp.concatenate([clean_nll[None], losses, last[None]]).reshape(search.steps + 1, B, E)

    deltas, lasts = delta[None], last[None]
    if search.controls:
        random = _random_deltas(row_keys.reshape(rows), delta, real, radius_rows, mode=search.mode)
        deltas = jnp.concatenate([deltas, random])
        lasts = jnp.concatenate([lasts, jax.lax.map(loss_under, random)])
    linf = jnp.abs(deltas).max(axis=(2, 3))
    l2 = _norm(deltas)[..., 0, 0]
    # The tolerance covers the rounding of budget * scale and of a projected norm.
    if search.mode == "l2_of_norm":
        at_bound = (l2 >= radius.reshape(rows) * (1 - 1e-5)).astype(jnp.float32)
    else:
        touched = (jnp.abs(deltas) >= radius_rows * (1 - 1e-6)) & real
        at_bound = touched.sum(axis=(2, 3)) / (real.sum(axis=(1, 2)) * D)
    cells = functools.partial(jnp.reshape, shape=(len(deltas), B, E))
    firsts = jnp.broadcast_to(clean_nll, (len(deltas), rows))
    unit = "l2_of_norm" if search.mode == "l2_of_norm" else "linf_of_rms"
    rms = budget_scale(take(clean.states)[None, :, :P], mask, mode=unit, skip_first=False)[0, :, None]
    numbers = sharding.replicate(
        (cells(firsts), cells(lasts), cells(l2), cells(linf), cells(at_bound), radius, trace, rms)
    )
    return Attacked(deltas.reshape(-1, B, E, P, D), *numbers)


def better(best, delta, loss):
    """The pair (delta [R, ..., D], loss [R]) of the lower loss in each row; None where no best is kept."""
    if best is None:
        return None
    kept, lowest = best
    lower = loss < lowest
    return jnp.where(jnp.expand_dims(lower, range(1, delta.ndim)), delta, kept), jnp.where(lower, loss, lowest)


def row_keys(key, prompt_ids, state, budgets):
    """PRNG keys [B, E] that depend on the prompt, the state and the budget, not on batching or order.

    Args:
      prompt_ids: int32 or uint32 [B], a number that identifies each prompt; state: int scalar;
      budgets: float32 [E], folded in by their bits, so that adding a budget leaves the others' noise as it was.
    """
    codes = jax.lax.bitcast_convert_type(jnp.asarray(budgets, jnp.float32), jnp.uint32)
    key = jax.random.fold_in(key, state)
    fold = jax.random.fold_in
    return jax.vmap(lambda prompt: jax.vmap(lambda code: fold(fold(key, prompt), code))(codes))(prompt_ids)


def column_noise(keys, P: int, D: int, *, gaussian: bool):
    """Noise [R, P, D] drawn per column counted from the decision point, so that left padding does not change it.

    Uniform in [-1, 1], or standard normal where `gaussian`.
    """
    draw = jax.random.normal if gaussian else functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0)
    from_end = jnp.arange(P - 1, -1, -1)
    return jax.vmap(lambda key: jax.vmap(lambda back: draw(jax.random.fold_in(key, back), (D,)))(from_end))(keys)


def _random_deltas(keys, delta, real, radius, *, mode):
    """[2, R, P, D]: noise under the same bound as `delta` [R, P, D], and noise of the same L2 norm."""
    noise = column_noise(keys, *delta.shape[1:], gaussian=mode == "l2_of_norm") * real
    unit = noise / (_norm(noise) + 1e-30)
    return jnp.stack([(unit if mode == "l2_of_norm" else noise) * radius, unit * _norm(delta)])


def _norm(x):
    """L2 norm over the last two axes together, kept as axes of length one."""
    return jnp.sqrt(jnp.square(x).sum(axis=(-2, -1), keepdims=True))
