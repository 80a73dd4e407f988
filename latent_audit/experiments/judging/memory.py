"""Whether a judge and the model under attack lie on one device together. docs/judges.md."""

import jax.numpy as jnp

from latent_audit.errors import InputError
from latent_audit.models.config import ModelConfig
from latent_audit.models.sizes import weight_bytes
from latent_audit.runtime.free_memory import device_bytes

# A larger block that finds no room is halved, down to one question.
ONE_ROW = 1024

IN_TURN = (
    "judge.live_kind = 'refusal' (lvs, audit) keeps the answers and judges them at the end, when the model has left; "
    "or give a smaller judge.path, or a larger mesh.model"
)


def asking_bytes(cfg: ModelConfig, dtype: str, tokens: int) -> int:
    """An estimate of what questions of so many tokens need beside the weights: keys and values, once more where they
    are put together, and what the MLP makes of them."""
    column = 4 * cfg.num_layers * cfg.num_kv_heads * cfg.head_dim + 3 * cfg.mlp_dim
    return tokens * column * jnp.dtype(dtype).itemsize


def fits_together(needed: int, free: int | None) -> bool:
    """Whether `needed` bytes fit into what is free; always where a device does not say (None)."""
    return free is None or needed <= free


def words_of_two(judge: int, model: int, limit: int | None, *, parts: int = 1) -> str:
    """What is to be said of a judge and a model of these bytes on a device of `limit`; "" where both fit.

    parts: devices that weights are split over (mesh.model).
    """
    if fits_together(-(-(judge + model) // parts), limit):
        return ""
    sizes = [f"{size / 1e9:.1f} GB" for size in (model, judge, limit or 0)]
    split = f" split over {parts} devices" if parts > 1 else ""
    return f"the model ({sizes[0]}) and the judge ({sizes[1]}){split} do not fit together into {sizes[2]}: {IN_TURN}"


def check_room(cfg: ModelConfig, dtype: str, *, parts: int = 1) -> None:
    """InputError where a judge that is about to be loaded does not fit beside what is there already."""
    found = device_bytes()
    if found is None:
        return
    needed = -(-(weight_bytes(cfg, dtype) + asking_bytes(cfg, dtype, ONE_ROW)) // parts)
    free = found[0] - found[1]
    if not fits_together(needed, free):
        raise InputError(
            f"the judge needs {needed / 1e9:.1f} GB of the device and {free / 1e9:.1f} GB of {found[0] / 1e9:.1f} GB "
            f"are free beside the model: {IN_TURN}"
        )
