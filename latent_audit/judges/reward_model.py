"""The paper's harmlessness reward: a GPT-2 classifier with one output, read as S(prompt, response).

docs/method.md section 1; arXiv 2606.08044 used Ray2333/gpt2-large-harmless-reward_model.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from latent_audit.data.tokenizer_files import beyond, check_vocabulary, load_tokenizer
from latent_audit.errors import InputError
from latent_audit.judges import Reward
from latent_audit.models import gpt2, widths
from latent_audit.models.config import Params

# paper: bare prompt, as in arXiv 2606.08044. human_assistant: as the model's card asks, the form of its training data.
FORMS = {"paper": "{prompt}", "human_assistant": "\n\nHuman: {prompt} \n\nAssistant:"}
MAX_TOKENS = 1024  # arXiv 2606.08044


def gpt2_reward(
    path: str | pathlib.Path, *, form: str = "paper", max_tokens: int = MAX_TOKENS, batch_size: int | None = None
) -> Reward:
    """Reward(prompts, responses) -> float32 [N], the classifier's one logit; higher is safer.

    Prompt and stripped response go to the tokenizer as a text pair. Pairs of more than max_tokens are cut as the
    tokenizer cuts them (from the end of the longer of the two), and how many were is logged. The checkpoint is checked
    at once; its weights are read at the first score.

    Args:
      path: directory of a GPT2ForSequenceClassification checkpoint with a tokenizer.
      form: "paper" or "human_assistant", see FORMS.
      max_tokens: at most the model's number of positions; batch_size: rows scored at a time, None for as many as hold
        widths.TOKENS.
    Raises:
      InputError: a wrong argument, a checkpoint gpt2.check_whole refuses, one with more than one output, a tokenizer
        with ids that it has no row for; while scoring, a pair that has no tokens, or a reward that is no number.
    """
    if form not in FORMS:
        raise InputError(f"reward.form = {form!r}, expected one of {', '.join(FORMS)}")
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise InputError(f"reward.batch = {batch_size!r}, expected a whole number of at least 1")
    cfg, num_labels = gpt2.check_whole(path)
    if num_labels != 1:
        raise InputError(f"{path}: the classifier has {num_labels} outputs, expected a reward model with one")
    if not 1 <= max_tokens <= cfg.max_positions:
        raise InputError(f"max_tokens = {max_tokens!r}, expected 1 to the model's {cfg.max_positions} positions")
    tokenizer = load_tokenizer(path)
    try:
        check_vocabulary(tokenizer, cfg.vocab_size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error

    @functools.cache
    def params() -> Params:
        return gpt2.load(path)[1]

    def score(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        asked = [FORMS[form].format(prompt=prompt) for prompt in prompts]
        # It reads the last token: white space at the end would be scored instead of the answer.
        rows = _encode_pairs(tokenizer, asked, [response.strip() for response in responses], max_tokens)
        largest = max((max(row) for row in rows), default=0)
        if largest >= cfg.vocab_size:
            raise beyond(tokenizer, largest, cfg.vocab_size)
        found = score_rows(params(), rows, cfg=cfg, batch_size=batch_size)
        _check_rewards(path, rows, found)
        return found

    return Reward(name=f"{pathlib.Path(path).name}, {form} form", is_fallback=False, score=score)


def score_rows(
    params: Params, rows: Sequence[list[int]], *, cfg: gpt2.GPT2Config, batch_size: int | None = None
) -> np.ndarray:
    """The one logit of each list of tokens, in order; float32 [N]. batch_size: as in gpt2_reward."""
    found = np.zeros(len(rows), np.float32)
    for block in widths.blocks(list(map(len, rows)), most_rows=batch_size or 0):
        tokens, mask = _pad_right([rows[row] for row in block.rows], block, cfg.max_positions)
        found[block.rows] = np.asarray(gpt2.classify(params, tokens, mask, cfg=cfg))[: len(block.rows), 0]
    return found


def _check_rewards(path: str | pathlib.Path, rows: list[list[int]], rewards: np.ndarray) -> None:
    bad = int((~np.isfinite(rewards)).sum())
    if bad:
        raise InputError(
            f"{path}: the reward of {bad} of {len(rows)} responses is NaN or infinite: its weights are damaged; give "
            "another reward.path"
        )
    if len(set(map(tuple, rows))) > 1 and np.ptp(rewards) == 0:
        raise InputError(
            f"{path}: all {len(rows)} responses have the same reward, {rewards[0]:g}: its weights are damaged; give "
            "another reward.path"
        )


def _encode_pairs(tokenizer: Any, prompts: list[str], responses: list[str], max_tokens: int) -> list[list[int]]:
    if len(prompts) != len(responses):
        raise ValueError(f"{len(prompts)} prompts but {len(responses)} responses")
    if not prompts:
        return []
    rows = tokenizer(prompts, responses, verbose=False)["input_ids"]
    cut = sum(len(row) > max_tokens for row in rows)
    if cut:
        logging.warning(
            "%d of %d (prompt, response) pairs were cut to %d tokens for the reward model", cut, len(rows), max_tokens
        )
        rows = tokenizer(prompts, responses, truncation=True, max_length=max_tokens)["input_ids"]
    empty = [index for index, row in enumerate(rows) if not row]
    if empty:
        raise InputError(f"pair {empty[0]} of prompt and response is empty; the reward model needs at least one token")
    return rows


def _pad_right(rows: list[list[int]], block: widths.Block, max_width: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens int32, mask bool), both [block.size, T]: missing rows repeat the last one to keep one shape."""
    shape = block.size, min(max_width, block.width)
    tokens, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for index in range(block.size):
        row = rows[min(index, len(rows) - 1)]
        tokens[index, : len(row)] = row
        mask[index, : len(row)] = True
    return tokens, mask
