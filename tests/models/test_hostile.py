"""Checkpoints that nobody would make by accident: every one is a short line of an InputError, at once."""

import json
import os
import struct
import time

import numpy as np
import pytest
import safetensors.numpy

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.models import families, fields, gpt2
from tests.support import tiny

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
HUGE = 10**350


@pytest.fixture
def llama(tmp_path):
    return tiny.copy("llama3", tmp_path / "llama")


def refusal(act) -> str:
    """The message, which is one printable line of fair length, and came before anything was computed."""
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        act()
    message = str(caught.value)
    assert message.isprintable() and len(message) < 1200 and time.monotonic() - began < 5
    return message


def edit(path, name="config.json", **changes):
    config = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps(config | changes))


def write_header(path, header, data=b"\0" * 4):
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


WRONG = ["1", [1], {"a": 1}, -1, 0, float("nan"), float("inf"), HUGE, -HUGE, True, 1e30]


# Inside of rope_scaling; its own context is that of the whole file.
SCALING = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize("case", ["llama3", "qwen3_window", "gemma3", "qwen3_5"])
def test_every_number_that_is_read_is_refused_by_name_where_it_is_none(case):
    hf = {k: v for k, v in tiny.config(case).to_dict().items() if k not in ("rope_parameters", "layer_types")}
    hf |= {"rope_theta": 1e4, "sliding_window": 5} | ({"rope_scaling": SCALING} if case == "llama3" else {})
    families.config_from_hf(hf)
    read = [name for name in fields.NUMBERS if name in families.FAMILIES[hf["model_type"]].defaults and hf.get(name)]
    assert {"vocab_size", "hidden_size", "rms_norm_eps", "max_position_embeddings"} <= set(read)
    for name in (*read, "rope_theta"):
        for value in WRONG:
            if value != 0 or name != "max_window_layers":
                message = refusal(lambda name=name, value=value: families.config_from_hf(hf | {name: value}))
                assert f"config.json: {name} = " in message
    for name in ("factor", "low_freq_factor", "high_freq_factor") if case == "llama3" else ():
        for value in WRONG:
            scaling = SCALING | {name: value}
            assert name in refusal(lambda scaling=scaling: families.config_from_hf(hf | {"rope_scaling": scaling}))


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": [["LlamaForCausalLM"]]},
        {"architectures": [{"a": 1}]},
        {"model_type": ["llama"]},
        {"model_type": "\x1b[31mllama\nerror: all fine"},
        {"hidden_act": ["silu"]},
        {"rope_parameters": {"rope_type": [], "rope_theta": 1e4}},
        {"rope_parameters": {"rope_type": "llama3", **{k: v for k, v in tiny.LLAMA3_ROPE.items() if k != "factor"}}},
        {"rope_parameters": tiny.LLAMA3_ROPE | {"low_freq_factor": 4.0}},
        {"rope_parameters": [1]},
        {"tie_word_embeddings": 0},
        {"attention_bias": "false"},
        {"eos_token_id": [[1]]},
        {"eos_token_id": [1] * 5000},
        {"eos_token_id": -1},
        {"bos_token_id": HUGE},
        {"eos_token_id": 1.0},
        {"quantization_config": {"a": "x" * 10**6}},
        {"is_causal": False},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 999},
        {"num_hidden_layers": 4},
        {"vocab_size": 384},
        {"torch_dtype": HUGE, "num_key_value_heads": []},
    ],
)
def test_fields_of_the_wrong_kind_are_one_line(changes, llama):
    if next(iter(changes)) == "rope_parameters":
        edit(llama, rope_scaling=None)
    edit(llama, **changes)
    message = refusal(lambda: models.check(llama))
    name = list(changes)[-1]
    if name != "rope_parameters":
        assert (f"{name} = " in message) or (name == "num_key_value_heads") or f"{name} lists" in message


