"""Prompts as the model sees them: chat templates, tokens, left padding.

Another template is another measurement, so everything that could change one silently is pinned or an error: today's
date, a thinking switch, a doubled BOS, a prompt that is too long. docs/method.md section 0.
"""

import dataclasses
import datetime
import hashlib
import pathlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from latent_audit.data import chat_markers
from latent_audit.errors import InputError

PRESETS = ("default", "paper")
# What Llama 3.2's own template says where it cannot ask for the day.
DEFAULT_DATE = "26 Jul 2024"
DATE_FORMAT = "%d %b %Y"

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
_TEMPLATE_ADVICE = "give one with the config field chat.template_file, or use chat.preset=paper"
# transformers gives templates a strftime_now that reads the clock, and lets no function of ours through; a macro of
# that name in front of the template hides it. The final newline is eaten with the block and leaves the template at
# the start of a line, where its own leading white space means what it meant.
_PINNED_CLOCK = "{% macro strftime_now(format) %}{{ pinned_clock[format] | default(date_string) }}{% endmacro %}\n"
_CLOCK_FORMAT = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1""")
_PROBE = "Name a colour."
# Words, digits, punctuation, white space and other scripts: where readings of one tokenizer would differ.
_SPLIT_PROBE = "Write  12 lines, don't stop!\n\tf(x) = 3.5; \u00bfqu\u00e9? \u4f60\u597d"


class Tokens(NamedTuple):
    """tokens: int32 [B, T], left-padded; mask: bool [B, T], False on padding."""

    tokens: np.ndarray
    mask: np.ndarray


@dataclasses.dataclass(frozen=True)
class Chat:
    """A tokenizer and how a conversation is written for it; make one with make_chat.

    Attributes:
      tokenizer: a transformers tokenizer.
      template: the Jinja template in use, whether the checkpoint's, the user's or the paper preset's.
      preset: "default" or "paper".
      family: the model's row in models.families.
      date: what a template that prints a date is told, such as "26 Jul 2024".
      enable_thinking: what a template with a thinking switch is told; None leaves its own default.
    """

    tokenizer: Any
    template: str
    preset: str
    family: str
    date: str
    enable_thinking: bool | None


def load_tokenizer(path: str | pathlib.Path) -> Any:
    """The tokenizer of a local checkpoint directory, through transformers; no code of the checkpoint is run.

    Where transformers reads it otherwise than its tokenizer.json has it, the file counts, and the log says so.

    Raises InputError: not a directory, no tokenizer files in it, or files that transformers cannot read.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        raise InputError(f"no such directory: {path}; expected a checkpoint directory with a tokenizer")
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        raise InputError(
            f"{path} holds no tokenizer; expected one of {', '.join(_TOKENIZER_FILES)}: copy the "
            "tokenizer files of the model it was made from"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        return _as_filed(path, tokenizer)
    except Exception as error:  # Damaged files and missing converters surface as many different exceptions.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(f"{path}: transformers cannot read the tokenizer: {reason}") from error


def _as_filed(path: pathlib.Path, tokenizer: Any) -> Any:
    """Classes that transformers chooses by the model's family rebuild a tokenizer and may lose what its file has: a
    word-level one read as Qwen 2's then has no tokens for any text."""
    file = path / "tokenizer.json"
    if not file.is_file():
        return tokenizer
    filed = Tokenizer.from_file(str(file)).encode(_SPLIT_PROBE, add_special_tokens=False).ids
    if tokenizer(_SPLIT_PROBE, add_special_tokens=False)["input_ids"] == filed:
        return tokenizer
    logging.warning(
        "%s: transformers reads this tokenizer as %s, which splits text otherwise than tokenizer.json; "
        "it is taken as the file has it",
        path,
        type(tokenizer).__name__,
    )
    return PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)


