"""gpt-oss as published, its experts in four bits: read as transformers dequantises it; damage is named."""

import json

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from transformers.integrations import mxfp4 as theirs

from latent_audit import models
from tests.support import tiny
from tests.support.refusals import refused

# Whole blocks of 32.
FIELDS = tiny.BASE | tiny.GPT_OSS | {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 32}
UP = "model.layers.1.mlp.experts.gate_up_proj"


def write(path):
    """(a checkpoint as published, the same one dequantised by transformers in float32)."""
    torch.manual_seed(0)
    config = transformers.GptOssConfig(**FIELDS)
    model = transformers.GptOssForCausalLM(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    stored, plain = {}, {}
    for name, value in model.state_dict().items():
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            stored[name] = plain[name] = value.to(torch.bfloat16)
            continue
        experts, inputs, outputs = value.shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
        scales = torch.randint(118, 128, (experts, outputs, inputs // 32), dtype=torch.uint8)
        stored[f"{name}_blocks"], stored[f"{name}_scales"] = blocks, scales
        plain[name] = theirs.convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    quantization = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    for folder, tensors, extra in (("four", stored, quantization), ("plain", plain, None)):
        (path / folder).mkdir()
        safetensors.torch.save_file(tensors, path / folder / "model.safetensors", metadata={"format": "pt"})
        fields = config.to_dict() | {"architectures": ["GptOssForCausalLM"], "quantization_config": extra}
        (path / folder / "config.json").write_text(json.dumps(fields))
    return path / "four", path / "plain"


def test_read_as_transformers_dequantises_it(tmp_path):
    four, plain = write(tmp_path)
    models.check_whole(four)
    (cfg, params), (wanted_cfg, wanted) = models.load(four), models.load(plain)
    assert cfg == wanted_cfg
    jax.tree.map(np.testing.assert_array_equal, params, wanted)
    assert (models.quantization(four), models.quantization(plain)) == ("MXFP4", None)
    # Written without quantisation, as transformers reads it.
    models.save(tmp_path / "saved", cfg, params, None)
    again, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")), info
    theirs = safetensors.torch.load_file(plain / "model.safetensors")
    assert torch.equal(again.state_dict()[UP], theirs[UP])


@pytest.mark.parametrize(
    "change, what",
    [
        (lambda tensors: tensors.pop(f"{UP}_scales"), f"no scale: {UP}_blocks in model.safetensors"),
        (lambda tensors: tensors.pop(f"{UP}_blocks"), f"missing: {UP}"),
        (
            lambda tensors: tensors.update({f"{UP}_scales": tensors[f"{UP}_scales"][:, 1:].clone()}),
            f"wrong scale: {UP}_scales is [6, 63, 2] of U8, expected [6, 64, 2]",
        ),
        (
            lambda tensors: tensors.update({f"{UP}_blocks": tensors[f"{UP}_blocks"][:, 2:].clone()}),
            f"wrong shape: {UP}_blocks is [6, 64, 62], expected [6, 64, 64]",
        ),
        (lambda tensors: tensors[f"{UP}_scales"].fill_(255), f"NaN or infinite values: {UP}_scales"),
    ],
    ids=["no scales", "no blocks", "cut scales", "cut blocks", "no numbers"],
)
def test_damage_is_named(tmp_path, change, what):
    four, _ = write(tmp_path)
    tensors = safetensors.torch.load_file(four / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, four / "model.safetensors", metadata={"format": "pt"})
    assert what in refused(lambda: models.check_whole(four))
