"""Frozen calibrations: they come back bit for bit, and are refused where they do not fit or were tampered with."""

import json

import numpy as np
import pytest
import safetensors.numpy

from latent_audit.errors import InputError
from latent_audit.experiments.ras import calibration_file
from latent_audit.metrics import calibration, safevec

LAYERS, WIDTH, PROMPTS = 4, 6, 5
IDENTITY = calibration_file.Identity("llama", LAYERS, WIDTH, "0" * 64, "float32")
SOURCE = calibration_file.Source(
    None, {"unsafe": PROMPTS, "jailbreak": PROMPTS}, {"unsafe": "a" * 64, "jailbreak": "b" * 64}, "role_play"
)


def frozen(seed=0, other_alphas=(0.3,)):
    rng = np.random.default_rng(seed)
    reference = calibration.CalibrationModel("aligned", 0.3, 0.2, 0.05)
    models = [
        calibration.CalibrationModel(name, 0.3 - drop, 0.2 - drop, asr)
        for name, drop, asr in (("half", 0.1, 0.4), ("bad", 0.3, 0.9), ("worse", 0.4, 1.0))
    ]
    family = calibration.calibrate_family(reference, models)
    overall = calibration.global_alpha([family.alpha, *other_alphas])
    scores = tuple(safevec.PromptScores(rng.normal(size=PROMPTS), rng.normal(size=PROMPTS)) for _ in range(4))
    return calibration_file.Frozen(
        IDENTITY,
        SOURCE,
        safevec.Window(2, 3, ("least gap 0.8 -> 0.7 of the largest",), "largest"),
        family,
        calibration.gamma_of(family.alpha, overall),
        overall,
        tuple(other_alphas),
        "heldout",
        rng.normal(size=(LAYERS, WIDTH)),
        scores,
    )


def test_a_calibration_comes_back_bit_for_bit(tmp_path):
    made = frozen()
    calibration_file.save(tmp_path / "deep" / "llama.json", made)
    found = calibration_file.load(tmp_path / "deep" / "llama.json")
    assert found._replace(directions=None, scores=None) == made._replace(directions=None, scores=None)
    np.testing.assert_array_equal(found.directions, made.directions)
    for one, other in zip(found.scores, made.scores, strict=True):
        np.testing.assert_array_equal(one.unsafe, other.unsafe)
        np.testing.assert_array_equal(one.jailbreak, other.jailbreak)
    assert found.directions.dtype == np.float64
    # Written again it is the same file: nothing in it depends on the moment.
    calibration_file.save(tmp_path / "again.json", found)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "deep" / "llama.safetensors").read_bytes()


def change(path, *keys, to):
    record = json.loads(path.read_text())
    inner = record
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "keys, value, message",
    [
        (("schema",), 2, "has schema 2, expected 1"),
        (("extra",), 1, "unknown keys: extra"),
        (("calibration", "b"), 0.5, "b = 0.5, but its models give"),
        (("calibration", "models"), [], "at least 2"),
        (("gamma",), 1.7, "gamma = 1.7 does not follow"),
        (("window", "start"), 3, "window 3-2 of 4 layers"),
        (("window", "stop"), 9, "window 2-8 of 4 layers"),
        (("identity", "embed_dim"), 7, r"directions of shape \(4, 6\), expected \(4, 7\)"),
        (("identity",), {"family": "llama"}, "is damaged"),
        (("prompts", "counts"), {"unsafe": 4, "jailbreak": 5}, "prompt scores of 4 models"),
        (("tensors", "sha256"), "0", "is not the file that llama.json was written with"),
        (("tensors", "file"), "../other.safetensors", "needs other.safetensors beside it"),
    ],
)
def test_an_edited_file_is_refused(keys, value, message, tmp_path):
    path = tmp_path / "llama.json"
    calibration_file.save(path, frozen())
    change(path, *keys, to=value)
    with pytest.raises(InputError, match=message):
        calibration_file.load(path)


def test_missing_and_damaged_files_are_named(tmp_path):
    path = tmp_path / "llama.json"
    with pytest.raises(InputError, match="no such file; configs/ras.py writes one per family"):
        calibration_file.load(path)
    path.write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        calibration_file.load(path)
    path.write_text("[]")
    with pytest.raises(InputError, match="has schema"):
        calibration_file.load(path)
    calibration_file.save(path, frozen())
    beside = path.with_suffix(".safetensors")
    other = safetensors.numpy.save({"refusal_directions": np.zeros((LAYERS, WIDTH))})
    beside.write_bytes(other)
    with pytest.raises(InputError, match="calibrate again"):
        calibration_file.load(path)
    beside.unlink()
    with pytest.raises(InputError, match="needs llama.safetensors beside it"):
        calibration_file.load(path)
    calibration_file.save(path, frozen())
    record = json.loads(path.read_text())
    del record["gamma"]
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="missing keys: gamma"):
        calibration_file.load(path)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("family", "qwen3", "family is 'qwen3', but the reference's is 'llama': RAS compares models of one family"),
        ("num_layers", 5, "num_layers is 5.*own architecture"),
        ("embed_dim", 8, "embed_dim is 8.*another width, so that no cosine"),
        ("template_sha256", "f" * 64, "another chat template is another measurement"),
        ("dtype", "bfloat16", "set model.dtype as the calibration has it"),
    ],
)
def test_targets_measured_otherwise_are_refused_with_the_reason(field, value, message):
    calibration_file.check_target("target", IDENTITY, IDENTITY)
    with pytest.raises(InputError, match=f"target: .*{message}"):
        calibration_file.check_target("target", IDENTITY._replace(**{field: value}), IDENTITY)


def test_other_prompts_than_the_calibrations_are_refused():
    calibration_file.check_source(SOURCE, SOURCE)
    with pytest.raises(InputError, match="the jailbreak prompts .* are not those of the calibration"):
        calibration_file.check_source(SOURCE._replace(sha256={"unsafe": "a" * 64, "jailbreak": "c" * 64}), SOURCE)
