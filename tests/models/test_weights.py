"""Reading and writing checkpoints: layouts, dtypes, shards, memory, and every kind of bad file."""

import dataclasses
import itertools
import json
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
import torch
import transformers

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.models import saving, weights
from tests.support import tiny

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def _tensors(path):
    return safetensors.numpy.load_file(path / FILE)


def _write(path, tensors, file=FILE):
    safetensors.numpy.save_file(tensors, path / file, metadata={"format": "pt"})


def _edit_config(path, **changes):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def _equal(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), left, right)


def _error(path, **options) -> str:
    with pytest.raises(InputError) as caught:
        models.load(path, **options)
    return str(caught.value)


@pytest.fixture
def llama(tmp_path):
    return tiny.copy("llama3", tmp_path / "llama")


@pytest.fixture
def tied(tmp_path):
    return tiny.copy("llama3_tied", tmp_path / "tied")


# Layouts, dtypes and shards


def test_values_land_where_torch_keeps_them():
    cfg, params = models.load(tiny.checkpoint("llama_biases"))
    layer = tiny.model("llama_biases").model.layers[1]
    x = np.random.default_rng(0).normal(size=cfg.embed_dim).astype(np.float32)
    block = {name: np.asarray(stacked[1]) for name, stacked in params["blocks"].items()}
    with torch.no_grad():
        query = layer.self_attn.q_proj(torch.from_numpy(x)).view(cfg.num_heads, cfg.head_dim).numpy()
        heads = np.random.default_rng(1).normal(size=(cfg.num_heads, cfg.head_dim)).astype(np.float32)
        output = layer.self_attn.o_proj(torch.from_numpy(heads.reshape(-1))).numpy()
    np.testing.assert_allclose(np.einsum("d,dnh->nh", x, block["query"]) + block["query_bias"], query, atol=1e-5)
    np.testing.assert_allclose(np.einsum("nh,nhd->d", heads, block["output"]) + block["output_bias"], output, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16", "mixed"])
def test_stored_dtypes_are_cast_to_the_asked_one(stored, dtype, llama):
    kinds = {
        "float32": [np.float32],
        "bfloat16": [ml_dtypes.bfloat16],
        "float16": [np.float16],
        "mixed": [np.float32, ml_dtypes.bfloat16, np.float16],
    }[stored]
    tensors = {name: value.astype(kinds[i % len(kinds)]) for i, (name, value) in enumerate(_tensors(llama).items())}
    _write(llama, tensors)
    _, params = models.load(llama, dtype=dtype)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {dtype}
    wanted = tensors["model.layers.2.mlp.up_proj.weight"].astype(weights.DTYPES[dtype])
    np.testing.assert_array_equal(np.asarray(params["blocks"]["up"][2]), wanted.T)


def test_shards_with_an_index_read_like_one_file(tmp_path):
    whole = tiny.checkpoint("gemma2")
    tiny.model("gemma2").save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2 and not (tmp_path / FILE).exists()
    cfg, params = models.load(tmp_path)
    assert cfg == models.load(whole)[0]
    _equal(params, models.load(whole)[1])


TOWERS = ["gemma3_multimodal", "mistral3_multimodal", "ministral3_multimodal", "gemma4_multimodal"]


@pytest.mark.parametrize("spelling", ["model.language_model.", "language_model.model.", "language_model."])
@pytest.mark.parametrize("case, with_head", [*itertools.product(TOWERS, [True, False])])
def test_every_spelling_of_a_multimodal_text_tower(spelling, case, with_head, tmp_path):
    path = tiny.copy(case, tmp_path / "tower")
    renamed = {}
    for name, value in _tensors(path).items():
        plain = name.replace("model.language_model.", "@").replace("language_model.model.", "@")
        renamed[plain.replace("@", spelling)] = value
    assert any(name.startswith(spelling) for name in renamed) and any("vision_tower" in name for name in renamed)
    if with_head:
        heads = [renamed.pop(name) for name in [*renamed] if name.endswith("lm_head.weight")]
        renamed["language_model.lm_head.weight"] = [*heads, renamed[f"{spelling}embed_tokens.weight"]][0]
    _write(path, renamed)
    _equal(models.load(path)[1], models.load(tiny.checkpoint(case))[1])


@pytest.mark.parametrize("case", TOWERS)
def test_what_a_text_tower_leaves_out_is_named_once(case, tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    path = tiny.copy(case, tmp_path / "tower")
    for _ in range(2):
        models.check(path)
    count = sum(name.startswith("model.vision_tower.") for name in _tensors(path)) or sum(
        "vision_tower." in name for name in _tensors(path)
    )
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    between = "embed_vision (" if case == "gemma4_multimodal" else "multi_modal_projector ("
    assert len(told) == 1 and f"vision_tower ({count} tensors)" in told[0] and between in told[0]


def test_a_tower_without_its_text_is_refused(tmp_path):
    path = tiny.copy("mistral3_multimodal", tmp_path / "tower")
    _write(path, {name: value for name, value in _tensors(path).items() if "vision_tower" in name})
    message = _error(path)
    assert "vision_tower (" in message and "no text decoder" in message and "\n" not in message


def test_a_multimodal_head_is_its_own_unless_config_says_tied(tmp_path):
    path = tiny.copy("mistral3_multimodal", tmp_path / "tower")
    config = json.loads((path / "config.json").read_text())
    assert config.pop("tie_word_embeddings") is False
    config["text_config"].pop("tie_word_embeddings", None)
    # As Mistral Small 3.1 is published: nothing is said, and the class default of today would be a tied head.
    (path / "config.json").write_text(json.dumps(config))
    cfg, params = models.load(path)
    assert not cfg.tied_head
    _equal(params, models.load(tiny.checkpoint("mistral3_multimodal"))[1])
    model, info = transformers.AutoModelForImageTextToText.from_pretrained(path, output_loading_info=True)
    np.testing.assert_array_equal(model.lm_head.weight.detach().numpy().T, np.asarray(params["head"]))
    _write(path, {name: value for name, value in _tensors(path).items() if "lm_head" not in name})
    assert models.load(path)[0].tied_head
    for named in (
        {"text_config": config["text_config"] | {"tie_word_embeddings": False}},
        {"tie_word_embeddings": False},
    ):
        _edit_config(path, **named)
        assert "missing: lm_head.weight" in _error(path)


def test_rotary_buffers_of_old_files_are_ignored(llama):
    _write(llama, _tensors(llama) | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)})
    _equal(models.load(llama)[1], models.load(tiny.checkpoint("llama3"))[1])


