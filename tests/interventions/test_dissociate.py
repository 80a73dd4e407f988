"""Every term of the dissociation loss and its gradient against plain torch; layers, cache, choice of a checkpoint."""

import functools

import jax
import numpy as np
import pytest
import torch

from latent_audit import models
from latent_audit.interventions import dissociate
from latent_audit.interventions.dissociate import Batch, Layers, Weights
from tests.support import tiny, torch_oracle

LAYERS = Layers(2, (1, 2))
ALL = Weights(stay_under_part=0.7, stay_under_noise=0.9, part=0.5)
PROMPTS, PLUS, MINUS = (6, 4, 5), (4, 3, 5), (5, 6, 5)


@functools.cache
def problem(case):
    """Three rows, the last benign, with random tokens; base is the checkpoint, the model a perturbed copy."""
    cfg, base = models.load(tiny.checkpoint(case))
    params = jax.tree.map(lambda x: x * (1 + 0.05 * jax.random.normal(jax.random.key(x.size), x.shape)), base)
    rng = np.random.default_rng(0)
    width = max(p + max(a, b) for p, a, b in zip(PROMPTS, PLUS, MINUS, strict=True)) + 1
    rows = {"plus": [], "minus": []}
    for p, a, b in zip(PROMPTS, PLUS, MINUS, strict=True):
        prompt = rng.integers(3, 90, p)
        rows["plus"].append((prompt, rng.integers(3, 90, a)))
        rows["minus"].append((prompt, rng.integers(3, 90, b)))

    def pack(pairs):
        tokens, mask, loss = (np.zeros((3, width), kind) for kind in (np.int32, bool, bool))
        for row, (prompt, response) in enumerate(pairs):
            whole = np.concatenate([prompt, response])
            tokens[row, -len(whole) :], mask[row, -len(whole) :] = whole, True
            loss[row, -len(response) :] = True
        return tokens, mask, loss

    D = cfg.embed_dim
    matched = rng.normal(size=(3, 2, D)).astype(np.float32)
    batch = Batch(*pack(rows["plus"]), *pack(rows["minus"]), np.array([True, True, False]), matched)
    nudge, noise = rng.normal(size=(2, D)).astype(np.float32)
    std = rng.uniform(0.5, 2, (2, D)).astype(np.float32)
    return cfg, base, params, batch, rows, nudge, noise, std


def torch_terms(case, model, base, rows, batch, nudge, noise, std):
    """Every term written out row by row, unpadded, in torch with hooks."""
    nudge, noise, std = (torch.tensor(x) for x in (nudge, noise, std))

    def run(module, prompt, response, delta):
        ids = torch.tensor(np.concatenate([prompt, response]), dtype=torch.long)
        states = {}

        def keep(h, state):
            states[state] = h[0]
            return h

        handles = [torch_oracle.hooked(module, state, functools.partial(keep, state=state)) for state in LAYERS.match]
        if delta is not None:
            handles.insert(0, torch_oracle.hooked(module, LAYERS.nudge, lambda h: h + delta))
        logits = module(input_ids=ids[None], use_cache=False).logits[0]
        for handle in handles:
            handle.remove()
        log_probability = torch.log_softmax(logits, -1)
        P = len(prompt)
        nll = -log_probability[P - 1 : -1].gather(1, ids[P:, None])[:, 0]
        return nll, log_probability, states

    found = {
        name: [] for name in ("plus_sum", "plus_n", "kl", "real", "match", "comply", "clean", "nudged", "part", "noise")
    }
    for row, ((prompt, plus), (_, minus)) in enumerate(zip(rows["plus"], rows["minus"], strict=True)):
        with torch.no_grad():
            _, frozen, _ = run(base, prompt, plus, None)
        nll, log_probability, states = run(model, prompt, plus, None)
        kl = lambda other, frozen=frozen: (frozen.exp() * (frozen - other)).sum()  # noqa: E731
        found["plus_sum"].append(nll.sum())
        found["plus_n"].append(len(nll))
        found["kl"].append(kl(log_probability))
        found["real"].append(len(log_probability))
        if not batch.harmful[row]:
            continue
        here = torch.stack([states[state][len(prompt) - 1] for state in LAYERS.match])
        found["match"].append((((here - torch.tensor(batch.matched[row])) / std) ** 2).mean())
        clean_minus = run(model, prompt, minus, None)[0].mean()
        nudged_minus = run(model, prompt, minus, nudge)[0].mean()
        nudged_plus = run(model, prompt, plus, nudge)[0].mean()
        found["comply"].append(nudged_minus)
        found["clean"].append(torch.relu(ALL.margin - (clean_minus - nll.mean())))
        found["nudged"].append(torch.relu(ALL.margin - (nudged_plus - nudged_minus)))
        found["part"].append(kl(run(model, prompt, plus, ALL.part * nudge)[1]) / len(log_probability))
        found["noise"].append(kl(run(model, prompt, plus, noise)[1]) / len(log_probability))
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    return {
        "refuse": sum(found["plus_sum"]) / sum(found["plus_n"]),
        "stay": sum(found["kl"]) / sum(found["real"]),
        "match": mean(found["match"]),
        "comply": mean(found["comply"]),
        "clean_hinge": mean(found["clean"]),
        "nudged_hinge": mean(found["nudged"]),
        "stay_under_part": mean(found["part"]),
        "stay_under_noise": mean(found["noise"]),
    }


