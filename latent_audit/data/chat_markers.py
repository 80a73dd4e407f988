"""The control tokens that models put around turns, by style, and the bare templates made of them.

Which style a model was trained with is not its architecture's to say: fine-tunes of Llama are written in ChatML, in
Vicuna's form or in their own. It is read off the checkpoint's own template. docs/method.md section 0.
"""

import json
from typing import Any, NamedTuple

from absl import logging

from latent_audit.data.chat.turn_ends import is_single_token
from latent_audit.errors import InputError


class Markers(NamedTuple):
    """What stands around turns: user + prompt + user_end + assistant, then gap + answer + assistant_end.

    control: those pieces that are one token each where a model was trained on them.
    """

    user: str
    user_end: str
    assistant: str
    gap: str
    assistant_end: str
    control: tuple[str, ...]


LLAMA3_HEADER, INST = "<|start_header_id|>", "[INST]"
# [INST] is plain text to the tokenizers of Llama 2 and of the first Mistrals.
_INST = Markers("[INST] ", " [/INST]", "", " ", "</s>", ("</s>",))
MARKERS = {
    "llama3": Markers(
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "",
        "<|eot_id|>",
        (LLAMA3_HEADER, "<|end_header_id|>", "<|eot_id|>"),
    ),
    "llama2": _INST._replace(assistant_end=" </s>"),
    "mistral": _INST,
    "chatml": Markers(
        "<|im_start|>user\n",
        "<|im_end|>\n",
        "<|im_start|>assistant\n",
        "",
        "<|im_end|>\n",
        ("<|im_start|>", "<|im_end|>"),
    ),
    "gemma": Markers(
        "<start_of_turn>user\n",
        "<end_of_turn>\n",
        "<start_of_turn>model\n",
        "",
        "<end_of_turn>\n",
        ("<start_of_turn>", "<end_of_turn>"),
    ),
}
STYLES = tuple(MARKERS)
# What a user's turn of each style begins with in the checkpoint's own template.
_FIRST = {style: MARKERS[style].user for style in ("llama3", "chatml", "gemma")} | {"mistral": INST, "llama2": INST}
# For checkpoints without a template of their own. Llama stands for two styles; which one is read off the vocabulary.
_OF_FAMILY = {
    "mistral": "mistral",
    "qwen2": "chatml",
    "qwen3": "chatml",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
}


def bare_template(tokenizer: Any, *, style: str, family: str, own: str, template: str) -> tuple[str, str]:
    """(style, Jinja template) of arXiv 2606.08044's form: markers around the user's turn, no system turn, BOS once.

    Args:
      style: "auto", or one of STYLES; family: the model's row in models.families.
      own: a prompt as the checkpoint's own template writes it, "" where it has none that writes one; template: that
        template.
    Raises:
      InputError: auto where the own template has the markers of no style, or where there is none and the family is
        unknown or its markers are no single tokens; a missing BOS. Markers that the own template does not write, or
        that are no single tokens, are warned of elsewhere.
    """
    is_guess = style == "auto" and not own
    if style == "auto":
        style = _style_of(own, template) if own else _style_of_family(tokenizer, family)
    markers = _spaced(tokenizer) if style == "mistral" else MARKERS[style]
    if own and _FIRST[style] not in own:
        logging.warning(
            "chat.style=%s writes %r, which the checkpoint's own template does not: the model may not know it",
            style,
            _FIRST[style],
        )
    split = [token for token in markers.control if not is_single_token(tokenizer, token)]
    if split:
        said = f"{', '.join(split)}, no single special token of this tokenizer"
        if is_guess:
            raise InputError(
                f"chat.style=auto: the checkpoint has no chat template from which to see its style, and that of the "
                f"family {family} has {said}; name one of {', '.join(STYLES)}, or give chat.template_file"
            )
        logging.warning("chat.style=%s writes %s: the model may not know it", style, said)
    # ChatML is written with BOS by models that were trained with one.
    bos = tokenizer.bos_token
    has_bos = style != "chatml" or bool(bos and own.startswith(bos) and bos not in MARKERS["chatml"].control)
    if has_bos and bos is None:
        raise InputError(
            f"chat.style={style} starts prompts with BOS, but this tokenizer has none: use chat.preset=default"
        )
    return style, _jinja(markers, has_bos=has_bos)


def _style_of(own: str, template: str) -> str:
    """The style of a checkpoint's own prompt."""
    found = [style for style, first in _FIRST.items() if first in own]
    if not found:
        raise InputError(
            f"chat.style=auto finds the markers of no style in the checkpoint's own template, which writes "
            f"{own[:80]!r}; name one of {', '.join(STYLES)}, or use chat.preset=default"
        )
    return "llama2" if found[0] == "mistral" and "<<SYS>>" in template else found[0]


def _style_of_family(tokenizer: Any, family: str) -> str:
    if family == "llama":
        return "llama3" if is_single_token(tokenizer, LLAMA3_HEADER) else "llama2"
    if family in _OF_FAMILY:
        return _OF_FAMILY[family]
    raise InputError(
        f"chat.style=auto: the checkpoint has no chat template from which to see its style, and for the family "
        f"{family!r} none is known; name one of {', '.join(STYLES)}"
    )


def _spaced(tokenizer: Any) -> Markers:
    """Mistral's markers with the spaces that its tokenizers were trained with.

    Where [INST] is a token (v0.3 and later), the prompt's own tokens follow it and [/INST] follows them at once. The
    SentencePiece ones need a space for that, which is the one that every text starts with; byte-level ones need none.
    """
    if not is_single_token(tokenizer, INST):
        return MARKERS["mistral"]
    plain, *marked = (tokenizer.encode(text, add_special_tokens=False) for text in ("Name", "[INST]Name"))
    gap = "" if marked[0][1:] == plain else " "
    return Markers(INST + gap, "[/INST]", "", gap, "</s>", (INST, "[/INST]", "</s>"))


def _jinja(markers: Markers, *, has_bos: bool) -> str:
    # JSON's string literals are Jinja's too.
    user, user_end, assistant, gap, assistant_end = ("{{ " + json.dumps(part) + " }}" for part in markers[:5])
    return (
        ("{{ bos_token }}" if has_bos else "")
        + "{% for message in messages %}{% if message['role'] == 'user' %}"
        + user
        + "{{ message['content'] }}"
        + user_end
        + "{% elif message['role'] == 'assistant' %}"
        + assistant
        + gap
        + "{{ message['content'] }}"
        + assistant_end
        + "{% endif %}{% endfor %}{% if add_generation_prompt %}"
        + assistant
        + "{% endif %}"
    )