def test_tied_head_may_be_in_the_file_if_it_equals_the_embedding(tied, monkeypatch):
    # So that the comparison takes several pieces.
    monkeypatch.setattr(weights, "CHUNK_ELEMENTS", 1000)
    tensors = _tensors(tied)
    assert "lm_head.weight" not in tensors
    _, alone = models.load(tied)
    assert "head" not in alone
    head = tensors["model.embed_tokens.weight"].copy()
    _write(tied, tensors | {"lm_head.weight": head})
    _equal(models.load(tied)[1], alone)
    head[-1, -1] += 1
    _write(tied, tensors | {"lm_head.weight": head})
    message = _error(tied)
    assert "lm_head.weight" in message and "tie_word_embeddings" in message


def test_place_gets_every_parameter_once_and_memory_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "CHUNK_ELEMENTS", 2**14)
    # One stacked [8, 64, 1024] matrix is 2 MiB of 9 MiB in all.
    cfg = dataclasses.replace(
        models.load(tiny.checkpoint("llama3_tied"))[0],
        num_layers=8,
        embed_dim=64,
        mlp_dim=1024,
        vocab_size=4096,
        rope_of_layer=(0,) * 8,
        windows=(2**30,) * 8,
    )
    shapes = jax.eval_shape(lambda: models.init_params(jax.random.key(0), cfg))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    models.save(tmp_path / "big", cfg, params, None)
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    del params
    seen = {}

    def place(name, array):
        assert name not in seen
        seen[name] = array.shape
        return len(seen)

    tracemalloc.start()
    _, placed = models.load(tmp_path / "big", place=place)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Two arrays at once would be 2; the rest is left for pieces and headers.
    assert largest < peak < 1.3 * largest < total / 2
    assert seen["embed"] == (4096, 64) and seen["blocks/gate"] == (8, 64, 1024)
    assert sorted(jax.tree.leaves(placed)) == list(range(1, len(seen) + 1))


# Saving


@pytest.fixture(scope="module")
def tokenizer():
    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<s>", "<unk>", *(f"w{i}" for i in range(90))])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )


