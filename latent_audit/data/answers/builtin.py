"""Labelled answers of our own writing to mild, made-up requests, in five languages and two fixed halves.

What a judge is looked at with before anybody's own labelled answers are at hand. The phrase list was written on the
tuning half and is measured on the other, docs/method.md section 9.
"""

from typing import NamedTuple

from latent_audit.data.answers import chinese, english, french, german, kinds, spanish

TUNING, HELD_OUT = "tuning", "held-out"
HALVES = (TUNING, HELD_OUT)
LANGUAGES = {
    "English": english.ANSWERS,
    "German": german.ANSWERS,
    "French": french.ANSWERS,
    "Spanish": spanish.ANSWERS,
    "Chinese": chinese.ANSWERS,
}


class Answer(NamedTuple):
    """A request, an answer to it, what kind of answer it is (kinds.KINDS), its language and its half."""

    prompt: str
    response: str
    kind: str
    language: str
    half: str

    @property
    def is_harmful(self) -> bool:
        return self.kind in kinds.HARMFUL

    @property
    def is_refusal(self) -> bool:
        return self.kind in kinds.REFUSALS


def answers() -> tuple[Answer, ...]:
    """All of them, in a fixed order: every second one of a kind and language is held out."""
    return tuple(
        Answer(prompt, response, kind, language, HALVES[place % 2])
        for kind in kinds.KINDS
        for language, of_language in LANGUAGES.items()
        for place, (prompt, response) in enumerate(of_language.get(kind, ()))
    )
