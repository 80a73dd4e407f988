"""A batch is hardly larger than what there is asks for, whatever was allowed, and its shapes are few."""

import numpy as np
import pytest

from latent_audit import models
from latent_audit.experiments import respond
from latent_audit.models import batching, decode
from latent_audit.models import generate as generation
from latent_audit.models.batching import rows_at_a_time, rows_that_fit
from tests.support import tiny


@pytest.mark.parametrize("most", [1, 3, 24, 10000])
def test_never_more_than_allowed_nor_twice_what_there_is_and_few_shapes(most):
    sizes = {count: rows_at_a_time(most, count) for count in range(1, 600)}
    assert all(1 <= size <= most for size in sizes.values())
    assert all(size == most or count <= size < 2 * count for count, size in sizes.items())
    assert len(set(sizes.values())) <= 11


def test_answers_to_few_prompts_are_not_computed_for_many(monkeypatch):
    seen = []

    def responses(loaded, tokens, mask, **options):
        seen.append(len(tokens))
        return [str(row) for row in tokens[:, 0]]

    monkeypatch.setattr(respond, "responses", responses)
    tokens = np.arange(5)[:, None]
    for batch in (2, 10000):
        texts = respond.answers(None, tokens, tokens > -1, batch=batch, max_new_tokens=1)
        assert texts == ["0", "1", "2", "3", "4"]
    assert seen == [2, 2, 2, 8]


@pytest.mark.parametrize("case", ["llama3", "qwen3_5", "gemma4_e2b"])
def test_a_cache_is_counted_as_large_as_it_is(case):
    cfg, params = models.load(tiny.checkpoint(case))
    tokens, mask = tiny.rows(1, (9, 7))
    _, cache = decode.prefill(params, tokens, mask, cfg=cfg, room=4)
    real = sum(leaf.nbytes for leaf in cache[:-1] if not isinstance(leaf, dict))
    real += sum(leaf.nbytes for leaf in getattr(cache, "stacks", {}).values())
    assert batching.cache_bytes(cfg, 13, np.float32) * 2 == real


def test_rows_that_fit_need_no_more_than_is_free_by_the_compiler():
    cfg, params = models.load(tiny.checkpoint("llama3"))
    free = 2_000_000
    rows = rows_that_fit(cfg, 24, 12, np.float32, free)
    tokens, mask = np.ones((rows, 24), np.int32), np.ones((rows, 24), bool)
    rules = generation.Rules(12, ())
    memory = generation.begin.lower(params, tokens, mask, None, None, cfg=cfg, rules=rules).compile().memory_analysis()
    needed = memory.temp_size_in_bytes + memory.output_size_in_bytes
    assert free / 8 < needed <= free
    assert rows_that_fit(cfg, 24, 12, np.float32, 4 * free) == 4 * rows
    assert rows_that_fit(cfg, 24, 12, np.float32, 0) == 1
