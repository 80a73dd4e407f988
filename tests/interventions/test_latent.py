"""The compiled search against the plain torch loop, and the properties any bounded attack must have."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from latent_audit import models
from latent_audit.interventions import edits, goals, latent, suffix
from latent_audit.metrics import lvs
from latent_audit.models import decoder
from tests.support import tiny, torch_oracle

BUDGETS = (0.01, 0.1)
TARGET = (5, 17, 60)


@functools.cache
def loaded(case):
    return models.load(tiny.checkpoint(case))


@functools.cache
def attacked(case, state, **options):
    cfg, params = loaded(case)
    tokens, mask = tiny.rows(3, (9, 6))
    target, search = jnp.asarray(TARGET), latent.Search(**options)
    clean = latent.clean_pass(params, tokens, mask, target, cfg=cfg, search=search)
    budgets = jnp.asarray(BUDGETS)
    keys = latent.row_keys(jax.random.key(1), np.array([7, 8], np.uint32), state, budgets)
    found = latent.attack_state(params, clean, mask, target, state, budgets, keys, cfg=cfg, search=search)
    return clean, found, tokens, mask


@pytest.mark.parametrize(
    "case, state",
    [("llama3", 0), ("llama3", 2), ("gemma2", 1), ("gemma3", 4), ("olmo3", 1)]
    # Their losses' gradients are compared below; a whole search each is left to a release.
    + [pytest.param(*case, marks=pytest.mark.slow) for case in (("granite", 0), ("ministral3", 2))]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in (("qwen3_5", 1), ("gemma4", 3), ("gemma4_e2b", 3))],
)
def test_pgd_equals_a_plain_torch_loop(case, state):
    _, found, tokens, mask = attacked(case, state)
    reference = tiny.model(case)
    for row, real in enumerate(mask):
        prompt = torch.tensor(tokens[row][real], dtype=torch.long)
        for index, budget in enumerate(BUDGETS):
            plain = torch_oracle.pgd(reference, prompt, torch.tensor(TARGET), state, budget)
            np.testing.assert_allclose(found.radius[row, index], plain.eps, rtol=1e-5)
            np.testing.assert_allclose(found.nll_trace[:, row, index], plain.nlls, atol=1e-4)
            ours, theirs = found.delta[0, row, index][real], plain.delta.numpy()
            differ = np.abs(ours - theirs) > 1e-5 * plain.eps
            # sign() of a gradient near zero is decided by rounding; nothing else may differ.
            assert differ.mean() <= 0.01
            tiny_gradient = np.abs(plain.gradient.numpy()) < 1e-3 * np.abs(plain.gradient.numpy()).max()
            assert differ[~tiny_gradient].mean() <= 0.005
            clean_reward, attacked_reward = 1.0, 0.25
            np.testing.assert_allclose(
                lvs.lvs([clean_reward], [attacked_reward], [found.l2[0, row, index]]),
                0.75 / (np.log1p(plain.delta.norm().item()) + 1e-4),
                rtol=1e-3,
            )


def test_steps_and_step_fraction_are_those_of_the_search():
    _, found, tokens, mask = attacked("llama3", 2, steps=3, step_fraction=0.5, controls=False)
    prompt = torch.tensor(tokens[0][mask[0]], dtype=torch.long)
    model, target = tiny.model("llama3"), torch.tensor(TARGET)
    plain = torch_oracle.pgd(model, prompt, target, 2, BUDGETS[1], steps=3, step_fraction=0.5)
    np.testing.assert_allclose(found.nll_trace[:, 0, 1], plain.nlls, atol=1e-4)


def test_a_step_of_the_l2_mode_goes_down_the_gradient_by_its_share_of_the_budget():
    clean, found, _, mask = attacked("llama3", 2, mode="l2_of_norm", steps=1, step_fraction=0.5, controls=False)
    gradient = np.where(mask[..., None], clean.gradient[2], 0)
    direction = gradient / np.sqrt(np.square(gradient).sum((1, 2), keepdims=True))
    expected = -0.5 * np.asarray(found.radius)[..., None, None] * direction[:, None]
    np.testing.assert_allclose(found.delta[0], expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("case", ["llama3", "gemma2"])
def test_perturbed_generation_equals_torch(case):
    cfg, params = loaded(case)
    _, found, tokens, mask = attacked(case, 1)
    from latent_audit.models.generate import generate

    new = generate(
        params, tokens, mask, cfg=cfg, max_new_tokens=6, eos_ids=(), prompt_edit=edits.add_at(1, found.delta[0, :, 1])
    )
    for row, real in enumerate(mask):
        prompt = torch.tensor(tokens[row][real], dtype=torch.long)
        delta = torch.tensor(np.asarray(found.delta[0, row, 1])[real])
        expected = torch_oracle.greedy(tiny.model(case), prompt, 6, state=1, delta=delta)
        assert np.asarray(new.tokens[row]).tolist() == expected


@pytest.mark.parametrize("mode", latent.BUDGET_MODES)
@pytest.mark.parametrize("skip_first", [False, True])
def test_scale_matches_numpy(mode, skip_first):
    cfg, params = loaded("llama3")
    tokens, mask = tiny.rows(3, (9, 6))
    search = latent.Search(mode=mode, skip_first=skip_first)
    clean = latent.clean_pass(params, tokens, mask, jnp.asarray(TARGET), cfg=cfg, search=search)
    P = tokens.shape[1]
    for row, real in enumerate(mask):
        kept = real & (np.cumsum(real) > 1) if skip_first else real
        states = np.asarray(clean.states)[:, row, :P][:, kept]
        expected = {
            "linf_of_max": np.abs(states).max((1, 2)),
            "linf_of_rms": np.sqrt((states**2).mean((1, 2))),
            "l2_of_norm": np.sqrt((states**2).sum((1, 2))),
        }[mode]
        np.testing.assert_allclose(clean.scale[:, row], expected, rtol=1e-5)


@pytest.mark.parametrize("mode", latent.BUDGET_MODES)
@pytest.mark.parametrize("state", [0, 3])
def test_deltas_stay_in_their_ball_and_off_the_padding(mode, state):
    clean, found, _, mask = attacked("llama3", state, mode=mode)
    delta, radius = np.asarray(found.delta), np.asarray(found.radius)
    assert not delta[:, ~mask.any(1)].any()
    for row, real in enumerate(mask):
        assert not delta[:, row][:, :, ~real].any()
    size = np.sqrt((delta**2).sum((3, 4))) if mode == "l2_of_norm" else np.abs(delta).max((3, 4))
    np.testing.assert_allclose(radius, np.asarray(clean.scale)[state][:, None] * np.float32(BUDGETS), rtol=1e-6)
    assert (size[:2] <= radius * (1 + 1e-5)).all()
    # The second control is matched in L2, not in the bound.
    l2 = np.sqrt((delta**2).sum((3, 4)))
    np.testing.assert_allclose(l2[2], l2[0], rtol=1e-4)
    np.testing.assert_allclose(found.l2, l2, rtol=1e-4)
    np.testing.assert_allclose(found.linf, np.abs(delta).max((3, 4)), rtol=1e-6)
    for row, real in enumerate(mask):
        touched = np.abs(delta[:, row][:, :, real]) >= radius[row][:, None, None] * (1 - 1e-6)
        share = size[:, row] >= radius[row] * (1 - 1e-5) if mode == "l2_of_norm" else touched.mean((2, 3))
        np.testing.assert_allclose(found.at_bound[:, row], share, rtol=1e-6)


def test_losses_are_those_of_a_whole_forward_pass_under_each_attack_and_its_controls():
    cfg, params = loaded("llama3")
    _, found, tokens, mask = attacked("llama3", 1)
    whole, whole_mask = latent.with_target(jnp.asarray(tokens), jnp.asarray(mask), jnp.asarray(TARGET))

    @jax.jit
    def nll(delta):
        edit = edits.add_at(1, jnp.pad(delta, [(0, 0), (0, len(TARGET) - 1), (0, 0)]))
        logits = models.forward(params, whole, whole_mask, cfg=cfg, edit=edit).logits[:, -len(TARGET) :]
        return -jax.nn.log_softmax(logits)[:, jnp.arange(len(TARGET)), jnp.asarray(TARGET)].mean(-1)

    lasts = np.stack([nll(delta) for delta in found.delta[:, :, 1]])
    assert np.abs(lasts - lasts[[1, 2, 0]]).min() > 1e-3, "otherwise no exchange would be seen"
    np.testing.assert_allclose(found.nll_last[..., 1], lasts, atol=1e-5)
    np.testing.assert_allclose(found.nll_first[..., 1], [nll(0 * found.delta[0, :, 1])] * 3, atol=1e-5)


def test_the_search_lowers_its_loss_and_more_budget_lowers_it_further():
    _, found, _, _ = attacked("llama3", 1)
    assert (np.asarray(found.nll_last[0]) < np.asarray(found.nll_first[0])).all()
    assert (found.nll_last[0, :, 1] < found.nll_last[0, :, 0]).all()
    assert (np.asarray(found.nll_last[0]) < np.asarray(found.nll_last[1])).all(), "pgd beats its random control"


def test_the_search_is_the_same_without_its_controls():
    _, found, _, _ = attacked("llama3", 1)
    _, alone, _, _ = attacked("llama3", 1, controls=False)
    assert len(found.delta) == 3 and len(alone.delta) == 1
    for name in latent.Attacked._fields:
        both = getattr(found, name), getattr(alone, name)
        with_controls = both[0] if name in ("radius", "nll_trace", "rms") else both[0][:1]
        np.testing.assert_allclose(with_controls, both[1], rtol=1e-6, atol=1e-7, err_msg=name)


def test_last_state_moves_only_the_decision_point():
    cfg, _ = loaded("llama3")
    _, found, tokens, _ = attacked("llama3", cfg.num_layers)
    moved = np.abs(np.asarray(found.delta[0])).max(-1) > 0
    assert moved[..., -1].all() and not moved[..., :-1].any()


def test_zero_budget_limit_is_the_clean_model():
    """As the budget goes to zero the loss goes to the clean one, which equals a full forward's."""
    cfg, params = loaded("llama3")
    tokens, mask = tiny.rows(3, (9, 6))
    target = jnp.asarray(TARGET)
    clean = latent.clean_pass(params, tokens, mask, target, cfg=cfg)
    budgets = jnp.asarray([1e-12, 1e-11])
    keys = latent.row_keys(jax.random.key(0), np.arange(2, dtype=np.uint32), 1, budgets)
    found = latent.attack_state(params, clean, mask, target, 1, budgets, keys, cfg=cfg)
    np.testing.assert_allclose(found.nll_last[..., 0], np.broadcast_to(clean.nll, (3, 2)), atol=1e-5)
    whole, whole_mask = latent.with_target(jnp.asarray(tokens), jnp.asarray(mask), target)
    log_probability = jax.nn.log_softmax(models.forward(params, whole, whole_mask, cfg=cfg).logits[:, 8:], -1)
    expected = -log_probability[:, jnp.arange(3), target].mean(-1)
    np.testing.assert_allclose(clean.nll, expected, atol=1e-5)


