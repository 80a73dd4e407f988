"""Running out of memory: the batch is halved, the log says so, and the numbers stay what they were."""

import jax
import numpy as np
import pandas as pd
import pytest

from latent_audit.experiments import respond
from latent_audit.experiments.audit import audit as job
from latent_audit.interventions import latent
from latent_audit.runtime import halving
from tests.experiments.audit.test_latent_job import small_config
from tests.support.checkpoints import tiny_checkpoint


def full(message="RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte."):
    return jax.errors.JaxRuntimeError(message)


@pytest.mark.parametrize("fits", [1, 2, 3, 5, 8])
def test_rows_come_back_whole_and_in_order(fits, monkeypatch):
    asked, warned = [], []
    monkeypatch.setattr(halving.logging, "warning", lambda text, *values: warned.append(text % values))

    def compute(rows):
        asked.append(len(rows))
        if len(rows) > fits:
            raise full()
        return rows * 10

    found = halving.in_halves(compute, np.arange(8), "the search")
    np.testing.assert_array_equal(np.concatenate(found), np.arange(8) * 10)
    assert max(map(len, found)) <= fits
    assert sum("the search: no memory for" in line for line in warned) == len(found) - 1


def test_what_cannot_be_helped_is_raised():
    def never(rows):
        raise full()

    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        halving.in_halves(never, np.arange(4), "the search")

    calls = []

    def otherwise(rows):
        calls.append(rows)
        raise full("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        halving.in_halves(otherwise, np.arange(4), "the search")
    assert len(calls) == 1, "only running out of memory is tried again"


def test_a_search_and_generation_that_run_out_of_memory_give_the_same_table(tmp_path, monkeypatch):
    path = tiny_checkpoint("llama3", tmp_path / "model")
    (tmp_path / "whole").mkdir()
    (tmp_path / "halved").mkdir()
    settings = {"prompts.harmful_count": 3, "attack.budgets": (0.1,), "layer_batch": 1, "generation.max_new_tokens": 2}
    job.run(small_config(path, **settings), tmp_path / "whole")
    search, generate = latent.attack_state, respond.generate
    tried = {"search": 0, "generation": 0}

    def small_search(params, clean, mask, *args, **kwargs):
        if len(mask) > 1:
            tried["search"] += 1
            raise full()
        return search(params, clean, mask, *args, **kwargs)

    def small_generate(params, tokens, *args, **kwargs):
        if len(tokens) > 2:
            tried["generation"] += 1
            raise full()
        return generate(params, tokens, *args, **kwargs)

    monkeypatch.setattr(latent, "attack_state", small_search)
    monkeypatch.setattr(respond, "generate", small_generate)
    job.run(small_config(path, **settings), tmp_path / "halved")
    assert tried["search"] and tried["generation"]
    whole, halved = (pd.read_csv(tmp_path / name / "metrics.csv") for name in ("whole", "halved"))
    numbers = whole.select_dtypes("number").columns
    np.testing.assert_allclose(whole[numbers], halved[numbers], rtol=1e-4, atol=1e-5)
    pd.testing.assert_frame_equal(whole.drop(columns=numbers), halved.drop(columns=numbers))
