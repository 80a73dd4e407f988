"""Questions of different lengths put to a judge's decoder."""

from collections.abc import Iterator

import numpy as np

from latent_audit.models import batching
from latent_audit.models.generate import generate
from latent_audit.models.usable import check_usable
from latent_audit.runtime import halving

# Prompts of a judge are padded to a multiple of this, so that few widths are compiled.
WIDTH_STEP = 128


def in_blocks(rows, *, tokenizer, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Token lists of different lengths as left-padded batches of one shape: tokens int32 [B, T], mask, how many are
    real. The rest hold padding alone, of which a model may make nothing."""
    width = -(-max(map(len, rows)) // WIDTH_STEP) * WIDTH_STEP
    batch = batching.rows_at_a_time(batch, len(rows))
    for start in range(0, len(rows), batch):
        block = rows[start : start + batch]
        tokens = np.full((batch, width), padding_id(tokenizer), np.int32)
        mask = np.zeros((batch, width), bool)
        for row, ids in enumerate(block):
            tokens[row, width - len(ids) :] = ids
            mask[row, width - len(ids) :] = True
        # Rows without a prompt would have no key to look at.
        mask[len(block) :, -1] = True
        yield tokens, mask, len(block)


def padding_id(tokenizer) -> int:
    """The id that a judge's rows are padded with; which one does not matter."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0


def continue_rows(params, rows, *, cfg, tokenizer, max_new_tokens: int, batch: int) -> list[str]:
    """Greedy continuations of token lists of different lengths, in order; what a judge's decoder is asked."""
    texts: list[str] = []
    for tokens, mask, count in in_blocks(rows, tokenizer=tokenizer, batch=batch):

        def answer(part, tokens=tokens, mask=mask, count=count):
            new = generate(
                params,
                tokens[part],
                mask[part],
                cfg=cfg,
                max_new_tokens=max_new_tokens,
                eos_ids=cfg.eos_ids,
                pad_id=padding_id(tokenizer),
            )
            check_usable(np.asarray(new.usable)[part < count], "the judge")
            return np.asarray(new.tokens)

        new = np.concatenate(halving.in_halves(answer, np.arange(len(mask)), "judge"))
        texts += tokenizer.batch_decode(new[:count], skip_special_tokens=True)
    return texts
