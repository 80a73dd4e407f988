"""Abliteration against plain torch and numpy: what cannot be written any more, what an edit sets, what is chosen."""

import functools

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
import transformers

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.interventions import abliterate, directions, edits
from latent_audit.interventions.abliterate import Candidate, Score
from latent_audit.metrics import first_token
from latent_audit.models import decoder
from tests.support import tiny

LENGTHS = (9, 6, 8)


@functools.cache
def loaded(case):
    return models.load(tiny.checkpoint(case))


def random_direction(seed=0):
    return np.random.default_rng(seed).normal(size=tiny.BASE["hidden_size"]).astype(np.float32)


def unit(direction):
    return direction / np.linalg.norm(direction)


@functools.cache
def prompts():
    """Left-padded rows that end with the same two tokens; 94 stands nowhere else, 93 does."""
    tokens, mask = tiny.rows(5, LENGTHS)
    tokens[:, -1], tokens[:, -2], tokens[0, -5] = 94, 93, 93
    return tokens, mask


@functools.cache
def means(case):
    cfg, params = loaded(case)
    tokens, mask = prompts()
    other = np.where((tokens > 2) & (tokens < 90), (tokens * 7) % 80 + 3, tokens)
    harmful, harmless = (
        directions.moments(params, rows, mask, cfg=cfg, positions=(-1, -2)) for rows in (tokens, other)
    )
    whole = np.random.default_rng(9).normal(size=harmful.mean[:, 0].shape).astype(np.float32)
    return abliterate.Means(
        directions.mean_difference(harmful, harmless),
        harmless.mean,
        (-1, -2),
        abliterate.own_tokens(tokens, mask, (-1, -2)),
        whole,
    )


# Every way in which a family writes to the stream by one direction; two directions take the same way.
@pytest.mark.parametrize(
    "case, count",
    [
        *(
            (case, 1)
            for case in ("llama2", "llama_biases", "mistral", "qwen2_tied", "qwen3", "gemma", "gemma2", "gemma3")
        ),
        *((case, 1) for case in ("olmo2_tied", "olmo3", "phi3", "granite_tied", "granite4", "ministral3_multimodal")),
        *((case, 1) for case in ("mixtral", "gpt_oss", "qwen3_5_moe", "gemma4_e2b", "gemma4_moe")),
        *((case, 2) for case in ("llama_biases", "gemma2", "granite4", "gpt_oss")),
    ],
)
def test_no_state_of_an_orthogonalized_model_has_the_directions(case, count):
    cfg, params = loaded(case)
    basis = np.linalg.qr(np.stack([random_direction(seed) for seed in range(count)], axis=1))[0].T
    new_cfg, new = abliterate.orthogonalize(params, basis, cfg=cfg)
    tokens, mask = prompts()
    before, after = (
        np.asarray(models.forward(p, tokens, mask, cfg=c).resid) @ basis.T for c, p in ((cfg, params), (new_cfg, new))
    )
    assert np.abs(before).mean() > 0.1 and np.abs(after).max() < 2e-5
    # The head reads as it did, also where it was tied to the embedding that changed.
    h = np.random.default_rng(1).normal(size=(2, cfg.embed_dim)).astype(np.float32)
    np.testing.assert_allclose(decoder.unembed(new, h, cfg=new_cfg), decoder.unembed(params, h, cfg=cfg), atol=1e-5)
    assert not new_cfg.tied_head and params["embed"] is loaded(case)[1]["embed"]


