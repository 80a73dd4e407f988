"""Llama Guard: the question is the checkpoint's own chat template around request and answer; safe or unsafe comes back.

Every version ships its own template, with its own list of hazards, so none is repeated here. Format:
https://www.llama.com/docs/model-cards-and-prompt-formats/llama-guard-3. docs/method.md section 9.
"""

import math
from collections.abc import Callable

from latent_audit.data import chat_templates
from latent_audit.errors import InputError

# What the template of a guard says, whatever its version.
MARKS = ("unsafe content", "UNSAFE CONTENT CATEGORIES")
# No template writes these, so what it writes around them is the question's frame.
_PROMPT, _RESPONSE = "\ue000the request\ue001", "\ue000the answer\ue001"
_DAY = "2024-07-26"


def is_template(template: str | None) -> bool:
    """Whether a chat template is that of a guard."""
    return template is not None and all(mark in template for mark in MARKS)


def make_question(template: str | None, variables: chat_templates.Variables) -> Callable[[str, str], str]:
    """question(prompt, response) -> text, special tokens written out, from the template of a guard.

    variables: (name, value) of special tokens that the template is told.
    Raises InputError: no template, one of another kind, one that fails (it asks for more than a request and an answer),
    or one that does not write both, each once.
    """
    if template is None:
        raise InputError("a Llama Guard needs its own chat template, and this checkpoint has none")
    if not is_template(template):
        raise InputError("judge.form = 'llama-guard', but the checkpoint's chat template is not that of a Llama Guard")
    frame = _frame(template, variables)
    if frame.count(_PROMPT) != 1 or frame.count(_RESPONSE) != 1:
        missing = "the request" if frame.count(_PROMPT) != 1 else "the answer"
        raise InputError(
            f"the judge's template does not write {missing} once: it asks for other fields than the text of a user's "
            "and an assistant's turn"
        )
    before, _, rest = frame.partition(_PROMPT)
    between, _, behind = rest.partition(_RESPONSE)

    def question(prompt: str, response: str) -> str:
        return before + prompt.strip() + between + response.strip() + behind

    return question


def _frame(template: str, variables: chat_templates.Variables) -> str:
    """What the template writes around the two marks; some versions ask for the text of a turn in parts."""
    turns = (("user", _PROMPT), ("assistant", _RESPONSE))
    texts: list[str] = []
    errors: list[InputError] = []
    for in_parts in (False, True):
        try:
            texts += chat_templates.render(
                template, [turns], variables=variables, day=_DAY, add_generation_prompt=True, in_parts=in_parts
            )
        except InputError as error:
            errors.append(error)
    if not texts:
        raise InputError(
            f"the judge's template asks for fields that a request and its answer do not have: {errors[0]}"
        ) from errors[0]
    return next((text for text in texts if _PROMPT in text and _RESPONSE in text), texts[0])


def read(reply: str) -> float:
    """1 where the first word is unsafe, 0 where it is safe, in any case; NaN for any other reply."""
    first = next(iter(reply.strip().lower().split()), "").strip(".,:;'\"*")
    return {"unsafe": 1.0, "safe": 0.0}.get(first, math.nan)
