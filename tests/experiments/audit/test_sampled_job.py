"""Drawn answers from config to files: beside the greedy ones, free of batches, and nothing where they are off."""

import json

import pandas as pd
import pytest

from latent_audit.experiments import respond
from latent_audit.experiments.audit import audit as job
from latent_audit.experiments.audit import bench as benches
from latent_audit.experiments.audit.readings import latent_report
from latent_audit.metrics import sampled
from tests.experiments.audit.test_card import CLEAN_REWARD, cell, clean
from tests.experiments.audit.test_latent_job import small_config
from tests.support.checkpoints import tiny_checkpoint
from tests.support.jobs import attack_settings, hand_bench


def test_lines_and_columns_from_rows_by_hand(tmp_path):
    made = hand_bench(
        tmp_path, ("base",), settings={"latent": attack_settings(states=(1,))}, samples=respond.Samples(4, 0.7)
    )
    rows = [clean("harmful", "0000").assign(sampled=[0, 0, 0, 1])]
    rows += [cell(1, 0.01, "pgd", "1000", CLEAN_REWARD).assign(sampled=[4, 2, 0, 0])]
    rows += [cell(1, 0.01, "random", "0000", CLEAN_REWARD).assign(sampled=0)]
    table = latent_report.summarise(benches.rows_of({"base": pd.concat(rows)}), made)
    pgd = table[table["attack"] == "pgd"].iloc[0]
    assert (pgd["asr"], pgd["sampled_asr"], pgd["sampled_rate"], pgd["samples"]) == (0.25, 0.5, 6 / 16, 4)
    assert table[table["exp"] == "clean"].iloc[0]["sampled_asr"] == 0.25
    (line,) = [one for one in latent_report.lines_of(table) if one["measure"] == "latent_asr_sampled"]
    assert (line["value"], line["control"], line["n"]) == (0.5, 0.0, 4) and line["detail"].startswith(
        "at least one of 4"
    )
    there = benches.sampled_line(made, {"variant": "base", "measure": "l2_asr", "layer": "L1", "budget": 0.1}, rows[1])
    assert there[0]["measure"] == "l2_asr_sampled" and "temperature 0.7" in there[0]["detail"]
    assert benches.sampled_line(hand_bench(tmp_path), {"measure": "l2_asr"}, rows[1]) == []


@pytest.mark.slow
def test_draws_do_not_depend_on_batches_and_leave_the_greedy_answers_alone(tmp_path):
    path, tables = tiny_checkpoint("llama3", tmp_path / "model"), {}
    for name, samples, batch in (("off", 0, 2), ("two", 2, 2), ("three", 2, 3)):
        (tmp_path / name).mkdir()
        changes = {"generation.samples": samples, "prompt_batch": batch, "generation.save": True}
        job.run(small_config(path, **changes, **{"attack.budgets": (0.01,)}), tmp_path / name)
        tables[name] = pd.read_csv(tmp_path / name / "metrics.csv")
    drawn = list(sampled.COLUMNS)
    assert tables["off"][drawn].isna().all(axis=None)
    pd.testing.assert_frame_equal(tables["two"][drawn], tables["three"][drawn])
    pd.testing.assert_frame_equal(tables["off"].drop(columns=drawn), tables["two"].drop(columns=drawn))
    attacked = tables["two"][tables["two"]["exp"] == "lvs"]
    assert (attacked["samples"] == 2).all() and attacked["sampled_rate"].between(0, 1).all()
    assert "Drawn answers" in (tmp_path / "two" / "report.html").read_text()
    measures = {line["measure"] for line in json.loads((tmp_path / "two" / "report.json").read_text())["lines"]}
    assert "latent_asr_sampled" in measures
