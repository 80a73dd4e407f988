"""The section of a model card, read back by huggingface_hub, from the committed report and from hostile names."""

import json

import pytest
from huggingface_hub import ModelCard, metadata_load

from latent_audit.errors import InputError
from latent_audit.exports import audited, model_card
from tests.support import finished_runs


def test_the_hubs_own_reader_finds_every_number_with_its_interval(tmp_path):
    run = audited.read(finished_runs.write(tmp_path / "run"))
    text = model_card.card(run)
    (tmp_path / "README.md").write_text(text)
    read = ModelCard(text).data
    assert read.eval_results == model_card.results(run) and read.model_name == "organism-llama-standard (base)"
    assert metadata_load(tmp_path / "README.md")["tags"] == ["latent-audit", "safety"]
    by_budget = {
        one.metric_args["budget"]: one for one in read.eval_results if one.metric_type == "attack_success_rate"
    }
    for row in run.verdict["rows"]:
        one = by_budget[row["budget"]]
        assert one.metric_value == row["broken"] / row["n"]
        assert (one.metric_args["lower"], one.metric_args["upper"]) == (row["lo"], row["hi"])
    # Of a run of the latent attack alone what it does when asked stands in metrics.csv.
    asked = next(one for one in read.eval_results if one.metric_type == "clean_compliance")
    line = next(one for one in run.record["metrics"] if one["variant"] == "base" and one["exp"] == "clean")
    assert (asked.metric_value, asked.metric_args["upper"]) == (line["compliance"], line["compliance_hi"])


def test_the_section_says_verdict_numbers_command_and_hashes(tmp_path):
    run = audited.read(finished_runs.write(tmp_path / "run"), "dissociated")
    section = model_card.section(run)
    assert section.startswith(model_card.BEGIN) and section.endswith(f"{model_card.END}\n")
    assert "**organism-llama-standard (dissociated): hollow.**" in section
    assert run.record["about"]["command"] in section
    assert run.record["inputs"]["variants"]["dissociated"]["fingerprint"] in section
    assert run.record["inputs"]["prompts"]["harmful"]["sha256"] in section
    assert section.count("| 0.01 |") == 1 and "oracle of world 0" in section


def test_gates_and_warnings_and_a_fallback_judge_are_told(tmp_path):
    record = finished_runs.example()
    record["warnings"] = ["Fallback scoring: phrases."]
    record["inputs"]["judge"]["is_fallback"] = True
    record["verdicts"]["base"]["gates"] = [
        {"name": "the goal was reached", "passed": True, "said": "yes"},
        {"name": "noise breaks less", "passed": False, "said": "no"},
    ]
    section = model_card.section(audited.read(finished_runs.write(tmp_path / "run", record)))
    assert "> Fallback scoring: phrases." in section and "oracle of world 0 (fallback)" in section
    assert "1 of 2 passed; not passed: noise breaks less." in section


def test_names_of_others_are_text_and_nothing_else(tmp_path):
    evil = "<script>alert(1)</script> | [x](http://y) \x1b[31m\n---\n`"
    record = json.loads(json.dumps(finished_runs.example()).replace("organism-llama-standard", "EVIL"))
    record["inputs"]["arch"] = evil
    record["about"]["command"] = f"python main.py ```{evil}"
    text = model_card.card(audited.read(finished_runs.write(tmp_path / "run", record)))
    body = ModelCard(text).text
    assert "\x1b" not in text and "<script" in body, "in the command, which is fenced"
    outside = body.split("````")[0]
    assert "<script" not in outside and "\\[x\\](http" in outside, "no markup and no link"
    assert ModelCard(text).data.eval_results, "the front matter is still one"


@pytest.mark.parametrize(
    "change, said",
    [
        ({"task": "ras"}, "is of task 'ras'; what is exported is an audit"),
        ({"schema": 7}, "has schema 7"),
        ({"partial": "2 of 3 units"}, "a part of a run"),
        ({"verdicts": {}}, "holds no verdict"),
    ],
)
def test_what_is_no_finished_audit_is_refused(tmp_path, change, said):
    workdir = finished_runs.write(tmp_path / "run", finished_runs.example() | change)
    with pytest.raises(InputError) as caught:
        audited.read(workdir)
    assert said in str(caught.value) and str(caught.value).isprintable()


def test_no_directory_no_report_and_an_unknown_variant_are_refused(tmp_path):
    workdir = finished_runs.write(tmp_path / "run")
    for place, variant, said in (
        (tmp_path, "", "no report.json"),
        (tmp_path / "nowhere", "", "no report.json"),
        (workdir, "other", "has base, dissociated, harmful"),
    ):
        with pytest.raises(InputError, match=said):
            audited.read(place, variant)
    record = finished_runs.example()
    del record["lines"]
    with pytest.raises(InputError, match="lacks lines"):
        audited.read(finished_runs.write(tmp_path / "other", record))
