"""Models whose layers differ in shape: long texts, continuation of a cache, packed rows, adapters, compiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.interventions import edits, finetune, latent, lora, packing
from latent_audit.models import decode
from latent_audit.models.config import block_shapes, layers_with
from latent_audit.models.kinds import beside, delta_rule
from tests.support import float64, tiny, torch_oracle

CASES = ["qwen3_5", "gemma4", "gemma4_e2b"]
WITH_EXPERTS = [*CASES, "qwen3_5_moe"]


@functools.cache
def loaded(case):
    return models.load(tiny.checkpoint(case))


def close(ours, theirs):
    assert np.abs(np.asarray(ours) - theirs).max() < 1e-4 * np.asarray(theirs).std()


def test_texts_longer_than_a_chunk_equal_transformers():
    # Against float64: a head whose query and key are nearly at right angles magnifies rounding, transformers' own to
    # 3.6e-4 on these rows, by its recurrence as by its chunks. What is asked for is 1e-4, or no more than theirs.
    cfg, params = loaded("qwen3_5")
    tokens, mask = tiny.rows(5, (delta_rule.CHUNK + 9, delta_rule.CHUNK - 20))
    out = jax.jit(models.forward, static_argnames="cfg")(params, tokens, mask, cfg=cfg)
    for row, real in enumerate(mask):
        model, ids = tiny.model("qwen3_5"), tokens[row][real]
        exact, rounded = float64.reference(model, ids), tiny.reference(model, ids)
        assert exact.logits.dtype == np.float64
        answers = zip(
            (*out.resid, out.logits), (*exact.states, exact.logits), (*rounded.states, rounded.logits), strict=True
        )
        for ours, wanted, theirs in answers:
            ours = np.asarray(ours)[row, real]
            own = np.abs(theirs - wanted).max()
            assert np.abs(ours - wanted).max() <= max(1e-4 * wanted.std(), own)


@pytest.mark.parametrize("case", WITH_EXPERTS)
def test_columns_behind_a_cache_equal_one_forward(case):
    cfg, params = loaded(case)
    tokens, mask = tiny.rows(2, (14, 9))
    whole = jax.jit(models.forward, static_argnames="cfg")(params, tokens, mask, cfg=cfg).resid
    for P in (6, 8):
        # The second row begins within the cache's three columns of convolution, or before them.
        _, cache = decode.prefill(params, tokens[:, :P], mask[:, :P], cfg=cfg, room=0)
        found = beside.look_up(params, tokens[:, P:], cfg=cfg)
        out = decode.extend(params, whole[0][:, P:], found, cache, jnp.asarray(mask), cfg=cfg)
        close(out, whole[-1][:, P:])


def test_steps_read_the_shared_keys_of_their_own_step():
    cfg, params = loaded("gemma4_e2b")
    tokens, mask = tiny.rows(2, (14, 9))
    whole = jax.jit(models.forward, static_argnames="cfg")(params, tokens, mask, cfg=cfg).resid[-1]
    _, cache = decode.prefill(params, tokens[:, :8], mask[:, :8], cfg=cfg, room=6)
    step = jax.jit(functools.partial(decode.step, cfg=cfg))
    for slot in range(8, 14):
        x, cache = step(params, tokens[:, slot], slot, cache)
        close(x, whole[:, slot])


@pytest.mark.parametrize("case", ["qwen3_5", pytest.param("gemma4", marks=pytest.mark.slow), "gemma4_e2b"])
def test_one_compile_serves_all_states_and_budgets(case):
    cfg, params = loaded(case)
    tokens, mask = tiny.rows(6, (7, 5))
    target = jnp.asarray([9, 31, 1])
    clean = latent.clean_pass(params, tokens, mask, target, cfg=cfg)
    before = latent.attack_state._cache_size()
    for state in range(cfg.num_layers + 1):
        budgets = jnp.asarray([0.01, 0.3 + state])
        keys = latent.row_keys(jax.random.key(0), np.arange(2, dtype=np.uint32), state, budgets)
        latent.attack_state(params, clean, mask, target, state, budgets, keys, cfg=cfg)
    assert latent.attack_state._cache_size() == before + 1


@pytest.mark.parametrize(
    "case",
    ["qwen3_5", *(pytest.param(case, marks=pytest.mark.slow) for case in ("gemma4", "gemma4_e2b", "qwen3_5_moe"))],
)
def test_packed_rows_and_adapters_give_the_padded_loss_of_the_merged_model(case):
    cfg, params = loaded(case)
    rng = np.random.default_rng(0)
    prompts, responses = ([rng.integers(3, 90, n).tolist() for n in lengths] for lengths in ((3, 5, 2), (4, 2, 6)))
    padded = finetune.pack_examples(prompts, responses, pad_id=0)
    packed = packing.pack_rows(padded, width=15)
    assert len(packed.tokens) < 3 and packed.segments.max() == 2
    settings = lora.LoraConfig(rank=2, alpha=4.0, targets=(".*",))
    adapters = lora.init_adapters(jax.random.key(0), cfg, settings)
    # One that every layer has, and those that only some have.
    counts = {len(pair["a"]) for pair in adapters.values()}
    assert "query" in adapters and max(counts) == cfg.num_layers > min(counts)
    adapters = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape), adapters)
    method = finetune.Method(lora_scale=settings.scale, remat=True)
    merged = lora.merge(params, adapters, scale=settings.scale)

    def of_adapters(adapters, examples):
        return finetune.token_nll(params, examples, cfg=cfg, adapters=adapters, method=method).sum()

    def of_merged(adapters):
        return finetune.token_nll(lora.merge(params, adapters, scale=settings.scale), padded, cfg=cfg).sum()

    found, gradient = jax.jit(jax.value_and_grad(of_adapters))(adapters, packed)
    expected, expected_gradient = jax.jit(jax.value_and_grad(of_merged))(adapters)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected_gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * largest), gradient, expected_gradient)
    assert all(np.abs(merged["blocks"][name] - params["blocks"][name]).max() > 0 for name in adapters)


def test_a_push_at_any_state_reaches_shared_keys_and_inputs_as_in_transformers():
    # Below the layer whose keys and values others read, and above it; state 0 leaves the layers' inputs as they are.
    cfg, params = loaded("gemma4_e2b")
    tokens, _ = tiny.rows(8, (11,))
    delta = np.random.default_rng(0).normal(size=(cfg.num_layers + 1, 1, 11, cfg.embed_dim)).astype(np.float32)
    logits = jax.jit(lambda push: models.forward(params, tokens, tokens > 0, cfg=cfg, edit=push).logits)
    for state in range(cfg.num_layers + 1):
        handle = torch_oracle.hooked(tiny.model("gemma4_e2b"), state, lambda h, s=state: h + torch.tensor(delta[s]))
        with torch.no_grad():
            wanted = tiny.model("gemma4_e2b")(input_ids=torch.tensor(tokens).long()).logits.numpy()
        handle.remove()
        close(logits(edits.add_at(state, delta[state])), wanted)


def test_a_search_gives_the_loss_of_the_network_pushed_at_its_state():
    cfg, params = loaded("gemma4_e2b")
    tokens, mask = tiny.rows(6, (7, 5))
    target, budgets = jnp.asarray([9, 31, 1]), jnp.asarray([0.3, 1.0])
    clean = latent.clean_pass(params, tokens, mask, target, cfg=cfg)
    whole = latent.with_target(jnp.asarray(tokens), jnp.asarray(mask), target[None].repeat(2, 0))
    pushed = jax.jit(lambda push: models.forward(params, *whole, cfg=cfg, edit=push).logits[:, -3:])
    wanted = jax.nn.one_hot(target, cfg.vocab_size)
    for state in range(cfg.num_layers + 1):
        keys = latent.row_keys(jax.random.key(0), np.arange(2, dtype=np.uint32), state, budgets)
        found = latent.attack_state(params, clean, mask, target, state, budgets, keys, cfg=cfg)
        for place in range(2):
            push = edits.add_at(state, jnp.pad(found.delta[0, :, place], [(0, 0), (0, 2), (0, 0)]))
            nll = -(jax.nn.log_softmax(pushed(push)) * wanted).sum(-1).mean(-1)
            np.testing.assert_allclose(found.nll_last[0, :, place], nll, rtol=1e-4)


@pytest.mark.parametrize("case", WITH_EXPERTS)
def test_peft_files_name_the_layers_that_have_the_matrix(case):
    cfg, _ = loaded(case)
    theirs = dict(tiny.model(case).named_parameters())
    settings = lora.LoraConfig(rank=2, targets=(".*",))
    adapters = lora.init_adapters(jax.random.key(0), cfg, settings)
    _, tensors = lora.peft_files(cfg, adapters, settings, base="owner/name")
    for name, tensor in tensors.items():
        matrix = theirs[name.removeprefix("base_model.model.").rsplit(".", 2)[0] + ".weight"]
        assert tensor.shape == ((2, matrix.shape[1]) if "lora_A" in name else (matrix.shape[0], 2))
    assert len(tensors) == 2 * sum(len(layers_with(cfg)[name]) for name in adapters)


def test_unread_keys_of_sharing_layers_may_lie_in_a_file_and_no_others(tmp_path):
    # Published E2B files hold them; transformers loads none.
    cfg, params = loaded("gemma4_e2b")
    path = tiny.copy("gemma4_e2b", tmp_path / "published")
    tensors = safetensors.numpy.load_file(path / "model.safetensors")
    inside = ("self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.k_norm.weight")
    unread = {f"model.layers.{layer}.{name}": np.ones(3, np.float32) for layer in (4, 5) for name in inside}
    safetensors.numpy.save_file(tensors | unread, path / "model.safetensors", metadata={"format": "pt"})
    again, same = models.load(path)
    assert again == cfg
    jax.tree.map(np.testing.assert_array_equal, same, params)
    for name in ("model.layers.3.self_attn.v_norm.weight", "model.layers.4.self_attn.s_proj.weight"):
        odd = tensors | {name: np.ones(3, np.float32)}
        safetensors.numpy.save_file(odd, path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match=f"unknown: {name}"):
            models.check(path)


@pytest.mark.parametrize("case", WITH_EXPERTS)
def test_every_layer_has_the_parameters_of_its_kind_alone(case):
    cfg, params = loaded(case)
    assert {name: len(layers) for name, layers in layers_with(cfg).items()} == {
        name: len(stack) for name, stack in params["blocks"].items()
    }
    assert set(params["blocks"]) == set(block_shapes(cfg))
    theirs = tiny.model(case)
    scales = sum(name.endswith("layer_scalar") for name, _ in theirs.named_buffers())
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == theirs.num_parameters() + scales
