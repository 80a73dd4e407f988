"""Activation patching: a model answers while one residual state of its prompt is another model's.

docs/method.md section 4, arXiv 2606.08044. Give patch_edit to generate() as prompt_edit and no decode_edit: decode
steps are not patched, they see the donor through the cache.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.errors import InputError
from latent_audit.interventions import directions, edits
from latent_audit.models import decoder, sharding
from latent_audit.models.config import ModelConfig

# Scope -> which prompt columns are overwritten; arXiv 2606.08044.
SCOPES = {"prompt": "every real prompt position", "decision": "the decision point only"}


@functools.partial(jax.jit, static_argnames="cfg")
def _state_at(params, tokens, mask, state, *, cfg):
    return sharding.replicate(decoder.state_at(params, tokens, mask, state, cfg=cfg))


def donor_states(params, tokens, mask, state, *, cfg: ModelConfig, batch: int) -> np.ndarray:
    """One residual state of a donor at every prompt column, `batch` prompts at a time.

    Args:
      params: the donor's; tokens: int32 [N, P]; mask: bool [N, P], left-padded, as the patched model will read them.
      state: int scalar (traced) in [0, L]; batch: rows of the compiled shape. A self-patch is the identity to the
        last bit when it is also the batch that is generated with; another may round differently.
    Returns:
      [N, P, D] in the parameters' dtype, on the host; padding columns hold no meaning.
    Raises:
      InputError: no prompts, or a batch below 1.
    """
    if not len(tokens) or batch < 1:
        raise InputError(f"donor states of {len(tokens)} prompts in batches of {batch}, expected at least 1 of both")
    tokens, mask = np.asarray(tokens), np.asarray(mask)
    return np.concatenate(
        [
            np.asarray(_state_at(params, tokens[rows], mask[rows], state, cfg=cfg))[:real]
            for rows, real in directions.batches_of(len(tokens), batch)
        ]
    )


def patch_edit(state, donor, mask, scope: str) -> jax.tree_util.Partial:
    """Edit of the prompt that overwrites residual state `state` by a donor's.

    Args:
      state: int scalar, or int [B] for another state in each row; donor: [B, P, D] of donor_states.
      mask: bool [B, P], left-padded; scope: a key of SCOPES.
    Raises:
      InputError: an unknown scope, or a donor whose rows and columns are not those of the mask.
    """
    if scope not in SCOPES:
        raise InputError(f"patching scope {scope!r}, expected one of {', '.join(SCOPES)}")
    if donor.shape[:2] != mask.shape:
        raise InputError(
            f"donor states of shape {donor.shape} for prompts of shape {mask.shape}, expected the same "
            "prompts with the same padding"
        )
    mask = jnp.asarray(mask)
    # Both scopes have one shape, so that one compile serves both.
    where = mask if scope == "prompt" else mask & (jnp.arange(mask.shape[1]) == mask.shape[1] - 1)
    return edits.overwrite_at(state, donor, where)