def make_chat(
    tokenizer: Any,
    *,
    family: str,
    preset: str = "default",
    template_file: str | pathlib.Path | None = None,
    date: str = DEFAULT_DATE,
    enable_thinking: bool | None = False,
) -> Chat:
    """Choose and try out the way in which prompts are written.

    Args:
      tokenizer: from load_tokenizer; family: the model's row in models.families.
      preset: "default" is the checkpoint's own template, or `template_file`; "paper" is the family's markers around
        one user turn, no system turn, BOS once, as in arXiv 2606.08044.
      template_file: path of a Jinja template to use in place of the checkpoint's.
      date: day, month and year as in "26 Jul 2024", told to templates that print a date.
      enable_thinking: told to templates that have such a switch; None leaves their default.
    Raises:
      InputError: an unknown preset, a malformed date, no template, a missing or failing template, one that leaves out
        the prompt or writes BOS twice, or, for the paper preset, a tokenizer without the family's markers.
    """
    if preset not in PRESETS:
        raise InputError(f"chat.preset = {preset!r}, expected one of {', '.join(PRESETS)}")
    if enable_thinking not in (True, False, None):
        raise InputError(f"chat.thinking = {enable_thinking!r}, expected True, False or None")
    _day(date)
    if preset == "paper":
        if template_file is not None:
            raise InputError(f"chat.template_file = {str(template_file)!r} and chat.preset=paper exclude each other")
        template = chat_markers.paper_template(tokenizer, family)
    else:
        template = _own_template(tokenizer) if template_file is None else _read_template(template_file)
    chat = Chat(tokenizer, template, preset, family, date, enable_thinking)
    _try_out(chat)
    return chat


def render(chat: Chat, prompt: str) -> str:
    """The text the model reads for one user turn, generation prefix included."""
    return _apply(chat, [{"role": "user", "content": prompt}], add_generation_prompt=True)


def encode_prompts(chat: Chat, prompts: Iterable[str], *, max_length: int, width: int | None = None) -> Tokens:
    """Token ids of formatted prompts, left-padded.

    BOS stands where the template writes it, and is never added on top. Control tokens spelled out inside a prompt are
    read as control tokens, as transformers does.

    Args:
      prompts: B texts; max_length: the most tokens one may have, template included.
      width: T; None is the longest row.
    Raises:
      InputError: no prompts, a prompt longer than max_length (they are counted; nothing is ever cut), or a width
        that is too small.
    """
    rows = [_encode(chat, render(chat, prompt)) for prompt in prompts]
    if not rows:
        raise InputError("there are no prompts to encode")
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


def target_ids(chat: Chat, text: str) -> tuple[int, ...]:
    """Token ids of the opening of an answer, no special tokens added; docs/method.md section 1."""
    ids = tuple(_encode(chat, text))
    if not ids:
        raise InputError(f"the target {text!r} has no tokens")
    return ids


def assistant_turn_ids(chat: Chat, text: str) -> tuple[int, ...]:
    """Token ids of `text` as the assistant's whole turn, up to and with its end-of-turn token.

    They are what the template writes for a conversation with that answer beyond the formatted prompt; white space
    after the end-of-turn token is left out. docs/method.md section 2.

    Raises InputError if the template refuses an assistant turn, changes the text or writes no end-of-turn token.
    """
    question = {"role": "user", "content": _PROBE}
    prompt = render(chat, _PROBE)
    whole = _apply(chat, [question, {"role": "assistant", "content": text}], add_generation_prompt=False).rstrip()
    prompt_ids, whole_ids = _encode(chat, prompt), _encode(chat, whole)
    # By ids where possible: SentencePiece would put a further space before an answer that is encoded alone.
    if whole_ids[: len(prompt_ids)] == prompt_ids:
        ids = whole_ids[len(prompt_ids) :]
    else:
        # Some templates open a thinking block in the generation prefix only: the prompt is no prefix of the whole.
        ids = _encode(chat, whole[whole.rfind(text.strip()) :])
    if not text.strip() or text.strip() not in whole or not ids:
        raise InputError(f"the chat template does not write the answer {text!r} as it is; {_TEMPLATE_ADVICE}")
    if ids[-1] not in chat.tokenizer.added_tokens_decoder:
        raise InputError(f"the chat template closes the assistant's turn with no end-of-turn token; {_TEMPLATE_ADVICE}")
    return tuple(ids)


