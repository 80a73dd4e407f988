"""Checks of config fields that several tasks make alike, before any compute."""

from collections.abc import Iterable, Mapping

from latent_audit.errors import InputError


def check_whole(values: Mapping[str, object], *, least: int) -> None:
    """InputError naming the first field (name -> value) that is no whole number of at least `least`."""
    for field, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{field} = {value!r}, expected a whole number of at least {least}")


def names(field: str, text: str, known: Iterable[str]) -> tuple[str, ...]:
    """ "a,b" -> ("a", "b"), each once; InputError for none, or one that is not among `known`."""
    named = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not named or any(name not in known for name in named):
        raise InputError(f"{field} = {text!r}, expected some of {', '.join(known)}")
    return named
