"""A behaviour that speaks of a text, with that text in front of it, as HarmBench writes both (arXiv 2402.04249)."""

_BETWEEN = "\n\n---\n\n"


def join(context: str, behavior: str) -> str:
    """The behaviour with its context in front, or alone where there is none.

    >>> join("A letter.", "Sum it up.")
    'A letter.\\n\\n---\\n\\nSum it up.'
    """
    return f"{context}{_BETWEEN}{behavior}" if context else behavior


def split(text: str) -> tuple[str, str]:
    """(context, behaviour) of what join wrote, "" for no context.

    >>> split("A letter.\\n\\n---\\n\\nSum it up."), split("Sum it up.")
    (('A letter.', 'Sum it up.'), ('', 'Sum it up.'))
    """
    context, between, behavior = text.rpartition(_BETWEEN)
    return (context, behavior) if between else ("", text)
