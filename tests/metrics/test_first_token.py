"""The refusal score of the first token under a push, against transformers with a hook and a plain logit."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import torch

from latent_audit import models
from latent_audit.interventions import edits
from latent_audit.metrics import first_token
from tests.support import tiny, torch_oracle

OPENINGS = (3, 7, 40)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model = tiny.model("llama3").eval()
    model.save_pretrained(path)
    return model, *models.load(path)


def opening_mask(cfg):
    is_opening = np.zeros(cfg.vocab_size, bool)
    is_opening[list(OPENINGS)] = True
    return is_opening


def theirs(model, ids, state, delta, openings):
    """logit of the summed probability of the openings, in float64."""
    handle = torch_oracle.hooked(model, state, lambda h: h + torch.from_numpy(delta))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(ids)[None]).logits[0, -1].double().numpy()
    handle.remove()
    return scipy.special.logit(scipy.special.softmax(logits)[list(openings)].sum())


@pytest.mark.parametrize("state", [0, 2])
def test_score_equals_transformers_under_the_same_push(loaded, state):
    model, cfg, params = loaded
    rng = np.random.default_rng(0)
    rows, widest = [rng.integers(8, 60, length).tolist() for length in (5, 9)], 9
    tokens, mask = np.zeros((2, widest), np.int32), np.zeros((2, widest), bool)
    deltas = rng.normal(0, 0.3, (2, widest, cfg.embed_dim)).astype(np.float32)
    for row, ids in enumerate(rows):
        tokens[row, -len(ids) :], mask[row, -len(ids) :] = ids, True
    edit = edits.add_at(state, jnp.asarray(deltas * mask[..., None]))
    ours = first_token.refusal_score(params, tokens, mask, opening_mask(cfg), edit, cfg=cfg)
    assert ours.dtype == jnp.float32 and ours.shape == (2,)
    expected = [theirs(model, ids, state, deltas[row, -len(ids) :], OPENINGS) for row, ids in enumerate(rows)]
    np.testing.assert_allclose(ours, expected, atol=2e-4)
    plain = first_token.refusal_score(params, tokens, mask, opening_mask(cfg), cfg=cfg)
    assert (np.abs(np.asarray(plain) - np.asarray(ours)) > 1e-3).all(), "the push is felt"


def test_score_is_the_log_odds_that_choose_a_direction(loaded):
    _, cfg, params = loaded
    tokens = np.random.default_rng(1).integers(8, 60, (4, 6)).astype(np.int32)
    mask = np.ones_like(tokens, bool)
    said = first_token.log_probability(params, tokens, mask, cfg=cfg)
    ours = first_token.refusal_score(params, tokens, mask, opening_mask(cfg), cfg=cfg)
    rest = [token for token in range(cfg.vocab_size) if token not in OPENINGS]
    mirrored = first_token.refusal_score(params, tokens, mask, ~opening_mask(cfg), cfg=cfg)
    np.testing.assert_allclose(mirrored, -np.asarray(ours), atol=1e-5)
    for score, chosen in ((ours, OPENINGS), (mirrored, rest)):
        by_complement = first_token.log_odds(said, chosen)
        # A relative error of p is one of p / (1 - p) in 1 - p, which log_odds takes from p; float32 rounds log p.
        carried = 8 * np.finfo(np.float32).eps * (1 + np.exp(by_complement))
        assert (np.abs(np.asarray(score) - by_complement) < 1e-5 + carried).all()


def test_certainty_stays_finite_and_bounded(loaded):
    _, cfg, params = loaded
    tokens, mask = np.array([[9, 10]], np.int32), np.ones((1, 2), bool)
    every, none = (
        float(first_token.refusal_score(params, tokens, mask, np.full(cfg.vocab_size, flag), cfg=cfg)[0])
        for flag in (True, False)
    )
    assert every == pytest.approx(first_token.LARGEST) and none == pytest.approx(-first_token.LARGEST)
    assert first_token.LARGEST == pytest.approx(scipy.special.logit(1 - 1e-9), rel=1e-6)
