"""Where the suffix of the discrete attack stands in the text, which tokens it may hold, and whether it stays itself.

The attack ends in a text that anyone could type, so a suffix is worth only what it is after decoding and tokenising
again. docs/method.md section 8.
"""

from typing import NamedTuple

import numpy as np

from latent_audit.data import chats
from latent_audit.errors import InputError

MARK = "!"  # arXiv 2606.08044


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


def spaced_suffix(length: int) -> str:
    """The text to start from where a suffix must last [ours]: the spaces keep tokenizers from merging the marks."""
    return " ".join([MARK] * length)


def place_tokens(chat: chats.Chat, prompts, *, max_length: int, length: int) -> Placed:
    """Format prompts with a space token and `length` tokens "!" behind them, as ids: arXiv 2606.08044.

    As a text, that start would be read as other tokens by most tokenizers, so the search runs on ids that no text may
    give; what it finds is decoded and tokenised again before it is put to the model. A tokenizer without a token for
    one space, such as the organism's, needs none.

    Args and Raises as place_suffix; InputError also for a tokenizer that does not write "!" as one token.
    """
    tokenizer, turns, suffix = chat.tokenizer, [prompt.strip() for prompt in prompts], f" {spaced_suffix(length)}"
    # With a suffix, a turn of one letter is not mistaken for a letter of the template.
    texts = chats.render_all(chat, [turn + suffix for turn in turns])
    mark, space = token_of(tokenizer, MARK), token_of(tokenizer, " ")
    if mark is None:
        raise InputError(f"the tokenizer does not write {MARK!r} as one token; the discrete attack starts with it")
    between = [] if space is None else [space]
    tokens, mask = chats.encode_prompts(chat, turns, max_length=max_length - length - len(between))
    behind, frames = set(), []
    for turn, text in zip(turns, texts, strict=True):
        end = _end_of(chat, turn + suffix, text) - len(suffix)
        frame = text[:end], text[end + len(suffix) :]
        spans = _spans(tokenizer, "".join(frame))
        behind.add(sum(low >= end for low, _ in spans))
        frames.append((f"{frame[0]} ", frame[1]))
        if any(low < end < high for low, high in spans):
            raise InputError(
                f"the tokenizer writes the end of the turn {turn!r:.100} and what the template puts behind it as one "
                "token; the discrete attack cannot place its suffix"
            )
    count = _only(behind)
    split = tokens.shape[1] - count
    put = np.tile(np.array([*between, *[mark] * length], np.int32), (len(tokens), 1))
    tokens = np.concatenate([tokens[:, :split], put, tokens[:, split:]], axis=1)
    mask = np.concatenate([mask[:, :split], np.ones_like(put, bool), mask[:, split:]], axis=1)
    return Placed(tokens, mask, split + len(between), length, tuple(frames))


def token_of(tokenizer, text: str) -> int | None:
    """The token that is this one character and nothing else, None where the tokenizer writes it as none or several."""
    vocabulary = tokenizer.get_vocab()
    # Byte-level tokenizers and SentencePiece write a space as another letter.
    for name in (text, "\u0120", "\u2581") if text == " " else (text,):
        if name in vocabulary:
            return vocabulary[name]
    ids = _encode(tokenizer, [text])[0]
    return ids[0] if len(ids) == 1 else None


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
    first = tokens.shape[1] - _only({behind for _, behind in places})
    return Placed(tokens, mask, first, length, tuple(frame for frame, _ in places))


def suffix_texts(tokenizer, ids, *, spaced: bool = True) -> list[str]:
    """Texts of suffixes int [N, n]; spaced: without the one space that stands between prompt and suffix, which is a
    token of its own in place_tokens."""
    texts = tokenizer.batch_decode(np.asarray(ids).tolist(), clean_up_tokenization_spaces=False)
    return [text.removeprefix(" ") for text in texts] if spaced else texts


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
    end = _end_of(chat, turn, text)
    start = end - len(suffix)
    spans = _spans(chat.tokenizer, text)
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


def _end_of(chat, turn, text) -> int:
    """Where the user's turn ends in the rendered text."""
    if text.count(turn) != 1:
        raise InputError(
            f"the chat template writes the user's turn {text.count(turn)} times as it is, expected once; "
            "the discrete attack cannot place its suffix"
        )
    if not chat.tokenizer.is_fast:
        raise InputError("the discrete attack needs a tokenizer that reports offsets (a tokenizer.json)")
    return text.index(turn) + len(turn)


def _spans(tokenizer, text) -> list[tuple[int, int]]:
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]


def _only(counts: set[int]) -> int:
    if len(counts) > 1:
        raise InputError(
            "the chat template ends differently from prompt to prompt; the discrete attack needs the same "
            "number of tokens behind every suffix"
        )
    return counts.pop()


def _encode(tokenizer, texts):
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
