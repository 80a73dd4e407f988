"""A loss that tests compare with."""

import jax.numpy as jnp

from latent_audit.interventions import finetune


def mean_nll(params, examples, *, cfg):
    """Mean NLL over all target tokens of the batch, as docs/method.md sections 5 and 6 have it; float32 scalar."""
    targets = jnp.sum(examples.loss_mask[:, 1:])
    return jnp.sum(finetune.token_nll(params, examples, cfg=cfg)) / jnp.maximum(targets, 1)