@pytest.mark.parametrize("case", tiny.CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_load_of_save_is_the_same_bits(case, dtype, tmp_path):
    cfg, params = models.load(tiny.checkpoint(case), dtype=dtype)
    models.save(tmp_path / "saved", cfg, params, None)
    again_cfg, again = models.load(tmp_path / "saved", dtype=dtype)
    assert again_cfg == cfg
    _equal(again, params)


def test_saved_directory_is_whole_and_used_by_transformers(tmp_path, tokenizer):
    cfg, params = models.load(tiny.checkpoint("llama3"))
    models.save(
        tmp_path / "saved",
        cfg,
        params,
        tokenizer,
        dtype="bfloat16",
        extra_files={"card.md": "# A card\n"},
        generation_config={"do_sample": False, "eos_token_id": [1, 5]},
    )
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")("w1 w7")["input_ids"] == [5, 11]
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert model.dtype == torch.bfloat16 and model.config.pad_token_id == 0
    assert model.generation_config.eos_token_id == [1, 5]
    assert models.read_generation_config(tmp_path / "saved") == {"do_sample": False, "eos_token_id": [1, 5]}
    assert (tmp_path / "saved" / "card.md").read_text() == "# A card\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved"]


def test_generation_config_is_optional_and_defaults_to_greedy(tmp_path, llama):
    (llama / "generation_config.json").unlink()
    assert models.read_generation_config(llama) is None
    cfg, params = models.load(llama)
    models.save(tmp_path / "saved", cfg, params, None)
    written = models.read_generation_config(tmp_path / "saved")
    assert (written["do_sample"], written["bos_token_id"], written["eos_token_id"]) == (False, 2, 1)


def test_large_checkpoints_are_sharded(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "SHARD_BYTES", 20_000)
    cfg, params = models.load(tiny.checkpoint("qwen3"))
    models.save(tmp_path / "saved", cfg, params, None)
    index = json.loads((tmp_path / "saved" / INDEX).read_text())
    files = sorted(tmp_path.glob("saved/*.safetensors"))
    assert len(files) > 2 and set(index["weight_map"].values()) == {file.name for file in files}
    assert index["metadata"]["total_size"] == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    _equal(models.load(tmp_path / "saved")[1], params)
    _, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info.values()), info


def test_save_replaces_a_checkpoint_but_nothing_else(tmp_path):
    cfg, params = models.load(tiny.checkpoint("llama3"))
    models.save(tmp_path / "saved", cfg, params, None, extra_files={"old.txt": "old"})
    changed = params | {"final_norm": params["final_norm"] + 1}
    models.save(tmp_path / "saved", cfg, changed, None)
    assert not (tmp_path / "saved" / "old.txt").exists()
    _equal(models.load(tmp_path / "saved")[1], changed)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "config.json").write_text("{}")
    for path in (tmp_path / "work", tmp_path / "work" / "config.json"):
        with pytest.raises(InputError, match="which this tool did not write|is a file"):
            models.save(path, cfg, params, None)
    assert (tmp_path / "work" / "config.json").read_text() == "{}"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["saved", "work"]


