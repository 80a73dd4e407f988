"""What a checkpoint is, for the record of a run: its bytes, its adapter's, and the bits its weights are stored in."""

import pathlib

from latent_audit.models.fingerprint import fingerprint
from latent_audit.models.weights import quantization


def describe(path: pathlib.Path, *, adapter: pathlib.Path | None = None) -> dict[str, str]:
    """fingerprint; adapter: the adapter's, where there is one; quantization: e.g. Q4_K_M, where it is any.

    Raises InputError as fingerprint and weights.quantization.
    """
    record = {"fingerprint": fingerprint(path)}
    if adapter is not None:
        record["adapter"] = fingerprint(adapter)
    kind = quantization(path)
    return record if kind is None else record | {"quantization": kind}


def title(path: pathlib.Path, name: str, *, adapter: pathlib.Path | None = None) -> str:
    """How a report calls a checkpoint: its name with its quantization and its adapter, which make it another model."""
    text, kind = name.removesuffix(".gguf"), quantization(path)
    if kind is not None and kind.casefold() not in text.casefold():
        text = f"{text} ({kind})"
    return text if adapter is None else f"{text} + {adapter.name}"