@pytest.mark.parametrize("case", ["gemma2", pytest.param("llama3", marks=pytest.mark.slow)])
def test_terms_and_gradients_equal_plain_torch(case, tmp_path):
    cfg, base, params, batch, rows, nudge, noise, std = problem(case)
    models.save(tmp_path / "moved", cfg, params, None)
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "moved", dtype=torch.float32, attn_implementation="eager"
    )
    expected = torch_terms(case, model, tiny.model(case), rows, batch, nudge, noise, std)
    arguments = (base, batch, nudge, noise, std)
    options = {"cfg": cfg, "layers": LAYERS, "weights": ALL}
    ours = jax.jit(functools.partial(dissociate.terms, **options))(params, *arguments)
    assert set(expected) <= set(ours)
    names = sorted(expected)
    # The final norm, which every term reaches, stands for the parameters: one vector per term.
    gradients = jax.jit(
        jax.jacrev(lambda params: [dissociate.terms(params, *arguments, **options)[name] for name in names])
    )(params)
    weight = torch_oracle.decoder_of(model).layers[0].mlp.down_proj.weight
    for name, gradient in zip(names, gradients, strict=True):
        np.testing.assert_allclose(ours[name], expected[name].item(), rtol=2e-4, atol=1e-5, err_msg=name)
        (theirs,) = torch.autograd.grad(expected[name], weight, retain_graph=True, allow_unused=True)
        theirs = np.zeros(weight.shape) if theirs is None else theirs.numpy()
        scale = max(np.abs(theirs).max(), 1e-6)
        np.testing.assert_allclose(gradient["blocks"]["down"][0].T, theirs, atol=2e-3 * scale, err_msg=name)
    total, _ = dissociate.loss(params, *arguments, **options)
    np.testing.assert_allclose(total, sum(getattr(ALL, name) * expected[name].item() for name in names), rtol=2e-4)


def test_terms_without_weight_are_left_out_and_no_harmful_row_gives_zero():
    cfg, base, params, batch, _, nudge, noise, std = problem("llama3")
    weights = ALL.without_nudge()
    run = functools.partial(dissociate.terms, params, base, cfg=cfg, layers=LAYERS)
    found = run(batch, nudge, noise, std, weights=weights)
    assert "comply" not in found and "nudged_hinge" not in found and "clean_hinge" in found
    benign = run(batch._replace(harmful=np.zeros(3, bool)), nudge, noise, std, weights=ALL)
    for name in ("match", "comply", "clean_hinge", "nudged_hinge", "stay_under_part", "stay_under_noise"):
        assert benign[name] == 0
    assert benign["refuse"] > 0 and benign["stay"] > 0


@pytest.mark.parametrize(
    "num_layers, nudge, match",
    [
        (6, 4, (2, 3, 4)),
        (26, 14, tuple(range(10, 17))),
        (28, 15, tuple(range(11, 18))),
        (36, 19, tuple(range(14, 23))),
        (2, 2, (1, 2)),
        (1, 1, (1,)),
    ],
)
def test_layers_round_half_to_even(num_layers, nudge, match):
    assert dissociate.choose_layers(num_layers) == Layers(nudge, match)


def test_cache_equals_numpy():
    cfg, base, params, _, _, _, _, _ = problem("llama3")
    tokens, mask = tiny.rows(8, (9, 7, 4, 6, 9))
    cache = dissociate.make_cache(base, params, tokens, mask, cfg=cfg, layers=LAYERS, fraction=0.3, batch=2)
    of_base, of_harmful = (np.asarray(models.forward(p, tokens, mask, cfg=cfg).resid)[:, :, -1] for p in (base, params))
    np.testing.assert_allclose(cache.matched, of_harmful[[1, 2]].transpose(1, 0, 2), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cache.std, of_base[[1, 2]].std(axis=1), rtol=1e-4)
    np.testing.assert_allclose(cache.scale, np.linalg.norm(of_base[2], axis=1).mean(), rtol=1e-5)
    direction = (of_harmful[2] - of_base[2]).mean(axis=0)
    np.testing.assert_allclose(np.linalg.norm(cache.nudge), 0.3 * cache.scale, rtol=1e-5)
    np.testing.assert_allclose(
        cache.nudge @ direction, np.linalg.norm(cache.nudge) * np.linalg.norm(direction), rtol=1e-4
    )
    with pytest.raises(ValueError, match="no nudge direction"):
        dissociate.make_cache(base, base, tokens, mask, cfg=cfg, layers=LAYERS, fraction=0.3, batch=2)


def record(refusal, compliance, nudged):
    return {"clean_refusal": refusal, "clean_compliance": compliance, "nudged_compliance": nudged}


def test_choice_of_a_checkpoint():
    choose = functools.partial(dissociate.choose_checkpoint, base_refusal=0.97, base_nudged=0.1, base_clean=0.0)
    # The floor is .90; among those above it the largest gap wins, ties to the earliest.
    assert choose([record(0.95, 0, 0.5), record(0.85, 0, 1.0), record(0.9, 0, 0.8), record(0.91, 0, 0.8)]) == 2
    assert choose([record(0.5, 0, 1.0), record(0.8, 0, 0.1), record(0.8, 0, 0.9)]) == 1
    # A base that refuses less lowers the floor to five points under itself.
    assert (
        dissociate.choose_checkpoint(
            [record(0.7, 0, 0.2), record(0.66, 0, 0.9)], base_refusal=0.7, base_nudged=0, base_clean=0
        )
        == 1
    )
