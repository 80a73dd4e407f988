"""Print the README's parity table: `python -m tests.parity_table`.

Tiny random models, 16 rows of 24 tokens. float32: the largest deviation of any residual state and of the logits from
transformers' eager attention, in standard deviations of the reference. bfloat16: mean KL divergence from
transformers' float32 distribution and share of positions with the same first choice, for ours and, beside it, for
transformers' own bfloat16. A second table has the families whose rounding is magnified (Qwen 3.5) against float64.
"""

import copy

import jax
import numpy as np
import torch

from latent_audit import models
from tests.support import float64, tiny

TITLES = {
    "llama2": "Llama 2",
    "llama3": "Llama 3.1 (llama3 rope)",
    "llama3_tied": "Llama 3.2 (tied)",
    "llama_biases": "Llama, all biases",
    "mistral": "Mistral, window",
    "qwen2": "Qwen 2 / 2.5",
    "qwen2_window": "Qwen 2, window",
    "qwen3": "Qwen 3",
    "gemma4": "Gemma 4 (31B)",
    "gemma4_e2b": "Gemma 4 (E2B)",
    "gemma4_e4b": "Gemma 4 (E4B)",
    "gemma4_moe": "Gemma 4 (26B-A4B)",
    "gemma4_multimodal": "Gemma 4 (E2B), text tower",
    "qwen3_5": "Qwen 3.5",
    "qwen3_5_multimodal": "Qwen 3.5, text tower",
    "gemma": "Gemma 1",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3",
    "gemma3_multimodal": "Gemma 3, text tower",
    "olmo2": "OLMo 2",
    "olmo3": "OLMo 3 (window, yarn)",
    "smollm3": "SmolLM3",
    "phi3": "Phi-3, Phi-4",
    "phi3_partial": "Phi-4-mini (partial, longrope)",
    "granite": "Granite 3",
    "granite4": "Granite 4, dense",
    "mistral3_multimodal": "Mistral Small 3, text tower",
    "ministral3_multimodal": "Ministral 3, text tower",
    "qwen3_moe": "Qwen 3, experts",
    "mixtral": "Mixtral",
    "qwen3_5_moe": "Qwen 3.5, experts",
    "qwen3_5_moe_multimodal": "Qwen 3.5, experts, text tower",
    "gpt_oss": "gpt-oss",
}


def _ours(case, dtype, tokens, mask):
    cfg, params = models.load(tiny.checkpoint(case), dtype=dtype)
    # Accelerators multiply float32 in fewer bits unless told.
    with jax.default_matmul_precision("highest"):
        return jax.jit(models.forward, static_argnames="cfg")(params, tokens, mask, cfg=cfg)


def _theirs(model, tokens):
    answers = [tiny.reference(model, row) for row in tokens]
    states = [np.stack(state) for state in zip(*(answer.states for answer in answers), strict=True)]
    return states, np.stack([answer.logits for answer in answers])


def _agreement(logits, wanted):
    """(mean KL(wanted || logits), share of equal first choices)."""
    p, q = (jax.nn.log_softmax(np.asarray(x, np.float32)) for x in (wanted, logits))
    return float((np.exp(p) * (p - q)).sum(-1).mean()), float((logits.argmax(-1) == wanted.argmax(-1)).mean())


def _row(case):
    tokens, mask = tiny.rows(lengths=(tiny.LENGTH,) * 16)
    states, logits = _theirs(tiny.model(case), tokens)
    exact = _ours(case, "float32", tokens, mask)
    state_error = max(np.abs(np.asarray(a) - b).max() / b.std() for a, b in zip(exact.resid, states, strict=True))
    logit_error = np.abs(np.asarray(exact.logits) - logits).max() / logits.std()
    ours = _agreement(np.asarray(_ours(case, "bfloat16", tokens, mask).logits), logits)
    rounded = copy.deepcopy(tiny.model(case)).to(torch.bfloat16)
    theirs = _agreement(_theirs(rounded, tokens)[1], logits)
    return (
        f"| {TITLES[case]} | {state_error:.1e} | {logit_error:.1e} | {ours[0]:.1e} | {theirs[0]:.1e} "
        f"| {ours[1]:.1%} | {theirs[1]:.1%} |"
    )


def _exact_row(case):
    """How far ours and transformers' float32 are from transformers in float64; states and logits together."""
    tokens, mask = tiny.rows(lengths=(tiny.LENGTH,) * 16)
    out = _ours(case, "float32", tokens, mask)
    ours, theirs = [], []
    for row, ids in enumerate(tokens):
        exact, rounded = float64.reference(tiny.model(case), ids), tiny.reference(tiny.model(case), ids)
        wanted = (*exact.states, exact.logits)
        for errors, answer in (
            (ours, (*out.resid[:, row], out.logits[row])),
            (theirs, (*rounded.states, rounded.logits)),
        ):
            errors += [np.abs(np.asarray(a) - b).max() / b.std() for a, b in zip(answer, wanted, strict=True)]
    return f"| {TITLES[case]} | {max(ours):.1e} | {max(theirs):.1e} |"


def main():
    print(
        "| model | float32: states | float32: logits | bfloat16 KL, ours | KL, transformers "
        "| same first choice, ours | transformers |"
    )
    print("|---|---|---|---|---|---|---|")
    for case in TITLES:
        print(_row(case), flush=True)
    print("\n| model | ours from float64 | transformers' float32 from float64 |")
    print("|---|---|---|")
    for case in (case for case in TITLES if case.startswith("qwen3_5")):
        print(_exact_row(case), flush=True)


if __name__ == "__main__":
    main()