@pytest.mark.parametrize(
    "case",
    ["llama_biases", "gemma3", "gpt_oss", "qwen3_5"]
    + [
        pytest.param(case, marks=pytest.mark.slow)
        for case in (
            *("olmo3", "smollm3", "granite", "phi3_partial", "ministral3", "mixtral", "qwen3_5_moe"),
            *("gemma4", "gemma4_e2b", "gemma4_moe"),
        )
    ],
)
def test_suffix_gradient_is_the_gradient_of_the_whole_network(case):
    cfg, params = loaded(case)
    tokens, mask = tiny.rows(4, (9, 7))
    targets = jnp.broadcast_to(jnp.asarray(TARGET), (2, 3))
    towards = goals.towards(jnp.asarray(TARGET), 2)
    # Keys and values that layers share come from the clean pass; below their layer they are made anew.
    clean = functools.partial(decoder.scan_states_beside, cfg=cfg)
    _, context, states = jax.jit(clean)(params, tokens, jnp.asarray(mask))

    @jax.jit
    @jax.grad
    def whole(h, state):
        logits = models.forward(params, tokens, mask, cfg=cfg, edit=edits.overwrite_at(state, h)).logits[:, -3:]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0].mean(-1).sum()

    partial = jax.jit(functools.partial(suffix.loss_and_gradient, cfg=cfg))
    loss_only = jax.jit(functools.partial(suffix.loss, cfg=cfg))
    for state in range(cfg.num_layers + 1):
        value, gradient = partial(params, states[state], state, context, towards)
        expected = whole(states[state], state)
        np.testing.assert_allclose(gradient, expected, atol=2e-5 * np.abs(expected).max())
        np.testing.assert_allclose(value, loss_only(params, states[state], state, context, towards), rtol=1e-6)


