"""Prompts as the model sees them: chat templates, tokens, left padding.

Another template is another measurement, so everything that could change one silently is pinned or an error: today's
date, a thinking switch, a doubled BOS, a prompt that is too long. docs/method.md section 0. The parts are in chat/.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from latent_audit.data.chat import thoughts, turn_ends, turns
from latent_audit.data.chat.making import make_chat as make_chat
from latent_audit.data.chat.rendering import DEFAULT_DATE as DEFAULT_DATE
from latent_audit.data.chat.rendering import PROBE, check_frames, encode, write_prompts
from latent_audit.data.chat.rendering import Chat as Chat
from latent_audit.data.chat.turns import assistant_turns as assistant_turns
from latent_audit.data.tokenizer_files import PROBES
from latent_audit.data.tokenizer_files import load_tokenizer as load_tokenizer
from latent_audit.errors import InputError

NO_THOUGHT = "none"
TEMPLATE, TOKENIZER = "another chat template", "another tokenizer"


class Tokens(NamedTuple):
    """tokens: int32 [B, T], left-padded; mask: bool [B, T], False on padding."""

    tokens: np.ndarray
    mask: np.ndarray


def render(chat: Chat, prompt: str) -> str:
    """The text the model reads for one user turn, generation prefix included."""
    return render_all(chat, [prompt])[0]


def render_all(chat: Chat, prompts: Iterable[str]) -> tuple[str, ...]:
    """As render, for many prompts in about the time of one: each call may start a process."""
    return write_prompts(chat, prompts)


def encode_prompts(chat: Chat, prompts: Iterable[str], *, max_length: int, width: int | None = None) -> Tokens:
    """Token ids of formatted prompts, left-padded.

    BOS stands where the template writes it, and is never added on top. Control tokens spelled out inside a prompt are
    read as control tokens, as transformers does.

    Args:
      prompts: B texts; max_length: the most tokens one may have, template included.
      width: T; None is the longest row.
    Raises:
      InputError: no prompts, a template that writes one of them otherwise than the rest, a prompt longer than
        max_length (they are counted; nothing is ever cut), one with a token beyond the chat's vocab_size, or a width
        that is too small.
    """
    prompts = list(prompts)
    if not prompts:
        raise InputError("there are no prompts to encode")
    texts = render_all(chat, prompts)
    check_frames(prompts, texts, write_prompts(chat, [PROBE, ""])[0], PROBE, "user")
    rows = encode(chat, texts)
    longest = max(map(len, rows))
    if longest > max_length:
        count = sum(len(row) > max_length for row in rows)
        raise InputError(
            f"{count} of {len(rows)} prompts have more than max_length = {max_length} tokens, the longest "
            f"{longest}; raise the limit or take them out (prompts are never cut)"
        )
    width = longest if width is None else width
    if width < longest:
        raise InputError(f"width = {width} is too small for the longest prompt of {longest} tokens")
    tokens = np.full((len(rows), width), pad_id(chat), np.int32)
    mask = np.zeros((len(rows), width), bool)
    for index, row in enumerate(rows):
        tokens[index, width - len(row) :] = row
        mask[index, width - len(row) :] = True
    return Tokens(tokens, mask)


def target_ids(chat: Chat, text: str, *, most: int | None = None) -> tuple[int, ...]:
    """Token ids of the opening of an answer, or its first `most`, no special tokens added; docs/method.md section 1.

    Where responses are read behind a thought, an empty one stands in front: no target lies inside a thought.
    """
    thought, ids = encode(chat, [chat.thought, chat.thought + text])
    if not text or not ids:
        raise InputError(f"the target {text!r} has no tokens")
    return tuple(ids if most is None else ids[: len(thought) + most])


def assistant_turn_ids(chat: Chat, text: str) -> tuple[int, ...]:
    """Token ids of `text` as the assistant's whole turn; see assistant_turns. docs/method.md section 2."""
    return assistant_turns(chat, [text])[0]


