"""The surface of prompts and texts under one model's tokenizer, and static scores beside the rulers that read it alone.

docs/method.md section 7. A score that does not beat prompt length and first token on its own rows is withheld: its line
stays, without the value, and says so.
"""

from typing import NamedTuple

import numpy as np

from latent_audit.data import chats, pair_files, tokenizer_files
from latent_audit.experiments.organisms.texts import corpora, probes
from latent_audit.metrics import rulers, separation
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


def probe_rulers(reader, held: probes.Features, texts: Pair, *, seed: int) -> rulers.Compared:
    """A fitted probe against rulers of the texts it was fitted on, on the texts that it is applied to."""
    fitted = probes.fitted_count(len(texts.safe.length))
    fit, rest = ([own.at(rows) for own in texts] for rows in (slice(fitted), slice(fitted, fitted + probes.SCORED)))
    score = rulers.Held(*(reader.decision_function(np.asarray(rows, np.float64)) for rows in held))
    return rulers.compare([score], {name: [one] for name, one in rulers.read(*fit, *rest).items()}, seed=seed)


def separation_rulers(scored: separation.Separation, prompts: Pair, *, seed: int) -> rulers.Compared:
    """The cross-fitted projections against rulers fitted on the same folds."""
    return rulers.compare(scored.held, rulers.read_folds(*prompts, scored.dealt), seed=seed)


def ruled(line: dict, compared: rulers.Compared) -> dict:
    """A score's line beside its rulers; where it is withheld without value and interval."""
    kept = {"value": np.nan, "lo": np.nan, "hi": np.nan} if compared.withheld else {}
    return line | kept | {"detail": "; ".join(filter(None, (line.get("detail", ""), rulers.told(compared))))}


def ruler_lines(variant: str, score: str, compared: rulers.Compared, n: int) -> list[dict]:
    """ruler_auroc: the score's own AUROC on the compared rows, and each ruler's."""
    both = [("the score itself", compared), *((one.ruler, one) for one in compared.rulers)]
    return [
        {
            "variant": variant,
            "measure": "ruler_auroc",
            "detail": f"{score}: {who}",
            "value": one.auroc,
            "lo": one.lo,
            "hi": one.hi,
            "n": n,
        }
        for who, one in both
    ]
