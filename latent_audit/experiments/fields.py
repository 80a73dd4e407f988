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


def check_batches(config, *more: str) -> None:
    """prompt_batch and layer_batch are whole numbers of at least 1, or InputError.

    prompt_batch, and what else is named in `more`, is laid out over mesh.data and must be a multiple of it.
    """
    data = config.get("mesh", {}).get("data", 1)
    check_whole({field: config[field] for field in ("prompt_batch", "layer_batch", *more)}, least=1)
    for field in ("prompt_batch", *more):
        if config[field] % data:
            raise InputError(f"{field} = {config[field]}, expected a multiple of mesh.data = {data}")
