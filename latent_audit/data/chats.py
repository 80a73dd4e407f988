"""Prompts as the model sees them: chat templates, tokens, left padding.

Another template is another measurement, so everything that could change one silently is pinned or an error: today's
date, a thinking switch, a doubled BOS, a prompt that is too long. docs/method.md section 0.
"""

import dataclasses
import datetime
import hashlib
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from latent_audit import user_files
from latent_audit.data import chat_markers, chat_templates
from latent_audit.data.tokenizer_files import beyond, check_vocabulary, token_rows
from latent_audit.data.tokenizer_files import load_tokenizer as load_tokenizer
from latent_audit.errors import InputError

PRESETS = ("default", "paper")
# What Llama 3.2's own template says where it cannot ask for the day.
DEFAULT_DATE = "26 Jul 2024"
DATE_FORMAT = "%d %b %Y"

# The longest published template has 20 KB.
MOST_TEMPLATE = 2**20
_PROBE, _ANSWER = "Name a colour.", "Red, for one."


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
      vocab_size: the rows of the model's embedding table, beyond which no id may be; None where no model is at hand.
    """

    tokenizer: Any
    template: str
    preset: str
    family: str
    date: str
    enable_thinking: bool | None
    vocab_size: int | None = None


def make_chat(
    tokenizer: Any,
    *,
    family: str,
    preset: str = "default",
    template_file: str | pathlib.Path | None = None,
    date: str = DEFAULT_DATE,
    enable_thinking: bool | None = False,
    vocab_size: int | None = None,
) -> Chat:
    """Choose and try out the way in which prompts are written.

    Args:
      tokenizer: from load_tokenizer; family: the model's row in models.families.
      preset: "default" is the checkpoint's own template, or `template_file`; "paper" is the family's markers around
        one user turn, no system turn, BOS once, as in arXiv 2606.08044.
      template_file: path of a Jinja template to use in place of the checkpoint's.
      date: day, month and year as in "26 Jul 2024", told to templates that print a date.
      enable_thinking: told to templates that have such a switch; None leaves their default.
      vocab_size: the rows of the model's embedding table (ModelConfig.vocab_size); every id that this chat encodes is
        then held against it, and so is the tokenizer now. None where no model is at hand.
    Raises:
      InputError: an unknown preset, a malformed date, no template, a missing or failing template, one that leaves out
        the prompt or writes BOS twice, a tokenizer with ids beyond vocab_size, or, for the paper preset, one without
        the family's markers.
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
    if vocab_size is not None:
        check_vocabulary(tokenizer, vocab_size)
    chat = Chat(tokenizer, template, preset, family, date, enable_thinking, vocab_size)
    _try_out(chat)
    return chat


def render(chat: Chat, prompt: str) -> str:
    """The text the model reads for one user turn, generation prefix included."""
    return render_all(chat, [prompt])[0]


def render_all(chat: Chat, prompts: Iterable[str]) -> tuple[str, ...]:
    """As render, for many prompts in about the time of one: each call may start a process."""
    return _apply(chat, [[("user", prompt)] for prompt in prompts], add_generation_prompt=True)


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
    _check_frames(prompts, texts, _probes(chat)[0], _PROBE, "user")
    rows = _encode(chat, texts)
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
    ids = tuple(_encode(chat, [text])[0])
    if not ids:
        raise InputError(f"the target {text!r} has no tokens")
    return ids


def assistant_turn_ids(chat: Chat, text: str) -> tuple[int, ...]:
    """Token ids of `text` as the assistant's whole turn, up to and with its end-of-turn token.

    They are what the template writes for a conversation with that answer beyond the formatted prompt; white space
    after the end-of-turn token is left out. docs/method.md section 2.

    Raises InputError if the template refuses an assistant turn, changes the text, writes other text around it than
    around any answer, or writes no end-of-turn token.
    """
    return assistant_turns(chat, [text])[0]


