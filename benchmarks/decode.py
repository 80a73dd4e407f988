"""Generation under perturbation against transformers.generate batched the same way, both greedy, as many tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import rivals, work
from latent_audit.interventions import edits
from latent_audit.models.generate import generate


def ours(problem: work.Problem, deltas, state: int, new: int):
    """Our generation with delta [R, P, D] added to `state` on the prompt; R rows cycle through the prompts."""
    rows = np.arange(len(deltas)) % len(problem.tokens)
    edit = edits.add_at(state, deltas)
    out = generate(
        problem.params,
        problem.tokens[rows],
        problem.mask[rows],
        cfg=problem.cfg,
        max_new_tokens=new,
        eos_ids=(),
        prompt_edit=edit,
    )
    return jax.block_until_ready(out.tokens)


def transformers_generate(model, problem: work.Problem, deltas, state: int, new: int):
    """The same by transformers.generate with a hook that acts during the prefill only."""
    rows = np.arange(len(deltas)) % len(problem.tokens)
    tokens, mask = torch.tensor(problem.tokens[rows]).long(), torch.tensor(problem.mask[rows]).long()
    delta, P = torch.tensor(np.array(deltas)), problem.tokens.shape[1]
    handle = rivals._hook(model, state, lambda h: h + delta if h.shape[1] == P else h)
    with torch.no_grad():
        out = model.generate(
            input_ids=tokens,
            attention_mask=mask,
            max_new_tokens=new,
            do_sample=False,
            num_beams=1,
            pad_token_id=0,
            eos_token_id=[],
        )
    handle.remove()
    return out[:, P:].numpy()


def compare(problem: work.Problem, model, *, rows: int, new: int, state: int) -> dict:
    """Seconds of both and the share of equal tokens."""
    deltas = 0.01 * jax.random.normal(jax.random.key(1), (rows, problem.tokens.shape[1], problem.cfg.embed_dim))
    deltas = jnp.where(problem.mask[np.arange(rows) % len(problem.tokens)][..., None], deltas, 0.0)
    ours(problem, deltas, state, new)
    mine, tokens = work.timed(lambda: ours(problem, deltas, state, new))
    theirs, reference = work.timed(lambda: transformers_generate(model, problem, deltas, state, new), repeats=2)
    equal = float((np.asarray(tokens) == reference).mean())
    return {
        "seconds": theirs,
        "ours_seconds": mine,
        "ratio": theirs / mine,
        "equal_tokens": equal,
        "rows": rows,
        "new_tokens": new,
    }
