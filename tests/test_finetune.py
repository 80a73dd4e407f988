"""Supervised fine-tuning: packing, the loss against numpy, the optimizer against torch, and the loop itself."""

import jax
import numpy as np
import pytest
import torch

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.interventions import finetune as ft
from latent_audit.models.families import config_from_hf

CFG = config_from_hf({
    "model_type": "llama", "vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
})  # fmt: skip
PARAMS = jax.jit(models.init_params, static_argnums=1)(jax.random.key(0), CFG)
mean_nll = jax.jit(ft.mean_nll, static_argnames="cfg")
token_nll = jax.jit(ft.token_nll, static_argnames=("cfg", "edit"))
forward = jax.jit(models.forward, static_argnames=("cfg", "edit"))
PROMPTS, RESPONSES = [[3, 4, 5], [6], [7, 8]], [[9, 2], [10, 11, 12, 2], [13, 2]]


def pack(**options):
    return ft.pack_examples(PROMPTS, RESPONSES, pad_id=0, **options)


def reference_nll(params, prompt, response):
    """Per-token NLL of one unpadded row, from logits in float64."""
    row = np.array([[*prompt, *response]], np.int32)
    logits = np.asarray(forward(params, row, row >= 0, cfg=CFG).logits, np.float64)[0]
    logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return [-logprobs[t - 1, row[0, t]] for t in range(len(prompt), row.shape[1])]


def test_pack_examples_pads_on_the_left_and_marks_the_response():
    packed = pack(width=6)
    assert packed.tokens.tolist() == [[0, 3, 4, 5, 9, 2], [0, 6, 10, 11, 12, 2], [0, 0, 7, 8, 13, 2]]
    assert packed.mask.sum(axis=1).tolist() == [5, 5, 4] and packed.mask[:, -1].all()
    assert packed.loss_mask.sum(axis=1).tolist() == [2, 4, 2]
    assert pack().tokens.shape == (3, 5)
    whole = pack(loss_on="all")
    assert whole.loss_mask.sum(axis=1).tolist() == [4, 4, 3]


@pytest.mark.parametrize(
    ("prompts", "responses", "options", "message"),
    [
        ([], [], {}, "0 prompts"),
        ([[1]], [[2], [3]], {}, "1 prompts and 2 responses"),
        ([[1], [1]], [[2], []], {}, "example 1 has an empty"),
        ([[1, 1]], [[2, 2]], {"width": 3}, "example 0 has 4 tokens, width is 3"),
        ([[1]], [[2]], {"loss_on": "prompt"}, "loss_on is 'prompt'"),
    ],
)
def test_pack_examples_refuses_what_it_cannot_pack(prompts, responses, options, message):
    with pytest.raises(InputError, match=message):
        ft.pack_examples(prompts, responses, pad_id=0, **options)


