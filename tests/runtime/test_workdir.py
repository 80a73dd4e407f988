"""What a workdir takes and what it refuses: pinned with its first result, and never two configs in one."""

import json
import os
import sys

import pytest

from latent_audit.errors import InputError
from latent_audit.runtime import checkpoint, runlog, typed

COLUMNS = {"x": [1.0, 2.0]}


def test_a_workdir_without_results_takes_the_corrected_config(tmp_path):
    runlog.prepare_workdir(tmp_path, {"steps": 0})
    runlog.prepare_workdir(tmp_path, {"steps": 10})
    assert json.loads((tmp_path / "config.json").read_text()) == {"steps": 10}


def test_with_results_a_changed_config_is_refused_by_field_and_another_command_is_given(tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    runlog.prepare_workdir(workdir, {"a": {"b": 1, "c": (1, 2)}, "d": None})
    runlog.save_unit(workdir, "u", COLUMNS)
    runlog.prepare_workdir(workdir, {"a": {"b": 1, "c": [1, 2]}, "d": None})
    monkeypatch.setattr(sys, "argv", ["main.py", "--config=x y.py", f"--workdir={workdir}", "--config.a.b=2"])
    with pytest.raises(InputError) as caught:
        runlog.prepare_workdir(workdir, {"a": {"b": 2, "c": (1, 2)}, "d": None, "e": 0})
    message = str(caught.value)
    assert "a.b: 1 there, 2 now; e: '(absent)' there, 0 now" in message
    assert message.endswith(f"python main.py '--config=x y.py' --config.a.b=2 --workdir={workdir}-2")
    (workdir / "config.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        runlog.prepare_workdir(workdir, {})


def test_results_whose_config_is_gone_are_not_taken_for_those_of_another(tmp_path):
    runlog.prepare_workdir(tmp_path, {"steps": 1})
    runlog.save_unit(tmp_path, "u", COLUMNS)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="config.json that says whose they are is gone"):
        runlog.prepare_workdir(tmp_path, {"steps": 7})


def test_versions_that_cannot_be_read_are_written_anew(tmp_path):
    for damage in ("[" * 100_000, "\udc80".encode(errors="surrogatepass"), "{}"):
        path = runlog.prepare_workdir(tmp_path, {"steps": 1}) / "versions.json"
        path.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
        runlog.prepare_workdir(tmp_path, {"steps": 1})
        assert json.loads(path.read_text()) == runlog.versions()
    path.unlink()
    os.mkfifo(path)
    runlog.prepare_workdir(tmp_path, {"steps": 1})
    assert json.loads(path.read_text()) == runlog.versions()


def test_a_lock_that_is_no_file_is_named(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(InputError, match=r"\.lock is no file"), runlog.lock(tmp_path):
        pass


def test_what_a_figure_shows_may_differ_between_starts_of_a_sweep(tmp_path):
    runlog.prepare_workdir(tmp_path, {"task": "sweep", "plot": "asrr", "where": "n >"})
    (tmp_path / "points").mkdir()
    runlog.prepare_workdir(tmp_path, {"task": "sweep", "plot": "asr", "where": ""})


@pytest.mark.parametrize("name", ["config.json", "inputs.json"])
def test_a_unit_belongs_to_the_records_it_was_computed_under(tmp_path, name):
    runlog.prepare_workdir(tmp_path, {"steps": 1})
    runlog.pin(tmp_path / "inputs.json", {"print": "a"})
    runlog.save_unit(tmp_path, "u", COLUMNS)
    assert runlog.load_unit(tmp_path, "u") == COLUMNS
    kept = (tmp_path / name).read_text()
    (tmp_path / name).write_text('{"steps": 2}')
    with pytest.raises(InputError, match="computed under another config or with other inputs"):
        runlog.load_unit(tmp_path, "u")
    (tmp_path / name).write_text(kept)
    assert runlog.load_unit(tmp_path, "u") == COLUMNS


def test_other_inputs_are_refused_once_there_are_results(tmp_path):
    runlog.prepare_workdir(tmp_path, {"steps": 1})
    runlog.pin(tmp_path / "inputs.json", {"variants": {"base": "aa"}})
    runlog.pin(tmp_path / "inputs.json", {"variants": {"base": "bb"}})
    runlog.save_unit(tmp_path, "u", COLUMNS)
    with pytest.raises(InputError, match="variants.base: 'bb' there, 'cc' now"):
        runlog.pin(tmp_path / "inputs.json", {"variants": {"base": "cc"}})


def test_results_below_a_workdir_carry_its_digest_and_those_of_an_organism_its_own(tmp_path):
    runlog.prepare_workdir(tmp_path, {"steps": 1})
    deep = tmp_path / "checkpoints" / "base" / "finetune"
    own = tmp_path / "organism" / ".dissociated"
    own.mkdir(parents=True)
    runlog.pin(own / "recipe.json", {"seed": 0})
    before = runlog.digest(deep), runlog.digest(own)
    assert before[0] == runlog.digest(tmp_path) != before[1]
    (tmp_path / "config.json").write_text("{}")
    assert runlog.digest(deep) != before[0] and runlog.digest(own) == before[1]


def test_a_checkpoint_of_another_config_is_passed_over(tmp_path):
    runlog.prepare_workdir(tmp_path, {"rate": 1})
    directory, tree = tmp_path / "checkpoints" / "a", {"w": [1.0, 2.0]}
    checkpoint.save(directory, 3, tree)
    assert checkpoint.restore(directory, tree)[0] == 3
    (tmp_path / "config.json").write_text('{"rate": 2}')
    assert checkpoint.restore(directory, tree) is None


def test_units_come_back_exactly_and_damage_is_noticed(tmp_path):
    columns = {"x": [0.1, 1e-300, 3.0], "name": ["a", "ü", "c"], "flag": [True, False, True]}
    assert runlog.load_unit(tmp_path, "base/lvs/L0/p00000") is None
    runlog.save_unit(tmp_path, "base/lvs/L0/p00000", columns)
    assert runlog.load_unit(tmp_path, "base/lvs/L0/p00000") == columns
    path = tmp_path / "units/base/lvs/L0/p00000.json"
    text = path.read_text()
    deep = "[" * 100000
    for damaged in (text.replace("0.1", "0.2"), text[:40], "", "[]", deep, text.replace('"digest": "', '"digest": "0')):
        path.write_text(damaged)
        assert runlog.load_unit(tmp_path, "base/lvs/L0/p00000") is None and not path.exists()


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["main.py", "--config=a.py"], "python main.py --config=a.py --workdir=runs/x-2"),
        (["/x/bin/latent-audit", "lvs", "--workdir", "w", "M"], "latent-audit lvs M --workdir=runs/x-2"),
        (["/x/latent_audit/__main__.py", "-workdir=w", "lvs"], "python -m latent_audit lvs --workdir=runs/x-2"),
    ],
)
def test_the_command_in_another_workdir_can_be_pasted(monkeypatch, argv, expected):
    monkeypatch.setattr(sys, "argv", argv)
    assert typed.with_workdir("runs/x-2") == expected


def test_the_typed_command_can_be_pasted(monkeypatch):
    for argv, expected in (
        (["/x/bin/latent-audit", "lvs", "a b"], "latent-audit lvs 'a b'"),
        (["../main.py", "--config.x=(1,)"], "python ../main.py '--config.x=(1,)'"),
    ):
        monkeypatch.setattr(sys, "argv", argv)
        assert typed.command() == expected


def test_the_next_free_workdir(tmp_path):
    for name in ("lvs", "lvs-2", "lvs-3"):
        (tmp_path / name).mkdir()
    assert typed.next_free(tmp_path / "lvs") == tmp_path / "lvs-4"
