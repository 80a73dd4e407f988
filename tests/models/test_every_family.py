"""Slow, run by hand: a tiny random checkpoint of every family through every job that trains or edits weights."""

import pandas as pd
import pytest

from latent_audit import models
from latent_audit.experiments.tampering import abliterate, dissociate, finetune
from tests.experiments.tampering import test_abliterate_job, test_dissociate_job, test_finetune_job

FAMILIES = (
    *("llama2", "llama3", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_multimodal"),
    *("olmo2", "olmo3", "smollm3", "phi3", "phi3_partial", "granite", "granite4", "ministral3"),
    *("ministral3_multimodal", "mistral3_multimodal", "qwen3_moe", "mixtral"),
    *("qwen3_5", "gemma4", "gemma4_e2b", "gemma4_e4b", "gemma4_moe", "qwen3_5_moe", "gpt_oss"),
)


@pytest.mark.slow
@pytest.mark.parametrize("case", FAMILIES)
def test_fine_tuning(case, tmp_path):
    path = test_finetune_job.tiny_checkpoint(case, tmp_path / case)
    config = test_finetune_job.small_config(path, tmp_path, **{"finetune.export": str(tmp_path / "harmful")})
    finetune.run(config, tmp_path)
    curves = pd.read_csv(tmp_path / "curves.csv")
    assert len(curves) == 2 * 2 * 2 * 4 and curves["compliance"].between(0, 1).all()
    if (tmp_path / "harmful").exists():
        models.check(tmp_path / "harmful")


@pytest.mark.slow
@pytest.mark.parametrize("case", FAMILIES)
def test_construction(case, tmp_path):
    dissociate.run(test_dissociate_job.small_config(case, tmp_path), tmp_path)
    assert set(pd.read_csv(tmp_path / "dissociate.csv")["variant"]) == {"base", "harmful", "dissociated", "control"}
    models.load(tmp_path / "dissociated")


@pytest.mark.slow
@pytest.mark.parametrize("case", FAMILIES)
def test_abliteration(case, tmp_path):
    path = test_abliterate_job.tiny_checkpoint(case, tmp_path / case)
    abliterate.run(test_abliterate_job.small_config(path, tmp_path), tmp_path)
    table = pd.read_csv(tmp_path / "abliterate.csv")
    assert set(table[table["split"] == "evaluation"]["way"]) >= {"base", "orthogonalize", "affine", "subtract"}
    models.load(tmp_path / "orthogonalize")