def orthogonalized_torch(case, direction):
    """transformers' model with its head untied and every writer orthogonal to `direction`, row by row."""
    reference = transformers.AutoModelForCausalLM.from_pretrained(tiny.checkpoint(case), attn_implementation="eager")
    reference.lm_head.weight = torch.nn.Parameter(reference.lm_head.weight.detach().clone())
    r = torch.tensor(unit(direction))
    with torch.no_grad():
        embed = reference.model.embed_tokens.weight
        embed.sub_(torch.outer(embed @ r, r))
        for layer in reference.model.layers:
            norms = (layer.post_attention_layernorm, getattr(layer, "post_feedforward_layernorm", None))
            shift = 1 if case.startswith("gemma") else 0
            mixer = layer.linear_attn.out_proj if hasattr(layer, "linear_attn") else layer.self_attn.o_proj
            for linear, norm in zip((mixer, layer.mlp.down_proj), norms, strict=True):
                q = r
                if norms[1] is not None:
                    q = r * (shift + norm.weight)
                    q = q / q.norm()
                linear.weight.sub_(torch.outer(q, q @ linear.weight))
                if linear.bias is not None:
                    linear.bias.sub_(q * (q @ linear.bias))
    return reference


@pytest.mark.parametrize("case", ["llama_biases", "gemma2", "olmo2_tied", "granite", "qwen3_5"])
def test_an_exported_orthogonalized_model_equals_the_same_surgery_in_torch(case, tmp_path):
    cfg, params = loaded(case)
    direction = random_direction(2)
    new_cfg, new = abliterate.orthogonalize(params, unit(direction)[None], cfg=cfg)
    models.save(tmp_path / "out", new_cfg, new, None)
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    tokens, _ = tiny.rows(3, (8,))
    ours, theirs = (
        tiny.reference(model.eval(), tokens[0]) for model in (exported, orthogonalized_torch(case, direction))
    )
    np.testing.assert_allclose(ours.logits, theirs.logits, atol=2e-5)
    for a, b in zip(ours.states, theirs.states, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
        assert np.abs(a @ unit(direction)).max() < 2e-5


@pytest.mark.parametrize("case", ["llama3", "qwen2_tied", "gemma2", "granite"])
def test_a_shifted_token_equals_the_edit_of_its_state(case):
    cfg, params = loaded(case)
    tokens, mask = prompts()
    delta = 0.3 * random_direction(3)
    new_cfg, new = abliterate.shift_token(params, 94, delta, cfg=cfg)
    shifted = models.forward(new, tokens, mask, cfg=new_cfg)
    edited = models.forward(params, tokens, mask, cfg=cfg, edit=edits.only_where(edits.add_at(0, delta), tokens == 94))
    np.testing.assert_allclose(shifted.resid, edited.resid, atol=2e-5)
    np.testing.assert_allclose(shifted.logits, edited.logits, atol=2e-5)
    plain = models.forward(params, tokens, mask, cfg=cfg)
    assert np.abs(shifted.logits[:, -1] - plain.logits[:, -1]).max() > 0.01
    np.testing.assert_allclose(shifted.logits[:, :-1][mask[:, :-1]], plain.logits[:, :-1][mask[:, :-1]], atol=2e-5)


def states(case, candidate):
    cfg, params = loaded(case)
    tokens, mask = prompts()
    made = abliterate.ablate(candidate, means(case), params, cfg=cfg, width=tokens.shape[1])
    plain, changed = (
        np.asarray(models.forward(p, tokens, mask, cfg=c, edit=edit).resid)
        for c, p, edit in ((cfg, params, None), (made.cfg, made.params, made.prompt_edit))
    )
    return plain, changed, made


def test_affine_sets_the_harmless_mean_at_its_layer_for_every_token():
    plain, changed, made = states("llama3", Candidate("affine", 2, 1))
    r, harmless = unit(means("llama3").difference[2, 1]), means("llama3").harmless[2, 1]
    np.testing.assert_array_equal(changed[:2], plain[:2])
    expected = plain[2] + (harmless @ r - plain[2] @ r)[..., None] * r
    np.testing.assert_allclose(changed[2], expected, atol=1e-5)
    assert made.decode_edit is made.prompt_edit and made.params is loaded("llama3")[1]


def test_affine_layerwise_sets_each_layers_own_mean_at_its_position_only():
    plain, changed, made = states("gemma2", Candidate("affine_layerwise", 2, 1))
    np.testing.assert_array_equal(changed[:2], plain[:2])
    np.testing.assert_array_equal(changed[2][:, [0, 1, 2, 3, 4, 5, 6, 8]], plain[2][:, [0, 1, 2, 3, 4, 5, 6, 8]])
    for state in (2, 3):
        r, harmless = unit(means("gemma2").difference[state, 1]), means("gemma2").harmless[state, 1]
        np.testing.assert_allclose(changed[state][:, -2] @ r, harmless @ r, atol=1e-4)
    assert made.decode_edit is None


@pytest.mark.parametrize("way, state", [("subtract", 2), ("subtract_token", 0)])
def test_subtraction_moves_by_the_mean_difference(way, state):
    plain, changed, made = states("gemma2", Candidate(way, 2, 0, 1.5))
    expected = plain[state].copy()
    columns = slice(None) if way == "subtract" else slice(-1, None)
    expected[:, columns] -= 1.5 * means("gemma2").difference[2, 0]
    real = prompts()[1]
    np.testing.assert_allclose(changed[state][real], expected[real], atol=2e-5)
    assert (made.decode_edit is None) == (way in abliterate.IN_WEIGHTS)


def test_orthogonalize_candidate_takes_the_unit_direction_of_its_place():
    _, changed, _ = states("qwen3", Candidate("orthogonalize", 3, 1))
    assert np.abs(changed @ unit(means("qwen3").difference[3, 1])).max() < 2e-5


@pytest.mark.parametrize("case, count", [("llama3", 1), ("gemma2", 2)])
def test_affine_token_leaves_the_directions_to_the_templates_token(case, count):
    found = means(case)
    _, changed, made = states(case, Candidate("affine_token", 2, 0, 1.5, count))
    spanned = np.stack([found.difference[2, 0], found.whole[2]][:count], axis=1)
    basis = np.linalg.qr(spanned)[0]
    real = prompts()[1].copy()
    real[:, -1] = False
    assert np.abs(changed[:, real] @ basis).max() < 5e-5, "nothing there at any other token"
    expected = np.broadcast_to(1.5 * found.harmless[2, 0] @ basis, (len(changed), len(LENGTHS), count))
    np.testing.assert_allclose(changed[:, :, -1] @ basis, expected, atol=1e-4)
    assert made.prompt_edit is None and made.decode_edit is None


def test_ways_of_low_precision_weights_stay_in_their_dtype():
    cfg, params = models.load(tiny.checkpoint("gemma2"), dtype="bfloat16")
    direction = random_direction()
    tokens, mask = prompts()
    orthogonal = abliterate.orthogonalize(params, unit(direction)[None], cfg=cfg)
    for _, new in (orthogonal, abliterate.shift_token(params, 94, direction, cfg=cfg)):
        assert {str(leaf.dtype) for leaf in [new["embed"], new["head"], *new["blocks"].values()]} == {"bfloat16"}
    resid = np.asarray(models.forward(orthogonal[1], tokens, mask, cfg=orthogonal[0]).resid, np.float32)
    share = np.abs(resid @ unit(direction))[:, mask] / np.linalg.norm(resid, axis=-1)[:, mask]
    assert share.max() < 0.02


def test_zero_difference_is_an_error_that_names_the_place():
    cfg, params = loaded("llama3")
    still = means("llama3")._replace(difference=np.zeros_like(means("llama3").difference))
    for way in abliterate.WAYS:
        with pytest.raises(InputError, match="L1 at position -2 has length 0"):
            abliterate.ablate(Candidate(way, 2, 1), still, params, cfg=cfg, width=9)


def test_own_tokens_are_those_that_stand_nowhere_else():
    tokens, mask = prompts()
    assert abliterate.own_tokens(tokens, mask, (-1, -2, -3)) == (94, None, None)
    padded = np.where(mask, tokens, 94)
    assert abliterate.own_tokens(padded, mask, (-1,)) == (94,), "padding is no occurrence"


@pytest.mark.parametrize("blocks, last", [(1, 1), (2, 1), (3, 2), (5, 3), (6, 4), (10, 7), (15, 11), (32, 25)])
def test_candidates_leave_out_the_last_fifth(blocks, last):
    zeros = np.zeros((blocks + 1, 2, 4), np.float32)
    made_up = abliterate.Means(zeros, zeros, (-1, -2), (94, None), zeros[:, 0])
    found = abliterate.candidates(made_up, ways=tuple(abliterate.WAYS), strengths=(1.0, 2.0))
    assert {c.state for c in found} == set(range(1, last + 1)) and len(set(found)) == len(found)
    assert {c.position for c in found if c.way.endswith("token")} == {0}, "only a token that stands nowhere else"
    counts = {way: sum(c.way == way for c in found) for way in abliterate.WAYS}
    assert counts == {
        "orthogonalize": 2 * last,
        "affine": 2 * last,
        "affine_layerwise": 2 * last,
        "subtract": 4 * last,
        "subtract_token": 2 * last,
        "affine_token": 4 * last,
    }


def test_shortlist_takes_the_most_bypass_within_the_bound():
    scores = [Score(0.5, 0.01), Score(1.0, 0.2), Score(0.9, 0.1), Score(0.5, 0.005), Score(0.1, 0.0)]
    assert abliterate.shortlist(scores, 3) == [2, 3, 0]
    assert abliterate.shortlist(scores, 9) == [2, 3, 0, 4]
    assert abliterate.shortlist([Score(1.0, 0.2)], 3) == []


@pytest.mark.parametrize(
    "scores, base, index, step",
    [
        ([Score(0.2, 0.01), Score(0.9, 0.05), Score(1.0, 0.11)], None, 1, "largest"),
        ([Score(0.2, 0.01), Score(0.9, 0.10)], None, 1, "largest"),
        ([Score(0.9, 0.05), Score(0.9, 0.04), Score(0.9, 0.04)], None, 1, "largest"),
        ([Score(0.9, 0.3), Score(0.1, 0.2), Score(1.0, 0.9)], None, 1, "none within"),
        ([Score(0.9, 0.0, 0.94), Score(0.5, 0.0, 0.95)], 1.0, 1, "largest"),
        ([Score(0.9, 0.0, 0.75), Score(0.5, 0.0, 0.95)], 0.8, 0, "largest"),
        ([Score(0.9, 0.02, 0.5), Score(0.5, 0.01, 0.4)], 1.0, 1, "none within"),
    ],
)
def test_choice_on_made_up_numbers(scores, base, index, step):
    found, said = abliterate.choose(scores, base_answered=base)
    assert found == index and said.startswith(step)


def test_first_token_measures_against_scipy():
    rng = np.random.default_rng(0)
    one, two = (scipy.special.log_softmax(rng.normal(size=(4, 7)), axis=1) for _ in range(2))
    np.testing.assert_allclose(first_token.kl(one, two), scipy.stats.entropy(np.exp(one), np.exp(two), axis=1))
    np.testing.assert_allclose(first_token.log_odds(one, (1, 4)), scipy.special.logit(np.exp(one)[:, [1, 4]].sum(1)))
    certain = np.log(np.array([[1.0, 1e-300], [1e-300, 1.0]]))
    assert np.isfinite(first_token.log_odds(certain, (0,))).all()


def test_openings_are_those_of_harmful_prompts_alone():
    harmful, harmless = np.eye(5)[[0, 1, 1, 3]], np.eye(5)[[3, 4]]
    assert first_token.refusal_openings(harmful, harmless) == (0, 1)
    with pytest.raises(InputError, match="choose.openings"):
        first_token.refusal_openings(harmless[:1], harmless)


def test_first_token_equals_the_forward_pass():
    cfg, params = loaded("gemma2")
    tokens, mask = prompts()
    edit = edits.add_at(1, random_direction())
    logits = np.asarray(models.forward(params, tokens, mask, cfg=cfg, edit=edit).logits[:, -1])
    np.testing.assert_allclose(
        first_token.log_probability(params, tokens, mask, edit, cfg=cfg),
        scipy.special.log_softmax(logits, axis=1),
        atol=1e-5,
    )
