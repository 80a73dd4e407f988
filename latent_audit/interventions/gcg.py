"""Greedy Coordinate Gradient: a discrete attack that changes words of the prompt instead of a residual state.

A suffix of ordinary tokens stands behind the user's prompt, inside the user's turn. Each step ranks substitutes by the
gradient with respect to the one-hot rows of the suffix, draws candidates that differ in one token, evaluates them all
and moves to the best. arXiv 2307.15043, as used for comparison by arXiv 2606.08044; docs/method.md section 8.

What stands before the suffix never changes during an attack: its keys and values are computed once (`prepare`).
Where the suffix stands and which tokens it may hold is the business of interventions/gcg_text.py.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.interventions import latent
from latent_audit.interventions.goals import target_nll
from latent_audit.models import decode, decoder, sharding
from latent_audit.models.config import ModelConfig
from latent_audit.models.kinds import beside
from latent_audit.models.kinds import cache as kinds_cache

# Ours: how many candidates are drawn for each one evaluated, so that some may fail the tokenisation check.
OVERSAMPLE = 4
# Behind a target that is shorter than another one's of its batch.
NO_TOKEN = -1


@dataclasses.dataclass(frozen=True)
class Search:
    """How an attack searches; its shapes depend on nothing else but the prompts. docs/method.md section 8.

    steps: at most; candidates: evaluated per prompt and step; top_k: substitutes per position they are drawn from, at
    most those allowed; length: tokens of the suffix; batch: sequences evaluated at once, bounds memory and changes no
    result.
    """

    steps: int = 500  # arXiv 2606.08044
    candidates: int = 512  # arXiv 2606.08044
    top_k: int = 256  # arXiv 2606.08044
    length: int = 20  # arXiv 2606.08044
    batch: int = 64  # ours


PAPER = Search()


class Surroundings(NamedTuple):
    """All that an attack never changes; C = P + m - 1 columns of the prompt and the target but its last token.

    before: cache of the S columns before the suffix; mask: bool [B, C]; behind: int32 [B, C - S - n], the tokens after
    the n of the suffix; target: int32 [B, m], NO_TOKEN behind one that is shorter.
    """

    before: decode.Cache | kinds_cache.Cache
    mask: jax.Array
    behind: jax.Array
    target: jax.Array


class Gradient(NamedTuple):
    """nll: float32 [B]; on_target: bool [B]; gradient: float32 [B, n, V]; see token_gradient."""

    nll: jax.Array
    on_target: jax.Array
    gradient: jax.Array


class Proposal(NamedTuple):
    """nll: float32 [B] and on_target: bool [B] of the current suffix; candidates: int32 [B, draws, n]."""

    nll: jax.Array
    on_target: jax.Array
    candidates: jax.Array


class Step(NamedTuple):
    """suffix: int32 [B, n] after the move; nll: float32 [B] and on_target: bool [B] of the suffix before it."""

    suffix: np.ndarray
    nll: np.ndarray
    on_target: np.ndarray


class Attacked(NamedTuple):
    """Result of an attack on B prompts.

    suffix: int32 [B, n], the one of the lowest NLL seen (arXiv 2606.08044); last: int32 [B, n], where the search ended,
    which is the one that stopped it if one did.
    nll_trace: float32 [steps + 1, B], mean over the target's tokens in nats: row 0 of the suffix at the start, row i
    after i steps; a stopped prompt repeats its last value.
    steps: int32 [B], steps taken; stopped: bool [B], whether every token of the target was the argmax.
    """

    suffix: np.ndarray
    last: np.ndarray
    nll_trace: np.ndarray
    steps: np.ndarray
    stopped: np.ndarray


@functools.partial(jax.jit, static_argnames=("cfg", "first", "length"))
def prepare(params, tokens, mask, target, *, cfg: ModelConfig, first: int, length: int) -> Surroundings:
    """Run what stands before the suffix and set the rest apart.

    Args:
      tokens: int32 [B, P]; mask: bool [B, P], left-padded; target: int32 [m], or [B, m] for one of each row's own.
      first, length: static; the suffix fills columns first .. first + length - 1 of every row, 1 <= first.
    """
    before = slice(None, first)
    _, cache = decode.prefill(params, tokens[:, before], mask[:, before], cfg=cfg, room=0)
    target = jnp.broadcast_to(target, (tokens.shape[0], target.shape[-1]))
    tokens, mask = latent.with_target(tokens, mask, jnp.maximum(target, 0))
    return Surroundings(cache, mask, tokens[:, first + length :], target)


def token_gradient(params, around: Surroundings, suffix, *, cfg: ModelConfig) -> Gradient:
    """NLL of the target and its gradient with respect to the one-hot rows of the suffix; arXiv 2307.15043.

    The embedding is linear in a one-hot row, so its gradient is the embedding matrix (with the family's scale) times
    the gradient at the embedding. No one-hot row is ever made. A tied head is not differentiated: it reads no suffix.
    So is the table of Gemma 4 E2B's and E4B's second look-up, whose part is added.

    Args:
      suffix: int32 [B, n].
    Returns:
      Gradient: nll, mean over the target's tokens in nats; on_target, whether every token of the target is the
      argmax given those before it; gradient of each row's own NLL.
    """

    def loss(embedded):
        nll, on_target = _read(params, around, embedded, cfg=cfg)
        return nll.sum(), (nll, on_target)

    (_, (nll, on_target)), (slope, of_inputs) = jax.value_and_grad(loss, has_aux=True)(_embed(params, suffix, cfg=cfg))
    if cfg.embedding_scale != 1:
        slope = slope * jnp.asarray(cfg.embedding_scale, slope.dtype)
    gradient = jnp.einsum("bnd,vd->bnv", slope, params["embed"], preferred_element_type=jnp.float32)
    if of_inputs is not None:
        of_inputs = of_inputs * jnp.asarray(beside.lookup_scale(cfg), of_inputs.dtype)
        table = params["inputs_embed"][: cfg.vocab_size]
        gradient += jnp.einsum("bnlw,vlw->bnv", of_inputs, table, preferred_element_type=jnp.float32)
    return Gradient(nll, on_target, gradient)


@functools.partial(jax.jit, static_argnames=("cfg", "draws", "top_k"))
def propose(
    params, around: Surroundings, suffix, allowed, keys, number, *, cfg: ModelConfig, draws: int, top_k: int
) -> Proposal:
    """Draw candidates, each with one token of the suffix replaced.

    The position is uniform, as in arXiv 2606.08044 (in arXiv 2307.15043 positions take turns); the substitute is
    uniform among the `top_k` allowed tokens with the most negative gradient, and may be the token that is there.

    Args:
      suffix: int32 [B, n]; allowed: bool [V]; keys: PRNG keys [B] of prompt_keys; number: int scalar (traced), the
        step, which is folded into the keys.
      draws, top_k: static; top_k at most the number of allowed tokens.
    """
    nll, on_target, gradient = token_gradient(params, around, suffix, cfg=cfg)
    _, best = jax.lax.top_k(jnp.where(allowed, -gradient, -jnp.inf), top_k)

    def draw(key, row, best):
        of_rank, of_position = jax.random.split(jax.random.fold_in(key, number))
        rank = jax.random.randint(of_rank, (draws,), 0, top_k)
        position = jax.random.randint(of_position, (draws,), 0, suffix.shape[1])
        return jnp.tile(row, (draws, 1)).at[jnp.arange(draws), position].set(best[position, rank])

    return sharding.replicate(Proposal(nll, on_target, jax.vmap(draw)(keys, suffix, best)))


@functools.partial(jax.jit, static_argnames=("cfg", "batch"))
def candidate_losses(params, around: Surroundings, candidates, wanted, *, cfg: ModelConfig, batch: int):
    """NLL of the target under every candidate.

    Args:
      candidates: int32 [B, N, n]; wanted: bool [B], rows that are False cost nothing and are infinite.
      batch: static; candidates of one prompt that are evaluated at once.
    Returns:
      float32 [B, N].
    """
    B, N, n = candidates.shape
    batch = min(batch, N)
    padded = jnp.pad(candidates, [(0, 0), (0, -N % batch), (0, 0)], mode="edge")
    chunks = padded.reshape(-1, batch, n)

    def evaluate(row, chunk):
        take = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=row, slice_size=1)
        around_row = Surroundings(
            decode.rows_of(around.before, row[None]), take(around.mask), take(around.behind), take(around.target)
        )
        return _read(params, around_row, _embed(params, chunk, cfg=cfg), cfg=cfg)[0]

    def chunk_losses(numbered):
        row, chunk = numbered
        return jax.lax.cond(wanted[row], evaluate, lambda row, chunk: jnp.full(batch, jnp.inf), row, chunk)

    rows = jnp.repeat(jnp.arange(B), chunks.shape[0] // B)
    return sharding.replicate(jax.lax.map(chunk_losses, (rows, chunks)).reshape(B, -1)[:, :N])


def step(
    params,
    around: Surroundings,
    suffix,
    allowed,
    keys,
    number,
    frozen,
    *,
    cfg: ModelConfig,
    search: Search = PAPER,
    survives: Callable | None = None,
) -> Step:
    """One move of every prompt to its best candidate, even where that is worse than the current suffix.

    A prompt that is frozen, or whose target is the argmax already, keeps its suffix. So does one of whose draws none
    survives.

    Args:
      suffix: int32 [B, n]; allowed: bool [V]; keys: [B]; number: which step this is; frozen: bool [B].
      survives: survives(row, ids int32 [N, n]) -> bool [N] says which candidates of prompt `row` are still the same
        ids once they are decoded and tokenised again; None keeps all.
    """
    suffix = np.asarray(suffix)
    proposal = propose(
        params,
        around,
        suffix,
        allowed,
        keys,
        number,
        cfg=cfg,
        draws=OVERSAMPLE * search.candidates,
        top_k=min(search.top_k, int(np.sum(allowed))),
    )
    nll, on_target, drawn = jax.tree.map(np.asarray, proposal)
    stays = frozen | on_target
    if stays.all():
        return Step(suffix, nll, on_target)
    kept = np.repeat(suffix[:, None], search.candidates, axis=1)
    for row in np.flatnonzero(~stays):
        kept[row] = _survivors(
            drawn[row], suffix[row], search.candidates, survives and functools.partial(survives, row)
        )
    best = np.argmin(candidate_losses(params, around, kept, ~stays, cfg=cfg, batch=search.batch), axis=1)
    moved = kept[np.arange(len(kept)), best]
    return Step(np.where(stays[:, None], suffix, moved), nll, on_target)


def attack(
    params,
    tokens,
    mask,
    target,
    allowed,
    keys,
    *,
    cfg: ModelConfig,
    first: int,
    search: Search = PAPER,
    survives: Callable | None = None,
    progress: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
) -> Attacked:
    """Search a suffix for every prompt until its target is the argmax or the steps are used up.

    Prompts do not mix, and draws depend on a prompt's own key: a result is the same in any batch, up to rounding.

    Args:
      tokens: int32 [B, P]; mask: bool [B, P], left-padded prompts that hold the suffix to start from in columns
        first .. first + search.length - 1, the same in every row (gcg_text.place_suffix); target: as in prepare.
      allowed: bool [V], gcg_text.allowed_tokens; keys: PRNG keys [B], prompt_keys.
      survives: see step.
      progress: progress(steps made, NLL float32 [B], stopped bool [B]) before every step and at the end, or None.
    """
    tokens, mask = np.asarray(tokens), np.asarray(mask)
    around = prepare(params, tokens, mask, jnp.asarray(target, jnp.int32), cfg=cfg, first=first, length=search.length)
    last = tokens[:, first : first + search.length].astype(np.int32)
    best, lowest = last, np.full(len(last), np.inf, np.float32)
    stopped, taken = np.zeros(len(last), bool), np.zeros(len(last), np.int32)
    trace = np.zeros((search.steps + 1, len(last)), np.float32)
    for number in range(search.steps + 1):
        # The round after the last step only reads the loss; frozen rows are not evaluated.
        frozen = stopped if number < search.steps else np.ones_like(stopped)
        after, nll, on_target = step(
            params, around, last, allowed, keys, number, frozen, cfg=cfg, search=search, survives=survives
        )
        nll = np.where(stopped, trace[number - 1], nll)
        better = ~stopped & (nll < lowest)
        best, lowest = np.where(better[:, None], last, best), np.where(better, nll, lowest)
        stopped = stopped | on_target
        trace[number:] = nll
        if progress is not None:
            progress(number, nll, stopped)
        if stopped.all() or number == search.steps:
            break
        last, taken = after, taken + ~stopped
    return Attacked(best, last, trace, taken, stopped)


def prompt_keys(key, prompt_ids):
    """PRNG keys [B] that depend on the prompt only; prompt_ids: int32 or uint32 [B], as in latent.row_keys."""
    return jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.asarray(prompt_ids))


def _embed(params, tokens, *, cfg):
    """All that tokens bring in: (residual state 0, what beside.look_up finds)."""
    return decoder.embed(params, tokens, cfg=cfg), beside.look_up(params, tokens, cfg=cfg)


def _read(params, around: Surroundings, embedded, *, cfg):
    """NLL float32 [R] and whether the target is the argmax bool [R], from what _embed makes of the suffix [R, n].

    `around` has R rows, or one row for all R.
    """
    R, target = embedded[0].shape[0], around.target

    def join(suffix, behind):
        return jnp.concatenate([suffix, jnp.broadcast_to(behind, (R, *behind.shape[1:]))], axis=1)

    x, found = jax.tree.map(join, embedded, _embed(params, around.behind, cfg=cfg))
    x = decode.extend(params, x, found, around.before, around.mask, cfg=cfg)[:, -target.shape[1] :]
    target = jnp.broadcast_to(target, x.shape[:2])
    real = target != NO_TOKEN
    nll = target_nll(params, x, jnp.maximum(target, 0), cfg=cfg).mean(axis=-1, where=real)
    on_target = ((decoder.unembed(params, x, cfg=cfg).argmax(axis=-1) == target) | ~real).all(axis=-1)
    return nll, on_target


def _survivors(drawn, current, count, survives):
    """The first `count` draws that differ from the current suffix and survive, filled up by repeating the last."""
    kept = np.zeros((0, len(current)), np.int32)
    for start in range(0, len(drawn), count):
        part = drawn[start : start + count]
        part = part[(part != current).any(axis=1)]
        if survives is not None and len(part):
            part = part[np.asarray(survives(part))]
        kept = np.concatenate([kept, part])[:count]
        if len(kept) == count:
            return kept
    filler = kept[-1:] if len(kept) else current[None]
    return np.concatenate([kept, np.repeat(filler, count - len(kept), axis=0)])
