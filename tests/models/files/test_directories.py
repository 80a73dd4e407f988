"""Folders as users hold them: the hub's cache, a parent of checkpoints, a tied model that was saved by its head."""

import json

import jax
import numpy as np
import safetensors.numpy

from latent_audit import models
from tests.support import tiny
from tests.support.refusals import refused


def test_a_folder_of_the_cache_is_its_main_snapshot(tmp_path):
    cache = tmp_path / "models--owner--name"
    for name in ("abc", "def"):
        (cache / "snapshots" / name).mkdir(parents=True)
    assert "the snapshots abc, def; give the path of one of them" in refused(lambda: models.resolve(cache))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("def\n")
    assert models.resolve(cache) == cache / "snapshots" / "def"
    (cache / "refs" / "main").write_text("../../elsewhere")
    (cache / "snapshots" / "def").rmdir()
    assert models.resolve(cache) == cache / "snapshots" / "abc"
    (cache / "snapshots" / "abc").rmdir()
    assert "no snapshot" in refused(lambda: models.resolve(cache))


def test_a_parent_of_checkpoints_lists_them(tmp_path):
    for name in ("one", "two", "models--owner--three", "notes"):
        (tmp_path / name).mkdir()
    for name in ("one", "two"):
        (tmp_path / name / "config.json").write_text("{}")
    message = refused(lambda: models.resolve(tmp_path))
    assert "is no checkpoint but holds some: models--owner--three/, one/, two/; give the path of one" in message


def test_a_tied_model_that_holds_its_head_alone(tmp_path):
    source = tiny.checkpoint("llama3_tied")
    tensors = safetensors.numpy.load_file(source / "model.safetensors")
    embed = tensors.pop("model.embed_tokens.weight")
    safetensors.numpy.save_file(tensors | {"lm_head.weight": embed}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((source / "config.json").read_text())
    models.check_whole(tmp_path)
    cfg, params = models.load(tmp_path)
    wanted_cfg, wanted = models.load(source)
    assert cfg == wanted_cfg and cfg.tied_head
    jax.tree.map(np.testing.assert_array_equal, params, wanted)
    # Untied, the embedding is missing.
    config = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "missing: model.embed_tokens.weight" in refused(lambda: models.check(tmp_path))
