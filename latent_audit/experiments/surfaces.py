"""The surface of prompts and texts under one model's tokenizer, for the nuisance rulers of docs/method.md section 7."""

from typing import NamedTuple

import numpy as np

from latent_audit.data import chats, pair_files, tokenizer_files
from latent_audit.experiments.organisms import corpora, probes
from latent_audit.metrics.rulers import Surface

_NOTHING = -1  # the first token of a text that has none


class Pair(NamedTuple):
    """The surfaces of safe and of unsafe rows."""

    safe: Surface
    unsafe: Surface


def of_prompts(chat: chats.Chat, prompts, mask: np.ndarray) -> Surface:
    """Of N prompts, bool [N, T] their mask: tokens of the formatted prompt, first token of the user's own text."""
    return Surface(np.asarray(mask, bool).sum(axis=1), first_tokens(chat, prompts))


def of_pairs(chat: chats.Chat, pairs: pair_files.Pairs) -> Pair:
    """Of each prompt with its refusal (safe) and its answer (unsafe): tokens of both together, the response's first."""
    return Pair(
        *(
            Surface(
                corpora.encode_pairs(chat, pairs.prompts, texts, max_tokens=probes.MAX_TOKENS).mask.sum(axis=1),
                first_tokens(chat, texts),
            )
            for texts in (pairs.refusals, pairs.responses)
        )
    )


def first_tokens(chat: chats.Chat, texts) -> np.ndarray:
    """The id that each text begins with, outer white space aside; int64 [N], -1 where there is none."""
    rows = tokenizer_files.token_rows(chat.tokenizer, [text.strip() for text in texts])
    return np.array([row[0] if row else _NOTHING for row in rows], np.int64)
