"""Eight-bit checkpoints are read as their weights times their scales; other quantisations are named with the remedy."""

import functools
import json

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

from latent_audit import models
from latent_audit.models.files import reading
from tests.support.refusals import refused

FIELDS = {"vocab_size": 40, "hidden_size": 160, "intermediate_size": 288, "num_hidden_layers": 2}
FIELDS |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 40, "max_position_embeddings": 32}
BLOCKS = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
TENSORS = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}, "targets": ["Linear"]}},
}


# All of its sides are whole blocks: transformers spreads the scales evenly where the last block is cut.
WHOLE = (("hidden_size", 256), ("intermediate_size", 384), ("head_dim", 64))


@functools.cache
def state(sides):
    torch.manual_seed(0)
    made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(FIELDS | dict(sides))))
    return {name: value.clone() for name, value in made.state_dict().items()}


def spread(scale, shape):
    """A scale for every number of a matrix."""
    if scale.numel() == 1:
        return scale.reshape(()).expand(shape)
    if scale.shape[0] == shape[0]:
        return scale.reshape(-1, 1).expand(shape)
    wide = scale.repeat_interleave(128, 0)[: shape[0]]
    return wide.repeat_interleave(128, 1)[:, : shape[1]]


def write(path, scale_of, name, quantization, sides=(), **changes):
    """An eight-bit checkpoint and the plain one that it stands for, side by side."""
    stored, plain = {}, {}
    for key, value in state(sides).items():
        stored[key] = plain[key] = value
        if "_proj" in key:
            scale = scale_of(value.shape)
            stored[key] = (value / spread(scale.float(), value.shape)).to(torch.float8_e4m3fn)
            stored[f"{key}{name}"] = scale
            stored[key.removesuffix("weight") + "input_scale"] = torch.ones(1)
            plain[key] = stored[key].float() * spread(scale.float(), value.shape)
    config = transformers.LlamaConfig(**(FIELDS | dict(sides))).to_dict() | {"architectures": ["LlamaForCausalLM"]}
    for folder, tensors, extra in (("eight", stored | changes, quantization), ("plain", plain, None)):
        (path / folder).mkdir()
        safetensors.torch.save_file(tensors, path / folder / "model.safetensors", metadata={"format": "pt"})
        fields = config | ({"quantization_config": extra} if extra else {})
        (path / folder / "config.json").write_text(json.dumps(fields))
    return path / "eight", path / "plain"


def random_scale(shape, dtype=torch.float32):
    return (0.5 + torch.rand(shape)).to(dtype) * 1e-3


