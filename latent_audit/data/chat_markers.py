"""The control tokens that each family puts around turns, and the paper's bare template made of them."""

import json
from typing import Any, NamedTuple

from latent_audit.errors import InputError


class Markers(NamedTuple):
    """What stands around turns: user + prompt + user_end + assistant, then gap + answer + assistant_end.

    control: those pieces that must be one token each. has_bos: the family starts a text with BOS.
    """

    user: str
    user_end: str
    assistant: str
    gap: str
    assistant_end: str
    control: tuple[str, ...]
    has_bos: bool = True


LLAMA3_HEADER = "<|start_header_id|>"

MARKERS = {
    "llama3": Markers(
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "",
        "<|eot_id|>",
        (LLAMA3_HEADER, "<|end_header_id|>", "<|eot_id|>"),
    ),
    # [INST] is plain text to the tokenizers of Llama 2 and the first Mistrals, and one token to later Mistrals.
    "inst": Markers("[INST] ", " [/INST]", "", " ", "</s>", ("</s>",)),
    "chatml": Markers(
        "<|im_start|>user\n",
        "<|im_end|>\n",
        "<|im_start|>assistant\n",
        "",
        "<|im_end|>\n",
        ("<|im_start|>", "<|im_end|>"),
        has_bos=False,
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
# Llama stands for two styles; which one is read off the vocabulary.
STYLES = {
    "mistral": "inst",
    "qwen2": "chatml",
    "qwen3": "chatml",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
}
END_OF_TURN = ("<|eot_id|>", "<end_of_turn>", "<|im_end|>")


def paper_template(tokenizer: Any, family: str) -> str:
    """The Jinja template of arXiv 2606.08044: the family's markers around the user's turn, no system turn, BOS once.

    Raises InputError: an unknown family, a marker that is not one token of this tokenizer, or a missing BOS.
    """
    if family == "llama":
        style = "llama3" if is_single_token(tokenizer, LLAMA3_HEADER) else "inst"
    elif family in STYLES:
        style = STYLES[family]
    else:
        raise InputError(
            f"chat.preset=paper knows no markers for the family {family!r}; it knows llama, "
            f"{', '.join(STYLES)}: use chat.preset=default"
        )
    markers = MARKERS[style]
    missing = [token for token in markers.control if not is_single_token(tokenizer, token)]
    if missing:
        raise InputError(
            f"chat.preset=paper writes {family} turns with {', '.join(markers.control)}, but "
            f"{', '.join(missing)} is no single special token of this tokenizer: use chat.preset=default"
        )
    if markers.has_bos and tokenizer.bos_token is None:
        raise InputError(
            f"chat.preset=paper starts {family} prompts with BOS, but this tokenizer has none: use chat.preset=default"
        )
    # JSON's string literals are Jinja's too.
    user, user_end, assistant, gap, assistant_end = ("{{ " + json.dumps(part) + " }}" for part in markers[:5])
    return (
        ("{{ bos_token }}" if markers.has_bos else "")
        + "{% for message in messages %}{% if message['role'] == 'user' %}"
        + user
        + "{{ message['content'] }}"
        + user_end
        + "{% else %}"
        + assistant
        + gap
        + "{{ message['content'] }}"
        + assistant_end
        + "{% endif %}{% endfor %}{% if add_generation_prompt %}"
        + assistant
        + "{% endif %}"
    )


def end_of_turn_ids(tokenizer: Any) -> list[int]:
    """Ids of those known end-of-turn tokens that are in the vocabulary."""
    return [tokenizer.convert_tokens_to_ids(token) for token in END_OF_TURN if is_single_token(tokenizer, token)]


def is_single_token(tokenizer: Any, text: str) -> bool:
    """Whether `text` is read as one control token of the tokenizer, wherever it stands."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    # An unknown word can also be one token: the unknown one.
    return (
        len(ids) == 1
        and ids[0] in tokenizer.added_tokens_decoder
        and str(tokenizer.added_tokens_decoder[ids[0]]) == text
    )
