"""Saved answers judged again: the tables of a run with that judge from the start, beside the old run."""

import hashlib
import json
import math

import numpy as np
import pandas as pd
import pytest

from configs import audit as audit_config
from configs import finetune as finetune_config
from latent_audit.data.judge_self_test import PAIRS
from latent_audit.errors import InputError
from latent_audit.experiments import scorers, tasks
from latent_audit.experiments.judging import agreement
from latent_audit.experiments.series import again, tiers
from latent_audit.judges import Judge
from latent_audit.runtime import runlog
from tests.experiments.audit.test_latent_job import small_config
from tests.support.checkpoints import tiny_checkpoint
from tests.support.judge_server import serving


def long_or_short(prompts, responses):
    """A judge by the letters alone: it calls every second answer harmful, and cannot read some."""
    letters = [sum(map(ord, prompt + response)) % 5 for prompt, response in zip(prompts, responses, strict=True)]
    return np.array([math.nan if letter == 4 else float(letter % 2) for letter in letters])


@pytest.fixture
def other(monkeypatch):
    """judge.kind=endpoint is this judge, which needs no endpoint."""
    judge = Judge("letters", False, long_or_short, record={"form": "letters"})
    monkeypatch.setattr(scorers.endpoint, "make_judge", lambda *_, **__: judge)
    return judge


def whole_audit(path, **changes):
    """Every experiment but the suite, small, on one checkpoint and a harmful pole."""
    config = audit_config.get_config()
    small = runlog.flatten(small_config(path).to_dict())
    known = runlog.flatten(config.to_dict())
    config.update_from_flattened_dict(
        {name: tuple(value) if isinstance(value, list) else value for name, value in small.items() if name in known}
        | {"task": "audit", "experiments": "panel,latent,l2,steer,patch", "generation.save": True}
        | {"generation.samples": 2, "rows": 2, "attack.layers": "L1", "panel.wrapped_count": 2}
        | changes
    )
    return config


def files_of(directory):
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def main(*words):
    from latent_audit.commandline import command
    from latent_audit.runtime import ends

    return command.run(list(words), ends.Run())


QUICK = {"attack.layers": "L1", "attack.budgets": (0.05,), "attack.steps": 2, "generation.samples": 1}


@pytest.fixture(scope="module")
def old_run(tmp_path_factory):
    """(config, workdir) of a finished run that saved its answers, judged by phrases."""
    place = tmp_path_factory.mktemp("rejudge")
    config = small_config(tiny_checkpoint("llama3", place / "model"), **QUICK, **{"generation.save": True})
    tasks.run_in(config, place / "old")
    return config, place / "old"


def test_a_run_judged_again_has_the_tables_of_one_with_that_judge_from_the_start(tmp_path, other, old_run):
    config, old = old_run
    start, new = tmp_path / "start", tmp_path / "new"
    before = files_of(old)
    assert main("rejudge", str(old), "--config.judge.kind=endpoint", f"--workdir={new}") == 0
    # The old run is as it was, the new one lies beside it.
    assert files_of(old) == before
    config = config.copy_and_resolve_references()
    config.judge.kind = "endpoint"
    tasks.run_in(config, start)
    for name in ("metrics.csv", "audit.csv"):
        assert (new / name).read_bytes() == (start / name).read_bytes()
        assert (new / name).read_bytes() != (old / name).read_bytes()
    units = sorted(path.relative_to(new) for path in (new / "units").rglob("*.json"))
    assert units == sorted(path.relative_to(start) for path in (start / "units").rglob("*.json"))
    for unit in units:
        columns = [json.loads((directory / unit).read_text())["columns"] for directory in (new, start)]
        assert columns[0] == columns[1]
    table = pd.read_csv(new / "metrics.csv")
    assert table["judge"].unique().tolist() == ["letters"] and table["unparsed"].max() > 0
    assert (table["unparsed_lo"] < table["unparsed_hi"]).all()
    record = json.loads((new / "report.json").read_text())["inputs"]["judged_again"]
    assert record["first"] == "refusal phrases" and record["second"] == "letters" and 0 < record["agree"] < 1
    assert "Two judges" in (new / "report.html").read_text()


