"""Inspect's log, TensorBoard's events and W&B's run, read by the tools they are for where these are installed."""

import datetime
import json
import struct
import subprocess
import sys

import numpy as np
import pytest

from latent_audit.commandline import command
from latent_audit.errors import InputError
from latent_audit.exports import audited, curves, event_file, inspect_log
from latent_audit.runtime import ends
from tests.support import finished_runs


@pytest.fixture
def workdir(tmp_path):
    return finished_runs.write(tmp_path / "run", saved=True)


def export(workdir, *flags):
    return command.run(["export", str(workdir), *flags], ends.Run())


def test_a_sample_is_a_prompt_with_what_became_of_it_and_no_text(workdir):
    log = inspect_log.log(audited.read(workdir))
    samples = {one["id"]: one for one in log["samples"]}
    assert list(samples) == ["harmful-0", "harmful-1", "harmful-2", "benign-0", "benign-1"]
    scores = {name: {key: one["value"] for key, one in sample["scores"].items()} for name, sample in samples.items()}
    assert [scores[f"harmful-{index}"]["complied"] for index in range(3)] == [0, 1, 0]
    assert [scores[f"harmful-{index}"]["latent_asr 0.01"] for index in range(3)] == [1, 0, 0]
    assert [scores[f"harmful-{index}"]["latent_asr 0.02"] for index in range(3)] == [1, 0, 1]
    assert [scores[f"harmful-{index}"]["noise_asr 0.02"] for index in range(3)] == [0, 0, 0]
    assert [scores[f"benign-{index}"]["answered"] for index in range(2)] == [1, 0] and "complied" not in scores[
        "benign-0"
    ]
    assert samples["harmful-2"]["metadata"]["broken_at"]["latent_asr 0.02"] == ["L1"]
    told = {one["name"]: one for one in log["results"]["scores"]}
    assert told["latent_asr 0.02"]["metrics"]["mean"]["value"] == pytest.approx(2 / 3)
    assert (told["complied"]["scored_samples"], told["complied"]["unscored_samples"]) == (3, 2)
    assert log["eval"]["metadata"]["verdict"] == "inconclusive"
    text = json.dumps(log, allow_nan=False)
    assert finished_runs.SECRET not in text and "request 1" not in text


def test_answers_are_there_when_they_are_asked_for_and_were_saved(workdir, tmp_path):
    log = inspect_log.log(audited.read(workdir), answers=True)
    assert log["samples"][1]["messages"][1]["content"] == finished_runs.SECRET
    assert log["samples"][1]["input"] == "request 1" and not log["samples"][3]["messages"]
    bare = audited.read(finished_runs.write(tmp_path / "bare"))
    with pytest.raises(InputError, match="saved no answers"):
        inspect_log.log(bare, answers=True)
    with pytest.raises(InputError, match="holds no units/base"):
        inspect_log.log(audited.read(finished_runs.EXAMPLE))


def test_the_suites_radius_is_a_score_of_the_prompts_that_fell(tmp_path):
    suite = {"base": {"budgets": [0.01], "prompt": [0, 1, 2], "radius": [0.01, 0.0, None], "gates": []}}
    run = audited.read(finished_runs.write(tmp_path / "run", finished_runs.example() | {"suite": suite}))
    found = [one["scores"].get("break_radius", {}).get("value") for one in inspect_log.log(run)["samples"][:3]]
    assert found == [0.01, 0.0, None]


@pytest.mark.parametrize("saved", [False, True])
def test_inspects_own_reader_opens_the_log(tmp_path, saved):
    # 54 packages and minutes of installing: not among the requirements of the tests.
    reader = pytest.importorskip("inspect_ai.log", reason="inspect_ai is not installed")
    workdir = finished_runs.write(tmp_path / "run", saved=True)
    assert export(workdir, "--inspect", *(["--with-answers"] if saved else [])) == 0
    (listed,) = reader.list_eval_logs(str(workdir / "export"))
    assert listed.task == "latent-audit-lvs-base"
    log = reader.read_eval_log(listed)
    assert log.status == "success" and log.eval.model == "organism-llama-standard (base)" and len(log.samples) == 5
    assert log.samples[0].scores["latent_asr 0.01"].value == 1.0
    assert log.samples[1].output.completion == (finished_runs.SECRET if saved else "")
    means = {one.name: one.metrics["mean"].value for one in log.results.scores}
    assert means["complied"] == pytest.approx(1 / 3)


