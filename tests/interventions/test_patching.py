"""Activation patching against plain torch hooks; a self-patch changes no bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.interventions import patching
from latent_audit.models import decode, decoder
from latent_audit.models import generate as generation
from tests.support import tiny, torch_oracle

NEW = 5
STATE = 2
# Of equal width, with other weights.
DONOR = {"llama3": "llama3_tied", "gemma2": "gemma2_no_caps"}


@functools.cache
def loaded(case, dtype="float32"):
    return models.load(tiny.checkpoint(case), dtype=dtype)


def prompts():
    return tiny.rows(5, (9, 6, 7))


@functools.partial(jax.jit, static_argnames="cfg")
def first_logits(params, tokens, mask, edit, *, cfg):
    return decoder.unembed(params, decode.prefill(params, tokens, mask, cfg=cfg, room=0, edit=edit)[0], cfg=cfg)


def answer(case, tokens, mask, edit, *, dtype="float32"):
    """(greedy tokens, logits of the first one)."""
    cfg, params = loaded(case, dtype)
    new = generation.generate(params, tokens, mask, cfg=cfg, max_new_tokens=NEW, eos_ids=(), prompt_edit=edit)
    return np.asarray(new.tokens), np.asarray(first_logits(params, tokens, mask, edit, cfg=cfg))


@pytest.mark.parametrize("case, dtype", [("llama3", "float32"), ("gemma2", "bfloat16")])
def test_a_self_patch_changes_no_bit(case, dtype):
    cfg, params = loaded(case, dtype)
    tokens, mask = prompts()
    plain = answer(case, tokens, mask, None, dtype=dtype)
    for state in range(cfg.num_layers + 1):
        own = patching.donor_states(params, tokens, mask, state, cfg=cfg, batch=len(tokens))
        assert own.dtype == jnp.dtype(dtype) and own.shape == (*tokens.shape, cfg.embed_dim)
        for scope in patching.SCOPES:
            patched = answer(case, tokens, mask, patching.patch_edit(state, own, mask, scope), dtype=dtype)
            np.testing.assert_array_equal(patched[0], plain[0])
            np.testing.assert_array_equal(patched[1], plain[1])


@pytest.mark.parametrize("scope", patching.SCOPES)
@pytest.mark.parametrize("case", DONOR)
def test_a_donors_patch_equals_a_torch_hook(case, scope):
    tokens, mask = prompts()
    cfg, donor_params = loaded(DONOR[case])
    donor = patching.donor_states(donor_params, tokens, mask, STATE, cfg=cfg, batch=2)
    new, logits = answer(case, tokens, mask, patching.patch_edit(STATE, donor, mask, scope))
    for row, real in enumerate(mask):
        prompt = torch.tensor(tokens[row][real], dtype=torch.long)
        theirs = torch_oracle.states_of(tiny.model(DONOR[case]), prompt)[STATE]
        np.testing.assert_allclose(donor[row][real], theirs, atol=1e-4)
        P, first = len(prompt), {"prompt": 0, "decision": len(prompt) - 1}[scope]

        def overwrite(h, theirs=theirs, P=P, first=first):
            return torch.cat([h[:, :first], theirs[None, first:], h[:, P:]], dim=1)

        model = tiny.model(case)
        clean = torch_oracle.greedy(model, prompt, NEW)
        handle = torch_oracle.hooked(model, STATE, overwrite)
        expected = torch_oracle.greedy(model, prompt, NEW)
        with torch.no_grad():
            expected_logits = model(input_ids=prompt[None], use_cache=False).logits[0, -1]
        handle.remove()
        assert new[row].tolist() == expected != clean
        np.testing.assert_allclose(logits[row], expected_logits, atol=1e-4)


def test_padding_and_batch_do_not_matter():
    """The torch comparison is unpadded, one prompt at a time; here, that nothing is read from or written to padding."""
    tokens, mask = prompts()
    cfg, donor_params = loaded(DONOR["gemma2"])
    donor = patching.donor_states(donor_params, tokens, mask, STATE, cfg=cfg, batch=2)
    real = mask[1, 3:]
    assert real.all() and not mask[1, :3].any()
    alone = patching.donor_states(donor_params, tokens[1:2, 3:], real[None], STATE, cfg=cfg, batch=1)
    np.testing.assert_allclose(alone[0], donor[1, 3:], atol=1e-5)
    poisoned = np.where(mask[..., None], donor, np.nan)
    for scope in patching.SCOPES:
        given, refilled = (
            answer("gemma2", tokens, mask, patching.patch_edit(STATE, states, mask, scope))
            for states in (donor, poisoned)
        )
        np.testing.assert_array_equal(given[0], refilled[0])
        np.testing.assert_array_equal(given[1], refilled[1])


def test_donor_states_are_those_of_a_forward_pass():
    cfg, params = loaded("gemma3")
    tokens, mask = prompts()
    resid = np.asarray(models.forward(params, tokens, mask, cfg=cfg).resid)
    before = patching._state_at._cache_size()
    for state in range(cfg.num_layers + 1):
        found = patching.donor_states(params, tokens, mask, state, cfg=cfg, batch=2)
        np.testing.assert_allclose(found[mask], resid[state][mask], atol=1e-5)
    assert patching._state_at._cache_size() == before + 1


def test_generation_compiles_once_for_both_scopes():
    cfg, _ = loaded("llama3")
    tokens, mask = prompts()
    donor = np.ones((*tokens.shape, cfg.embed_dim), np.float32)
    answer("llama3", tokens, mask, patching.patch_edit(1, donor, mask, "prompt"))
    compiled = generation.begin._cache_size()
    for scope in patching.SCOPES:
        for state in range(cfg.num_layers + 1):
            answer("llama3", tokens, mask, patching.patch_edit(state, donor, mask, scope))
    assert generation.begin._cache_size() == compiled


def test_bad_input_is_refused():
    cfg, params = loaded("llama3")
    tokens, mask = prompts()
    donor = np.zeros((*tokens.shape, cfg.embed_dim), np.float32)
    with pytest.raises(InputError, match="patching scope 'all', expected one of prompt, decision"):
        patching.patch_edit(1, donor, mask, "all")
    with pytest.raises(InputError, match="expected the same prompts"):
        patching.patch_edit(1, donor[:, 1:], mask, "prompt")
    for rows, batch in ((0, 2), (3, 0)):
        with pytest.raises(InputError, match="donor states of"):
            patching.donor_states(params, tokens[:rows], mask[:rows], 1, cfg=cfg, batch=batch)
