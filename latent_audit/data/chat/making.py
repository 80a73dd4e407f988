"""From the config's choices to a Chat that was tried out: everything that would spoil every prompt is an error here."""

import dataclasses
import pathlib
from typing import Any

from absl import logging

from latent_audit.data import chat_markers, chat_templates
from latent_audit.data.chat import template_files, thoughts
from latent_audit.data.chat.rendering import DEFAULT_DATE, PROBE, Chat, day_of, encode, write_prompts
from latent_audit.data.tokenizer_files import check_vocabulary, token_rows
from latent_audit.errors import InputError

PRESETS = ("default", "paper")


def make_chat(
    tokenizer: Any,
    *,
    family: str,
    preset: str = "default",
    style: str = "auto",
    template_file: str | pathlib.Path | None = None,
    system: str = "",
    date: str = DEFAULT_DATE,
    enable_thinking: bool | None = False,
    closing: str = thoughts.CLOSING,
    vocab_size: int | None = None,
) -> Chat:
    """Choose and try out the way in which prompts are written; docs/method.md section 0.

    Args:
      tokenizer: from load_tokenizer; family: the model's row in models.families, which tells the style of a checkpoint
        without a template.
      preset: "default" is the checkpoint's own template, or `template_file`; "paper" is bare markers around one user
        turn, no system turn, BOS once, as in arXiv 2606.08044.
      style: whose markers; "auto" is that of the checkpoint's own template, any other one is preset "paper" in it.
      template_file: path of a Jinja template to use in place of the checkpoint's.
      system: a system turn for every prompt; "" writes none.
      date: day, month and year as in "26 Jul 2024", told to templates that print a date.
      enable_thinking: told to templates that have such a switch; None leaves their default. False: a thought that the
        template opens nonetheless is ended by `closing`; otherwise responses are read behind their thought.
      closing: a text with </think>.
      vocab_size: the rows of the model's embedding table (ModelConfig.vocab_size); every id that this chat encodes is
        then held against it, and so is the tokenizer now. None where no model is at hand.
    Raises:
      InputError: an unknown preset or style, a malformed date or closing, no template, a missing or failing template,
        one that leaves out the prompt or the system turn or writes BOS twice, a tokenizer with ids beyond vocab_size,
        or, for bare markers, one without BOS or of no known style.
    """
    if preset not in PRESETS:
        raise InputError(f"chat.preset = {preset!r}, expected one of {', '.join(PRESETS)}")
    if style not in ("auto", *chat_markers.STYLES):
        raise InputError(f"chat.style = {style!r}, expected auto or one of {', '.join(chat_markers.STYLES)}")
    if enable_thinking not in (True, False, None):
        raise InputError(f"chat.thinking = {enable_thinking!r}, expected True, False or None")
    if not isinstance(system, str):
        raise InputError(f"chat.system = {system!r:.100}, expected a text")
    thoughts.check_closing(closing)
    day_of(date)
    if vocab_size is not None:
        check_vocabulary(tokenizer, vocab_size)
    bare = "chat.preset=paper" if preset == "paper" else f"chat.style={style}" if style != "auto" else ""
    if bare and template_file is not None:
        raise InputError(f"chat.template_file = {str(template_file)!r} and {bare} exclude each other")
    chat = Chat(tokenizer, "", "", date, enable_thinking, vocab_size=vocab_size)
    if bare:
        chat = _with_markers(chat, style, family)
    elif template_file is not None:
        chat = _laid_out(chat, template_file)
    else:
        own = template_files.own_template(tokenizer)
        if own is None:
            raise InputError(f"the checkpoint has no chat template; {chat_templates.ADVICE}")
        chat = dataclasses.replace(chat, template=own)
    chat = _with_thoughts(_with_system(chat, system.strip()), closing)
    _try_out(chat)
    return chat


def _with_markers(chat: Chat, style: str, family: str) -> Chat:
    """The chat with bare markers around turns."""
    own, written = template_files.own_template(chat.tokenizer) or "", ""
    if own:
        try:
            written = write_prompts(dataclasses.replace(chat, template=own), [PROBE])[0]
        except InputError as error:
            logging.warning("the checkpoint's own template does not show its style: %s", error)
    style, template = chat_markers.bare_template(chat.tokenizer, style=style, family=family, own=written, template=own)
    return dataclasses.replace(chat, template=template, style=style)


def _laid_out(chat: Chat, file: str | pathlib.Path) -> Chat:
    """The chat with a template of a file, without the file's layout where that would become the prompt."""
    template, bos = template_files.read_template(file), chat.tokenizer.bos_token
    plain = dataclasses.replace(chat, template=template)
    if not template_files.leaks(write_prompts(plain, [PROBE])[0], bos):
        return plain
    chat = dataclasses.replace(chat, template=template_files.folded(template))
    text = write_prompts(chat, [PROBE])[0]
    if template_files.leaks(text, bos):
        raise InputError(
            f"chat.template_file = {str(file)!r}: its prompts start with white space, {text[:40]!r}; take it "
            "out of the template"
        )
    logging.warning(
        "chat.template_file = %r is laid out for people: its blank lines and indentation would be written into every "
        "prompt, so that they are left out; a prompt begins %.80r",
        str(file),
        text,
    )
    return chat


def _with_system(chat: Chat, system: str) -> Chat:
    """The chat with a system turn, proved by what the template writes."""
    if not system:
        return chat
    told = dataclasses.replace(chat, system=system)
    where = f"the markers of chat.style={chat.style} have" if chat.style else "the chat template has"
    try:
        written = write_prompts(told, [PROBE])[0]
    except InputError as error:
        raise InputError(f"chat.system = {system!r:.100}, but {where} no system turn: {error}") from error
    if system not in written:
        raise InputError(
            f"chat.system = {system!r:.100}, but {where} no system turn: it is not in the prompt {written!r:.200}; "
            "leave chat.system empty, or give a template that writes it with chat.template_file"
        )
    return told


def _with_thoughts(chat: Chat, closing: str) -> Chat:
    """The chat with what is done about a thought in front of the answer: ended, or read behind, or there is none."""
    written = write_prompts(chat, [PROBE])[0]
    if thoughts.has_channels(chat.template):
        # The template ends before the channel, which the model would choose.
        if chat.enable_thinking is False:
            return dataclasses.replace(chat, closing=thoughts.FINAL)
        return dataclasses.replace(chat, behind_thought=True, thought=thoughts.FINAL)
    opened = thoughts.is_open(written[written.rfind(PROBE) :])
    if chat.enable_thinking is False:
        return dataclasses.replace(chat, closing=closing) if opened else chat
    if not opened and thoughts.END not in chat.template:
        return chat
    return dataclasses.replace(chat, behind_thought=True, thought=closing if opened else f"{thoughts.OPEN}\n{closing}")


def _try_out(chat: Chat) -> None:
    """Format one prompt and look for what would spoil every result."""
    text = write_prompts(chat, [PROBE])[0]
    if PROBE not in text:
        raise InputError(f"the chat template leaves out the user's turn; {chat_templates.ADVICE}")
    ids, plain = encode(chat, [text])[0], token_rows(chat.tokenizer, [PROBE], special=True)[0]
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