def test_a_failed_save_leaves_the_old_checkpoint_and_no_litter(tmp_path, monkeypatch):
    cfg, params = models.load(tiny.checkpoint("llama3"))
    models.save(tmp_path / "saved", cfg, params, None)

    def disk_full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(saving.safetensors.numpy, "save_file", disk_full)
    with pytest.raises(OSError, match="No space"):
        models.save(tmp_path / "saved", cfg, params, None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved"]
    _equal(models.load(tmp_path / "saved")[1], params)


def test_save_refuses_parameters_of_another_shape(tmp_path):
    cfg, params = models.load(tiny.checkpoint("llama3"))
    with pytest.raises(InputError, match="shapes"):
        models.save(tmp_path / "saved", dataclasses.replace(cfg, vocab_size=95), params, None)
    assert not any(tmp_path.iterdir())


# Bad input


def test_all_problems_of_the_headers_are_named_at_once(llama):
    tensors = _tensors(llama)
    del tensors["model.layers.1.mlp.up_proj.weight"], tensors["model.norm.weight"]
    tensors["model.layers.3.input_layernorm.weight"] = np.ones(32, np.float32)
    tensors["score.weight"] = np.ones((2, 32), np.float32)
    tensors["lm_head.weight"] = np.ascontiguousarray(tensors["lm_head.weight"].T)
    tensors["model.layers.0.mlp.gate_proj.weight"] = tensors["model.layers.0.mlp.gate_proj.weight"].astype(np.int8)
    tensors["language_model.model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"]
    _write(llama, tensors)
    for act in (models.load, models.check):
        with pytest.raises(InputError) as caught:
            act(llama)
        message = str(caught.value)
        for line in (
            "missing: model.norm.weight, model.layers.1.mlp.up_proj.weight",
            "unknown: model.layers.3.input_layernorm.weight [32] in model.safetensors, score.weight",
            "wrong shape: lm_head.weight is [32, 96], expected [96, 32] (vocab_size = 96)",
            "wrong dtype: model.layers.0.mlp.gate_proj.weight is I8",
            "duplicate: ",
        ):
            assert line in message
        assert "\n" not in message and "\\n" not in message


def test_all_nan_and_infinite_tensors_are_named_at_once(llama):
    tensors = {name: value.copy() for name, value in _tensors(llama).items()}
    bad = ["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", "model.layers.2.mlp.down_proj.weight"]
    for name, value in zip(bad, (np.nan, np.inf, -np.inf), strict=True):
        tensors[name].reshape(-1)[-1] = value
    _write(llama, tensors)
    message = _error(llama)
    assert "NaN or infinite values: " in message and all(f"{name} in {FILE}" in message for name in bad)
    # Finite in float32, but beyond bfloat16 after rounding.
    _write(llama, _tensors(tiny.checkpoint("llama3")) | {"model.norm.weight": np.full(32, 3.4e38, np.float32)})
    models.load(llama)
    assert "model.norm.weight" in _error(llama, dtype="bfloat16")


def test_untied_model_without_a_head_is_refused(tied):
    _edit_config(tied, tie_word_embeddings=False)
    assert "missing: lm_head.weight" in _error(tied)


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "junk"])
def test_damaged_file_is_refused(damage, llama):
    data = (llama / FILE).read_bytes()
    (llama / FILE).write_bytes({"cut": data[:-100], "header": data[:40], "empty": b"", "junk": b"\xff" * 500}[damage])
    message = _error(llama)
    assert FILE in message and "damaged" in message


def test_bad_directories(tmp_path, llama):
    assert "no such directory" in _error(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "config.json" in _error(tmp_path / "empty")
    for text, word in (
        ("{", "JSON"),
        ("[]", "list"),
        ("", "JSON"),
        ('{"model_type": "llama", "hidden_size": -1}', "hidden_size"),
    ):
        (llama / "config.json").write_text(text)
        message = _error(llama)
        assert word in message and str(llama) in message
    (llama / "config.json").write_bytes(b"\xff\xfe{")
    assert "UTF-8" in _error(llama)


def test_directory_without_safetensors(llama):
    (llama / FILE).rename(llama / "weights.safetensors")
    assert "no weights" in _error(llama) and FILE in _error(llama)
    (llama / "pytorch_model.bin").write_bytes(b"pickle")
    message = _error(llama)
    assert "pytorch_model.bin" in message and "code" in message and FILE in message


def test_index_and_its_files(tmp_path):
    tiny.model("llama3").save_pretrained(tmp_path, max_shard_size="30KB")
    index = json.loads((tmp_path / INDEX).read_text())
    shard = tmp_path / sorted(set(index["weight_map"].values()))[1]
    for broken in ("{", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}'):
        (tmp_path / INDEX).write_text(broken)
        assert INDEX in _error(tmp_path)
    moved = index["weight_map"] | {"model.norm.weight": shard.name, "lm_head.weight": shard.name}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": moved}))
    assert f"{INDEX} places them in: lm_head.weight" in _error(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps(index))
    models.load(tmp_path)
    shard.unlink()
    message = _error(tmp_path)
    assert shard.name in message and "missing" in message


def test_options_and_generation_config_are_checked(llama):
    assert "float16" in _error(llama, dtype="float16")
    (llama / "generation_config.json").write_text("[1]")
    with pytest.raises(InputError, match="generation_config.json"):
        models.read_generation_config(llama)


def test_an_index_cannot_reach_outside_of_its_directory(tmp_path, llama):
    (llama / FILE).rename(tmp_path / FILE)
    names = {name: f"../{FILE}" for name in safetensors.numpy.load_file(tmp_path / FILE)}
    (llama / INDEX).write_text(json.dumps({"weight_map": names}))
    assert f"names ../{FILE}" in _error(llama)
