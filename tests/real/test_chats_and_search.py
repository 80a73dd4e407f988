"""What published models are asked and answer, and one cell of an lvs run, against transformers and plain torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from latent_audit import models
from latent_audit.data import builtin_prompts, chats
from latent_audit.interventions import latent
from latent_audit.models.generate import generate
from tests.real import published
from tests.support import torch_oracle

pytestmark = [pytest.mark.real, pytest.mark.slow]
PROMPTS = builtin_prompts.HARMLESS[:3]


def chat_of(path):
    cfg = models.check(path).cfg
    return chats.make_chat(chats.load_tokenizer(path), family=cfg.family, vocab_size=cfg.vocab_size)


@pytest.mark.parametrize("name", [published.SMOL, published.QWEN])
def test_chats_and_greedy_answers_are_those_of_transformers(name):
    path = published.path_of(name)
    chat, (cfg, params) = chat_of(path), models.load(path)
    tokens, mask = chats.encode_prompts(chat, PROMPTS, max_length=256)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=name)
    asked = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for prompt in PROMPTS
    ]
    assert [row[real].tolist() for row, real in zip(tokens, mask, strict=True)] == asked

    with jax.default_matmul_precision("highest"):
        ours = np.asarray(generate(params, tokens, mask, cfg=cfg, max_new_tokens=24, eos_ids=()).tokens)
    model = published.of_transformers(path)
    for row, ids in zip(ours, asked, strict=True):
        prompt = torch.tensor(ids)[None]
        theirs = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=24)
        # Theirs stops behind the end of the turn, ours was told of no end.
        theirs = theirs[0, len(ids) :].tolist()
        assert len(theirs) > 8 and row[: len(theirs)].tolist() == theirs


# At state 20 the largest coordinate is a massive activation: .0005 of it overshoots, the loss jumps by two nats from
# step to step, and a hundredth of that is rounding's.
@pytest.mark.parametrize("state, budget", [(3, 0.0005), (20, 0.0001)])
def test_a_cell_of_lvs_is_that_of_a_plain_loop(state, budget):
    path = published.path_of(published.SMOL)
    chat, (cfg, params) = chat_of(path), models.load(path)
    tokens, mask = chats.encode_prompts(chat, PROMPTS[:1], max_length=256)
    target = np.array(chats.target_ids(chat, "Sure, here is"))
    search, budgets = latent.Search(steps=4, controls=False), jnp.asarray([budget])
    keys = latent.row_keys(jax.random.key(1), np.array([7], np.uint32), state, budgets)
    with jax.default_matmul_precision("highest"):
        clean = latent.clean_pass(params, tokens, mask, jnp.asarray(target), cfg=cfg, search=search)
        found = latent.attack_state(
            params, clean, mask, jnp.asarray(target), state, budgets, keys, cfg=cfg, search=search
        )
    model = published.of_transformers(path)
    prompt, goal = torch.tensor(tokens[0][mask[0]], dtype=torch.long), torch.tensor(target)
    single = torch_oracle.pgd(model, prompt, goal, state, budget, steps=4)
    np.testing.assert_allclose(found.radius[0, 0], single.eps, rtol=1e-4)
    trace, ours = np.asarray(found.nll_trace)[:, 0, 0], np.asarray(found.delta[0, 0, 0])[mask[0]]
    # The first loss is one forward pass. Later ones follow signs of gradients, which rounding decides where they are
    # near zero; a step changes the loss by tenths, and this by thousandths.
    np.testing.assert_allclose(trace[0], single.nlls[0], atol=1e-3)
    np.testing.assert_allclose(trace, single.nlls, atol=0.02)
    size = np.abs(single.gradient.numpy())
    clear = size > 0.05 * np.sqrt(np.mean(size**2))
    apart = np.abs(ours - single.delta.numpy()) > 1e-3 * single.eps
    print(state, trace, single.nlls, "differ", apart.mean(), "of clear ones", apart[clear].mean())
    assert apart[clear].mean() < 0.05