SCALES = {
    "blocks": (lambda shape: random_scale([-(-side // 128) for side in shape]), "_scale_inv", BLOCKS),
    "blocks in bfloat16": (
        lambda shape: random_scale([-(-side // 128) for side in shape], torch.bfloat16),
        "_scale_inv",
        BLOCKS,
    ),
    "rows": (lambda shape: random_scale((shape[0], 1)), "_scale", TENSORS),
    "whole": (lambda shape: random_scale((1,)), "_scale", TENSORS),
    "scalar": (lambda shape: random_scale(()), "_scale_inv", {"quant_method": "fp8", "weight_block_size": None}),
}


@pytest.mark.parametrize("name", SCALES)
def test_read_as_weight_times_scale(tmp_path, name):
    eight, plain = write(tmp_path, *SCALES[name])
    models.check_whole(eight)
    cfg, params = models.load(eight)
    wanted_cfg, wanted = models.load(plain)
    assert cfg == wanted_cfg
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-6), params, wanted)
    assert models.quantization(eight) == ("FP8 (blocks of 128 x 128)" if "blocks" in name else "FP8")
    assert models.quantization(plain) is None


def test_rows_are_scaled_as_the_bits_say(tmp_path):
    """compressed-tensors' scale of each row, in bfloat16, on every number that eight bits can hold."""
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    codes[(codes & 127) == 127] = 0  # Not a number.
    bits = codes.astype(np.int64)
    sign, exponent, fraction = 1 - 2 * (bits >> 7), (bits >> 3) & 15, (bits & 7) / 8
    # e4m3: bias 7, and an exponent of 0 has no leading one.
    values = sign * np.where(exponent == 0, fraction * 2.0**-6, (1 + fraction) * 2.0 ** (exponent - 7.0))
    scale = torch.linspace(1e-3, 2e-2, 16).to(torch.bfloat16)[:, None]
    stored = torch.from_numpy(codes).view(torch.float8_e4m3fn)
    safetensors.torch.save_file({"a.weight": stored, "a.weight_scale": scale}, tmp_path / "a.safetensors")
    found = {name: (tmp_path / "a.safetensors", name) for name in ("a.weight", "a.weight_scale")}
    wanted = (values * scale.double().numpy()).astype(np.float32)
    with reading.opened(found, "a.weight") as rows:
        np.testing.assert_array_equal(rows(slice(None)), wanted)
        np.testing.assert_array_equal(rows(slice(3, 9)), wanted[3:9])


def test_float32_of_transformers(tmp_path):
    # Its own dequantising integration for blocks.
    eight, _ = write(tmp_path, *SCALES["blocks"], sides=WHOLE)
    quantization = transformers.FineGrainedFP8Config(dequantize=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        eight, quantization_config=quantization, dtype=torch.float32
    )
    _, params = models.load(eight)
    for layer in range(2):
        wanted = theirs.model.layers[layer].mlp.down_proj.weight.detach().float().numpy()
        ours = np.asarray(params["blocks"]["down"][layer]).reshape(384, 256).T
        np.testing.assert_allclose(ours, wanted, atol=1e-6)


@pytest.mark.parametrize(
    "given, what",
    [
        ({"quant_method": "gptq", "bits": 4}, "quant_method = 'gptq' is not read, of quantised weights only FP8 and"),
        ({"quant_method": "awq"}, "quant_method = 'awq' is not read"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "use the bfloat16 or float32 checkpoint"),
        ({"quant_method": "hqq"}, "quant_method = 'hqq' is not read"),
        (TENSORS | {"format": "pack-quantized"}, "compressed-tensors with 'pack-quantized' is not read"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt with 'NVFP4' is not read"),
        (BLOCKS | {"weight_block_size": [64, 64]}, "weight_block_size = [64, 64], expected [128, 128]"),
        (BLOCKS | {"fmt": "e5m2"}, "fmt = 'e5m2', expected e4m3"),
        (
            TENSORS | {"config_groups": {"a": {"weights": {"num_bits": 4, "type": "int"}}}},
            "of quantised weights only FP8 is read",
        ),
        ("int8", "quantization_config = 'int8', expected an object"),
    ],
)
def test_other_quantisations_are_named(tmp_path, given, what):
    eight, _ = write(tmp_path, *SCALES["blocks"])
    config = json.loads((eight / "config.json").read_text())
    (eight / "config.json").write_text(json.dumps(config | {"quantization_config": given}))
    message = refused(lambda: models.check(eight))
    assert what in message and "dequantise it once with transformers" in message


def test_scales_that_do_not_fit_are_named(tmp_path):
    key = "model.layers.1.mlp.up_proj.weight"
    eight, _ = write(tmp_path, *SCALES["blocks"], **{f"{key}_scale_inv": torch.ones(5, 5)})
    assert f"wrong scale: {key}_scale_inv is [5, 5] of F32, expected [3, 2]" in refused(lambda: models.check(eight))
    tensors = safetensors.torch.load_file(eight / "model.safetensors")
    del tensors[f"{key}_scale_inv"]
    safetensors.torch.save_file(tensors, eight / "model.safetensors")
    assert f"no scale: {key} in model.safetensors" in refused(lambda: models.check(eight))
    tensors[f"{key}_scale_inv"] = torch.full((3, 2), float("inf"))
    safetensors.torch.save_file(tensors, eight / "model.safetensors")
    assert "NaN or infinite values" in refused(lambda: models.check_whole(eight))
    # Eight bits that config.json does not speak of.
    config = json.loads((eight / "config.json").read_text())
    del config["quantization_config"]
    (eight / "config.json").write_text(json.dumps(config))
    assert "F8_E4M3" in refused(lambda: models.check(eight))
