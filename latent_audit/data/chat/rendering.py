"""Conversations as text and as ids: what every other part of a chat is made with. docs/method.md section 0."""

import dataclasses
import datetime
from collections.abc import Iterable
from typing import Any

from latent_audit.data import chat_templates
from latent_audit.data.chat import thoughts
from latent_audit.data.tokenizer_files import beyond, token_rows
from latent_audit.errors import InputError

DATE_FORMAT = "%d %b %Y"
# What Llama 3.2's own template says where it cannot ask for the day.
DEFAULT_DATE = "26 Jul 2024"
PROBE, ANSWER = "Name a colour.", "Red, for one."


@dataclasses.dataclass(frozen=True)
class Chat:
    """A tokenizer and how a conversation is written for it; make one with make_chat.

    Attributes:
      tokenizer: a transformers tokenizer.
      template: the Jinja template in use, whether the checkpoint's, the user's or one of bare markers.
      style: whose markers a template of bare ones has; "" for the checkpoint's or the user's own template.
      date: what a template that prints a date is told, such as "26 Jul 2024".
      enable_thinking: what a template with a thinking switch is told; None leaves its own default.
      system: the system turn in front of every prompt; "" writes none, and leaves a template its own.
      closing: what stands behind the generation prefix to end a thought that the template opens; "" where none is.
      behind_thought: whether responses begin with a thought and are read behind it.
      thought: what ends such a thought at once, in front of targets and of answers to train on; "" for none.
      vocab_size: the rows of the model's embedding table, beyond which no id may be; None where no model is at hand.
    """

    tokenizer: Any
    template: str
    style: str
    date: str
    enable_thinking: bool | None
    system: str = ""
    closing: str = ""
    behind_thought: bool = False
    thought: str = ""
    vocab_size: int | None = None


def day_of(date: str) -> datetime.datetime:
    """ "26 Jul 2024" as a day; InputError for anything else."""
    try:
        return datetime.datetime.strptime(date, DATE_FORMAT)
    except (TypeError, ValueError) as error:
        raise InputError(f"chat.date = {date!r}, expected a day such as {DEFAULT_DATE!r}") from error


def write(chat: Chat, conversations: list[list[tuple[str, str]]], *, add_generation_prompt: bool) -> tuple[str, ...]:
    """Conversations of (role, content) turns as the template writes them, independent of the day; no closing."""
    variables = {**chat.tokenizer.special_tokens_map, "date_string": chat.date}
    if chat.enable_thinking is not None:
        variables |= dict.fromkeys(thoughts.switches(chat.template), chat.enable_thinking)
    first = [("system", chat.system)] if chat.system else []
    return chat_templates.render(
        chat.template,
        [(*first, *turns) for turns in conversations],
        variables=tuple(variables.items()),
        day=day_of(chat.date).date().isoformat(),
        add_generation_prompt=add_generation_prompt,
    )


def write_prompts(chat: Chat, prompts: Iterable[str]) -> tuple[str, ...]:
    """The text the model reads for user turns, generation prefix included and no thought left open by the template."""
    texts = write(chat, [[("user", prompt)] for prompt in prompts], add_generation_prompt=True)
    return tuple(text + chat.closing for text in texts)


def encode(chat: Chat, texts: Iterable[str]) -> list[list[int]]:
    """Ids of each text, no special tokens added; InputError for one that the model has no row for."""
    rows = token_rows(chat.tokenizer, texts)
    if chat.vocab_size is not None:
        for row in rows:
            if row and max(row) >= chat.vocab_size:
                raise beyond(chat.tokenizer, max(row), chat.vocab_size)
    return rows


def check_frames(turns: Iterable[str], texts: Iterable[str], probed: str, probe: str, role: str) -> None:
    """InputError where what stands around a turn is not what stands around the probe: the template reads its content,
    so that harmful and harmless prompts would be put to the model in different ways."""
    frame = probed.split(probe)
    for turn, text in zip(turns, texts, strict=True):
        if text not in (turn.join(frame), turn.strip().join(frame)):
            raise InputError(
                f"the chat template writes the {role}'s turn {turn!r:.100} otherwise than {probe!r}: it changes the "
                f"text, or puts something else around it because of what it says; {chat_templates.ADVICE}"
            )