def records(data: bytes):
    """Payloads of a TFRecord file, every checksum compared with that of another implementation."""
    from tensorboardX.crc32c import crc32c  # noqa: PLC0415  it takes torch along

    def masked(part):
        crc = crc32c(part)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF

    at = 0
    while at < len(data):
        (length,) = struct.unpack("<Q", data[at : at + 8])
        payload = data[at + 12 : at + 12 + length]
        ends = struct.unpack("<I", data[at + 8 : at + 12]) + struct.unpack(
            "<I", data[at + 12 + length : at + 16 + length]
        )
        assert ends == (masked(data[at : at + 8]), masked(payload))
        yield payload
        at += 16 + length


def test_tensorboards_own_messages_hold_every_point(workdir):
    from tensorboardX.proto.event_pb2 import Event  # noqa: PLC0415

    assert export(workdir, "--tensorboard") == 0 and export(workdir, "--tensorboard") == 0, "again in its place"
    (path,) = (workdir / "export" / "tensorboard" / "base").iterdir()
    events = [Event.FromString(payload) for payload in records(path.read_bytes())]
    assert "tfevents" in path.name and events[0].file_version == "brain.Event:2"
    run = audited.read(workdir)
    points = list(curves.points(run))
    read = [(one.summary.value[0].tag, one.step, one.summary.value[0].simple_value) for one in events[1:-1]]
    assert read == [(tag, step, float(np.float32(value))) for tag, step, value in points] and len(points) > 100
    cell = next(
        line for line in run.lines if (line["measure"], line["layer"], line["budget"]) == ("latent_asr", "L0", 0.01)
    )
    assert ("latent_asr/budget 0.01/value", 1, cell["value"]) in points
    last = events[-1].summary.value[0]
    assert last.metadata.plugin_data.plugin_name == "text" and b"inconclusive: " in last.tensor.string_val[0]
    written = datetime.datetime.strptime(run.record["about"]["date"], "%Y-%m-%d %H:%M UTC")
    assert {one.wall_time for one in events} == {written.replace(tzinfo=datetime.UTC).timestamp()}


@pytest.mark.parametrize("step", [0, 1, 127, 128, 300, 2**40])
def test_steps_of_any_size_are_read_back(step):
    from tensorboardX.proto.event_pb2 import Event  # noqa: PLC0415

    _, payload = records(event_file.file_of([("t" * 200, step, -1.5)], [], when=2.5))
    event = Event.FromString(payload)
    assert (event.step, event.wall_time) == (step, 2.5)
    assert (event.summary.value[0].tag, event.summary.value[0].simple_value) == ("t" * 200, -1.5)


def test_wandb_keeps_an_offline_run(workdir, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    # W&B writes the file to its end when its process ends.
    line = [sys.executable, "main.py", "export", str(workdir), "--wandb"]
    done = subprocess.run(line, cwd=finished_runs.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "wandb sync" in done.stderr, done.stderr
    (found,) = (workdir / "export" / "wandb" / "base" / "wandb").glob("offline-run-*/*.wandb")
    data = found.read_bytes()
    assert b"latent_asr/budget 0.01/value" in data and b"inconclusive" in data
    assert finished_runs.SECRET.encode() not in data


def test_a_library_that_is_absent_is_one_line_before_anything_is_written(workdir, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="--wandb needs wandb, .* pip install wandb"):
        export(workdir, "--wandb", "--model-card")
    assert not (workdir / "export").exists()


def test_a_dry_run_names_what_would_be_written(workdir, tmp_path, capsys):
    assert export(workdir, "--model-card", "--inspect", f"--workdir={tmp_path / 'out'}", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "model_card-base.md" in said and "latent-audit-lvs-base" in said and not (tmp_path / "out").exists()
    assert export(workdir, "--model-card", f"--workdir={tmp_path / 'out'}", "--variant=harmful") == 0
    assert "(harmful): unsafe" in (tmp_path / "out" / "model_card-harmful.md").read_text()


@pytest.mark.parametrize(
    "flags, said",
    [
        ((), "say what to export"),
        (("--model-card", "--with-answers"), "--with-answers is of --inspect"),
        (("--model-card", "--quick"), "takes WORKDIR"),
        (("--model-card", "--config.seed=1"), "takes WORKDIR"),
        (("more", "--model-card"), "takes WORKDIR"),
        (("--model-card", "--repo=a/b"), "--repo is a flag of `latent-audit push` alone"),
        (("--model-crad",), "did you mean --model-card"),
        (("--model-card=yes",), "takes no value"),
        (("--variant=", "--model-card"), "--variant is empty"),
    ],
)
def test_what_makes_no_sense_is_one_line(workdir, flags, said):
    with pytest.raises(InputError) as caught:
        export(workdir, *flags)
    assert said in str(caught.value)
    assert not (workdir / "export").exists()