def decode(chat: Chat, tokens: Iterable, lengths: Iterable) -> list[str]:
    """Texts of generated tokens int [B, T], the first lengths[b] of each row, special tokens left out."""
    rows = [np.asarray(row)[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]
    return chat.tokenizer.batch_decode(rows, skip_special_tokens=True)


def template_sha256(chat: Chat) -> str:
    """Hex digest of the formatted empty prompt, stored with every result; docs/method.md section 0."""
    return hashlib.sha256(render(chat, "").encode()).hexdigest()


def eos_ids(chat: Chat, generation_config: dict | None) -> tuple[int, ...]:
    """Every token that ends an answer, without repetition.

    Those of generation_config.json, the tokenizer's own, and the known end-of-turn tokens in its vocabulary.
    """
    named = (generation_config or {}).get("eos_token_id")
    ids = list(named) if isinstance(named, list | tuple) else [] if named is None else [named]
    if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in ids):
        raise InputError(f"generation_config.json: eos_token_id = {named!r}, expected a token id or a list of them")
    if chat.tokenizer.eos_token_id is not None:
        ids.append(chat.tokenizer.eos_token_id)
    ids += chat_markers.end_of_turn_ids(chat.tokenizer)
    return tuple(dict.fromkeys(ids))


def pad_id(chat: Chat) -> int:
    """A valid token id for padding; which one does not matter, because masks are always explicit."""
    for token in (chat.tokenizer.pad_token_id, chat.tokenizer.eos_token_id):
        if token is not None:
            return token
    return 0


def _day(date: str) -> datetime.datetime:
    try:
        return datetime.datetime.strptime(date, DATE_FORMAT)
    except (TypeError, ValueError) as error:
        raise InputError(f"chat.date = {date!r}, expected a day such as {DEFAULT_DATE!r}") from error


def _own_template(tokenizer: Any) -> str:
    if not tokenizer.chat_template:
        raise InputError(f"the checkpoint has no chat template; {_TEMPLATE_ADVICE}")
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        raise InputError(
            f"the checkpoint has several chat templates ({', '.join(tokenizer.chat_template)}) and none "
            f"is called default; {_TEMPLATE_ADVICE}"
        ) from error


def _read_template(path: str | pathlib.Path) -> str:
    path = pathlib.Path(path).expanduser()
    try:
        template = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"chat.template_file = {str(path)!r} cannot be read: {error}") from error
    if not template.strip():
        raise InputError(f"chat.template_file = {str(path)!r} is empty, expected a Jinja chat template")
    return template


def _apply(chat: Chat, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
    """The conversation as text, independent of the day."""
    template = chat.template
    variables: dict[str, Any] = {"date_string": chat.date}
    if "strftime_now" in template:
        formats = {match[2] for match in _CLOCK_FORMAT.finditer(template)}
        variables["pinned_clock"] = {format: _day(chat.date).strftime(format) for format in formats}
        template = _PINNED_CLOCK + template
    if chat.enable_thinking is not None and "enable_thinking" in template:
        variables["enable_thinking"] = chat.enable_thinking
    try:
        return chat.tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt, **variables
        )
    except Exception as error:  # A template is a program: it can fail in any way.
        roles = ", ".join(message["role"] for message in messages)
        raise InputError(
            f"the chat template fails on a conversation of the roles {roles}: {error}; {_TEMPLATE_ADVICE}"
        ) from error


def _encode(chat: Chat, text: str) -> list[int]:
    return chat.tokenizer.encode(text, add_special_tokens=False)


def _try_out(chat: Chat) -> None:
    """Format one prompt and look for what would spoil every result."""
    text = render(chat, _PROBE)
    if _PROBE not in text:
        raise InputError(f"the chat template leaves out the user's turn; {_TEMPLATE_ADVICE}")
    bos = chat.tokenizer.bos_token_id
    if bos is None:
        return
    ids = _encode(chat, text)
    if ids[:2] == [bos, bos]:
        raise InputError(f"the chat template writes {chat.tokenizer.bos_token} twice; {_TEMPLATE_ADVICE}")
    if ids[0] != bos and chat.tokenizer.encode(_PROBE)[:1] == [bos]:
        logging.warning(
            "the chat template writes no %s, which the tokenizer puts before plain text; as in "
            "transformers, none is added",
            chat.tokenizer.bos_token,
        )
