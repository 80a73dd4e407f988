"""Which models a run is about: names, roles, and which of them calibrate or are measured."""

import pathlib

import pytest

from configs import ras as ras_config
from latent_audit.errors import InputError
from latent_audit.experiments.organisms import zoo
from latent_audit.experiments.ras import calibration_file, members
from latent_audit.experiments.setup import subjects


def config(**changes):
    made = ras_config.get_config()
    made.update_from_flattened_dict(changes)
    return made


def test_an_asr_stands_behind_the_last_colon():
    assert members.parse_models("DIR:0.93, owner/name ,c:/x:1e-1,d:e,", "calibration") == [
        ("DIR", 0.93),
        ("owner/name", None),
        ("c:/x", 0.1),
        ("d:e", None),
    ]
    for text, message in ((":0.5", "of 'nothing'|of nothing"), ("a:1.01", "1.01 of 'a'"), ("a:-0.1", "-0.1 of 'a'")):
        with pytest.raises(InputError, match=message):
            members.parse_models(text, "calibration")
    assert members.parse_models("a:0,b:1", "x") == [("a", 0.0), ("b", 1.0)]


def test_names_are_the_last_parts_of_paths_numbered_where_they_repeat():
    assert subjects.numbered("org/a model", set()) == "a-model" and subjects.numbered("/", ()) == "model"
    assert subjects.numbered("x/a", {"a", "a-2"}) == "a-3"
    named = members.name_models(config(reference="x/a:0.1", calibration="y/a:0.9,y/b,z/a", targets="w/b:0.5,w/c"))
    assert named == (
        ("a", "reference", "x/a", 0.1),
        ("a-2", "calibration", "y/a", 0.9),
        ("b", "calibration", "y/b", None),
        ("a-3", "calibration", "z/a", None),
        ("b-2", "target", "w/b", 0.5),
        ("c", "target", "w/c", None),
    )
    with pytest.raises(InputError, match="named twice among reference, calibration and targets: y/b"):
        members.name_models(config(reference="x/a", calibration="y/b,z/a", targets="y/b"))


@pytest.fixture
def alike(monkeypatch):
    """Checkpoints that need no files; the identities that each was checked against."""
    checked = []
    monkeypatch.setattr(members.models, "resolve", pathlib.Path)
    monkeypatch.setattr(members.models, "check_whole", lambda path: None)
    monkeypatch.setattr(
        members, "identity", lambda model, config: calibration_file.Identity(model.name, 3, 8, "t", "d")
    )
    monkeypatch.setattr(
        calibration_file, "check_target", lambda name, own, expected: checked.append((name, own[0], expected[0]))
    )
    return checked


@pytest.mark.parametrize("measure_targets", [False, True])
def test_an_asr_that_is_given_is_not_measured(alike, measure_targets):
    made = config(reference="r", calibration="c:0.9,d", targets="t,u:0.2", measure_targets=measure_targets)
    group = members.checkpoints(made)
    assert [(one.name, one.kind, one.calibrates, one.asr, one.measured) for one in group.models] == [
        ("r", "reference", False, None, True),
        ("c", "calibration", True, 0.9, False),
        ("d", "calibration", True, None, True),
        ("t", "target", False, None, measure_targets),
        ("u", "target", False, 0.2, False),
    ]
    assert group.family == "r" and group.world is None
    assert alike == [(name, name, "r") for name in "rcdtu"]
    assert [variant.name for variant in group.subject.variants] == list("rcdtu")


def test_targets_of_a_frozen_calibration_are_checked_against_its_reference(alike):
    frozen = calibration_file.Identity("frozen", 3, 8, "t", "d")
    members.checkpoints(config(calibration_file="f.json", targets="t,u:0.2"), frozen)
    assert alike == [("t", "t", "frozen"), ("u", "u", "frozen")]


def test_members_of_a_zoo_calibrate_but_for_the_reference_and_the_dissociated(monkeypatch, tmp_path):
    asked = []

    def build(path, **options):
        asked.append((path, options["family"], options["size"], options["seed"]))
        return [zoo.Member(name, kind, path / name) for name, kind in zoo.names().items()]

    monkeypatch.setattr(zoo, "build", build)
    made = config(families="llama,gemma2", seed=5, **{"organism.seed": 7})
    groups = members.zoos(made, tmp_path)
    assert asked == [(tmp_path / "zoo" / family, family, "small", 7) for family in ("llama", "gemma2")]
    assert [group.family for group in groups] == ["llama", "gemma2"] and groups[0].world.seed == 7
    for model in groups[0].models:
        assert model.calibrates == (model.name != "aligned" and model.kind != "dissociated"), model.name
        assert model.asr is None and model.measured
    assert groups[0].models[0].name == "aligned"
