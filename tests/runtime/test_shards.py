"""One run split over independent jobs: every unit in one of them, the same bytes when merged, no mixing of splits."""

import contextlib
import shutil

import numpy as np
import pytest

from configs import dissociate as dissociate_config
from configs import lvs as lvs_config
from latent_audit.errors import InputError
from latent_audit.experiments import tasks
from latent_audit.experiments.setup import subjects
from latent_audit.runtime import runlog, shards
from tests.experiments.audit.test_latent_job import small_config
from tests.support import reports
from tests.support.checkpoints import tiny_checkpoint

KEYS = [f"base/lvs/L{layer}/p{start:05d}" for layer in range(40) for start in range(0, 240, 24)]
SMALL = {"attack.steps": 2, "attack.controls": False}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_every_unit_is_computed_by_one_shard_and_shards_are_alike_in_size(count):
    owned = np.array([[shards.computes(f"{index}/{count}", key) for key in KEYS] for index in range(count)])
    assert (owned.sum(axis=0) == 1).all()
    # Of a fair draw, five standard deviations.
    assert np.abs(owned.sum(axis=1) - len(KEYS) / count).max() <= 5 * np.sqrt(len(KEYS) / count)
    # Whose a unit is depends on its key alone: not on what else there is.
    assert [shards.computes(f"0/{count}", key) for key in KEYS[::-1]] == owned[0][::-1].tolist()


def test_a_whole_run_computes_all_and_the_merge_none():
    assert all(shards.computes("", key) for key in KEYS) and not any(shards.computes("merge", key) for key in KEYS)
    assert shards.parse("") is None and shards.parse("merge") is None and shards.parse("3/12") == (3, 12)


@pytest.mark.parametrize(
    "text", ["2/2", "1", "a/b", "-1/2", "1/0", "0/0", "1/2/3", "Merge", " 0/2", "0.5/2", "٠/٢", "0/" + "9" * 5000]
)
def test_a_shard_that_is_none_is_named(text):
    with pytest.raises(InputError, match="expected i/n with i from 0 to n - 1"):
        shards.parse(text)


@contextlib.contextmanager
def held(workdir, shard=""):
    with runlog.lock(runlog.prepare_workdir(workdir, {"task": "lvs"}), shard):
        yield


def test_shards_of_one_split_share_a_workdir_and_nobody_else(tmp_path):
    with held(tmp_path, "0/3"):
        with held(tmp_path, "2/3"):
            for other, who in (
                ("", "3 shards, one of them"),
                ("merge", "3 shards, one of them"),
                ("2/3", "shard 2"),
                ("0/3", "shard 0"),
                ("1/2", "shard [02]"),
            ):
                with pytest.raises(InputError, match=f"another run is writing .*{who}: process"), held(tmp_path, other):
                    pass
            with held(tmp_path, "1/3"):
                pass
        with held(tmp_path, "2/3"):
            pass
    # All have ended: another split, a whole run, and then no shard beside it.
    with held(tmp_path, "0/2"):
        pass
    with held(tmp_path):
        for other in ("", "merge", "0/2"):
            with pytest.raises(InputError, match="another run is writing .*a run: process"), held(tmp_path, other):
                pass


def test_how_a_run_is_computed_is_no_part_of_its_config(tmp_path):
    config = lvs_config.get_config()
    for shard in ("0/2", "1/2", "merge", ""):
        config.shard = shard
        runlog.prepare_workdir(tmp_path, config.to_dict())
    assert "shard" not in (tmp_path / "config.json").read_text()
    runlog.save_unit(tmp_path, "base/u", {"x": [1]})
    config.attack.steps = 3
    with pytest.raises(InputError, match="attack.steps: 10 there, 3 now"):
        runlog.prepare_workdir(tmp_path, config.to_dict())


def test_tasks_whose_units_cannot_be_split_say_so(tmp_path):
    config = dissociate_config.get_config()
    config.shard = "0/2"
    with pytest.raises(InputError, match="units of task 'dissociate' cannot be split; those of lvs, audit, finetune"):
        tasks.check_fields(config)


def start(path, workdir, shard, **changes):
    """As main.py does: the directory is prepared and held, and the task run in it."""
    config = small_config(path, **SMALL, **changes, shard=shard)
    runlog.prepare_workdir(workdir, config.to_dict())
    with runlog.lock(workdir, shard):
        tasks.run(config, workdir)


def units_of(workdir):
    return {file.relative_to(workdir): file.stat().st_mtime_ns for file in workdir.glob("units/*/**/*.json")}


def test_shards_and_a_merge_give_the_bytes_of_a_whole_run(tmp_path, monkeypatch):
    path = tiny_checkpoint("llama3", tmp_path / "model")
    whole, split, rest = tmp_path / "whole", tmp_path / "split", tmp_path / "rest"
    with pytest.raises(InputError, match=r"merge', but 11 of 11 units are missing, such as base/clean-harmful/p00000"):
        start(path, split, "merge")
    start(path, split, "0/2")
    first = units_of(split)
    assert 0 < len(first) < 11 and not (split / "metrics.csv").exists()
    with pytest.raises(InputError, match=f"but {11 - len(first)} of 11 units are missing"):
        start(path, split, "merge")
    shutil.copytree(split, rest)
    start(path, split, "1/2")
    assert units_of(split).items() > first.items(), "a shard leaves the units of others alone"
    # A start without shard computes what the shards have left.
    start(path, rest, "")
    assert units_of(rest).items() > first.items()
    start(path, whole, "")
    assert units_of(split).keys() == units_of(rest).keys() == units_of(whole).keys() and len(units_of(whole)) == 11
    monkeypatch.setattr(subjects, "load_variant", lambda *a: pytest.fail("the merge loaded weights"))
    start(path, split, "merge")
    for workdir in (split, rest):
        for name in ("metrics.csv", "report.json", "config.json"):
            assert reports.result(workdir / name) == reports.result(whole / name), name
