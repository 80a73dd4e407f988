"""config.json's `layer_types`: which layer is of which type."""

from collections.abc import Collection

from latent_audit.errors import InputError
from latent_audit.models.fields import number, shown


def read_types(fields: dict, layers: int, known: Collection[str]) -> list[str] | None:
    """The type of each layer as the file says, None where it says nothing; InputError for others than `known`."""
    types = fields.get("layer_types")
    if types is None:
        return None
    fits = isinstance(types, list) and all(isinstance(one, str) and one in known for one in types)
    if not fits or len(types) != layers:
        raise InputError(
            f"config.json: layer_types = {shown(types)}, expected {' or '.join(known)} for each of the {layers} layers"
        )
    return types


def every_nth_full(fields: dict, layers: int, interval: str, other: str) -> list[str]:
    """full_attention in every n-th layer, n being the field `interval`, and `other` in the rest."""
    every = number(fields, interval)
    return ["full_attention" if (layer + 1) % every == 0 else other for layer in range(layers)]