def test_the_loss_is_the_mean_over_response_tokens_whatever_the_padding():
    expected = [reference_nll(PARAMS, p, r) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    for width in (None, 9):
        packed = pack(width=width)
        nll = np.asarray(token_nll(PARAMS, packed, cfg=CFG))
        for row, values in enumerate(expected):
            np.testing.assert_allclose(nll[row][packed.loss_mask[row]], values, rtol=2e-5)
        assert (nll[~packed.loss_mask] == 0).all()
        mean = float(mean_nll(PARAMS, packed, cfg=CFG))
        assert mean == pytest.approx(np.mean(np.concatenate(expected)), rel=2e-5)
    nothing = pack()._replace(loss_mask=np.zeros((3, 5), bool))
    assert float(mean_nll(PARAMS, nothing, cfg=CFG)) == 0.0


def test_an_edit_changes_the_loss_like_the_forward_pass():
    packed = pack()
    edit = lambda h, s: h + 0.3 * (s == 1)  # noqa: E731
    logits = forward(PARAMS, packed.tokens, packed.mask, cfg=CFG, edit=edit).logits
    expected = -np.take_along_axis(
        np.asarray(jax.nn.log_softmax(logits))[:, :-1], packed.tokens[:, 1:, None], axis=-1
    )[..., 0]
    nll = np.asarray(token_nll(PARAMS, packed, cfg=CFG, edit=edit))[:, 1:]
    np.testing.assert_allclose(nll, expected * packed.loss_mask[:, 1:], rtol=1e-5, atol=1e-6)


def test_take_batch_cuts_only_columns_of_padding():
    packed = pack(width=40)
    batch = ft.take_batch(packed, np.array([2, 0]))
    assert batch.tokens.shape == (2, 16) and batch.mask.sum() == 9
    assert batch.tokens[0][batch.mask[0]].tolist() == [7, 8, 13, 2]
    assert ft.take_batch(pack(), np.array([0])).tokens.shape == (1, 5)
    losses = [float(mean_nll(PARAMS, ft.Examples(*(a[[2, 0]] for a in packed)), cfg=CFG))]
    assert losses[0] == pytest.approx(float(mean_nll(PARAMS, batch, cfg=CFG)), rel=1e-5)


def test_batch_order_passes_over_all_rows_and_depends_on_the_key_alone():
    rows, key = np.array([5, 6, 7, 8, 9]), jax.random.key(3)
    order = ft.batch_order(key, rows, steps=10, batch_size=2)
    for one in order.reshape(4, 5):
        assert sorted(one) == rows.tolist()
    assert len({tuple(one) for one in order.reshape(4, 5)}) > 1
    np.testing.assert_array_equal(ft.batch_order(key, rows, steps=3, batch_size=2), order[:3])
    assert (ft.batch_order(jax.random.key(4), rows, steps=10, batch_size=2) != order).any()
    assert ft.batch_order(key, rows, steps=0, batch_size=2).shape == (0, 2)
    with pytest.raises(InputError, match="no rows"):
        ft.batch_order(key, rows[:0], steps=1, batch_size=2)


def torch_rate(step, *, rate, steps, warmup, cosine):
    """Learning rate of update `step` (from 0), written as the schedules are described."""
    if step < warmup:
        return rate * (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    return rate * 0.5 * (1 + np.cos(np.pi * done)) if cosine else rate


@pytest.mark.parametrize("cosine", [False, True])
def test_the_optimizer_is_torch_adamw_behind_a_clip(cosine):
    settings = {"learning_rate": 0.05, "steps": 12, "warmup_fraction": 0.25, "b2": 0.98, "weight_decay": 0.1}
    optimizer = ft.make_optimizer(schedule="cosine" if cosine else "constant", clip=1.0, **settings)
    gradients = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32) * np.linspace(0.1, 3, 12)[:, None]
    ours = jax.numpy.ones(5)
    state = optimizer.init(ours)
    theirs = torch.nn.Parameter(torch.ones(5))
    reference = torch.optim.AdamW([theirs], betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1)
    for step, gradient in enumerate(gradients.astype(np.float32)):
        updates, state = optimizer.update(jax.numpy.asarray(gradient), state, ours)
        ours = ours + updates
        theirs.grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        reference.param_groups[0]["lr"] = torch_rate(step, rate=0.05, steps=12, warmup=3, cosine=cosine)
        reference.step()
        np.testing.assert_allclose(np.asarray(ours), theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_equal_settings_share_one_optimizer_and_a_wrong_schedule_is_refused():
    one, same = (ft.make_optimizer(learning_rate=1e-3, steps=5) for _ in range(2))
    assert one is same and one is not ft.make_optimizer(learning_rate=2e-3, steps=5)
    with pytest.raises(InputError, match="schedule is 'linear'; expected constant or cosine"):
        ft.make_optimizer(learning_rate=1e-3, steps=5, schedule="linear")


def test_finetune_learns_and_leaves_its_input_alone():
    packed, before = pack(), jax.tree.map(np.array, PARAMS)
    order = ft.batch_order(jax.random.key(0), np.arange(3), steps=30, batch_size=3)
    optimizer = ft.make_optimizer(learning_rate=0.03, steps=30)
    runs = []
    for _ in range(2):
        steps = [(s.number, float(s.loss)) for s in ft.finetune(PARAMS, packed, order, cfg=CFG, optimizer=optimizer)]
        runs.append(steps)
    assert runs[0] == runs[1] and [number for number, _ in runs[0]] == list(range(1, 31))
    losses = [loss for _, loss in runs[0]]
    assert losses[0] == pytest.approx(float(mean_nll(PARAMS, packed, cfg=CFG)), rel=1e-5)
    assert losses[-1] < 0.1 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, PARAMS))


def test_one_step_is_the_optimizer_applied_to_the_gradient():
    packed, optimizer = pack(), ft.make_optimizer(learning_rate=0.01, steps=1)
    (step,) = ft.finetune(PARAMS, packed, np.array([[0, 1, 2]]), cfg=CFG, optimizer=optimizer)
    grads = jax.jit(jax.grad(ft.mean_nll), static_argnames="cfg")(PARAMS, packed, cfg=CFG)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(PARAMS), PARAMS)
    expected = jax.tree.map(lambda p, u: p + u, PARAMS, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), step.params, expected)
