"""Supervised fine-tuning: rows, loss and gradient against numpy and torch, the optimizer, and the loop itself."""

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.interventions import finetune as ft
from latent_audit.interventions import packing
from latent_audit.models.families import config_from_hf
from tests.support import losses

CFG = config_from_hf({
    "model_type": "llama", "vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
})  # fmt: skip
PARAMS = jax.jit(models.init_params, static_argnums=1)(jax.random.key(0), CFG)
mean_nll = jax.jit(losses.mean_nll, static_argnames="cfg")
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
    expected = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits))[:, :-1], packed.tokens[:, 1:, None], axis=-1)[
        ..., 0
    ]
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


@pytest.mark.parametrize("share, steps, warmup", [(0.25, 10, 3), (0.07, 100, 7), (0.1, 31, 4), (0.1, 30, 3)])
def test_a_share_of_the_steps_is_rounded_up(share, steps, warmup):
    """The first update is the rate's part of the warm-up; Adam's own length is 1 there."""
    optimizer = ft.make_optimizer(learning_rate=1.0, steps=steps, warmup_fraction=share)
    updates, _ = optimizer.update(jax.numpy.full(1, 0.5), optimizer.init(jax.numpy.ones(1)), jax.numpy.ones(1))
    assert float(-updates[0]) == pytest.approx(1 / warmup, rel=1e-4)


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


@pytest.fixture(scope="module")
def torch_model(tmp_path_factory):
    """PARAMS as a transformers model in float64, so that its gradients are a reference."""
    path = tmp_path_factory.mktemp("torch")
    models.save(path / "model", CFG, PARAMS, None)
    return transformers.AutoModelForCausalLM.from_pretrained(path / "model", dtype=torch.float64)


def torch_loss(model):
    """Mean NLL over response tokens, row by row and unpadded."""
    nll = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        ids = torch.tensor([[*prompt, *response]])
        logprobs = torch.log_softmax(model(input_ids=ids).logits[0], dim=-1)
        nll += [-logprobs[t - 1, ids[0, t]] for t in range(len(prompt), ids.shape[1])]
    return torch.stack(nll).mean()


def test_gradient_and_one_adamw_step_are_those_of_torch(torch_model, tmp_path):
    reference = torch_model
    loss = torch_loss(reference)
    loss.backward()
    ours_loss, gradient = jax.jit(ft.loss_and_gradient, static_argnames=("cfg", "method"))(
        PARAMS, None, pack(), cfg=CFG
    )
    assert float(ours_loss) == pytest.approx(loss.item(), rel=1e-5)
    models.save(tmp_path / "gradient", CFG, gradient, None)
    ours = safetensors.numpy.load_file(tmp_path / "gradient" / "model.safetensors")
    for name, weight in reference.named_parameters():
        np.testing.assert_allclose(ours[name], weight.grad.numpy(), rtol=1e-3, atol=1e-6, err_msg=name)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.01, betas=(0.9, 0.999), weight_decay=0.0)
    torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
    optimizer.step()
    chosen = ft.make_optimizer(learning_rate=0.01, steps=1)
    (step,) = ft.finetune(PARAMS, pack(), np.array([[0, 1, 2]]), cfg=CFG, optimizer=chosen)
    models.save(tmp_path / "after", CFG, step.params, None)
    ours = safetensors.numpy.load_file(tmp_path / "after" / "model.safetensors")
    for name, weight in reference.named_parameters():
        # Where a gradient is nearly zero the step's sign is rounding; elsewhere AdamW moves by the rate.
        sure = weight.grad.abs().numpy() > 1e-5
        assert sure.mean() > 0.3
        np.testing.assert_allclose(ours[name][sure], weight.detach().numpy()[sure], atol=2e-5, err_msg=name)


def gradient_of(method, examples, params=PARAMS):
    found = jax.jit(ft.loss_and_gradient, static_argnames=("cfg", "method"))(
        params, None, examples, cfg=CFG, method=method
    )
    return jax.tree.map(np.asarray, found)


def close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