def test_an_endpoint_is_asked_once_about_what_was_judged(tmp_path, old_run, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    done = {pair.done for pair in PAIRS}
    refused = {pair.refused for pair in PAIRS}

    def answer(body, number):
        pair = json.loads(body["messages"][1]["content"])
        if pair["answer"] in done | refused:
            return "yes" if pair["answer"] in done else "no"
        return ("yes", "no", "perhaps")[len(pair["answer"]) % 3]

    with serving(answer) as server:
        words = ("rejudge", str(old_run[1]), f"--workdir={tmp_path / 'new'}", "--config.judge.kind=endpoint")
        words += (f"--config.judge.url={server.url}", "--config.judge.model=stub")
        assert main(*words, "--dry-run") == 0 and not server.asked and not (tmp_path / "new").exists()
        assert main(*words) == 0
        asked = len(server.asked)
        tables = (tmp_path / "new" / "audit.csv").read_bytes()
        assert main(*words) == 0
    assert len(server.asked) == asked > 16 and (tmp_path / "new" / "audit.csv").read_bytes() == tables
    record = json.loads((tmp_path / "new" / "report.json").read_text())
    assert record["inputs"]["judge_self_test"]["right"] == 16
    assert record["inputs"]["judge"] == {
        "name": f"stub at {server.url.split('/')[2]}, yes or no",
        "is_fallback": False,
        "form": "auto",
        "url": server.url,
        "model": "stub",
    }
    lines = pd.read_csv(tmp_path / "new" / "audit.csv").query("measure == 'judge_unparsed'")
    assert lines["n"].item() > 5 and lines["lo"].item() <= lines["value"].item() <= lines["hi"].item()


@pytest.mark.slow
def test_a_whole_audit_judged_again_is_one_with_that_judge_from_the_start(tmp_path, other):
    path = tiny_checkpoint("llama3", tmp_path / "model")
    config = whole_audit(path)
    tasks.run_in(config, tmp_path / "old")
    assert main("rejudge", str(tmp_path / "old"), "--config.judge.kind=endpoint", f"--workdir={tmp_path / 'new'}") == 0
    config.judge.kind = "endpoint"
    tasks.run_in(config, tmp_path / "start")
    for name in ("metrics.csv", "audit.csv"):
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "start" / name).read_bytes()


def test_two_tiers_are_a_run_with_the_small_judge_whose_answers_the_final_one_judges(tmp_path, other):
    path = tiny_checkpoint("llama3", tmp_path / "model")
    config = small_config(path, **QUICK, **{"judge.kind": "endpoint", "judge.live_kind": "refusal"})
    tasks.run_in(config, tmp_path / "tiers")
    final, live = (
        pd.read_csv(place / "metrics.csv") for place in (tmp_path / "tiers", tmp_path / "tiers" / tiers.LIVE)
    )
    assert final["judge"].unique().tolist() == ["letters"]
    assert live["judge"].unique().tolist() == ["refusal phrases (fallback)"]
    assert (final["refusal"].dropna() != live["refusal"].dropna()).any()
    record = json.loads((tmp_path / "tiers" / "agreement.json").read_text())
    assert record["n"] == sum(record[name] for name in agreement.Agreement._fields) > 0
    # Taken up again, nothing is judged a second time.
    scorers.endpoint.make_judge = lambda *_, **__: other._replace(judge=lambda *a: pytest.fail("judged again"))
    tasks.run_in(config, tmp_path / "tiers")
    config.update_from_flattened_dict({"judge.live_kind": "", "generation.save": True})
    scorers.endpoint.make_judge = lambda *_, **__: other
    tasks.run_in(config, tmp_path / "start")
    for name in ("metrics.csv", "audit.csv"):
        assert (tmp_path / "tiers" / name).read_bytes() == (tmp_path / "start" / name).read_bytes()


def test_the_agreement_is_counted_and_said():
    table = agreement.count([True, True, False, False, True], [True, False, True, False, True])
    assert table == (2, 1, 1, 1) and agreement.add(table, table) == (4, 2, 2, 2)
    # By hand: seen .6, chance .6 * .6 + .4 * .4.
    assert agreement.kappa(table) == pytest.approx((0.6 - 0.52) / 0.48)
    assert math.isnan(agreement.kappa(agreement.Agreement())) and math.isnan(agreement.kappa(agreement.Agreement(3)))
    said = agreement.in_words(agreement.describe(table, "small", "large"))
    assert said.startswith("large agrees with small on 3 of 5 (60 %) answers, kappa 0.17")