def test_a_search_stores_neither_weights_nor_activations_of_experts():
    cfg, params = loaded("qwen3_moe")
    tokens, mask = tiny.rows(4, (9, 7))
    context = decoder.make_context(jnp.asarray(mask), cfg=cfg)
    h = jnp.zeros((*tokens.shape, cfg.embed_dim))
    run = functools.partial(suffix._block_and_residuals, cfg=cfg)
    stored = jax.tree.leaves(jax.eval_shape(lambda h: run(params, context, 0, (h, {}))[1], h))
    # Products of attention alone: the widest is a query, as in a dense model.
    widest = tokens.size * cfg.num_heads * cfg.head_dim
    assert stored and max(leaf.size for leaf in stored) <= widest < params["blocks"]["expert_up"][0].size


def test_noise_does_not_depend_on_padding_batch_or_other_budgets():
    ids = np.array([3, 4, 5], np.uint32)
    keys = latent.row_keys(jax.random.key(0), ids, 2, jnp.asarray([0.1, 0.2]))
    noise = latent.column_noise(keys.reshape(-1), 6, 4, gaussian=False).reshape(3, 2, 6, 4)
    alone = latent.column_noise(
        latent.row_keys(jax.random.key(0), ids[1:2], 2, jnp.asarray([0.2])).reshape(-1), 4, 4, gaussian=False
    )
    np.testing.assert_array_equal(noise[1, 1, 2:], alone[0])
    other_state = latent.row_keys(jax.random.key(0), ids, 1, jnp.asarray([0.1, 0.2]))
    assert (jax.random.key_data(other_state) != jax.random.key_data(keys)).any(-1).all()
    assert np.abs(noise).max() <= 1 and np.abs(noise.mean()) < 0.2