def test_accumulation_is_the_big_batch_and_remat_changes_nothing():
    packed = pack()
    four = ft.Examples(*(array[[0, 1, 2, 1]] for array in packed))
    whole = gradient_of(ft.Method(), four)
    close(gradient_of(ft.Method(accumulate=2), four), whole, rtol=1e-4, atol=1e-6)
    close(gradient_of(ft.Method(accumulate=4, remat=True), four), whole, rtol=1e-4, atol=1e-6)
    # Two programs round apart: an entry near zero differs by a last digit of the terms that cancel in it.
    close(gradient_of(ft.Method(remat=True), four), whole, rtol=1e-5, atol=2e-7)
    with pytest.raises(InputError, match="batch of 3 cannot be cut into 2"):
        next(
            ft.finetune(
                PARAMS,
                packed,
                np.array([[0, 1, 2]]),
                cfg=CFG,
                optimizer=ft.make_optimizer(learning_rate=1.0, steps=1),
                method=ft.Method(accumulate=2),
            )
        )


@pytest.mark.parametrize("loss_on", ["response", "all"])
def test_packed_rows_give_the_padded_loss(loss_on):
    padded = pack(loss_on=loss_on)
    packed = packing.pack_rows(padded, width=9)
    assert packed.tokens.shape == (2, 9) and packed.segments.max() == 2 and packed.mask.sum() == padded.mask.sum()
    close(gradient_of(ft.Method(), packed), gradient_of(ft.Method(), padded), rtol=1e-4, atol=1e-6)
    alone = packing.pack_rows(padded, width=5)
    assert alone.tokens.tolist() == padded.tokens.tolist() and alone.segments.max() == 1
    with pytest.raises(InputError, match="longest example has 5 tokens"):
        packing.pack_rows(padded, width=4)


def test_low_precision_keeps_float32_where_it_matters():
    low = jax.tree.map(lambda w: w.astype(jax.numpy.bfloat16), PARAMS)
    optimizer = ft.make_optimizer(learning_rate=1e-6, steps=4)
    order = np.tile(np.arange(3), (4, 1))
    *_, plain = ft.finetune(low, pack(), order, cfg=CFG, optimizer=optimizer)
    assert {leaf.dtype for leaf in jax.tree.leaves(plain.params)} == {np.dtype("bfloat16")}
    assert all(leaf.dtype != np.dtype("bfloat16") for leaf in jax.tree.leaves(plain.state.optimizer))
    # Steps of a millionth vanish in bfloat16 (norm weights are 1) and add up in a float32 master copy.
    np.testing.assert_array_equal(np.asarray(plain.params["final_norm"], np.float32), 1.0)
    state = ft.start(low, optimizer=optimizer, master=True)
    *_, master = ft.finetune(
        low, pack(), order, cfg=CFG, optimizer=optimizer, state=state, method=ft.Method(dtype="bfloat16")
    )
    moved = np.abs(np.asarray(master.params["final_norm"]) - 1)
    assert master.params["final_norm"].dtype == np.float32 and 1e-6 < moved.max() < 5e-6


def test_a_state_goes_on_to_the_same_bytes():
    optimizer = ft.make_optimizer(learning_rate=0.01, steps=6, schedule="cosine", warmup_fraction=0.3)
    order = ft.batch_order(jax.random.key(0), np.arange(3), steps=6, batch_size=2)
    losses, states = [], {}
    for step in ft.finetune(PARAMS, pack(), order, cfg=CFG, optimizer=optimizer):
        losses.append(float(step.loss))
        states[step.number] = jax.tree.map(np.array, step.state)
    again = list(
        ft.finetune(
            PARAMS, pack(), order, cfg=CFG, optimizer=optimizer, state=jax.tree.map(jax.numpy.asarray, states[4])
        )
    )
    assert [step.number for step in again] == [5, 6] and [float(step.loss) for step in again] == losses[4:]
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, again[-1].state), states[6])


def test_a_step_that_has_gone_wrong_is_named():
    step = ft.Step(7, {}, np.float32(2), np.float32(1), None)
    ft.check_step(step, limit=3.0)
    with pytest.raises(InputError, match=r"step 7: the loss has exploded to 2 \(limit 1.5\)"):
        ft.check_step(step, limit=1.5)
    for broken in (step._replace(loss=np.float32("nan")), step._replace(gradient_norm=np.float32("inf"))):
        with pytest.raises(InputError, match="step 7: .* no longer finite"):
            ft.check_step(broken, limit=3.0)
