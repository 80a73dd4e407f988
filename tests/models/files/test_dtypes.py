"""The dtype that `auto` means: by the platform and by what a checkpoint's headers hold, never by its name."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from configs import lvs as lvs_config
from configs import ras as ras_config
from latent_audit import models
from latent_audit.experiments import tasks
from latent_audit.experiments.ras import calibration_file, members
from latent_audit.experiments.setup import subjects
from latent_audit.interventions import latent
from latent_audit.models.weights import DTYPES
from tests.support import gguf_writer, tiny
from tests.support.gguf_writer import Kind


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("held", [None, "float32", "bfloat16"])
def test_what_is_asked_for_holds_and_auto_follows_file_and_platform(platform, held):
    for asked in DTYPES:
        assert models.resolve_dtype(asked, platform, held) == asked
    found = models.resolve_dtype("auto", platform, held)
    assert found == ("bfloat16" if held == "bfloat16" and platform != "cpu" else "float32")


@pytest.mark.parametrize(
    "stored, held", [(torch.float32, "float32"), (torch.bfloat16, "bfloat16"), (torch.float16, "bfloat16")]
)
def test_what_is_held_is_read_from_the_headers_of_the_weights(stored, held, tmp_path):
    model = copy.deepcopy(tiny.model("llama3")).to(stored)
    # One tensor that is kept wide, as norms often are, is not what the file holds.
    model.model.norm.to(torch.float32)
    model.save_pretrained(tmp_path)
    assert models.held_dtype(tmp_path) == held


def test_quantised_files_are_bfloat16_and_a_whole_gguf_is_not(tmp_path):
    for kind, held in ((Kind.F32, "float32"), (Kind.F16, "bfloat16"), (Kind.Q8_0, "bfloat16")):
        path = tmp_path / f"{kind.name}.gguf"
        gguf_writer.write(path, "llama", gguf_writer.model("llama"), kind)
        assert models.held_dtype(path) == held, kind


def test_a_config_records_what_auto_means_on_this_machine(tmp_path, monkeypatch):
    copy.deepcopy(tiny.model("llama3")).to(torch.bfloat16).save_pretrained(tmp_path)
    config = lvs_config.get_config()
    assert config.model.dtype == "auto"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    # The organism was measured in float32.
    assert tasks.resolved(config).model.dtype == "float32"
    config.model.path = str(tmp_path)
    assert subjects.dtype_of(config) == tasks.resolved(config).model.dtype == "bfloat16"
    assert config.model.dtype == "auto"
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert tasks.resolved(config).model.dtype == "float32"
    config.model.dtype = "bfloat16"
    assert tasks.resolved(config) is config


def test_scores_take_the_dtype_of_their_calibration_and_a_group_that_of_its_reference(tmp_path, monkeypatch):
    config = ras_config.get_config()
    assert members.dtype_of(config) == "float32"
    copy.deepcopy(tiny.model("llama3")).to(torch.bfloat16).save_pretrained(tmp_path)
    config.reference = f"{tmp_path}:0.1"
    assert members.dtype_of(config) == "float32"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert members.dtype_of(config) == members.with_dtype(config).model.dtype == "bfloat16"
    frozen = calibration_file.Identity("llama", 3, 8, "t", "float32")
    monkeypatch.setattr(calibration_file, "load", lambda path: type("Frozen", (), {"identity": frozen}))
    config.calibration_file = "made-before.json"
    assert members.dtype_of(config) == "float32"


def test_a_search_on_bfloat16_parameters_keeps_deltas_and_losses_in_float32():
    cfg, params = models.load(tiny.checkpoint("llama3"), dtype="bfloat16")
    tokens, mask = np.arange(10, dtype=np.int32).reshape(2, 5), np.ones((2, 5), bool)
    target, budgets = jnp.array([3, 4], jnp.int32), jnp.array([0.05], jnp.float32)
    search = latent.Search(steps=2)
    clean = latent.clean_pass(params, tokens, mask, target, cfg=cfg, search=search)
    keys = latent.row_keys(jax.random.key(0), np.arange(2, dtype=np.uint32), 1, budgets)
    found = latent.attack_state(params, clean, mask, target, 1, budgets, keys, cfg=cfg, search=search)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("bfloat16")}
    for name in ("delta", "l2", "linf", "nll_first", "nll_last", "radius", "rms"):
        assert getattr(found, name).dtype == np.float32, name
    # A step of a tenth of the bound would be lost in bfloat16 beside a bound of its own: the bound is met to float32.
    assert np.abs(np.asarray(found.delta)).max() <= float(np.max(found.radius)) * (1 + 1e-6)