def assistant_turns(chat: Chat, texts: Iterable[str]) -> list[tuple[int, ...]]:
    """As assistant_turn_ids, for many texts in about the time of one: each call may start a process."""
    texts = list(texts)
    conversations = [[("user", _PROBE), ("assistant", text)] for text in (_ANSWER, *texts)]
    probe, *wholes = (whole.rstrip() for whole in _apply(chat, conversations, add_generation_prompt=False))
    prompt_ids, *rows = _encode(chat, [_probes(chat)[0], *wholes])
    turns = [_turn(chat, *each, prompt_ids) for each in zip(texts, wholes, rows, strict=True)]
    _check_frames(texts, wholes, probe, _ANSWER, "assistant")
    return turns


def _turn(chat: Chat, text: str, whole: str, whole_ids: list[int], prompt_ids: list[int]) -> tuple[int, ...]:
    # By ids where possible: SentencePiece would put a further space before an answer that is encoded alone.
    if whole_ids[: len(prompt_ids)] == prompt_ids:
        ids = whole_ids[len(prompt_ids) :]
    else:
        # Some templates open a thinking block in the generation prefix only: the prompt is no prefix of the whole.
        ids = _encode(chat, [whole[whole.rfind(text.strip()) :]])[0]
    if not text.strip() or text.strip() not in whole or not ids:
        raise InputError(f"the chat template does not write the answer {text!r:.200} as it is; {chat_templates.ADVICE}")
    if ids[-1] not in chat.tokenizer.added_tokens_decoder:
        raise InputError(
            f"the chat template closes the assistant's turn with no end-of-turn token; {chat_templates.ADVICE}"
        )
    return tuple(ids)


