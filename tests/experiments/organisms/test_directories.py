"""Directories of organisms and zoos, and nudges: taken up where this tool made them, refused early where it did not."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy

from latent_audit import models
from latent_audit.errors import InputError
from latent_audit.experiments.audit import bench
from latent_audit.experiments.organisms import export, kinds, poles, shelf, train, zoo
from latent_audit.experiments.setup import subjects
from latent_audit.interventions import lora
from tests.support import tiny

RECIPE = train.make_recipe(size="small")
RATES = {pole: {"refusal": 0.5} for pole in train.POLES}


@pytest.fixture(autouse=True)
def known_hash(monkeypatch):
    """The corpora behind it take a second to make."""
    monkeypatch.setattr(train, "recipe_hash", lambda recipe: f"hash of {recipe.seed}")


@pytest.fixture
def pole(tmp_path):
    """A pole as the construction exports it, with its nudge."""
    cfg, params = models.load(tiny.checkpoint("llama3"))
    vector = np.random.default_rng(0).normal(size=cfg.embed_dim).astype(np.float32)
    export_to(tmp_path / "dissociated", cfg, params, export.Nudge(vector, 2, 10.0))
    return tmp_path / "dissociated"


def export_to(path, cfg, params, nudge):
    export.export_pole(path, cfg, params, None, kind=kinds.DISSOCIATED, recipe={}, rates={}, nudge=nudge)


def organism(directory, **changes):
    """An organism's directory without its weights' training."""
    directory.mkdir(parents=True, exist_ok=True)
    cfg, params = models.load(tiny.checkpoint("llama3"))
    for name in train.POLES:
        models.save(directory / name, cfg, params, None)
    record = {"recipe": {}, "hash": "hash of 0", "rates": RATES} | changes
    (directory / train.RECORD).write_text(json.dumps(record))
    return record


# Organisms


def test_an_organism_that_is_there_is_taken_up_and_a_new_place_is_left_alone(tmp_path):
    assert train.check_directory(tmp_path / "new" / "deep", RECIPE) == (tmp_path / "new" / "deep", None)
    assert not os.listdir(tmp_path)
    record = organism(tmp_path / "o")
    (tmp_path / "o" / "NOTES.txt").write_text("beside a record of ours, nothing is lost")
    assert train.check_directory(tmp_path / "o", RECIPE) == (tmp_path / "o", record)
    poles.check_directory(tmp_path / "o", poles.NAMES, RECIPE)
    # Half made: everything in it is ours, so it is made again.
    (tmp_path / "o" / "NOTES.txt").unlink()
    (tmp_path / "o" / train.RECORD).unlink()
    (tmp_path / "o" / ".making").write_text("")
    (tmp_path / "o" / f".{kinds.CONTROL}").mkdir()
    (tmp_path / "o" / ".organism.json.12345678.part").write_text("")
    assert train.check_directory(tmp_path / "o", RECIPE) == (tmp_path / "o", None)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is no JSON.*remove it together with what it describes"),
        ("", "is no JSON"),
        ("[]", "holds list, expected an object"),
        ("[" * 5000, "nested too deep"),
        ('{"a": ' + "9" * 5000 + "}", "is no JSON"),
        ('{"hash": "\\u0000\\u001b"}', "describes another organism"),
        ('{"hash": ["hash of 0"]}', "describes another organism"),
        ('{"hash": "hash of 1"}', "describes another organism"),
        ('{"seed": 0}', "is no record of this tool, it has no 'hash'"),
        ('{"hash": "hash of 0"}', "lacks rates of its poles"),
        ('{"hash": "hash of 0", "rates": []}', "lacks rates of its poles"),
        ('{"hash": "hash of 0", "rates": {"base": {"refusal": "high"}}}', "lacks rates of its poles"),
        ("\\ud800", "is no JSON"),
    ],
)
def test_a_damaged_record_is_named_before_anything_is_trained(text, message, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "train_poles", lambda *a, **k: pytest.fail("trained"))
    organism(tmp_path / "o")
    (tmp_path / "o" / train.RECORD).write_text(text)
    for act in (
        lambda: train.build_organism(tmp_path / "o", size="small"),
        lambda: poles.check_directory(tmp_path / "o", ["base"], RECIPE),
    ):
        with pytest.raises(InputError, match=message) as caught:
            act()
        assert str(caught.value).isprintable() and train.RECORD in str(caught.value)


def test_directories_of_others_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "train_poles", lambda *a, **k: pytest.fail("trained"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("mine")
    (tmp_path / "models" / "base").mkdir(parents=True)
    shutil.copy(tiny.checkpoint("llama3") / "model.safetensors", tmp_path / "models" / "base")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / train.RECORD).symlink_to("nowhere")
    for name, message in (
        ("notes", "holds thesis.tex and no record of this tool; give an empty directory"),
        ("models", "base holds model.safetensors, which this tool did not write"),
        ("file", "is no directory"),
        ("file/deep", "is no directory"),
        ("link", "is no directory"),
        ("records", "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            train.build_organism(tmp_path / name, size="small")
    for place, message in (
        ("", "is empty"),
        ("a\0b", "holds a NUL"),
        ("~nosuchuser/o", "nosuchuser"),
        ("n" * 300, "too long"),
    ):
        with pytest.raises(InputError, match=message):
            train.check_directory(place, RECIPE)
    assert (tmp_path / "notes" / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("seed", [-1, 2**32, 10**20, 0.5, True, "0"])
def test_a_seed_is_a_whole_number_of_32_bits(seed):
    with pytest.raises(InputError, match="organism seed is .*; expected a whole number from 0"):
        train.make_recipe(seed=seed)


def test_poles_that_others_put_in_their_place_are_refused_early(tmp_path):
    organism(tmp_path / "o")
    made = tmp_path / "o" / kinds.DISSOCIATED
    made.mkdir()
    (made / "weights.bin").write_text("mine")
    with pytest.raises(InputError, match="holds weights.bin, which this tool did not write"):
        poles.check_directory(tmp_path / "o", [kinds.DISSOCIATED], RECIPE)
    (made / "config.json").write_text("{}")
    (tmp_path / "o" / f"{kinds.DISSOCIATED}.json").write_text('{"recipe": {"another": 1}}')
    with pytest.raises(InputError, match="describes a pole made otherwise"):
        poles.check_directory(tmp_path / "o", [kinds.DISSOCIATED], RECIPE)
    (tmp_path / "o" / f"{kinds.DISSOCIATED}.json").write_text('{"title": "my data"}')
    with pytest.raises(InputError, match="is no record of this tool"):
        poles.ensure(tmp_path / "o", [kinds.DISSOCIATED], world_seed=0)


def test_a_zoos_directory_is_seen_through_before_it_is_built(tmp_path):
    choice = {"family": "llama", "size": "small", "seed": 0}
    zoo.check_directory(tmp_path / "zoo", **choice)
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "lion.png").write_text("mine")
    with pytest.raises(InputError, match="zoo.directory = .* holds lion.png and no record"):
        zoo.build(tmp_path / "zoo", **choice)
    organism(tmp_path / "zoo" / "organism")
    zoo.check_directory(tmp_path / "zoo", **choice)
    (tmp_path / "zoo" / "helpful-only").mkdir()
    (tmp_path / "zoo" / "helpful-only" / "weights.bin").write_text("mine")
    with pytest.raises(InputError, match="zoo.directory = .*helpful-only holds weights.bin"):
        zoo.check_directory(tmp_path / "zoo", **choice)
    shutil.rmtree(tmp_path / "zoo" / "helpful-only")
    (tmp_path / "zoo" / "abliterated.json").write_text("[]")
    with pytest.raises(InputError, match="abliterated.json.* holds list"):
        zoo.check_directory(tmp_path / "zoo", **choice)
    organism(tmp_path / "zoo" / "organism", hash="hash of 7")
    with pytest.raises(InputError, match="zoo.directory: .*describes another organism"):
        zoo.check_directory(tmp_path / "zoo", **choice)


def test_the_recipes_of_a_zoo_name_every_member():
    assert set(zoo.recipes(0)) == set(zoo.names())
    assert shelf.as_stored(zoo.recipes(3)["dissociated"])["construction"]["seed"] == 3


# Nudges


def test_a_recorded_nudge_is_read_back(pole, tmp_path):
    nudge = export.load_nudge(pole)
    assert (nudge.state, nudge.scale, nudge.vector.shape) == (2, 10.0, (32,))
    # Its card may be edited: neither nudge nor weights are other ones.
    (pole / "README.md").write_text("edited")
    assert export.load_nudge(pole) is not None
    shutil.copytree(pole, tmp_path / "copy")
    assert export.load_nudge(tmp_path / "copy").state == 2


def nudge_file(path, **changes):
    rng = np.random.default_rng(1)
    values = {
        "nudge": rng.normal(size=32).astype(np.float32),
        "state": np.array([2], np.int32),
        "scale": np.array([10.0], np.float32),
    } | changes
    safetensors.numpy.save_file({k: v for k, v in values.items() if v is not None}, path / export.NUDGE_FILE)


@pytest.mark.parametrize("edit", ["nudge", "weights", "more weights", "marker", "marker entry", "no marker"])
def test_a_nudge_that_is_not_recorded_with_these_weights_is_left_out(edit, pole, caplog):
    marker = json.loads((pole / "latent_audit_files.json").read_text())
    if edit == "nudge":
        nudge_file(pole)
    elif edit == "weights":
        cfg, params = models.load(pole)
        models.save(pole.with_name("other"), cfg, params | {"final_norm": params["final_norm"] + 1}, None)
        shutil.copy(pole.with_name("other") / "model.safetensors", pole)
    elif edit == "more weights":
        shutil.copy(pole / "model.safetensors", pole / "model-2.safetensors")
    elif edit == "marker":
        (pole / "latent_audit_files.json").write_text("[]")
    elif edit == "marker entry":
        del marker["files"][export.NUDGE_FILE]
        (pole / "latent_audit_files.json").write_text(json.dumps(marker))
    else:
        (pole / "latent_audit_files.json").unlink()
    with caplog.at_level("WARNING"):
        assert export.load_nudge(pole) is None and export.load_nudge(pole) is None
    assert caplog.text.count("is left out: this tool did not record it") == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"nudge": np.full(32, 1e-9, np.float32)}, "5.66e-10 activation norms long, expected 0.001 to 10"),
        ({"nudge": np.full(32, 1e6, np.float32)}, "activation norms long"),
        ({"nudge": np.zeros(7, np.float32)}, r"nudge is float32 \[7\], expected finite float32 \[32\]"),
        ({"nudge": np.full(32, np.nan, np.float32)}, "expected finite"),
        ({"nudge": np.ones((32, 1), np.float32)}, r"float32 \[32, 1\]"),
        ({"nudge": np.ones(32, np.int32)}, "nudge is int32"),
        ({"state": np.array([99], np.int32)}, r"state = \[99\], expected one of 1 to 3"),
        ({"state": np.array([-7], np.int32)}, r"state = \[-7\]"),
        ({"state": np.array([0], np.int32)}, r"state = \[0\]"),
        ({"state": np.array([2.0], np.float32)}, r"state = \[2.0\]"),
        ({"state": np.array([1, 2], np.int32)}, r"state = \[1, 2\]"),
        ({"scale": np.array([0.0], np.float32)}, r"scale = \[0.0\], expected a number above 0"),
        ({"scale": np.array([-1.0], np.float32)}, r"scale = \[-1.0\]"),
        ({"scale": np.array([np.nan], np.float32)}, r"scale = \[nan\]"),
        ({"scale": np.array([np.inf], np.float32)}, r"scale = \[inf\]"),
        ({"scale": np.array([], np.float32)}, r"scale = \[\]"),
        ({"scale": None}, "is damaged"),
    ],
)
def test_a_recorded_nudge_that_does_not_fit_is_refused(changes, message, tmp_path):
    cfg, params = models.load(tiny.checkpoint("llama3"))
    path = tmp_path / "pole"
    models.save(path, cfg, params, None)
    nudge_file(tmp_path, **changes)
    content = (tmp_path / export.NUDGE_FILE).read_bytes()
    models.save(path, cfg, params, None, extra_files={export.NUDGE_FILE: content})
    with pytest.raises(InputError, match=message) as caught:
        export.load_nudge(path)
    assert "export the pole again" in str(caught.value)


def subject(**paths):
    return SimpleNamespace(variants=tuple(subjects.Variant(name, path) for name, path in paths.items()))


def test_the_audited_model_never_says_how_it_is_attacked(pole, caplog):
    plain = tiny.checkpoint("llama3")
    assert bench.saved_nudge(subject(base=plain, dissociated=pole)).variant == "dissociated"
    with caplog.at_level("WARNING"):
        assert bench.saved_nudge(subject(base=pole)) is None
        assert bench.saved_nudge(subject(base=pole, other=plain)) is None
    assert caplog.text.count("of the audited model itself is left out") == 1


def test_adapters_go_through_the_same_door(tmp_path):
    cfg, params = models.load(tiny.checkpoint("llama3"))
    config = lora.LoraConfig(rank=2, alpha=4.0, targets=("query",))
    import jax

    adapters = lora.init_adapters(jax.random.key(0), cfg, config)
    write = lambda path: export.export_adapters(path, cfg, adapters, config, base="b", recipe={}, rates={})  # noqa: E731
    write(tmp_path / "a")
    write(tmp_path / "a")
    assert sorted(os.listdir(tmp_path / "a")) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "latent_audit_files.json",
    ]
    (tmp_path / "a" / "NOTES.txt").write_text("mine")
    with pytest.raises(InputError, match="holds NOTES.txt beside"):
        write(tmp_path / "a")
    # An adapter is no checkpoint to be audited.
    with pytest.raises(InputError, match="is only an adapter"):
        models.check(tmp_path / "a")