@pytest.mark.parametrize(
    "text", ["", "[" * 10**5, "nul" + "\0", '{"a": ' + "9" * 10**5 + "}", "\ufeff[]", '"x"', "NaN"]
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_files_that_are_no_object(name, text, llama):
    (llama / name).write_text(text)
    act = {"config.json": models.check, "generation_config.json": models.read_generation_config}[name]
    assert name in refusal(lambda: act(llama))


@pytest.mark.parametrize(
    "changes, part",
    [
        ({"repetition_penalty": float("nan")}, "holds nan"),
        ({"repetition_penalty": -1.0}, "repetition_penalty = -1.0, expected a number from"),
        ({"repetition_penalty": 0}, "repetition_penalty = 0"),
        ({"repetition_penalty": "1.1"}, "repetition_penalty = '1.1'"),
        ({"repetition_penalty": [1.1]}, "repetition_penalty = [1.1]"),
        ({"repetition_penalty": True}, "repetition_penalty = True"),
        ({"repetition_penalty": HUGE}, "repetition_penalty = 1000"),
        ({"eos_token_id": "</s>"}, "eos_token_id = '</s>'"),
        ({"eos_token_id": [1, 2.5]}, "eos_token_id = [1, 2.5]"),
        ({"eos_token_id": {"a": 1}}, "eos_token_id"),
        ({"eos_token_id": list(range(10**4))}, "eos_token_id lists 10000 ids"),
        ({"bos_token_id": -3}, "bos_token_id = -3"),
        ({"pad_token_id": [True]}, "pad_token_id = [True]"),
        ({"temperature": float("inf")}, "holds inf"),
        ({"nested": [{"deep": [float("-inf")]}]}, "holds -inf"),
    ],
)
def test_generation_configs_are_checked_before_they_are_used(changes, part, llama):
    edit(llama, "generation_config.json", **changes)
    assert part in refusal(lambda: models.read_generation_config(llama))
    edit(llama, "generation_config.json", **dict.fromkeys(changes))
    assert models.read_generation_config(llama)


def special(path, kind):
    """Put something else in the place of a file."""
    data = path.read_bytes() if path.exists() else b"{}"
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "link to nothing":
        path.symlink_to("nowhere")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link to itself":
        path.symlink_to(path.name)
    elif kind == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 16060522904\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "claims much":
        path.write_bytes(struct.pack("<Q", 2**62) + data)


@pytest.mark.parametrize("name", [FILE, "config.json", "generation_config.json", INDEX])
@pytest.mark.parametrize(
    "kind", ["pipe", "directory", "link to nothing", "device", "link to itself", "pointer", "empty"]
)
def test_what_is_no_regular_file_is_refused_and_never_waited_for(kind, name, llama):
    if name == INDEX:
        (llama / FILE).unlink()
    special(llama / name, kind)
    act = models.read_generation_config if name == "generation_config.json" else models.check
    message = refusal(lambda: act(llama))
    assert name in message and (kind != "pointer" or name != FILE or "git lfs pull" in message)


def test_a_header_that_claims_more_than_there_is(llama):
    special(llama / FILE, "claims much")
    assert "damaged" in refusal(lambda: models.check(llama))
    for entry in (
        {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**60]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]},
        {"dtype": "X" * 1000, "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "F32"},
        [],
    ):
        write_header(llama / FILE, {"model.norm.weight": entry})
        assert FILE in refusal(lambda: models.check(llama))


def test_foreign_tensor_names_are_few_and_printable(llama):
    tensors = safetensors.numpy.load_file(llama / FILE)
    odd = {f"model.layers.0.x\x1b[31m{i}\nerror: all fine": np.zeros(1, np.float32) for i in range(300)}
    odd |= {"\u202e" + "n" * 10**4: np.zeros(1, np.float32), f"model.layers.{10**30}.x": np.zeros(1, np.float32)}
    safetensors.numpy.save_file(tensors | odd, llama / FILE)
    message = refusal(lambda: models.check(llama))
    assert "(302 in all)" in message and "\\x1b[31m" in message


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "x.bin", "\0.safetensors"]
)
def test_an_index_names_plain_files_of_its_directory(name, llama):
    names = list(safetensors.numpy.load_file(llama / FILE))
    (llama / FILE).rename(llama / "a.safetensors")
    (llama / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "a.safetensors")}))
    models.check(llama)
    (llama / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "a.safetensors") | {"extra": name}}))
    assert INDEX in refusal(lambda: models.check(llama))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_is_not_passed_over_in_silence(name, llama):
    (llama / name).write_text("{}")
    for act in (models.check_whole, models.load):
        message = refusal(lambda act=act: act(llama))
        assert f"holds an adapter ({name}) beside a whole model" in message and f"model.adapter={llama}" in message
    (llama / "config.json").unlink()
    assert "holds an adapter" in refusal(lambda: models.check(llama))


@pytest.mark.parametrize(
    "path, revision",
    [
        ("~nosuchuser/x", None),
        ("a\0b", None),
        ("", None),
        (" \n", None),
        ("n" * 5000, None),
        ("owner/" + "n" * 5000, None),
        ("owner/name\n", None),
        ("own\u0435r/name", None),
        ("../../no such place", None),
        ("owner/../name", None),
        ("owner/name", "../../main"),
        ("owner/name", "a b"),
        ("owner/name", "x\x1b[31m"),
        ("owner/name", ""),
        ("owner/name", "r" * 1000),
    ],
)
def test_paths_and_revisions_that_are_none(path, revision):
    refusal(lambda: models.resolve(path, revision=revision))


def test_links_are_followed_to_directories_and_refused_elsewhere(tmp_path, llama):
    (tmp_path / "link").symlink_to(llama)
    models.check(tmp_path / "link")
    (tmp_path / "nothing").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for name in ("nothing", "loop", "pipe", "llama/config.json"):
        assert name in refusal(lambda name=name: models.resolve(str(tmp_path / name)))


@pytest.mark.parametrize(
    "name", ["vocab_size", "n_positions", "n_layer", "n_embd", "n_head", "n_inner", "layer_norm_epsilon"]
)
def test_a_reward_models_numbers_are_checked_too(name, tmp_path):
    config = {"architectures": [gpt2.ARCHITECTURE], "n_embd": 48, "n_head": 4}
    for value in WRONG:
        (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
        assert f"{name} = " in refusal(lambda: gpt2.read_config(tmp_path))
    for changes in ({"activation_function": ["gelu"]}, {"architectures": "x"}, {"scale_attn_weights": [1]}):
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        assert next(iter(changes)) in refusal(lambda: gpt2.read_config(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_layer": 900}))
    safetensors.numpy.save_file({"transformer.h.1.ln_1.weight": np.zeros(4, np.float32)}, tmp_path / FILE)
    assert "n_layer = 900, but the weight files hold 2 blocks" in refusal(lambda: gpt2.check(tmp_path))
    special(tmp_path / FILE, "pointer")
    assert "git lfs pull" in refusal(lambda: gpt2.check(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "holds an adapter" in refusal(lambda: gpt2.check(tmp_path))
