"""Whether what a model wrote can be read at all."""

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.errors import InputError


def is_usable(logits: jax.Array) -> jax.Array:
    """bool [B] of float32 [B, V]: all finite, and not all the same."""
    return jnp.isfinite(logits).all(axis=-1) & (logits.max(axis=-1) > logits.min(axis=-1))


def check_usable(usable: np.ndarray, who: str) -> None:
    """InputError for a model that gives no numbers, or all tokens the same: nothing it answers says anything of it.

    usable: bool [B], of generate.
    """
    bad = int((~usable).sum())
    if bad:
        raise InputError(
            f"{who} scores all tokens alike, or as NaN or infinity, after {bad} of {len(usable)} prompts: its "
            "weights are damaged or too large for the dtype; fetch them again, or set the dtype to float32"
        )