@pytest.mark.parametrize("case", ["llama2", pytest.param("smollm3", marks=pytest.mark.slow), "gpt_oss"])
def test_one_compile_serves_all_states_and_budgets(case):
    cfg, params = loaded(case)
    tokens, mask = tiny.rows(6, (7, 7))
    target = jnp.asarray(TARGET)
    clean = latent.clean_pass(params, tokens, mask, target, cfg=cfg)
    before = latent.attack_state._cache_size()
    for state in range(cfg.num_layers + 1):
        for budgets in ((0.01, 0.02), (0.3, 0.4)):
            budgets = jnp.asarray(budgets)
            keys = latent.row_keys(jax.random.key(0), np.arange(2, dtype=np.uint32), state, budgets)
            latent.attack_state(params, clean, mask, target, state, budgets, keys, cfg=cfg)
    assert latent.attack_state._cache_size() == before + 1


def test_backward_buffers_hold_no_weights_and_no_scores():
    """The pullback of a block stores no weight and nothing that grows faster than the columns, as scores would."""
    cfg, params = loaded("llama3")

    def stored(columns, rows=1):
        h = jax.ShapeDtypeStruct((rows, columns, cfg.embed_dim), jnp.float32)
        context = decoder.make_context(jnp.ones((rows, columns), bool), cfg=cfg)
        run = functools.partial(suffix._block_and_residuals, cfg=cfg)
        residuals = jax.eval_shape(lambda h: run(params, context, 0, (h, {}))[1], h)
        return [leaf.shape for leaf in jax.tree.leaves(residuals)]

    shapes = stored(3)
    assert sum(map(np.prod, stored(6))) == 2 * sum(map(np.prod, shapes))
    weights = {leaf.shape[1:] for leaf in jax.tree.leaves(params["blocks"])}
    assert shapes and not weights & set(shapes)
    for shape, twice in zip(shapes, stored(3, rows=2), strict=True):
        assert np.prod(twice) == 2 * np.prod(shape), "every stored leaf is per row"


@pytest.mark.parametrize("case", ["llama3", "qwen3"])
def test_queries_keys_and_values_are_kept_once(case):
    """Behind a norm of their own (Qwen 3) as products, otherwise as attention reads them; never both."""
    cfg, params = loaded(case)
    h = jnp.zeros((1, 5, cfg.embed_dim))
    context = decoder.make_context(jnp.ones((1, 5), bool), cfg=cfg)
    run = functools.partial(suffix._block_and_residuals, cfg=cfg)
    stored = jax.tree.leaves(jax.eval_shape(lambda h: run(params, context, 0, (h, {}))[1], h))
    heads = (cfg.num_heads + 2 * cfg.num_kv_heads) * cfg.head_dim
    # Beside them a block's input, what attention adds to it, and the two products that are multiplied.
    assert sum(leaf.size for leaf in stored) == 5 * (heads + 2 * cfg.embed_dim + 2 * cfg.mlp_dim)


@pytest.mark.parametrize(
    "options", [{}, {"mode": "l2_of_norm", "steps": 1, "step_fraction": 0.5, "controls": False}], ids=["linf", "l2"]
)
def test_the_unit_of_a_budget_is_the_root_mean_square_of_the_state(options):
    clean, found, _, mask = attacked("llama3", 2, **options)
    assert found.rms.shape == (2, 1)
    for row, real in enumerate(mask):
        state = np.asarray(clean.states)[2, row, : mask.shape[1]][real].astype(np.float64)
        size = np.linalg.norm(state) if options else np.sqrt(np.square(state).mean())
        np.testing.assert_allclose(found.rms[row, 0], size, rtol=1e-5)
