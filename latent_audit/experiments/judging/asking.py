"""Questions of different lengths put to a judge's decoder, in batches of few shapes; docs/method.md section 9.

How they are batched changes no reply beyond rounding: a block holds a number of tokens (models/widths.py), and what all
questions open with is computed once (models/prefixed.py).
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from latent_audit.models import prefixed, widths
from latent_audit.models.config import ModelConfig, Params
from latent_audit.models.generate import generate
from latent_audit.models.usable import check_usable
from latent_audit.runtime import halving
from latent_audit.runtime.telling import progress

# Ours: a shorter opening saves less than the second program costs.
LEAST_OPENING = 32


def in_blocks(
    rows: Sequence[Sequence[int]], *, tokenizer, batch: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Token lists as left-padded blocks: (numbers of the rows in it, int [R]; tokens int32 [B, T]; mask bool [B, T]).

    B is at least R; the rest holds one token of padding each, of which a model may make nothing. batch: the largest B,
    0 for as many rows as hold widths.TOKENS.
    """
    for block in widths.blocks(list(map(len, rows)), most_rows=batch):
        tokens = np.full((block.size, block.width), padding_id(tokenizer), np.int32)
        mask = np.zeros((block.size, block.width), bool)
        for row, number in enumerate(block.rows):
            tokens[row, block.width - len(rows[number]) :] = rows[number]
            mask[row, block.width - len(rows[number]) :] = True
        # Rows without a prompt would have no key to look at.
        mask[len(block.rows) :, -1] = True
        yield block.rows, tokens, mask


def padding_id(tokenizer) -> int:
    """The id that a judge's rows are padded with; which one does not matter."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0


def continue_rows(
    params: Params,
    rows: Sequence[Sequence[int]],
    *,
    cfg: ModelConfig,
    tokenizer,
    max_new_tokens: int,
    batch: int = 0,
    opening: Sequence[int] = (),
) -> list[str]:
    """Greedy continuations of token lists of different lengths, in order; what a judge's decoder is asked.

    batch: as in_blocks; opening: tokens that most rows begin with, computed once for these where the model allows.
    Raises InputError as check_usable.
    """
    texts, read = np.empty(len(rows), object), 0
    options = {"cfg": cfg, "max_new_tokens": max_new_tokens, "eos_ids": cfg.eos_ids, "pad_id": padding_id(tokenizer)}
    behind, whole = split_by_opening(rows, opening, cfg=cfg, max_new_tokens=max_new_tokens)
    ways = [(whole, 0, lambda *prompts: generate(params, *prompts, **options))]
    if behind:
        kept = prefixed.open_with(params, jnp.asarray(opening, jnp.int32), cfg=cfg)
        rest = functools.partial(prefixed.generate_behind, params, kept, **options)
        ways.append((behind, len(opening), rest))
    for numbers, cut, answer in ways:
        for among, tokens, mask in in_blocks([rows[n][cut:] for n in numbers], tokenizer=tokenizer, batch=batch):
            new = _new_tokens(answer, tokens, mask, len(among))
            texts[np.asarray(numbers)[among]] = tokenizer.batch_decode(new, skip_special_tokens=True)
            read += len(among)
            progress.within("judge's questions", read, len(rows))
    return texts.tolist()


def _new_tokens(answer: Callable, tokens: np.ndarray, mask: np.ndarray, count: int) -> np.ndarray:
    """The first `count` rows of answer(tokens, mask).tokens, in halves where a device runs out of memory."""

    def of_part(part: np.ndarray) -> np.ndarray:
        new = answer(tokens[part], mask[part])
        check_usable(np.asarray(new.usable)[part < count], "the judge")
        return np.asarray(new.tokens)

    return np.concatenate(halving.in_halves(of_part, np.arange(len(mask)), "judge"))[:count]


def split_by_opening(
    rows: Sequence[Sequence[int]], opening: Sequence[int], *, cfg: ModelConfig, max_new_tokens: int
) -> tuple[list[int], list[int]]:
    """Numbers of the rows that are computed behind the opening, and of those that are computed whole."""
    opening = list(opening)
    columns = len(opening) + max_new_tokens + widths.width_of(max(map(len, rows), default=1))
    if len(opening) < LEAST_OPENING or not prefixed.is_possible(cfg, columns):
        return [], list(range(len(rows)))
    begins = [list(row[: len(opening)]) == opening and len(row) > len(opening) for row in rows]
    return [n for n, own in enumerate(begins) if own], [n for n, own in enumerate(begins) if not own]
