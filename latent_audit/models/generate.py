"""Jitted generation: one prefill, then cached decode steps, for whole left-padded batches.

Never vmap this: rows are already batched, and a vmapped while loop compiles for seconds and runs until the
slowest member ends. Edits on rows of different states go through `edits.add_at` with a state per row.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from latent_audit.models import continuing, decode, decoder, sharding
from latent_audit.models.config import ModelConfig, Params
from latent_audit.models.continuing import Rules, Sampling
from latent_audit.models.decoder import Edit
from latent_audit.models.usable import is_usable


class Generation(NamedTuple):
    """tokens: int32 [B, new], pad_id after a row's end; lengths: int32 [B], the end token counted.

    usable: bool [B], False where the logits of the first new token are not all finite, or all the same.
    """

    tokens: jax.Array | np.ndarray
    lengths: jax.Array | np.ndarray
    usable: jax.Array


def generate(
    params: Params,
    tokens: jax.Array,
    mask: jax.Array,
    *,
    cfg: ModelConfig,
    max_new_tokens: int,
    eos_ids: tuple[int, ...],
    pad_id: int = 0,
    prompt_edit: Edit | None = None,
    decode_edit: Edit | None = None,
    sampling: Sampling | None = None,
    repetition_penalty: float = 1.0,
    told: Callable[[int], object] | None = None,
) -> Generation:
    """Continue every row until an end token or `max_new_tokens`; rows that have ended leave the batch.

    It waits for the device; what is jitted are its parts.
    Plain greedy decoding unless `sampling` is given (docs/method.md section 0).

    Args:
      params: decoder parameters; tokens: int32 [B, P]; mask: bool [B, P], left-padded.
      max_new_tokens, eos_ids, pad_id, repetition_penalty: static.
      prompt_edit: edit on the prompt's columns only; its effect reaches decode steps through the cache.
      decode_edit: edit on every decode step's column, h: [B, 1, D]. The two are independent: pass both to act
        on every position.
      sampling: Sampling(key, temperature, top_p), or None for greedy.
      repetition_penalty: transformers' rule over the row's real tokens; 1.0 is off. A float, compared at trace time.
      told: told(tokens so far) now and then, see continuing.to_the_end; None: nobody.
    """
    rules = Rules(max_new_tokens, tuple(eos_ids), pad_id, float(repetition_penalty))
    going, usable = begin(params, tokens, mask, prompt_edit, sampling, cfg=cfg, rules=rules)
    out, lengths = continuing.to_the_end(params, going, decode_edit, sampling, cfg=cfg, rules=rules, told=told)
    return Generation(out, lengths, usable)


@functools.partial(jax.jit, static_argnames=("cfg", "rules"))
def begin(
    params: Params,
    tokens: jax.Array,
    mask: jax.Array,
    edit: Edit | None,
    sampling: Sampling | None,
    *,
    cfg: ModelConfig,
    rules: Rules,
) -> tuple[continuing.Going, jax.Array]:
    """Read the prompts and say the first token: (what goes on from there, Generation.usable)."""
    room = decode.room_behind(tokens.shape[1], rules.max_new_tokens, cfg=cfg)
    x, cache = decode.prefill(params, tokens, mask, cfg=cfg, room=room, edit=edit)
    seen = continuing.tokens_seen(tokens, mask, cfg=cfg, rules=rules)
    going = continuing.start(params, x, seen, cache, sampling, prompt=tokens.shape[1], cfg=cfg, rules=rules)
    usable = is_usable(decoder.unembed(params, x, cfg=cfg))
    return going, sharding.replicate(usable)
