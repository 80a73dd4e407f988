"""Where the suffix of the discrete attack stands in the text, which tokens it may hold, and whether it stays itself.

The attack ends in a text that anyone could type, so a suffix is worth only what it is after decoding and tokenising
again. docs/method.md section 8.
"""

from typing import NamedTuple

import numpy as np

from latent_audit.data import chats
from latent_audit.errors import InputError


class Placed(NamedTuple):
    """Formatted prompts with the suffix at columns first .. first + length - 1 of every row.

    tokens: int32 [B, P], left-padded; mask: bool [B, P]; frames: for each row the rendered text before and after the
    suffix.
    """

    tokens: np.ndarray
    mask: np.ndarray
    first: int
    length: int
    frames: tuple[tuple[str, str], ...]


def allowed_tokens(tokenizer, vocab_size: int, *, ascii_only: bool = True) -> np.ndarray:
    """Which tokens a suffix may hold; bool [V].

    Left out: special and added tokens, ids that the tokenizer does not know, tokens that decode to nothing, to white
    space or to something unprintable (with `ascii_only` also to anything beyond ASCII, as in arXiv 2307.15043), and
    tokens that decoded alone are not tokenised to themselves [ours].

    Raises InputError when fewer than two are left.
    """
    known = np.arange(min(vocab_size, len(tokenizer)))
    texts = tokenizer.batch_decode(known[:, None].tolist(), clean_up_tokenization_spaces=False)
    again = _encode(tokenizer, texts)
    added = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    allowed = np.zeros(vocab_size, bool)
    for token, text, ids in zip(known.tolist(), texts, again, strict=True):
        printable = text.strip() and text.isprintable() and (text.isascii() or not ascii_only)
        allowed[token] = bool(printable) and token not in added and ids == [token]
    if allowed.sum() < 2:
        raise InputError(
            f"the tokenizer has {allowed.sum()} tokens a suffix may hold (ascii_only = {ascii_only}), "
            "expected at least 2; set ascii_only to False if its vocabulary is not ASCII"
        )
    return allowed


def with_suffix(prompt: str, suffix: str) -> str:
    """The user's turn under attack."""
    return f"{prompt} {suffix}"


def paper_suffix(length: int) -> str:
    """The suffix to start from, `length` tokens "!": arXiv 2606.08044. The spaces keep tokenizers from merging them."""
    return " ".join(["!"] * length)


def place_suffix(chat: chats.Chat, prompts, *, max_length: int, suffix: str, length: int) -> Placed:
    """Format prompts with the suffix behind them and find its columns.

    Args:
      prompts: B texts; max_length: the most tokens a formatted prompt may have, template and suffix included.
      suffix: the text to start from; length: the tokens it must have.
    Raises:
      InputError: a prompt that is too long; a template that changes the user's turn or writes it more than once; a
        suffix that is not exactly `length` tokens, or shares a token with its neighbours.
    """
    turns = [with_suffix(prompt, suffix) for prompt in prompts]
    tokens, mask = chats.encode_prompts(chat, turns, max_length=max_length)
    stripped = [turn.strip() for turn in turns]
    texts = chats.render_all(chat, stripped)
    places = [_locate(chat, turn, text, suffix, length) for turn, text in zip(stripped, texts, strict=True)]
    # Counted from the end, where all rows are alike: the same template stands behind every suffix.
    columns = {tokens.shape[1] - behind for _, behind in places}
    if len(columns) > 1:
        raise InputError(
            "the chat template ends differently from prompt to prompt; the discrete attack needs the same "
            "number of tokens behind every suffix"
        )
    return Placed(tokens, mask, columns.pop(), length, tuple(frame for frame, _ in places))


def suffix_texts(tokenizer, ids) -> list[str]:
    """Texts of suffixes int [N, n], without the one space that stands between prompt and suffix."""
    texts = tokenizer.batch_decode(np.asarray(ids).tolist(), clean_up_tokenization_spaces=False)
    return [text.removeprefix(" ") for text in texts]


def survives(tokenizer, placed: Placed, row: int, candidates) -> np.ndarray:
    """Which candidates int32 [N, n] are still the same ids once decoded, put into the prompt and tokenised; bool [N].

    arXiv 2307.15043 compares the number of tokens of the suffix alone. Ours compares all ids of the formatted prompt,
    so that the text found is exactly as strong as the search says.
    """
    before, behind = placed.frames[row]
    texts = suffix_texts(tokenizer, candidates)
    again = _encode(tokenizer, [before + text + behind for text in texts])
    expected = np.repeat(placed.tokens[row : row + 1], len(texts), axis=0)
    expected[:, placed.first : placed.first + placed.length] = candidates
    expected = expected[:, placed.mask[row]].tolist()
    # Templates may trim the turn, so white space at its end would not last.
    return np.array(
        [text == text.strip() and ids == same for text, ids, same in zip(texts, again, expected, strict=True)], bool
    )


def _locate(chat, turn, text, suffix, length):
    """((text before, text behind), tokens from the start of the suffix to the end of the formatted prompt)."""
    if text.count(turn) != 1:
        raise InputError(
            f"the chat template writes the user's turn {text.count(turn)} times as it is, expected once; "
            "the discrete attack cannot place its suffix"
        )
    if not chat.tokenizer.is_fast:
        raise InputError("the discrete attack needs a tokenizer that reports offsets (a tokenizer.json)")
    end = text.index(turn) + len(turn)
    start = end - len(suffix)
    spans = chat.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    inside = [column for column, (low, high) in enumerate(spans) if low < end and high > start]
    # The space before the suffix may belong to its first token.
    apart = all(start - 1 <= spans[column][0] and spans[column][1] <= end for column in inside)
    if len(inside) != length or inside != list(range(inside[0], inside[0] + length)) or not apart:
        shared = "" if apart else ", some shared with its neighbours"
        raise InputError(
            f"the suffix {suffix!r} is {len(inside)} tokens of this tokenizer{shared}, expected {length} "
            "of its own; choose other words or another length"
        )
    return (text[:start], text[end:]), len(spans) - inside[0]


def _encode(tokenizer, texts):
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
