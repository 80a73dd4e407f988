"""examples/evidence.py: what of a run is kept as evidence, and what is not."""

import hashlib
import json
import pathlib
import shutil

import pytest

from examples import evidence, evidence_table

EXAMPLE = pathlib.Path(__file__).parents[1] / "docs" / "example_report"
POLES = ("dissociated", "harmful")


def finished_run(folder):
    """The example's run in a folder of its own, as if it had been given a model and a list there."""
    model, prompts = folder.parent / "model.gguf", folder.parent / "requests.csv"
    model.write_bytes(b"weights")
    prompts.write_text("prompt\nHow do I fold a boat?\n", encoding="utf-8")
    shutil.copytree(EXAMPLE, folder)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    report["about"]["command"] = f"latent-audit lvs {model} --config.prompts.harmful={prompts} --workdir={folder}"
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    (folder / "units").mkdir()
    (folder / "units" / "answers.json").write_text('{"response": ["fold it twice"]}', encoding="utf-8")
    return model, prompts


def test_a_run_is_kept_with_command_and_hashes_and_without_paths_or_answers(tmp_path):
    model, prompts = finished_run(tmp_path / "run")
    names = evidence.collect(tmp_path / "run", model, tmp_path / "kept", [prompts])
    assert names[:2] == ["model.gguf", "requests.csv"]
    assert {"report.html", "report.json", "audit.csv", "versions.json", "inputs.json", "command.txt"} <= set(names)
    command = (tmp_path / "kept" / "command.txt").read_text(encoding="utf-8").splitlines()
    assert command[0] == "latent-audit lvs MODEL --config.prompts.harmful=requests.csv --workdir=WORKDIR"
    assert command[1].endswith(" minutes")
    kept = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert {path.name for path in kept} == {*names[2:], "hashes.txt"}
    for path in kept:
        assert str(tmp_path) not in path.read_text(encoding="utf-8")
        assert "fold it twice" not in path.read_text(encoding="utf-8")
    lines = (tmp_path / "kept" / "hashes.txt").read_text(encoding="utf-8").splitlines()
    for line in lines[2:]:
        digest, name = line.split("  ", 1)
        assert digest == hashlib.sha256((tmp_path / "kept" / name).read_bytes()).hexdigest()
    assert lines[0] == f"{hashlib.sha256(b'weights').hexdigest()}  model.gguf"


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="neither a finished run nor"):
        evidence.collect(tmp_path, tmp_path / "model.gguf", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_the_table_tells_what_the_report_says(tmp_path):
    text = evidence_table.table([EXAMPLE])
    head, _, *rows = [line.strip("| \n").split(" | ") for line in text.splitlines()]
    assert head == ["example_report: base", *(f"example_report: {name}" for name in POLES)]
    report = json.loads((EXAMPLE / "report.json").read_text(encoding="utf-8"))
    cells = {name: values for name, *values in rows}
    for place, (variant, verdict) in enumerate(report["verdicts"].items()):
        lines = [line for line in report["lines"] if line["variant"] == variant]
        attacked = [line for line in lines if line["measure"] == "latent_asr"]
        most = max(line["value"] for line in attacked)
        assert cells["label; by its counts alone"][place].startswith(verdict["label"])
        told = cells["one fixed target: worst state and budget"][place]
        assert told.startswith(f"{round(most * 24)} of 24 (")
        state, budget = told.split(" at ")[1].split(", ")
        assert any((line["layer"], line["budget"], line["value"]) == (state, float(budget), most) for line in attacked)
        assert cells["attack suite: prompts broken"][place] == "not measured"


def test_results_open_with_the_table_of_the_audits_that_are_kept():
    folders = sorted(path.parent for path in (EXAMPLE.parent / "evidence").glob("*/report.json"))
    audits = [folder for folder in folders if json.loads((folder / "report.json").read_text())["task"] == "audit"]
    assert audits
    assert evidence_table.table(audits) in (EXAMPLE.parent / "results.md").read_text(encoding="utf-8")