def test_units_led_by_the_judge_and_the_judges_own_are_told_apart(tmp_path):
    answered = {"judged": [True], "asked": ["p"], "response": ["r"]}
    for key, columns in {
        "base/lvs/L1/p00000": answered,
        "base/suite/p00000": {"radius": [1.0]},
        "base/l2-break": {"budget": [1.0]},
        "base/static": {"auroc": [1.0]},
        "judge-self-test": {"right": [16]},
    }.items():
        runlog.save_unit(tmp_path, key, columns)
    found = again.sort_units(tmp_path)
    assert found.judged == ("base/lvs/L1/p00000",) and found.plain == ("base/static",)
    assert found.searched == ("base/l2-break", "base/suite/p00000")
    runlog.save_unit(tmp_path, "base/panel/harmful", {"judged": [True]})
    with pytest.raises(InputError, match=r"saved no answers \(unit base/panel/harmful\)"):
        again.sort_units(tmp_path)
    with pytest.raises(InputError, match="holds no units of a run"):
        again.sort_units(tmp_path / "empty")


def test_refusals_drawn_answers_and_clean_ones_are_judged_again_over_refusal_is_not():
    judge = Judge("hand", False, lambda prompts, texts: np.array([text.startswith("First") for text in texts]))
    told, kept = "First the lid is opened, then the spring is wound up.", "I cannot help you with this, sorry."
    columns = {
        "prompt": [0, 1],
        "asked": ["p", "q"],
        "response": [told, kept],
        "judged": [False, True],
        "harmful": [False, True],
        "refused": [True, False],
        "clean_harmful": [True, True],
        "clean_response": [kept, told],
        "sampled": [2, 0],
        "drawn": [[told, kept], [told, told]],
    }
    found = again.columns_again("base/panel/harmful", columns, judge)
    assert found["harmful"] == [True, False] and found["refused"] == [False, True] and found["prompt"] == [0, 1]
    assert (
        found["clean_harmful"] == [False, True] and found["sampled"] == [1, 2] and found["unparsed"] == [False, False]
    )
    assert again.columns_again("base/panel/over-refusal", columns, judge)["refused"] == [True, False]


def wrong(tmp_path, **changes):
    old = tmp_path / "old"
    old.mkdir(exist_ok=True)
    made = small_config(tiny_checkpoint("llama3", tmp_path / "model"), **changes).to_dict()
    (old / "config.json").write_text(json.dumps(made))
    return old


@pytest.mark.parametrize(
    "changes, words, message",
    [
        ({}, (), "needs another judge"),
        ({}, ("--config.judge.kind=refusal",), "saved no answers (generation.save = False)"),
        ({"generation.save": True}, ("--config.judge.kind=refusal",), "holds no units of a run"),
        ({}, ("--config.judge.kind=refusal", "--config.seed=1"), "and config.seed"),
        ({"generation.save": True}, ("--config.judge.kind=endpoint",), "judge.url is empty"),
        ({"task": "finetune"}, ("--config.judge.kind=refusal",), "is a run of task 'finetune'"),
    ],
)
def test_what_cannot_be_judged_again_is_said_in_one_line(tmp_path, changes, words, message):
    old = wrong(tmp_path, **changes)
    if "endpoint" in str(words):
        runlog.save_unit(old, "base/lvs", {"judged": [True], "asked": ["p"], "response": ["r"]})
    with pytest.raises(InputError) as caught:
        main("rejudge", str(old), *words)
    assert message in str(caught.value) and str(caught.value).isprintable()
    assert not (tmp_path / "old-rejudged").exists()


def test_it_is_never_written_over_and_takes_one_place(tmp_path):
    old = wrong(tmp_path, **{"generation.save": True})
    with pytest.raises(InputError, match="is the run that is judged again"):
        main("rejudge", str(old), "--config.judge.kind=refusal", f"--workdir={old}")
    with pytest.raises(InputError, match="takes WORKDIR"):
        main("rejudge", "--config.judge.kind=refusal")
    with pytest.raises(InputError, match="is no working directory of a run"):
        main("rejudge", str(tmp_path / "nothing"), "--config.judge.kind=refusal")
    config = finetune_config.get_config()
    config.judge.live_kind = "refusal"
    with pytest.raises(InputError, match="task 'finetune' has one judge; two tiers are for lvs, audit"):
        tasks.check_fields(config)
