"""Taking a refusal direction out of a model, in its weights or as an edit of its states.

The idea is arXiv 2406.11717's: one direction of the residual stream, a difference of mean states between harmful and
harmless prompts, carries much of the decision to refuse. The ways are told apart in WAYS, the rule that chooses layer,
position and strength is `choose`; docs/method.md section 14.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.interventions import directions, edits
from latent_audit.models.config import ModelConfig, layer_name, layers_with

# Way -> what it does. "Its direction" is the unit difference of means at the candidate's layer and position.
WAYS = {
    "orthogonalize": "nothing in the weights can write along its direction; every state's coordinate there is zero",
    "affine": "at its layer, at every token, the coordinate along its direction is set to the harmless mean",
    "affine_layerwise": "at its layer and every later one, at its position of the prompt only, the coordinate along "
    "each layer's own direction is set to the harmless mean there",
    "subtract": "at its layer, at every token, strength times the mean difference is subtracted",
    "subtract_token": "strength times the mean difference is subtracted from the embedding of the template's token at "
    "its position",
    "affine_token": "nothing in the weights can write along its direction, but the embedding of the template's token "
    "at its position, which carries strength times the harmless mean; with two directions the "
    "difference of the means over whole prompts is treated alike",
}
# These change weights, so their result is an ordinary checkpoint; the others are edits that a forward pass applies.
IN_WEIGHTS = ("orthogonalize", "subtract_token", "affine_token")
_WITH_STRENGTH = ("subtract", "subtract_token", "affine_token")
_OF_TOKEN = ("subtract_token", "affine_token")

# Bounds of arXiv 2406.11717's choice of a direction.
MAX_KL = 0.1
EXCLUDED_SHARE = 0.2
# Ours: how much of base's share of answered harmless prompts may be lost on the validation prompts.
MAX_LOST_ANSWERS = 0.05

# What writes to the residual stream inside a block, and the norm its output passes first where a family has one.
_WRITERS = {
    "output": "post_attention_norm",
    "output_bias": "post_attention_norm",
    "delta_output": "post_attention_norm",
    "global_output": "post_attention_norm",
    "down": "post_mlp_norm",
    "down_bias": "post_mlp_norm",
    "wide_down": "post_mlp_norm",
    "inputs_output": "post_inputs_norm",
    "expert_down": "post_mlp_norm",
    "expert_down_bias": "post_mlp_norm",
    "shared_down": "post_mlp_norm",
}
# The norm that comes before that one, where a dense MLP and experts have one each (Gemma 4 26B-A4B).
_OWN_NORMS = {"down": "post_dense_norm", "wide_down": "post_dense_norm", "expert_down": "post_experts_norm"}


class Means(NamedTuple):
    """What the directions are made of; P is the order of `positions`.

    difference: float32 [S, P, D], mean(harmful) - mean(harmless); harmless: float32 [S, P, D], its mean; positions:
    columns counted from the prompt's end; tokens: the token id at each, where it stands nowhere else in the prompts,
    else None; whole: float32 [S, D], the difference of means over all tokens of a prompt.
    """

    difference: np.ndarray
    harmless: np.ndarray
    positions: tuple[int, ...]
    tokens: tuple[int | None, ...]
    whole: np.ndarray


class Candidate(NamedTuple):
    """One way at one residual state (its layer's output) and index into Means.positions; directions: one or two."""

    way: str
    state: int
    position: int
    strength: float = 1.0
    directions: int = 1


class Ablated(NamedTuple):
    """A model to run: weights, and edits for the prompt and for decode steps (None: no edit)."""

    cfg: ModelConfig
    params: dict
    prompt_edit: jax.tree_util.Partial | None = None
    decode_edit: jax.tree_util.Partial | None = None


class Score(NamedTuple):
    """A candidate on the validation prompts; see choose and shortlist.

    bypass: the larger, the fewer refusals; kl: on harmless prompts; answered: None where nothing was generated.
    """

    bypass: float
    kl: float
    answered: float | None = None


def own_tokens(tokens, mask, positions) -> tuple[int | None, ...]:
    """The token id at each position of left-padded prompts [N, T], None where prompts differ or it occurs again."""
    found = []
    for position in positions:
        column = tokens[:, position]
        alone = (column == column[0]).all() and ((tokens == column[0]) & mask).sum() == len(tokens)
        found.append(int(column[0]) if alone else None)
    return tuple(found)


def candidates(means: Means, *, ways: Sequence[str], strengths: Sequence[float]) -> list[Candidate]:
    """Every candidate of these ways: layers up to the excluded last EXCLUDED_SHARE, all positions, all strengths.

    State 0 is left out: the embedding of a template's token is the same in every prompt, its difference zero.
    """
    last, positions = last_state(len(means.difference) - 1), range(len(means.positions))
    return [
        Candidate(way, state, position, strength, count)
        for way in ways
        for position in positions
        for state in range(1, last + 1)
        for strength in (strengths if way in _WITH_STRENGTH else (1.0,))
        for count in ((1, 2) if way == "affine_token" else (1,))
        if way not in _OF_TOKEN or means.tokens[position] is not None
    ]


def count_candidates(
    num_layers: int, *, ways: Sequence[str], strengths: Sequence[float], positions: int
) -> dict[str, int]:
    """How many candidates of each way there are at most, before any mean is known; see candidates."""
    places = positions * last_state(num_layers)
    return {
        way: places * (len(strengths) if way in _WITH_STRENGTH else 1) * (2 if way == "affine_token" else 1)
        for way in ways
    }


def last_state(num_layers: int) -> int:
    """The largest state below EXCLUDED_SHARE of the blocks, as in arXiv 2406.11717."""
    # Rounded against 12.000000000000002.
    return max(1, math.ceil(round((1 - EXCLUDED_SHARE) * num_layers, 6)) - 1)


def ablate(candidate: Candidate, means: Means, params, *, cfg: ModelConfig, width: int) -> Ablated:
    """The model with the candidate's ablation; `width`: T of the prompts it will be given, left-padded.

    Raises InputError where the two means do not differ.
    """
    way, state, position, strength, count = candidate
    difference, harmless = means.difference[:, position], means.harmless[:, position]

    def unit_at(state):
        return directions.unit(difference[state], name=f"{layer_name(state)} at position {means.positions[position]}")

    unit = unit_at(state)
    if way == "orthogonalize":
        return Ablated(*orthogonalize(params, unit[None], cfg=cfg))
    if way == "subtract_token":
        return Ablated(*shift_token(params, means.tokens[position], -strength * difference[state], cfg=cfg))
    if way == "affine_token":
        spanned = [unit] if count == 1 else [unit, directions.unit(means.whole[state], name="whole prompts")]
        basis = np.linalg.qr(np.stack(spanned, axis=1))[0].T
        cfg, params = orthogonalize(params, basis, cfg=cfg)
        carried = strength * (basis @ harmless[state]) @ basis
        return Ablated(*shift_token(params, means.tokens[position], carried, cfg=cfg))
    if way == "affine":
        edit = edits.set_projection(state, unit, harmless[state] @ unit)
        return Ablated(cfg, params, edit, edit)
    if way == "subtract":
        edit = edits.add_at(state, -strength * difference[state])
        return Ablated(cfg, params, edit, edit)
    units = np.zeros_like(difference)
    for later in range(state, len(units)):
        units[later] = unit_at(later)
    edit = edits.set_projection(None, units, np.einsum("sd,sd->s", harmless, units))
    where = np.arange(width)[None] == width + means.positions[position]
    return Ablated(cfg, params, edits.only_where(edit, where))


def orthogonalize(params, basis, *, cfg: ModelConfig):
    """Weights that write nothing along `basis`, so that every residual state is orthogonal to it.

    The embedding and the output matrices and biases of attention and MLP lose those components. A norm behind a writer
    (Gemma, OLMo) multiplies each dimension by its weight w before the sum; such a writer is made orthogonal to
    w * direction instead, which is exact, since division by the root mean square keeps zero zero. It is not the same as
    a projection of the normed output: dimensions of large w give more of themselves, and the root is smaller than it
    was, so that what is left of the output grows by that factor. A tied head keeps the embedding it had and is stored
    on its own from then on.

    Args:
      params, cfg: as models.load returns them; basis: [K, D], orthonormal rows (for one direction: its unit vector).
    Returns:
      (ModelConfig, params), new ones that share every untouched array. Exact up to rounding in the params' dtype.
    """
    changed = _orthogonalized(params, jnp.asarray(basis, jnp.float32), cfg=cfg)
    cfg, params = _untied(params, cfg)
    return cfg, params | changed | {"blocks": params["blocks"] | changed["blocks"]}


@functools.partial(jax.jit, static_argnames="cfg")
def _orthogonalized(params, basis, *, cfg: ModelConfig):
    blocks = {}
    layers = layers_with(cfg)
    for name, norm in _WRITERS.items():
        if name not in params["blocks"]:
            continue
        rows = jnp.broadcast_to(basis, (len(layers[name]), *basis.shape))
        if cfg.post_norms:
            places = jnp.asarray(layers[name])
            norms = [norm, *(own for own in [_OWN_NORMS.get(name)] if own in params["blocks"])]
            scaled = rows
            for behind in norms:
                weights = params["blocks"][behind][places].astype(jnp.float32) + float(cfg.norm_plus_one)
                scaled = scaled * weights[:, None]
            rows = jnp.linalg.qr(scaled.swapaxes(1, 2))[0].swapaxes(1, 2)
        weight = params["blocks"][name]
        wide = weight.astype(jnp.float32)
        along = jnp.einsum("l...d,lkd->l...k", wide, rows)
        blocks[name] = (wide - jnp.einsum("l...k,lkd->l...d", along, rows)).astype(weight.dtype)
    embed = params["embed"].astype(jnp.float32)
    embed = embed - (embed @ basis.T) @ basis
    return {"embed": embed.astype(params["embed"].dtype), "blocks": blocks}


def shift_token(params, token: int, delta, *, cfg: ModelConfig):
    """Weights with `delta` [D] added to residual state 0 wherever `token` stands: the same as an edit there.

    A tied head keeps the embedding it had. Returns (ModelConfig, params) as orthogonalize does.
    """
    row = params["embed"][token].astype(jnp.float32) + jnp.asarray(delta, jnp.float32) / cfg.embedding_scale
    cfg, params = _untied(params, cfg)
    return cfg, params | {"embed": params["embed"].at[token].set(row.astype(params["embed"].dtype))}


def _untied(params, cfg: ModelConfig):
    head = {"head": params["embed"].T} if cfg.tied_head else {}
    return dataclasses.replace(cfg, tied_head=False), params | head


def shortlist(scores: Sequence[Score], size: int) -> list[int]:
    """Indices of the `size` candidates worth generating for: KL within MAX_KL, largest bypass, ties to smaller KL."""
    inside = [index for index, score in enumerate(scores) if score.kl <= MAX_KL]
    return sorted(inside, key=lambda index: (-scores[index].bypass, scores[index].kl, index))[:size]


def choose(scores: Sequence[Score], *, base_answered: float | None = None) -> tuple[int, str]:
    """Index of the candidate to keep, and by which step of the rule.

    Allowed are candidates whose KL on harmless prompts is at most MAX_KL and, where answers were generated, whose share
    of answered harmless prompts is at least `base_answered` - MAX_LOST_ANSWERS. The largest bypass among them wins,
    ties go to the smaller KL, then to the earlier candidate. If none is allowed, the smallest KL wins.
    """
    if not scores:
        raise ValueError("there are no candidates to choose from")

    def allowed(score):
        kept = score.answered is None or score.answered >= base_answered - MAX_LOST_ANSWERS - 1e-9
        return score.kl <= MAX_KL and kept

    inside = [index for index, score in enumerate(scores) if allowed(score)]
    if not inside:
        return min(range(len(scores)), key=lambda index: scores[index].kl), "none within the bounds: smallest KL"
    return max(inside, key=lambda index: (scores[index].bypass, -scores[index].kl, -index)), "largest bypass"
