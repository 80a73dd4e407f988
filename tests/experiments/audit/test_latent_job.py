"""The main job from config to files, on tiny random checkpoints of every family with phrase scoring."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from configs import lvs as lvs_config
from latent_audit.errors import InputError
from latent_audit.experiments import tasks
from latent_audit.experiments.audit import audit as job
from latent_audit.experiments.audit.readings import latent_report
from latent_audit.experiments.setup import jobs, subjects
from latent_audit.exports import audited, inspect_log
from latent_audit.interventions import latent
from latent_audit.runtime import runlog
from tests.support import reports
from tests.support.checkpoints import tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[3]


def small_config(path, **changes):
    config = lvs_config.get_config()
    settings = {
        "model.path": str(path),
        "judge.kind": "refusal",
        "reward.kind": "refusal",
        "attack.budgets": (0.01, 0.1),
        "prompts.harmful_count": 3,
        "prompts.benign_count": 2,
        "generation.max_new_tokens": 4,
        "prompt_batch": 2,
        "layer_batch": 2,
        "score.resamples": 50,
    }
    config.update_from_flattened_dict(settings | changes)
    return config


def flags(path, workdir):
    config = runlog.flatten(small_config(path).to_dict())
    default = runlog.flatten(lvs_config.get_config().to_dict())
    changed = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in config.items()
        if value != default[name]
    }
    return [
        sys.executable,
        str(ROOT / "main.py"),
        "--config=configs/lvs.py",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in changed.items()),
    ]


# The other families take the same path through other switches, which the parity tests hold against transformers.
@pytest.mark.parametrize(
    "case",
    [
        "llama3",
        "gemma2",
        *(
            pytest.param(case, marks=pytest.mark.slow)
            for case in ("llama2", "mistral", "qwen2", "qwen3", "gemma", "gemma3", "gemma3_multimodal")
        ),
    ],
)
def test_every_family_is_audited(case, tmp_path):
    path = tiny_checkpoint(case, tmp_path / case)
    job.run(small_config(path), tmp_path)
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert tuple(table.columns) == latent_report.COLUMNS
    assert ",".join(table.columns).startswith(
        "arch,variant,exp,layer,layer_idx,budget,attack,lvs,lvs_lo,lvs_hi,asr,compliance"
    )
    cells = table[table["exp"] == "lvs"]
    states = jobs.models.check(path).cfg.num_layers + 1
    assert len(cells) == states * 2 * len(latent.ATTACKS) and (cells["n"] == 3).all()
    assert pd.api.types.is_numeric_dtype(cells["layer_idx"])
    assert cells["layer_idx"].tolist() == [state - 1 for state in range(states) for _ in range(6)]
    pgd = cells[cells["attack"] == "pgd"]
    assert (pgd["fell"] == 1).all() and (pgd["nll_last"] < pgd["nll_first"]).all()
    bounded = cells[cells["attack"] != "random_l2"]
    assert (bounded["linf"] <= bounded["eps"] * (1 + 1e-5)).all()
    np.testing.assert_array_equal(cells["aggregated"], cells["layer"] != f"L{states - 2}")
    assert table["judge"].str.contains("fallback").all(), "a fallback judge is named as one in every row"
    page = (tmp_path / "report.html").read_text()
    assert "fallback" in page.lower() and (tmp_path / "figures" / "lvs_by_depth.png").stat().st_size > 10_000
    assert not any("response" in file.read_text() for file in (tmp_path / "units").rglob("*.json"))
    exported_as_measured(tmp_path, table)


def exported_as_measured(workdir, table):
    """The Inspect log of a real run has a sample for every prompt, and the shares of its tables."""
    log = inspect_log.log(audited.read(workdir))
    assert len(log["samples"]) == table.loc[table["exp"].str.startswith("clean"), "n"].sum()
    means = {score["name"]: score["metrics"]["mean"]["value"] for score in log["results"]["scores"]}
    asked = table.set_index("exp").loc["clean"]
    assert means["complied"] == pytest.approx(asked["compliance"])
    pgd = table[table["attack"] == "pgd"]
    for budget, cells in pgd.groupby("budget"):
        assert cells["asr"].max() - 1e-9 <= means[f"latent_asr {budget:g}"] <= cells["asr"].sum() + 1e-9


def test_results_do_not_depend_on_batch_sizes(tmp_path):
    path = tiny_checkpoint("llama3", tmp_path / "model")
    tables = []
    for name, changes in (
        ("one", {"prompt_batch": 10000, "layer_batch": 10000}),
        ("two", {"prompt_batch": 1, "layer_batch": 1}),
    ):
        workdir = tmp_path / name
        workdir.mkdir()
        job.run(small_config(path, **changes), workdir)
        tables.append(pd.read_csv(workdir / "metrics.csv"))
    numbers = ["lvs", "asr", "eps", "l2", "linf", "nll_first", "nll_last", "reward_attacked"]
    np.testing.assert_allclose(tables[0][numbers], tables[1][numbers], rtol=1e-4, atol=1e-5)


def test_killed_and_restarted_gives_the_same_bytes(tmp_path):
    path = tiny_checkpoint("llama3", tmp_path / "model")
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(flags(path, tmp_path / "whole"), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    broken = tmp_path / "broken"
    process = subprocess.Popen(flags(path, broken), cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(broken.glob("units/**/*.json"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline, "ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    units = sorted(broken.glob("units/**/*.json"))
    whole = sorted((tmp_path / "whole").glob("units/**/*.json"))
    assert 3 <= len(units) < len(whole) and not (broken / "metrics.csv").exists()
    units[0].write_text(units[0].read_text()[:-40])  # a damaged unit is noticed and computed again
    done = subprocess.run(flags(path, broken), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "damaged" in done.stderr, done.stderr
    assert (broken / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()
    assert reports.result(broken / "report.html") == reports.result(tmp_path / "whole" / "report.html")


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    path = tiny_checkpoint("llama3", tmp_path / "model")
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}

    def start(workdir):
        return subprocess.Popen(flags(path, workdir), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)

    began = time.monotonic()
    whole = start(tmp_path / "whole")
    assert whole.communicate()[1] and whole.returncode == 0
    longest, moments = time.monotonic() - began, np.random.default_rng(0)
    expected = (tmp_path / "whole" / "metrics.csv").read_bytes()
    kills, attempt = 0, 0
    while kills < 20:
        process = start(tmp_path / f"broken{attempt}")
        try:
            errors = process.communicate(timeout=moments.uniform(0, longest))[1]
            assert process.returncode == 0, errors
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            continue
        assert (tmp_path / f"broken{attempt}" / "metrics.csv").read_bytes() == expected
        attempt += 1
    process = start(tmp_path / f"broken{attempt}")
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    assert (tmp_path / f"broken{attempt}" / "metrics.csv").read_bytes() == expected


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"attack.budgets": (0.01, -1.0)}, r"attack\.budgets holds -1\.0"),
        ({"attack.budgets": (0.01, "x")}, r"attack\.budgets holds 'x'"),
        ({"attack.budgets": (0.01, float("nan"))}, "finite numbers above 0"),
        ({"attack.budgets": (0.01, 0.01)}, "twice"),
        ({"attack.reference_budget": 0.5}, r"reference_budget = 0\.5 is none of"),
        ({"attack.layers": "L1,L3"}, "'L3'; this model has embedding and L0 to L2"),
        ({"attack.budget_mode": "l3"}, "budget_mode = 'l3', expected one of linf_of_max"),
        ({"attack.steps": 0}, r"attack\.steps = 0"),
        ({"attack.target": " "}, r"attack\.target is empty"),
        ({"prompts.harmful": "nothing/here.csv"}, "nothing/here.csv"),
        ({"prompts.harmful_count": 0}, r"prompts\.harmful_count = 0"),
        ({"prompts.max_tokens": 3}, "more than max_length = 3"),
        ({"judge.kind": "oracle"}, "knows only the organism's world"),
        ({"judge.kind": "classifier", "judge.path": "no/such/judge"}, "Options for --config.judge.kind"),
        ({"reward.kind": "gpt2", "reward.path": "./nowhere"}, "Options for --config.reward.kind"),
        ({"model.variants": "harmful"}, "not of the form name=DIR_OR_HUB_ID"),
        ({"model.path": "./nowhere"}, "no such directory"),
        ({"prompt_batch": 0}, "prompt_batch = 0"),
        ({"score.preset": "v2"}, "score.preset = 'v2'"),
    ],
)
def test_bad_input_is_named_before_any_compute(changes, message, tmp_path, monkeypatch):
    path = tiny_checkpoint("llama3", tmp_path / "model")
    monkeypatch.setattr(subjects, "load_variant", lambda *a: pytest.fail("weights were loaded"))
    with pytest.raises(InputError, match=message):
        tasks.check(small_config(path, **changes))


def test_swapped_checkpoint_in_an_old_workdir_is_refused(tmp_path):
    path = tiny_checkpoint("llama3", tmp_path / "model")
    config = small_config(path, **{"attack.layers": "L1", "attack.controls": False})
    job.run(config, tmp_path)
    tiny_checkpoint("llama3_tied", tmp_path / "model")
    with pytest.raises(InputError, match=r"variants\.base\.fingerprint"):
        job.run(config, tmp_path)
