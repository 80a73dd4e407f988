"""Frozen calibrations: they come back bit for bit, and are refused where they do not fit or were tampered with."""

import hashlib
import json
import os

import numpy as np
import pytest
import safetensors.numpy

from latent_audit.data import chats
from latent_audit.errors import InputError
from latent_audit.experiments.ras import calibration_file
from latent_audit.metrics import calibration, safevec

LAYERS, WIDTH, PROMPTS = 4, 6, 5
IDENTITY = calibration_file.Identity("llama", LAYERS, WIDTH, "0" * 64, "float32")
SOURCE = calibration_file.Source(
    None,
    {"unsafe": PROMPTS, "jailbreak": PROMPTS},
    {"unsafe": "a" * 64, "jailbreak": "b" * 64},
    {"unsafe": "d" * 64, "jailbreak": "e" * 64},
    "role_play",
)


def frozen(seed=0, other_alphas=(0.3,)):
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(LAYERS, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions[0] = 0.0  # No direction on the first layer, which lies outside the window.
    models, scores = [], []
    for name, drop, asr in (("aligned", 0.0, 0.05), ("half", 0.1, 0.4), ("bad", 0.3, 0.9), ("worse", 0.4, 1.0)):
        own = [mean - drop + 0.05 * rng.uniform(-1, 1, PROMPTS) for mean in (0.3, 0.2)]
        scores.append(safevec.PromptScores(*own))
        models.append(calibration.CalibrationModel(name, *(float(values.mean()) for values in own), asr))
    family = calibration.calibrate_family(models[0], models[1:])
    overall = calibration.global_alpha([family.alpha, *other_alphas])
    return calibration_file.Frozen(
        IDENTITY,
        SOURCE,
        safevec.Window(2, 3, ("least gap 0.8 -> 0.7 of the largest",), "largest"),
        family,
        calibration.gamma_of(family.alpha, overall),
        overall,
        tuple(other_alphas),
        "heldout",
        directions,
        tuple(scores),
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


HUGE = 10**350


@pytest.mark.parametrize(
    "keys, value, message",
    [
        (("schema",), 2, "has schema 2, expected 3"),
        (("schema",), True, "has schema True, expected 3"),
        (("extra",), 1, "unknown keys: extra"),
        (("calibration", "b"), 0.5, "b = 0.5, but its models give"),
        (("calibration", "models"), [], "at least 2"),
        (("calibration", "models"), {}, "calibration.models = {}, expected a list"),
        (("calibration", "notes"), "x", "calibration.notes = 'x', expected a list"),
        (("calibration", "reference", "asr"), float("nan"), "reference.asr = nan, expected a share"),
        (("calibration", "reference", "asr"), HUGE, "reference.asr = 1000.*, expected a share"),
        (("calibration", "reference", "jailbreak"), None, "reference.jailbreak = None, expected a number"),
        (("calibration", "reference", "name"), "a\x1b[31m", r"reference.name = .*, expected a line"),
        (
            ("calibration", "reference", "unsafe"),
            0.31,
            "aligned: unsafe = 0.31, but its prompts' scores have the mean|b =",
        ),
        (("gamma",), 1.7, "gamma = 1.7 does not follow"),
        (("gamma",), "1", "gamma = '1', expected a number above 0"),
        (("gamma",), float("inf"), "gamma = inf, expected a number above 0"),
        (("alpha_global",), None, "alpha_global = None, but its alphas give"),
        (("alpha_global",), 0.31, "alpha_global = 0.31, but its alphas give"),
        (("other_alphas",), [None], "other_alphas = None, expected a finite number"),
        (("protocol",), "nope", "protocol = 'nope', expected one of heldout, paper"),
        (("window",), [2, 3], "window: missing keys"),
        (("window", "start"), 3, "window 3-2 of 4 layers"),
        (("window", "start"), "0", "window.start = '0', expected a whole number"),
        (("window", "start"), 0.5, "window.start = 0.5, expected a whole number"),
        (("window", "start"), -1, "window.start = -1, expected a whole number"),
        (("window", "start"), 0, "the direction of layer 0 has length 0"),
        (("window", "stop"), 9, "window 2-8 of 4 layers"),
        (("window", "relaxations"), [["x"]], "relaxations = .*, expected a line"),
        (("identity", "embed_dim"), 7, r"refusal_directions is float64 \[4, 6\], expected finite float64 \[4, 7\]"),
        (("identity", "num_layers"), HUGE, "num_layers = 1000.*expected a whole number from 1 to 1000"),
        (("identity", "family"), ["llama"], "identity.family = .*, expected one of llama"),
        (("identity", "template_sha256"), "x", "template_sha256 = 'x', expected 64 hex digits"),
        (("identity",), {"family": "llama"}, "identity: missing keys: dtype, embed_dim"),
        (("prompts", "counts"), {"unsafe": 4, "jailbreak": 5}, r"unsafe is float64 \[4, 5\], expected .*\[4, 4\]"),
        (("prompts", "counts"), [4, 4], "prompts.counts: missing keys: jailbreak, unsafe"),
        (("prompts", "world_seed"), "x", "world_seed = 'x', expected null"),
        (("prompts", "world_seed"), -5, "world_seed = -5, expected null"),
        (("prompts", "sha256"), {}, "prompts.sha256: missing keys: jailbreak, unsafe"),
        (("prompts", "sha256", "zzz"), "a", "unknown keys: zzz"),
        (("prompts", "sha256", "unsafe"), 5, "sha256.unsafe = 5, expected 64 hex digits"),
        (("prompts", "ids_sha256"), {"unsafe": "a" * 64}, "prompts.ids_sha256: missing keys: jailbreak"),
        (("prompts", "wrappers"), {}, "prompts.wrappers = {}, expected a line"),
        (("tensors", "sha256"), "0" * 64, "is not the file that llama.json was written with"),
        (("tensors", "sha256"), "0", "tensors.sha256 = '0', expected 64 hex digits"),
        (("tensors", "file"), "../other.safetensors", "'../other.safetensors' beside it, expected llama.safetensors"),
    ],
)
def test_an_edited_file_is_refused(keys, value, message, tmp_path):
    path = tmp_path / "llama.json"
    calibration_file.save(path, frozen())
    change(path, *keys, to=value)
    with pytest.raises(InputError, match=message):
        calibration_file.load(path)


def forge(path, **changes):
    """Tensors changed, and the record's hash with them."""
    beside = path.with_suffix(".safetensors")
    tensors = safetensors.numpy.load(beside.read_bytes())
    for name, of in changes.items():
        changed = of(tensors[name].copy())
        tensors.pop(name) if changed is None else tensors.update({name: changed})
    content = safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in tensors.items()})
    beside.write_bytes(content)
    change(path, "tensors", "sha256", to=hashlib.sha256(content).hexdigest())


