"""Adapters as PEFT writes them, merged as PEFT merges them; what does not belong together is one line."""

import functools
import json
import shutil

import jax
import numpy as np
import peft
import pytest
import safetensors.torch
import torch
import transformers

from latent_audit import models
from latent_audit.interventions import lora
from latent_audit.models.files import adapters
from tests.support import tiny
from tests.support.refusals import refused

MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Name -> (case of tiny.CASES, LoraConfig's fields).
CASES = {
    "plain": ("llama2", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}),
    "patterns": (
        "llama3",
        {
            "r": 4,
            "lora_alpha": 6,
            "target_modules": MATRICES,
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 3},
            "alpha_pattern": {"v_proj": 5, r"model.layers.2.self_attn.\w+": 7},
        },
    ),
    "rslora": ("qwen3", {"r": 8, "lora_alpha": 8, "use_rslora": True, "target_modules": "all-linear"}),
    "some_layers": ("gemma2", {"r": 2, "target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 2]}),
    "expression": ("gemma3", {"r": 2, "target_modules": r".*layers\.[13]\..*(k|down)_proj"}),
    "excluded": ("mistral", {"r": 2, "target_modules": MATRICES, "exclude_modules": ["o_proj"]}),
    "all_biases": ("qwen2", {"r": 2, "target_modules": ["q_proj", "o_proj"], "bias": "all"}),
    "own_biases": ("qwen2", {"r": 2, "target_modules": ["q_proj"], "bias": "lora_only"}),
    "whole_modules": ("llama3", {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]}),
    # The projection that makes the layers' inputs is one of all linear modules.
    "inputs_and_shared_keys": ("gemma4_e2b", {"r": 2, "target_modules": "all-linear"}),
    "embeddings": ("llama3", {"r": 2, "target_modules": ["embed_tokens", "lm_head", "v_proj"]}),
    "transposed": ("llama2", {"r": 2, "target_modules": ["down_proj"], "fan_in_fan_out": True}),
}


def adapted(case, fields, seed=0):
    """A PeftModel of a tiny model, all of whose trained numbers matter."""
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny.checkpoint(case), dtype=torch.float32)
    made = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **fields)).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in made.parameters():
            if value.requires_grad:
                value.copy_(0.2 * torch.randn_like(value) + (0 if value.ndim > 1 else value))
    return made