def decode(chat: Chat, tokens: Iterable, lengths: Iterable) -> list[str]:
    """Texts of generated tokens int [B, T], the first lengths[b] of each row, special tokens left out.

    Outer white space is taken off here, where responses become text, so that judge, reward and comparison see the same:
    a reward that reads the last token scores an answer otherwise with a line break behind it. docs/method.md section 0.
    """
    rows = [np.asarray(row)[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]
    return [text.strip() for text in chat.tokenizer.batch_decode(rows, skip_special_tokens=True)]


def template_sha256(chat: Chat) -> str:
    """Hex digest of the formatted empty prompt, stored with every result; docs/method.md section 0."""
    return hashlib.sha256(_probes(chat)[1].encode()).hexdigest()


def eos_ids(chat: Chat, generation_config: dict | None) -> tuple[int, ...]:
    """Every token that ends an answer, without repetition.

    Those of generation_config.json, the tokenizer's own, and the known end-of-turn tokens in its vocabulary.

    Raises InputError: an eos_token_id of generation_config.json that is no token id, or none of the model.
    """
    named = (generation_config or {}).get("eos_token_id")
    ids = list(named) if isinstance(named, list | tuple) else [] if named is None else [named]
    if not all(isinstance(item, int) and not isinstance(item, bool) and _exists(chat, item) for item in ids):
        most = "" if chat.vocab_size is None else f" below vocab_size = {chat.vocab_size}"
        raise InputError(
            f"generation_config.json: eos_token_id = {named!r:.200}, expected a token id{most} or a list of them"
        )
    if chat.tokenizer.eos_token_id is not None:
        ids.append(chat.tokenizer.eos_token_id)
    ids += [token for token in chat_markers.end_of_turn_ids(chat.tokenizer) if _exists(chat, token)]
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


def _day(date: str) -> datetime.datetime:
    try:
        return datetime.datetime.strptime(date, DATE_FORMAT)
    except (TypeError, ValueError) as error:
        raise InputError(f"chat.date = {date!r}, expected a day such as {DEFAULT_DATE!r}") from error


def _own_template(tokenizer: Any) -> str:
    template = tokenizer.chat_template
    if isinstance(template, dict) and template:
        if "default" not in template:
            raise InputError(
                f"the checkpoint has several chat templates ({', '.join(map(str, template))}) and none "
                f"is called default; {chat_templates.ADVICE}"
            )
        template = template["default"]
    if not template:
        raise InputError(f"the checkpoint has no chat template; {chat_templates.ADVICE}")
    return _check_template("the checkpoint's chat_template", template)


def _read_template(path: str | pathlib.Path) -> str:
    template = user_files.read_text("chat.template_file", path, most=MOST_TEMPLATE)
    if not template.strip():
        raise InputError(f"chat.template_file = {str(path)!r} is empty, expected a Jinja chat template")
    return _check_template(f"chat.template_file = {str(path)!r}: the template", template)


def _check_template(field: str, template: object) -> str:
    text = user_files.check_text(field, template)
    if len(text) > MOST_TEMPLATE:
        raise InputError(f"{field} has {len(text)} characters, at most {MOST_TEMPLATE} are read")
    return text


def _apply(chat: Chat, conversations: list[list[tuple[str, str]]], *, add_generation_prompt: bool) -> tuple[str, ...]:
    """The conversations as text, independent of the day."""
    variables = {**chat.tokenizer.special_tokens_map, "date_string": chat.date}
    if chat.enable_thinking is not None and "enable_thinking" in chat.template:
        variables["enable_thinking"] = chat.enable_thinking
    return chat_templates.render(
        chat.template,
        map(tuple, conversations),
        variables=tuple(variables.items()),
        day=_day(chat.date).date().isoformat(),
        add_generation_prompt=add_generation_prompt,
    )


def _encode(chat: Chat, texts: Iterable[str]) -> list[list[int]]:
    """Ids of each text, no special tokens added; InputError for one that the model has no row for."""
    rows = token_rows(chat.tokenizer, texts)
    if chat.vocab_size is not None:
        for row in rows:
            if row and max(row) >= chat.vocab_size:
                raise beyond(chat.tokenizer, max(row), chat.vocab_size)
    return rows


def _check_frames(turns: Iterable[str], texts: Iterable[str], probed: str, probe: str, role: str) -> None:
    """InputError where what stands around a turn is not what stands around the probe: the template reads its content,
    so that harmful and harmless prompts would be put to the model in different ways."""
    frame = probed.split(probe)
    for turn, text in zip(turns, texts, strict=True):
        if text not in (turn.join(frame), turn.strip().join(frame)):
            raise InputError(
                f"the chat template writes the {role}'s turn {turn!r:.100} otherwise than {probe!r}: it changes the "
                f"text, or puts something else around it because of what it says; {chat_templates.ADVICE}"
            )


def _probes(chat: Chat) -> tuple[str, str]:
    """The formatted probe and the formatted empty prompt, of one pair of processes."""
    probe, empty = render_all(chat, [_PROBE, ""])
    return probe, empty


def _try_out(chat: Chat) -> None:
    """Format one prompt and look for what would spoil every result."""
    text = _probes(chat)[0]
    if _PROBE not in text:
        raise InputError(f"the chat template leaves out the user's turn; {chat_templates.ADVICE}")
    ids, plain = _encode(chat, [text])[0], token_rows(chat.tokenizer, [_PROBE], special=True)[0]
    if not ids:
        raise InputError(f"the tokenizer has no tokens for {text!r:.200}; expected the one the model was made with")
    bos = chat.tokenizer.bos_token_id
    if bos is None:
        return
    if ids[:2] == [bos, bos]:
        raise InputError(f"the chat template writes {chat.tokenizer.bos_token} twice; {chat_templates.ADVICE}")
    if ids[0] != bos and plain[:1] == [bos]:
        logging.warning(
            "the chat template writes no %s, which the tokenizer puts before plain text; as in "
            "transformers, none is added",
            chat.tokenizer.bos_token,
        )
