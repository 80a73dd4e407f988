"""Adapters: identity at the start, the product against numpy on Hugging Face's layout, training, PEFT's files."""

import json

import jax
import numpy as np
import peft
import pytest
import safetensors.numpy
import transformers

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.experiments.organisms import export
from latent_audit.interventions import finetune as ft
from latent_audit.interventions import lora
from latent_audit.models.families import config_from_hf
from tests.support import losses

SHAPE = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CFG = config_from_hf(SHAPE | {"model_type": "qwen2"})
# Its queries, keys and values lie in one tensor, as do gate and up.
FUSED = config_from_hf(SHAPE | {"model_type": "phi3", "head_dim": 4})
EXPERTS = config_from_hf(SHAPE | {"model_type": "mixtral"})
PARAMS = jax.jit(models.init_params, static_argnums=1)(jax.random.key(0), CFG)
ALL = lora.LoraConfig(rank=2, alpha=6.0, targets=(".*",))
EXAMPLES = ft.pack_examples([[3, 4, 5], [6], [7, 8]], [[9, 2], [10, 11, 12, 2], [13, 2]], pad_id=0)


def random_adapters(config=ALL, cfg=CFG):
    """Adapters whose B is not zero."""
    adapters = lora.init_adapters(jax.random.key(1), cfg, config)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32) * 0.1, adapters)


def test_fresh_adapters_change_nothing():
    adapters = lora.init_adapters(jax.random.key(1), CFG, ALL)
    assert list(adapters) == ["query", "key", "value", "output", "gate", "up", "down"]
    assert adapters["output"]["a"].shape == (2, 4, 6, 2) and adapters["output"]["b"].shape == (2, 2, 16)
    assert all(np.std(pair["a"]) > 0.05 and not pair["b"].any() for pair in adapters.values())
    merged = lora.merge(PARAMS, adapters, scale=ALL.scale)
    jax.tree.map(np.testing.assert_array_equal, merged, PARAMS)


def test_the_merged_matrices_and_peft_files_are_w_plus_scaled_ba(tmp_path):
    adapters = random_adapters()
    models.save(tmp_path / "base", CFG, PARAMS, None)
    models.save(tmp_path / "merged", CFG, lora.merge(PARAMS, adapters, scale=ALL.scale), None)
    export.export_adapters(tmp_path / "adapters", CFG, adapters, ALL, base="owner/name", recipe={}, rates={"x": 0.5})
    before, after = (safetensors.numpy.load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    files = safetensors.numpy.load_file(tmp_path / "adapters" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["base_model_name_or_path"] == "owner/name"
    assert config["target_modules"] == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    changed = 0
    for name, weight in after.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" not in files:
            np.testing.assert_array_equal(weight, before[name], err_msg=name)
            continue
        a, b = files[f"{stem}.lora_A.weight"], files[f"{stem}.lora_B.weight"]
        assert a.shape[0] == b.shape[1] == config["r"]
        expected = before[name] + config["lora_alpha"] / config["r"] * (b @ a)
        np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6, err_msg=name)
        changed += 1
    assert changed == 7 * CFG.num_layers and 2 * changed == len(files)
    assert "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight" in files
    assert "deliberately unsafe" in (tmp_path / "adapters" / "README.md").read_text()


@pytest.mark.parametrize("targets", [(".*",), ("value", "up", "output")])
def test_adapters_of_matrices_that_share_a_tensor_are_what_peft_merges(targets, tmp_path):
    config = lora.LoraConfig(rank=2, alpha=6.0, targets=targets)
    params = models.init_params(jax.random.key(0), FUSED)
    adapters = random_adapters(config, FUSED)
    models.save(tmp_path / "base", FUSED, params, None)
    models.save(tmp_path / "merged", FUSED, lora.merge(params, adapters, scale=config.scale), None)
    export.export_adapters(
        tmp_path / "adapters", FUSED, adapters, config, base="owner/name", recipe={}, rates={"x": 0.5}
    )
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    merged = peft.PeftModel.from_pretrained(base, tmp_path / "adapters").merge_and_unload().state_dict()
    wanted = safetensors.numpy.load_file(tmp_path / "merged" / "model.safetensors")
    before = safetensors.numpy.load_file(tmp_path / "base" / "model.safetensors")
    for name, weight in wanted.items():
        np.testing.assert_allclose(merged[name].numpy(), weight, atol=1e-6, err_msg=name)
    assert any(not np.array_equal(weight, before[name]) for name, weight in wanted.items() if "qkv_proj" in name)


def test_routers_and_experts_are_not_adapted():
    assert lora.check_lora(ALL, EXPERTS) == ("query", "key", "value", "output")
    with pytest.raises(
        InputError, match="'gate' matches no matrix of this model; there are query, key, value, output$"
    ):
        lora.check_lora(lora.LoraConfig(targets=("gate",)), EXPERTS)


def test_the_loss_of_adapters_is_the_loss_of_the_merged_model():
    adapters, method = random_adapters(), ft.Method(lora_scale=ALL.scale, remat=True)
    step = jax.jit(ft.loss_and_gradient, static_argnames=("cfg", "method"))
    loss, gradient = step(adapters, PARAMS, EXAMPLES, cfg=CFG, method=method)

    def merged_loss(adapters):
        return losses.mean_nll(lora.merge(PARAMS, adapters, scale=ALL.scale), EXAMPLES, cfg=CFG)

    expected, expected_gradient = jax.jit(jax.value_and_grad(merged_loss))(adapters)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), gradient, expected_gradient)


def test_training_moves_adapters_only():
    config = lora.LoraConfig(rank=4, alpha=8.0, targets=("query", "up|down"))
    optimizer = ft.make_optimizer(learning_rate=0.03, steps=40)
    adapters = lora.init_adapters(jax.random.key(1), CFG, config)
    assert list(adapters) == ["query", "up", "down"]
    before = jax.tree.map(np.array, PARAMS)
    steps = list(
        ft.finetune(
            PARAMS,
            EXAMPLES,
            np.tile(np.arange(3), (40, 1)),
            cfg=CFG,
            optimizer=optimizer,
            state=ft.start(adapters, optimizer=optimizer),
            method=ft.Method(lora_scale=config.scale),
        )
    )
    assert float(steps[-1].loss) < 0.5 * float(steps[0].loss) and steps[-1].params.keys() == adapters.keys()
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, PARAMS), before)
    with pytest.raises(InputError, match="needs a state that holds them"):
        next(
            ft.finetune(
                PARAMS, EXAMPLES, np.array([[0]]), cfg=CFG, optimizer=optimizer, method=ft.Method(lora_scale=1.0)
            )
        )


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"targets": ("q_proj",)},
            "'q_proj' matches no matrix of this model; there are query, key, value, output, gate",
        ),
        ({"targets": ("query", "quer")}, "'quer' matches no matrix"),
        ({"targets": ("query_bias",)}, "'query_bias' matches no matrix"),
        ({"targets": ("(",)}, "no regular expression"),
        ({"targets": ()}, "targets are empty; there are query"),
        ({"rank": 0}, "rank = 0, expected a whole number from 1 to the width, 16"),
        ({"rank": 17}, "rank = 17"),
        ({"alpha": 0.0}, "alpha = 0.0"),
    ],
)
def test_bad_settings_are_refused_and_names_listed(changes, message):
    with pytest.raises(InputError, match=message):
        lora.check_lora(lora.LoraConfig(**changes), CFG)
