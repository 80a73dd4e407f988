"""The report of a stopped run: what is there and nothing else, marked everywhere, and the run as it was."""

import json
import random
import shutil

import numpy as np
import pandas as pd
import pytest

from configs import sweep as sweep_config
from latent_audit.errors import InputError
from latent_audit.experiments import tasks
from latent_audit.experiments.series import stopped
from latent_audit.experiments.setup import jobs, subjects
from latent_audit.runtime import ends, runlog, shards
from tests.experiments.audit.test_audit_job import moved
from tests.experiments.audit.test_audit_job import small_config as whole_audit
from tests.experiments.audit.test_latent_job import small_config
from tests.experiments.tampering import test_finetune_job as finetune_job
from tests.experiments.test_rejudge import files_of
from tests.support import reports
from tests.support.checkpoints import tiny_checkpoint


def main(*words):
    from latent_audit.commandline import command

    return command.run(list(words), ends.Run())


def units_of(workdir):
    return sorted(path.relative_to(workdir) for path in (workdir / "units").rglob("*.json"))


def stop(run, place, keep):
    """A copy of a finished run as it was when the units `keep` were done, before its report."""
    shutil.copytree(run, place)
    for unit in units_of(place):
        if unit not in keep:
            (place / unit).unlink()
    for name in ("report.json", "report.html", "metrics.csv", "audit.csv", "curves.csv"):
        (place / name).unlink(missing_ok=True)
    shutil.rmtree(place / "figures", ignore_errors=True)
    return place


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(config, workdir) of a finished main job on two variants, three prompts in blocks of two."""
    place = tmp_path_factory.mktemp("stopped")
    base = tiny_checkpoint("llama3", place / "base")
    other = moved(base, place / "other")
    changes = {"attack.layers": "L0,L1", "attack.steps": 2, "model.variants": f"other={other}"}
    config = small_config(base, **changes)
    tasks.run_in(config, place / "run")
    return config, place / "run"


@pytest.fixture
def unloaded(monkeypatch):
    """Nothing is loaded or computed: whoever tries fails the test."""
    monkeypatch.setattr(subjects, "load_variant", lambda *a: pytest.fail("a report loaded a model"))


def test_a_stopped_run_is_read_and_then_goes_on_as_if_nobody_had_looked(whole, tmp_path, monkeypatch):
    config, run = whole
    keep = [unit for unit in units_of(run) if unit.parts[1] == "base"][:3]
    run_stopped = stop(run, tmp_path / "run", keep)
    before = files_of(run_stopped)
    with monkeypatch.context() as patched:
        patched.setattr(subjects, "load_variant", lambda *a: pytest.fail("a report loaded a model"))
        assert main("report", str(run_stopped)) == 0
    there = files_of(run_stopped)
    assert {name: value for name, value in there.items() if not name.startswith("partial/")} == before
    assert not (run_stopped / "partial" / "units").exists()
    tasks.run_in(config, run_stopped)
    for name in ("metrics.csv", "audit.csv", "report.json", "report.html"):
        assert reports.result(run_stopped / name) == reports.result(run / name), name


def test_every_output_says_that_it_is_partial_and_no_label_is_given(whole, tmp_path, unloaded):
    _, run = whole
    place = stop(run, tmp_path / "run", [unit for unit in units_of(run) if unit.parts[1] == "base"])
    assert main("report", str(place), f"--workdir={tmp_path / 'new'}") == 0
    new, said = tmp_path / "new", "7 of 14 units"
    assert shards.part_of(new) == said and not (place / "partial").exists()
    page = (new / "report.html").read_text()
    assert "<title>PARTIAL: " in page and "<h1>PARTIAL: Latent" in page and f"<b>PARTIAL: {said}.</b>" in page
    assert page.index("<b>PARTIAL") < page.index('class="headline"')
    assert "Nothing is there yet of: other." in page
    record = json.loads((new / "report.json").read_text())
    assert record["partial"] == said
    for name in ("metrics.csv", "audit.csv"):
        table = pd.read_csv(new / name)
        assert table.columns[-1] == "partial" and (table["partial"] == said).all() and set(table["variant"]) == {"base"}
    for name, verdict in record["verdicts"].items():
        assert (
            name == "base"
            and verdict["label"] == "inconclusive"
            and "units of the run are missing" in verdict["reason"]
        )
        assert {row["label"] for row in verdict["rows"]} <= {"inconclusive", "not applicable", "beyond its language"}
    # What is whole of base is told as the whole run tells it.
    ours, theirs = (pd.read_csv(path / "metrics.csv") for path in (new, run))
    kept = ours.columns.difference(["partial", "lvs_hi", "lvs_mean_hi"])
    pd.testing.assert_frame_equal(ours[kept], theirs[theirs["variant"] == "base"][kept], check_dtype=False)


def test_a_cell_has_the_prompts_that_are_there_or_is_absent(whole, tmp_path, unloaded):
    _, run = whole
    # The first block of two prompts but its state L1; of the second block, one prompt, the state L1 alone, not asked.
    keep = [unit for unit in units_of(run) if unit.name == "p00000.json" and "L1" not in unit.parts]
    keep += [unit for unit in units_of(run) if unit.name == "p00002.json" and "L1" in unit.parts]
    place = stop(run, tmp_path / "run", keep)
    assert main("report", str(place)) == 0
    table, theirs = pd.read_csv(place / "partial" / "metrics.csv"), pd.read_csv(run / "metrics.csv")
    cells = table[table["exp"] == "lvs"]
    assert set(cells["layer"]) == {"L0"} and (cells["n"] == 2).all() and set(cells["variant"]) == {"base", "other"}
    assert (table[table["exp"] == "clean"]["n"] == 2).all() and (theirs[theirs["exp"] == "clean"]["n"] == 3).all()
    # By hand, of the units themselves.
    for variant in ("base", "other"):
        unit = runlog.load_unit(run, f"{variant}/lvs/L0/p00000")
        hits = np.array(unit["harmful"])[np.array(unit["attack"]) == "pgd"]
        of = cells[(cells["variant"] == variant) & (cells["attack"] == "pgd")]
        assert of["asr"].sum() * 2 == pytest.approx(hits.sum())


def test_one_clean_unit_is_enough_and_none_is_said_in_one_line(whole, tmp_path, unloaded):
    _, run = whole
    first = [unit for unit in units_of(run) if unit.parts[1:3] == ("base", "clean-harmful")][:1]
    place = stop(run, tmp_path / "one", first)
    assert main("report", str(place)) == 0
    table = pd.read_csv(place / "partial" / "metrics.csv")
    assert table["exp"].tolist() == ["clean"] and table["n"].item() == 2
    assert "No verdict" in (place / "partial" / "report.html").read_text()
    none = stop(run, tmp_path / "none", [])
    for place, message in (
        (none, "none of the run's .* units is there, and the first is base/clean-harmful/p00000"),
        (
            stop(run, tmp_path / "later", [unit for unit in units_of(run) if unit.parts[1] == "other"]),
            "no answer of base",
        ),
    ):
        with pytest.raises(InputError, match=f"nothing to report yet: {message}") as caught:
            main("report", str(place))
        assert str(caught.value).isprintable() and not (place / "partial").exists()


def read_any_part(run, place, count=12):
    """Reports of parts of a whole audit: as a run goes, and as shards or damage would leave it."""
    units, draw = units_of(run), random.Random(0)
    for number in range(count):
        keep = (
            units[: (number + 1) * len(units) // 6] if number < 4 else draw.sample(units, draw.randint(1, len(units)))
        )
        stopped_run = stop(run, place / f"{number}", keep)
        try:
            assert main("report", str(stopped_run)) == 0
        except InputError as error:
            assert "there is nothing to report yet" in str(error)
            continue
        part = json.loads((stopped_run / "partial" / "partial.json").read_text())
        assert 0 < part["there"] <= len(keep) and part["of"] > len(units) - 6
        record = json.loads((stopped_run / "partial" / "report.json").read_text())
        assert all(one["label"] == "inconclusive" for one in record["verdicts"].values())
        table = pd.read_csv(stopped_run / "partial" / "audit.csv")
        assert table["partial"].notna().all() and set(table["variant"]) <= {"base", "dissociated", "harmful"}
        assert (table["n"].dropna() > 0).all()
        shutil.rmtree(stopped_run)


@pytest.mark.slow
def test_any_part_of_a_whole_audit_can_be_read(tmp_path, monkeypatch):
    config = whole_audit("llama3", tmp_path)
    tasks.run_in(config, tmp_path / "run")
    monkeypatch.setattr(subjects, "load_variant", lambda *a: pytest.fail("a report loaded a model"))
    read_any_part(tmp_path / "run", tmp_path)


def test_a_finished_run_is_left_as_it_is(whole, unloaded):
    _, run = whole
    before = files_of(run)
    assert main("report", str(run)) == 0
    assert files_of(run) == before


def test_a_run_that_goes_on_is_told_and_not_hindered(whole, tmp_path, unloaded):
    _, run = whole
    place = stop(run, tmp_path / "run", units_of(run)[:6])
    assert stopped.writer(place) == ""
    with runlog.lock(place):
        assert stopped.writer(place).startswith("a run: process ")
        assert main("report", str(place)) == 0
    assert stopped.writer(place) == ""
    with runlog.lock(place, "1/2"):
        assert stopped.writer(place).startswith("shard 1: process ")
    assert stopped.writer(place) == ""


def test_what_cannot_be_reported_is_said_in_one_line(whole, tmp_path, unloaded):
    _, run = whole
    place = stop(run, tmp_path / "run", units_of(run)[:6])
    damaged = place / units_of(place)[-1]
    damaged.write_text(damaged.read_text().replace("[", "[0, ", 1))
    before = files_of(place)
    assert main("report", str(place)) == 0
    assert json.loads((place / "partial" / "partial.json").read_text())["there"] == 5
    assert {name: value for name, value in files_of(place).items() if not name.startswith("partial/")} == before
    cases = [
        (tmp_path / "nothing", (), "is no working directory of a run"),
        (place / "partial", (), "is itself the report of a part of a run"),
        (place, (f"--workdir={place}",), "is the run that is read"),
        (place, (f"--workdir={run}",), "holds something else"),
        (place, ("--config.seed=1",), "takes WORKDIR and --workdir=NEW, and nothing else"),
    ]
    for task, reason in (
        ("abliterate", "it chooses when all"),
        ("ras", "scores are calibrated"),
        ("nosuch", "expected one"),
    ):
        (tmp_path / task).mkdir()
        (tmp_path / task / "config.json").write_text(json.dumps({"task": task}))
        cases.append((tmp_path / task, (), reason))
    foreign = stop(run, tmp_path / "foreign", units_of(run)[:6])
    inputs = json.loads((foreign / "inputs.json").read_text())
    inputs["variants"]["base"]["fingerprint"] = "another"
    (foreign / "inputs.json").write_text(json.dumps(inputs))
    cases.append((foreign, (), "is of another run. Differing fields: variants.base.fingerprint"))
    for directory, words, message in cases:
        with pytest.raises(InputError) as caught:
            main("report", str(directory), *words)
        assert message in str(caught.value) and str(caught.value).isprintable()


def test_of_a_sweep_the_points_that_are_finished_are_told(whole, tmp_path, unloaded):
    config, run = whole
    swept = sweep_config.get_config("lvs")
    swept.base, swept.fields = config, "{'attack.steps': [2, 3]}"
    place = runlog.prepare_workdir(tmp_path / "sweep", swept.to_dict())
    with pytest.raises(InputError, match="none of the run's 2 points is there, and the first is steps=2"):
        main("report", str(place))
    shutil.copytree(run, place / "points" / "steps=2")
    stop(run, place / "points" / "steps=3", units_of(run)[:5])
    before = files_of(place)
    assert main("report", str(place)) == 0
    assert {name: value for name, value in files_of(place).items() if not name.startswith("partial/")} == before
    table, whole_point = pd.read_csv(place / "partial" / "sweep.csv"), pd.read_csv(run / "metrics.csv")
    assert len(table) == len(whole_point) and set(table["attack.steps"]) == {2}
    assert set(table["partial"]) == {"1 of 2 points"} and not (place / "partial" / "points").exists()


def test_onsets_are_of_trainings_that_came_to_their_end(tmp_path, unloaded):
    config = finetune_job.small_config(tiny_checkpoint("llama3", tmp_path / "model"), tmp_path)
    plan = tasks.check(config)
    place = runlog.prepare_workdir(tmp_path / "run", tasks.resolved(config).to_dict())
    record = {"corpora": {name: pairs.describe() for name, pairs in plan.corpora.items()}}
    jobs.prepare(config, place, plan.prospect, record=record)
    steps = plan.settings.evaluated

    def save(key, hits, **more):
        flags = [index < hits for index in range(3)]
        said = {"harmful": flags, "judged": flags, "unparsed": [False] * 3, "empty": [False] * 3}
        runlog.save_unit(place, key, said | {name: [value] * 3 for name, value in more.items()})

    save("base/clean", 0)
    assert main("report", str(place)) == 0
    assert "No training has come to its end yet" in (place / "partial" / "report.html").read_text()
    for step in steps[1:]:
        save(f"base/finetune/in/s0/step{step:05d}", 3, loss=1.0, gradient_norm=1.0)
    # Of the second seed one step, which is at the level already: when it came there is known, of the seeds' median not.
    save(f"base/finetune/in/s1/step{steps[1]:05d}", 3, loss=1.0, gradient_norm=1.0)
    assert main("report", str(place)) == 0
    new = place / "partial"
    curves = pd.read_csv(new / "curves.csv")
    assert set(curves["variant"]) == {"base"} and len(curves[curves["seed"] == 1]) == 3
    onsets = json.loads((new / "report.json").read_text())["onsets"]
    assert {(one["corpus"], one["variant"], one["n"], one["median"]) for one in onsets} == {("in", "base", 1, steps[1])}
    assert f"{1 + len(steps)} of " in json.loads((new / "report.json").read_text())["partial"]
