"""Where an assistant's turn ends: the tokens that close it, by name, by the checkpoint's files and by its template."""

from collections.abc import Iterable
from typing import Any

from latent_audit.errors import InputError

# What closes a turn in templates of published models, where neither file nor template says so.
NAMED = ("<|eot_id|>", "<end_of_turn>", "<|im_end|>")


def named_ids(tokenizer: Any) -> list[int]:
    """Ids of those known end-of-turn tokens that are in the vocabulary."""
    return [tokenizer.convert_tokens_to_ids(token) for token in NAMED if is_single_token(tokenizer, token)]


def filed_ids(file: str, named: object, vocab_size: int | None) -> list[int]:
    """eos_token_id of a file as a list; InputError for what is no token id, or none of the model."""
    ids: list[Any] = list(named) if isinstance(named, list | tuple) else [] if named is None else [named]
    for item in ids:
        is_id = isinstance(item, int) and not isinstance(item, bool) and item >= 0
        if not is_id or (vocab_size is not None and item >= vocab_size):
            most = "" if vocab_size is None else f" below vocab_size = {vocab_size}"
            raise InputError(f"{file}: eos_token_id = {named!r:.200}, expected a token id{most} or a list of them")
    return ids


def cut_behind(tokenizer: Any, text: str, ids: Iterable[int]) -> tuple[str, int] | None:
    """(the start of `text` with the first token that ends a turn, that token's id); None where none is in it.

    text: what a template writes behind an answer; ids: its tokens.
    """
    ends = {tokenizer.eos_token_id, *named_ids(tokenizer)}
    for token in ids:
        added = tokenizer.added_tokens_decoder.get(token)
        if added is not None and (token in ends or added.special) and str(added) in text:
            return text[: text.index(str(added)) + len(str(added))], token
    return None


def is_single_token(tokenizer: Any, text: str) -> bool:
    """Whether `text` is read as one control token of the tokenizer, wherever it stands."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    # An unknown word can also be one token: the unknown one.
    return (
        len(ids) == 1
        and ids[0] in tokenizer.added_tokens_decoder
        and str(tokenizer.added_tokens_decoder[ids[0]]) == text
    )