def with_one(array, value):
    array[-1, 0] = value
    return array


@pytest.mark.parametrize(
    "name, of, message",
    [
        ("refusal_directions", lambda t: t * 0, "the direction of layer 2 has length 0, expected unit vectors"),
        ("refusal_directions", lambda t: t * 1.01, "the direction of layer . has length 1.01"),
        ("refusal_directions", lambda t: with_one(t, np.nan), "expected finite float64"),
        ("refusal_directions", lambda t: t[:2], r"float64 \[2, 6\], expected finite float64 \[4, 6\]"),
        ("refusal_directions", lambda t: t.astype(np.float32), "refusal_directions is float32"),
        (
            "refusal_directions",
            lambda t: None,
            "holds jailbreak, unsafe, expected refusal_directions, unsafe, jailbreak",
        ),
        ("unsafe", lambda t: t[:, 0].copy(), r"unsafe is float64 \[4\], expected finite float64 \[4, 5\]"),
        ("unsafe", lambda t: t[:, ::-1] + 1e-3, "aligned: unsafe = .*, but its prompts' scores have the mean"),
        ("jailbreak", lambda t: t[::-1], "aligned: jailbreak = .*, but its prompts' scores have the mean"),
        ("jailbreak", lambda t: with_one(t, 7.0), "worse: jailbreak scores beyond -1 to 1"),
        ("jailbreak", lambda t: with_one(t, np.inf), "jailbreak is float64 .*expected finite"),
        ("jailbreak", lambda t: t.astype(np.int64), "jailbreak is int64"),
    ],
)
def test_forged_tensors_with_their_hash_are_refused(name, of, message, tmp_path):
    path = tmp_path / "llama.json"
    calibration_file.save(path, frozen())
    forge(path, **{name: lambda tensor: tensor})
    calibration_file.load(path)
    forge(path, **{name: of})
    with pytest.raises(InputError, match=message) as caught:
        calibration_file.load(path)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files_are_named(tmp_path):
    path = tmp_path / "llama.json"
    with pytest.raises(InputError, match="no such file; configs/ras.py writes one per family"):
        calibration_file.load(path)
    for text, message in (
        ("{", "is no JSON"),
        ("[]", "holds list"),
        ("[" * 5000, "too deep"),
        ("{}", "has schema None"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            calibration_file.load(path)
    calibration_file.save(path, frozen())
    beside = path.with_suffix(".safetensors")
    other = safetensors.numpy.save({"refusal_directions": np.zeros((LAYERS, WIDTH))})
    beside.write_bytes(other)
    with pytest.raises(InputError, match="calibrate again"):
        calibration_file.load(path)
    beside.unlink()
    os.mkfifo(beside)
    with pytest.raises(InputError, match="needs llama.safetensors beside it.*a pipe"):
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


def test_the_same_texts_in_other_ids_are_refused():
    def encoded(*rows, width=4):
        tokens = np.array([[9] * (width - len(row)) + row for row in rows], np.int32)
        return chats.Tokens(tokens, np.array([[False] * (width - len(row)) + [True] * len(row) for row in rows]))

    unsafe, jailbreak = encoded([1, 2], [3]), encoded([1, 2, 3])
    ids = calibration_file.ids_of([unsafe, jailbreak])
    # Padding is no part of what is read; where one prompt ends and the next begins is.
    assert ids == calibration_file.ids_of([encoded([1, 2], [3], width=6), encoded([1, 2, 3], width=3)])
    assert ids["unsafe"] != ids["jailbreak"]
    source = SOURCE._replace(ids_sha256=ids)
    calibration_file.check_ids("target", ids, source)
    other = calibration_file.ids_of([unsafe, encoded([1, 2, 4])])
    with pytest.raises(InputError, match="target writes the jailbreak prompts in other tokens than the reference did"):
        calibration_file.check_ids("target", other, source)
