"""Thoughts in front of an answer: `<think>`, whoever opens it, must have ended before anything is judged or trained.

gpt-oss (OpenAI's harmony format) thinks in a message of its own; an answer is what stands in the channel "final".

docs/method.md section 0.
"""

import re
from collections.abc import Sequence
from typing import Any

from latent_audit.data.chat.turn_ends import is_single_token
from latent_audit.errors import InputError

OPEN, END = "<think>", "</think>"
# An empty thought as Qwen 3's own template writes it behind "<think>\n".
CLOSING = "\n</think>\n\n"
# What stands between the header of an assistant's turn and an answer in harmony, written by the model itself.
FINAL = "<|channel|>final<|message|>"
_SWITCHES = ("enable_thinking", "thinking")


def check_closing(closing: object) -> None:
    """InputError unless the text ends a thought."""
    if not isinstance(closing, str) or END not in closing or OPEN in closing.partition(END)[2]:
        raise InputError(f"chat.closing = {closing!r:.200}, expected a text that ends a thought with {END}")


def switches(template: str) -> tuple[str, ...]:
    """The variables by which a template asks whether the model shall think."""
    return tuple(name for name in _SWITCHES if re.search(rf"\b{name}\b", template))


def has_channels(template: str) -> bool:
    """Whether a template writes answers into harmony's channel "final"."""
    return FINAL in template


def is_open(prefix: str) -> bool:
    """Whether the text that a template writes in front of an answer leaves a thought open."""
    return prefix.rfind(OPEN) > prefix.rfind(END)


def behind(tokenizer: Any, rows: Sequence[list[int]], *, opened: bool) -> list[str]:
    """The answers of generated token rows behind their thought; "" where a thought does not end.

    opened: whether the prompt opened the thought. By ids where both marks are tokens, which may be special ones that
    decoding leaves out.
    """
    if all(is_single_token(tokenizer, mark) for mark in (OPEN, END)):
        start, end = (tokenizer.convert_tokens_to_ids(mark) for mark in (OPEN, END))
        cut = [_behind(row, start, end, opened) for row in rows]
        return tokenizer.batch_decode(cut, skip_special_tokens=True)
    texts = []
    for text in tokenizer.batch_decode(rows, skip_special_tokens=True):
        _, ended, answer = text.partition(END)
        texts.append(answer if ended else "" if opened or OPEN in text else text)
    return texts


def in_final(tokenizer: Any, rows: Sequence[list[int]]) -> list[str]:
    """The answers of generated token rows in harmony's channel "final"; "" where there is none."""
    mark = tokenizer.encode(FINAL, add_special_tokens=False)
    starts = [[at for at in range(len(row)) if row[at : at + len(mark)] == mark] for row in rows]
    cut = [row[at[-1] + len(mark) :] if at else [] for row, at in zip(rows, starts, strict=True)]
    return tokenizer.batch_decode(cut, skip_special_tokens=True)


def _behind(row: list[int], start: int, end: int, opened: bool) -> list[int]:
    if end in row:
        return row[row.index(end) + 1 :]
    return [] if opened or start in row else row