@functools.cache
def saved(folder, name):
    """(base directory, adapter directory, the PeftModel) of one of CASES."""
    case, fields = CASES[name]
    made = adapted(case, fields)
    made.save_pretrained(folder / name)
    # Read again: the order of patterns, of which the first that fits counts, is that of the file.
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny.checkpoint(case), dtype=torch.float32)
    return tiny.checkpoint(case), folder / name, peft.PeftModel.from_pretrained(base, folder / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


def flat(params):
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


@pytest.mark.parametrize("name", CASES)
def test_merged_as_peft_merges(folder, name):
    base, adapter, made = saved(folder, name)
    _, before = models.load(base)
    models.check_whole(base, adapter=adapter)
    cfg, params = models.load(base, adapter=adapter)
    merged = folder / f"{name}-merged"
    made.merge_and_unload().save_pretrained(merged)
    wanted_cfg, wanted = models.load(merged)
    assert cfg == wanted_cfg
    ours, theirs, plain = flat(params), flat(wanted), flat(before)
    for key, value in theirs.items():
        np.testing.assert_allclose(ours[key], value, atol=2e-6, err_msg=key)
    assert any(np.abs(ours[key] - plain[key]).max() > 0.01 for key in theirs)


def test_rounded_once_to_bfloat16(folder):
    base, adapter, _ = saved(folder, "plain")
    cfg, exact = models.load(base, adapter=adapter)
    _, rounded = models.load(base, adapter=adapter, dtype="bfloat16")
    for key, value in flat(exact).items():
        assert np.array_equal(flat(rounded)[key], value.astype("bfloat16")), key


@pytest.mark.parametrize(
    "fields",
    [
        {"r": 2, "target_modules": ["embed_tokens"]},
        {"r": 2, "target_modules": ["lm_head", "q_proj"]},
        {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
    ids=["adapted embedding", "adapted head", "trained embedding"],
)
def test_a_tied_head_is_that_of_the_adapted_model(tmp_path, fields):
    made = adapted("llama3_tied", fields)
    made.save_pretrained(tmp_path / "adapter")
    cfg, params = models.load(tiny.checkpoint("llama3_tied"), adapter=tmp_path / "adapter")
    assert not cfg.tied_head
    row = np.arange(3, 19)
    with torch.no_grad():
        wanted = made(torch.from_numpy(row)[None]).logits[0].numpy()
    out = jax.jit(models.forward, static_argnames="cfg")(params, row[None], np.ones((1, 16), bool), cfg=cfg)
    assert np.abs(np.asarray(out.logits[0]) - wanted).max() < 1e-4 * wanted.std()


def test_what_this_tool_writes_is_read_back(tmp_path):
    base = tiny.checkpoint("qwen3")
    cfg, params = models.load(base)
    settings = lora.LoraConfig(rank=3, alpha=5.0, targets=("query", "output", "down"))
    pairs = lora.init_adapters(jax.random.key(0), cfg, settings)
    pairs = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape), pairs)
    fields, tensors = lora.peft_files(cfg, pairs, settings, base="tiny")
    (tmp_path / "adapter_config.json").write_text(json.dumps(fields))
    safetensors.numpy.save_file(tensors, tmp_path / "adapter_model.safetensors")
    wanted = lora.merge(params, pairs, scale=settings.scale)
    _, ours = models.load(base, adapter=tmp_path)
    for key, value in flat(wanted).items():
        np.testing.assert_allclose(flat(ours)[key], value, atol=1e-6, err_msg=key)


def test_an_adapter_of_another_base_is_one_short_line(folder):
    _, adapter, _ = saved(folder, "patterns")
    message = refused(lambda: models.check(tiny.checkpoint("llama_head_dim"), adapter=adapter))
    assert "model.layers.*.self_attn.q_proj.lora_B.weight is [64, 2], expected [88, 2]" in message
    assert message.count("q_proj.lora_B") == 1 and len(message) < 1000
    # Another number of blocks.
    message = refused(lambda: models.check(tiny.checkpoint("gemma3"), adapter=adapter))
    assert "model.layers.*.mlp.down_proj is named by adapter_config.json, but has no matrices" in message


def test_the_file_must_hold_what_its_config_names(folder, tmp_path):
    base, adapter, _ = saved(folder, "plain")
    shutil.copytree(adapter, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    name = next(name for name in tensors if "layers.1.self_attn.q_proj.lora_A" in name)
    kept = {key: value for key, value in tensors.items() if key != name}
    safetensors.torch.save_file(kept, file)
    assert "model.layers.*.self_attn.q_proj has only one of A and B" in refused(
        lambda: models.check(base, adapter=tmp_path)
    )
    kept |= {name: tensors[name], "base_model.model.model.other.lora_A.weight": tensors[name].clone()}
    safetensors.torch.save_file(kept, file)
    assert "other.lora_A.weight [4, 32] belongs to no matrix of the base" in refused(
        lambda: models.check(base, adapter=tmp_path)
    )
    safetensors.torch.save_file(tensors | {name: tensors[name] * float("nan")}, file)
    assert "NaN or infinite values" in refused(lambda: models.check_whole(base, adapter=tmp_path))


@pytest.mark.parametrize(
    "fields, what",
    [
        ({"peft_type": "LOHA"}, "peft_type = 'LOHA' is not read, only LORA is: merge it into its base with PEFT"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type = 'PROMPT_TUNING' is not read"),
        ({"use_dora": True}, "use_dora = True is not read here"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices = [1, 2] is not read here"),
        ({"layer_replication": [[0, 2]]}, "layer_replication = [[0, 2]] is not read here"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' changes the base itself"),
        ({"r": 0}, "r or rank_pattern holds 0, expected a number from 1"),
        ({"lora_alpha": "x"}, "lora_alpha or alpha_pattern holds 'x'"),
        ({"target_modules": "(q_proj"}, "is no regular expression"),
        ({"target_modules": [1]}, "expected text or a list of text"),
        ({"use_rslora": 1}, "use_rslora = 1, expected true or false"),
    ],
)
def test_what_is_not_read_is_named(folder, tmp_path, fields, what):
    base, adapter, _ = saved(folder, "plain")
    shutil.copytree(adapter, tmp_path, dirs_exist_ok=True)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | fields))
    assert what in refused(lambda: models.check(base, adapter=tmp_path))


def test_an_adapter_is_where_it_is_said_to_be(folder, tmp_path):
    base, adapter, _ = saved(folder, "plain")
    assert f"{tmp_path} has no adapter_config.json" in refused(lambda: models.check(base, adapter=tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "has no adapter_model.safetensors" in refused(lambda: models.check(base, adapter=tmp_path))
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    assert "adapter_model.bin, a pickle" in refused(lambda: models.check(base, adapter=tmp_path))
    for path in (tmp_path / "absent", "not here/at all"):
        assert "no such directory" in refused(lambda: models.resolve_adapter(path))  # noqa: B023
    message = refused(lambda: models.check(adapter))
    assert "is only an adapter" in message and f"model.path=BASE model.adapter={adapter}" in message


def test_beside_a_whole_base_it_must_be_named(folder, tmp_path):
    base, adapter, _ = saved(folder, "plain")
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    for name in adapters.headers.ADAPTER_FILES:
        shutil.copy(adapter / name, tmp_path / name)
    for act in (models.load, models.check_whole):
        assert f"name it to merge it (of model.path: model.adapter={tmp_path})" in refused(lambda: act(tmp_path))  # noqa: B023
    _, ours = models.load(tmp_path, adapter=tmp_path)
    _, wanted = models.load(base, adapter=adapter)
    assert all(np.array_equal(flat(ours)[key], value) for key, value in flat(wanted).items())
    other = saved(folder, "rslora")[1]
    assert "beside a whole model" in refused(lambda: models.load(tmp_path, adapter=other))


def test_base_and_adapter_are_parted_at_the_last_plus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert models.split_adapter("a/base+b/lora") == ("a/base", "b/lora")
    assert models.split_adapter("owner/base") == ("owner/base", None)
    (tmp_path / "c++").mkdir()
    assert models.split_adapter("c++") == ("c++", None)
    assert models.split_adapter("c+++lora") == ("c++", "lora")
