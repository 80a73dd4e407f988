"""Published GGUF files against transformers' own reading of them: every weight, every residual state, the logits."""

import copy
import gc

import jax
import numpy as np
import pytest
import torch

from latent_audit import models
from latent_audit.data import chats
from latent_audit.models.files import gguf_weights
from tests.real import published

# File -> (what a report calls its weights, text of a chat in its own control tokens).
FILES = {
    published.SMOL: ("Q4_1", "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n"),
    published.QWEN: (
        "Q4_K_M (most weights Q5_0)",
        "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n",
    ),
    published.GEMMA: ("Q4_K_M (most weights Q8_0)", "<bos>The capital of France is"),
}
pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.mark.parametrize("name", FILES)
def test_states_and_logits_equal_transformers(name):
    path = published.path_of(name)
    kind, text = FILES[name]
    assert models.quantization(path) == kind
    tokenizer = chats.load_tokenizer(path)
    row = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert tokenizer.decode(row) == text and len(row) < len(text) / 2

    cfg, params = models.load(path)
    with jax.default_matmul_precision("highest"):
        out = jax.jit(models.forward, static_argnames="cfg")(params, row[None], np.ones((1, len(row)), bool), cfg=cfg)
    ours = [np.asarray(state[0]) for state in [*out.resid[:-1], out.logits]]
    del params, out
    gc.collect()

    model = published.of_transformers(path)
    stored = model.state_dict()
    for one in gguf_weights.header(path):
        assert np.array_equal(gguf_weights.rows_of(path, one)(slice(None)), stored[one].numpy()), one
    del stored
    single, double = states(model, row), states(copy.deepcopy(model).double(), row)
    # Middle blocks of some models carry massive activations, where float32 itself is uncertain. Weights are equal bit
    # for bit, and what is left is the order in which products are summed: with the sums of the MLP taken in pieces of
    # 64, ours at SmolLM2's state 10 goes from 1.2e-4 to 5.2e-5 (transformers' own: 4.3e-5), while other rotary tables,
    # and norms by division, change no digit. So ours may be as far from float64 as a few times transformers' own
    # float32 is, and 1e-4 anywhere.
    for place, (mine, theirs, exact) in enumerate(zip(ours, single, double, strict=True)):
        error, of_float32 = (np.abs(one - exact).max() / exact.std() for one in (mine, theirs))
        print(name, place, f"{error:.1e}", f"{of_float32:.1e}")
        assert error < max(1e-4, 4 * of_float32)
    assert np.array_equal(ours[-1].argmax(-1), double[-1].argmax(-1))


def states(model, row):
    """Residual states before the last block's end, and logits."""
    with torch.no_grad():
        out = model(torch.from_numpy(row)[None], output_hidden_states=True)
    return [one[0].double().numpy() for one in [*out.hidden_states[:-1], out.logits]]