def decode(chat: Chat, tokens: Iterable, lengths: Iterable) -> list[str]:
    """Texts of generated tokens int [B, T], the first lengths[b] of each row, special tokens left out.

    Where responses begin with a thought, what stands behind it is the response; one that does not end is no answer.
    Outer white space is taken off here, where responses become text, so that judge, reward and comparison see the same:
    a reward that reads the last token scores an answer otherwise with a line break behind it. docs/method.md section 0.
    """
    rows = [np.asarray(row)[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]
    if chat.behind_thought and thoughts.has_channels(chat.template):
        return [text.strip() for text in thoughts.in_final(chat.tokenizer, rows)]
    if chat.behind_thought:
        opened = not chat.thought.startswith(thoughts.OPEN)
        return [text.strip() for text in thoughts.behind(chat.tokenizer, rows, opened=opened)]
    return [text.strip() for text in chat.tokenizer.batch_decode(rows, skip_special_tokens=True)]


def thought_in_words(chat: Chat) -> str:
    """What is done about a thought in front of an answer, for log, report and record."""
    if thoughts.has_channels(chat.template):
        written = "the prompt ends with" if chat.closing else "responses are read and targets stand behind"
        return f"{written} {thoughts.FINAL!r}"
    if chat.closing:
        return f"the template opens a thought, which {chat.closing!r} ends"
    if chat.behind_thought:
        return f"responses are read behind {thoughts.END}; targets stand behind {chat.thought!r}"
    return NO_THOUGHT


def template_sha256(chat: Chat) -> str:
    """Hex digest of the formatted empty prompt, stored with every result; docs/method.md section 0."""
    return hashlib.sha256(write_prompts(chat, [PROBE, ""])[1].encode()).hexdigest()


def describe(chat: Chat) -> dict[str, str]:
    """What results depend on of how prompts are written, for the record: hashes of text and ids, and the thought."""
    return {"template_sha256": template_sha256(chat), "ids_sha256": ids_sha256(chat), "thought": thought_in_words(chat)}


def ids_sha256(chat: Chat) -> str:
    """Hex digest of the ids of the formatted empty prompt and of texts in which tokenizers differ.

    Two readings of one tokenizer file write the same text in other ids.
    """
    return hashlib.sha256(json.dumps(_probe_ids(chat)).encode()).hexdigest()


def difference(chat: Chat, other: Chat) -> str | None:
    """What another model would read otherwise, TEMPLATE or TOKENIZER; None where it reads the same ids."""
    if write_prompts(chat, [PROBE, ""]) != write_prompts(other, [PROBE, ""]):
        return TEMPLATE
    same = _plain_vocabulary(chat) == _plain_vocabulary(other) and _probe_ids(chat) == _probe_ids(other)
    return None if same else TOKENIZER


def eos_ids(chat: Chat, generation_config: dict | None, config_ids: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Every token that ends an answer, without repetition.

    The union of generation_config.json, config.json (config_ids: ModelConfig.eos_ids), the tokenizer's own, the one
    that the template ends a turn with, and the known end-of-turn tokens in its vocabulary: each of these files is
    wrong or missing in some published checkpoint.

    Raises InputError: an id of generation_config.json or config.json that is no token id, or none of the model.
    """
    named = (generation_config or {}).get("eos_token_id")
    ids = turn_ends.filed_ids("generation_config.json", named, chat.vocab_size)
    ids += turn_ends.filed_ids("config.json", config_ids, chat.vocab_size)
    others = [chat.tokenizer.eos_token_id, turns.end_id(chat), *turn_ends.named_ids(chat.tokenizer)]
    ids += [token for token in others if token is not None and _exists(chat, token)]
    return tuple(dict.fromkeys(ids))


def pad_id(chat: Chat) -> int:
    """A valid token id for padding; which one does not matter, because masks are always explicit.

    Some tokenizers have a pad token for which the model has no row; theirs is not taken.
    """
    for token in (chat.tokenizer.pad_token_id, chat.tokenizer.eos_token_id):
        if token is not None and _exists(chat, token):
            return token
    return 0


def _exists(chat: Chat, token: int) -> bool:
    return 0 <= token and (chat.vocab_size is None or token < chat.vocab_size)


def _plain_vocabulary(chat: Chat) -> dict[str, int]:
    """What text is made of: a control token more is no difference unless the template writes it."""
    special = {str(token) for token in chat.tokenizer.added_tokens_decoder.values() if token.special}
    return {token: number for token, number in chat.tokenizer.get_vocab().items() if token not in special}


def _probe_ids(chat: Chat) -> list[list[int]]:
    prompt, empty = write_prompts(chat, [PROBE, ""])
    # Behind the template's last control token too, where readings of one file differ.
    return encode(chat, [prompt, empty, *PROBES, *(prompt + text for text in PROBES)])
