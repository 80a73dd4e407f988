"""A batch is hardly larger than what there is asks for, whatever was allowed, and its shapes are few."""

import numpy as np
import pytest

from latent_audit.experiments import respond
from latent_audit.models.batching import rows_at_a_time


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
