"""Residual states of prompt sets at chosen positions, their means, and the directions between them.

Only the wanted columns leave a forward pass, and means are streamed, so that neither the number of prompts nor the
width of the model asks for more memory than one batch. Used by abliteration, steering and RAS (docs/method.md
sections 3, 6 and 10).
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.errors import InputError
from latent_audit.models import batching, decoder, sharding
from latent_audit.models.config import ModelConfig, layer_name

DECISION_POINT = -1
# In place of a column: the mean over a prompt's real tokens.
WHOLE_PROMPT = 0


class Moments(NamedTuple):
    """Of the states of `count` prompts; P is the order of the positions asked for.

    mean: float32 [S, P, D]; norm: float32 [S, P], the mean L2 norm (at the decision point METHOD's activation norm).
    """

    mean: np.ndarray
    norm: np.ndarray
    count: int


@functools.partial(jax.jit, static_argnames=("cfg", "positions"))
def position_states(
    params, tokens, mask, *, cfg: ModelConfig, positions: tuple[int, ...] = (DECISION_POINT,), edit=None
):
    """Every residual state of left-padded prompts at some columns; float32 [S, B, P, D].

    Args:
      tokens: int32 [B, T]; mask: bool [B, T], left-padded; positions: columns counted from the end, -1 the last, or
        WHOLE_PROMPT.
      edit: edit(h, s) -> h on the residual stream, or None.
    """
    count = jnp.maximum(mask.sum(axis=1), 1)[:, None]

    def pick(h, position):
        if position != WHOLE_PROMPT:
            return h[:, position].astype(jnp.float32)
        return jnp.where(mask[..., None], h.astype(jnp.float32), 0.0).sum(axis=1) / count

    _, states = decoder.scan_states(
        params,
        tokens,
        mask,
        cfg=cfg,
        edit=edit,
        collect=lambda h: jnp.stack([pick(h, position) for position in positions], axis=1),
    )
    return sharding.replicate(states)


def batches_of(count: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """(rows int [R], how many of them are real) of batches of `count` rows, at most `size`, of one compiled shape.

    A short last batch repeats its last row.
    """
    size = batching.rows_at_a_time(size, count)
    for start in range(0, count, size):
        yield np.arange(start, start + size).clip(max=count - 1), min(size, count - start)


def _position_states(params, tokens, mask, *, cfg, positions, batch, edit=None) -> Iterator[np.ndarray]:
    """position_states on the host, of `batch` prompts at a time; float32 [S, up to batch, P, D]."""
    for rows, real in batches_of(len(tokens), batch):
        states = position_states(params, tokens[rows], mask[rows], cfg=cfg, positions=positions, edit=edit)
        yield np.asarray(states)[:, :real]


def decision_states(params, tokens, mask, *, cfg: ModelConfig, batch: int, edit=None) -> Iterator[np.ndarray]:
    """Every residual state at the decision point, of `batch` prompts at a time; float32 [up to batch, S, D].

    Args as in position_states; S is the number of blocks plus one, state s + 1 the output of block s. Whoever keeps
    what is yielded keeps all states: means and cosines are best taken batch by batch.

    Raises InputError for states that are not finite.
    """
    for states in _position_states(params, tokens, mask, cfg=cfg, positions=(DECISION_POINT,), batch=batch, edit=edit):
        _check_states(states)
        yield states[:, :, 0].swapaxes(0, 1)


def _check_states(states: np.ndarray) -> None:
    """states: [S, B, positions, D]."""
    bad = ~np.isfinite(states).reshape(len(states), -1).all(axis=1)
    if bad.any():
        raise InputError(
            f"the model's states are NaN or infinite from {layer_name(int(np.argmax(bad)))} on: its weights are "
            "damaged or too large for the dtype; fetch them again, or set the dtype to float32"
        )


def moments(
    params,
    tokens,
    mask,
    *,
    cfg: ModelConfig,
    positions: tuple[int, ...] = (DECISION_POINT,),
    batch: int = 32,
    edit=None,
) -> Moments:
    """Mean state and mean norm of any number of prompts, `batch` at a time; arguments as in position_states.

    Sums are float64 on the host, so the batch size changes nothing beyond rounding of the forward pass itself.
    Raises InputError for no prompts, a batch below 1, a position that is padding in some row, or states that are not
    finite.
    """
    tokens, mask = np.asarray(tokens), np.asarray(mask)
    if not len(tokens) or batch < 1:
        raise InputError(f"mean states of {len(tokens)} prompts in batches of {batch}, expected at least 1 of both")
    _check_positions(mask, positions)
    total, length = 0.0, 0.0
    options = {"cfg": cfg, "positions": tuple(positions), "batch": batch, "edit": edit}
    for states in _position_states(params, tokens, mask, **options):
        _check_states(states)
        states = states.astype(np.float64)
        total = total + states.sum(axis=1)
        length = length + np.linalg.norm(states, axis=-1).sum(axis=1)
    count = len(tokens)
    return Moments((total / count).astype(np.float32), (length / count).astype(np.float32), count)


def _check_positions(mask, positions):
    for position in positions:
        if position == WHOLE_PROMPT:
            continue
        if not -mask.shape[1] <= position <= -1:
            raise InputError(
                f"position {position} of prompts of {mask.shape[1]} columns, expected -1 (the last token) "
                f"to {-mask.shape[1]}, or {WHOLE_PROMPT} (the mean over all)"
            )
        short = int((~mask[:, position]).sum())
        if short:
            raise InputError(
                f"position {position} is padding in {short} of {len(mask)} prompts, expected a position "
                "that every prompt has"
            )


def shared_positions(tokens, *, limit: int) -> tuple[int, ...]:
    """Last columns that hold one and the same token in every row of int32 [N, T]: the template's generation prefix.

    Returns (-1, -2, ...), at least (-1,) and at most `limit` of them: where a refusal direction is looked for.
    """
    same = (tokens == tokens[:1]).all(axis=0)[::-1]
    count = len(same) if same.all() else int(np.argmin(same))
    return tuple(range(-1, -1 - max(1, min(count, limit)), -1))


def mean_difference(of: Moments, minus: Moments) -> np.ndarray:
    """mean(of) - mean(minus) per state and position; float32 [S, P, D], not normalised."""
    return of.mean - minus.mean


def unit(direction, *, name: str) -> np.ndarray:
    """`direction` [D] at length 1, float32; InputError with `name` where it is zero or not finite.

    A difference of means is exactly zero at state 0 of a template token: the embedding there is the same for all.
    """
    direction = np.asarray(direction, np.float64)
    length = np.linalg.norm(direction)
    if not (np.isfinite(length) and length > 0):
        raise InputError(
            f"the direction of {name} has length {length:g}: the two sets of prompts do not differ "
            "there; choose another layer or position, or other prompts"
        )
    return (direction / length).astype(np.float32)


def text_features(params, tokens, mask, *, cfg: ModelConfig, states: tuple[int, ...], batch: int = 32) -> np.ndarray:
    """What a static probe reads of each text: the mean over its real tokens of the given states, concatenated.

    docs/method.md section 7. Args as in moments, tokens of prompt and response; returns float32 [N, len(states) * D].
    """
    tokens, mask = np.asarray(tokens), np.asarray(mask)
    options = {"cfg": cfg, "positions": (WHOLE_PROMPT,), "batch": batch}
    return np.concatenate(
        [
            np.concatenate(means[list(states), :, 0], axis=-1)
            for means in _position_states(params, tokens, mask, **options)
        ]
    )
