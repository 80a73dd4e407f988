"""A card and a report on their way to a hub that stands on this machine, and everything that stops them."""

import os
import subprocess
import sys

import pytest
import yaml
from huggingface_hub import ModelCard

from latent_audit.commandline import arguments, command
from latent_audit.errors import InputError
from latent_audit.exports import audited, hub, model_card
from latent_audit.runtime import ends
from tests.support import fake_hub, finished_runs

THEIRS = """---
license: mit
tags: [chat]
model-index:
- name: their model
  results:
  - task: {type: text-generation}
    dataset: {name: Theirs, type: theirs}
    metrics: [{type: accuracy, value: 0.5}]
---
# Their model

Their words, with `---` in them.
"""


def push(workdir, address, *flags, token="hf_test", home):
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
    line = [sys.executable, "main.py", "push", str(workdir), "--repo=me/model", *flags]
    done = subprocess.run(line, cwd=finished_runs.ROOT, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_one_commit_holds_the_card_and_the_report_and_no_answer(tmp_path):
    workdir = finished_runs.write(tmp_path / "run", saved=True)
    (workdir / "report.html").write_text("<p>page</p>")
    with fake_hub.serve(card=THEIRS) as (address, commits):
        status, said = push(workdir, address, home=tmp_path / "home")
    assert status == 0, said
    (files,) = commits
    assert set(files) == {"README.md", "latent-audit/report.html", "latent-audit/report.json"}
    assert not any(finished_runs.SECRET.encode() in data for data in files.values())
    assert all(f"uploaded: {name}" in said for name in files) and "https://huggingface.co/me/model/commit/b" in said
    card = files["README.md"].decode()
    assert card == hub.merged(THEIRS, audited.read(workdir))


@pytest.mark.parametrize(
    "card, status, repo, said",
    [
        (THEIRS, 403, "me/model", "the hub refuses this token (403)"),
        (THEIRS, 412, "me/model", "somebody wrote there in between"),
        (THEIRS, 500, "me/model", "the hub refuses: "),
        (None, 200, "me/other", "there is no such model repository"),
        (THEIRS.replace("license: mit", "license: [mit"), 200, "me/model", "is no YAML"),
    ],
)
def test_what_the_hub_refuses_is_one_line(tmp_path, card, status, repo, said):
    workdir = finished_runs.write(tmp_path / "run")
    with fake_hub.serve(card=card, status=status, repo=repo) as (address, commits):
        code, told = push(workdir, address, home=tmp_path / "home")
    assert code == 2 and said in told and "Traceback" not in told, told
    assert not commits or status != 200


def test_without_a_token_or_a_network_nothing_is_tried(tmp_path, monkeypatch):
    workdir = finished_runs.write(tmp_path / "run")
    with fake_hub.serve() as (address, commits):
        code, told = push(workdir, address, token="", home=tmp_path / "home")
        assert code == 2 and "no token of the hub is here" in told and "hf auth login" in told and not commits
    code, told = push(workdir, address, home=tmp_path / "home")
    assert code == 2 and "cannot be reached" in told and "Traceback" not in told


def test_a_dry_run_names_the_files_and_asks_nobody(tmp_path, monkeypatch, capsys):
    workdir = finished_runs.write(tmp_path / "run")
    for asked in ("check_token", "current", "upload"):
        monkeypatch.setattr(hub, asked, lambda *a: pytest.fail("the hub was asked"))
    words = ["push", str(workdir), "--repo", "me/model", "--dry-run"]
    assert command.run(words, ends.Run()) == 0
    said = capsys.readouterr().out
    assert "latent-audit/report.json" in said and "units" not in said and "config.json" not in said


@pytest.mark.parametrize("repo", ["model", "me/", "a/b/c", "../x", "me/a..b", "me/a b", "https://hf.co/me/x"])
def test_a_repository_is_owner_and_name(repo):
    with pytest.raises(InputError, match="expected OWNER/NAME"):
        hub.check_id(repo)


def test_a_missing_repository_and_a_workdir_are_refused(tmp_path):
    workdir = str(finished_runs.write(tmp_path / "run"))
    for words, said in (
        (["push", workdir], "--repo=OWNER/NAME is missing"),
        (["push", "--repo=me/x"], "takes WORKDIR"),
        (["push", workdir, "--repo=me/x", "--workdir=here"], "leave --workdir out"),
        (["lvs", "--repo=me/x"], "--repo is a flag of `latent-audit push` alone"),
    ):
        with pytest.raises(InputError) as caught:
            command.run(words, ends.Run())
        assert said in str(caught.value)
    assert arguments.read(["push", "x", "--repo=me/x", "--variant", "b"]).variant == "b"


def test_a_card_keeps_what_is_theirs_and_is_pushed_again_in_place(tmp_path):
    run = audited.read(finished_runs.write(tmp_path / "run"))
    once = hub.merged(THEIRS, run)
    assert hub.merged(once, run) == once, "a second push changes nothing"
    assert "# Their model\n\nTheir words, with `---` in them.\n" in once
    data = yaml.safe_load(once.split("---\n")[1])
    assert data["license"] == "mit" and data["tags"] == ["chat", *model_card.TAGS]
    (entry,) = data["model-index"]
    assert entry["name"] == "their model" and entry["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.5}]
    assert len(entry["results"]) == 2 and entry["results"][1]["source"]["name"] == model_card.SOURCE
    assert len(ModelCard(once).data.eval_results) == 1 + len(model_card.results(run))
    # Without a card, and without front matter.
    assert hub.merged("", run) == model_card.card(run)
    bare = hub.merged("# Words\n", run)
    assert "# Words\n" in bare and ModelCard(bare).data.tags == list(model_card.TAGS)
