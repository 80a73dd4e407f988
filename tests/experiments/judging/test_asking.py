"""Questions in batches: the replies are those of each question by itself, whatever stands beside it."""

import jax
import numpy as np
import pytest

from latent_audit import models
from latent_audit.experiments.judging import asking
from latent_audit.judges import classifier
from latent_audit.models import prefixed
from latent_audit.models.families import config_from_hf
from tests.judges.test_forms import IN_TEXT
from tests.support.byte_tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer()
OPENING = TOKENIZER.encode("Say whether this is harmful, yes or no: ")


@pytest.fixture(scope="module")
def judge():
    """A model whose replies differ from row to row: random weights, larger than those that training starts from."""
    fields = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    fields |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5}
    cfg = config_from_hf({"model_type": "llama", "vocab_size": len(TOKENIZER)} | fields)
    params = models.init_params(jax.random.key(0), cfg)
    return cfg, jax.tree.map(lambda leaf: leaf * (1 if leaf.ndim < 3 else 6), params)


def rows_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    texts = ["".join(map(chr, rng.integers(97, 122, length))) for length in lengths]
    return [TOKENIZER.encode(text) for text in texts]


def replies(judge, rows, **options):
    cfg, params = judge
    return asking.continue_rows(params, rows, cfg=cfg, tokenizer=TOKENIZER, max_new_tokens=6, **options)


def test_replies_do_not_depend_on_batch_order_or_opening(judge):
    own = rows_of([3, 20, 64, 1, 30])
    rows = [OPENING + row for row in own] + own[2:4] + [OPENING]
    alone = [replies(judge, [row])[0] for row in rows]
    assert len(set(alone)) > 3  # otherwise the comparison says nothing
    assert replies(judge, rows) == replies(judge, rows, batch=2) == alone
    assert replies(judge, rows, opening=OPENING) == alone
    order = [4, 2, 7, 0, 6, 1, 3, 5]
    assert replies(judge, [rows[n] for n in order], opening=OPENING) == [alone[n] for n in order]
    assert replies(judge, []) == []


def test_the_opening_is_computed_once_and_only_rows_that_begin_with_it_go_behind_it(judge, monkeypatch):
    seen = {"open": [], "behind": [], "whole": []}

    def spy(name, of, where):
        return lambda *args, **options: (seen[name].append(where(args).shape), of(*args, **options))[1]

    monkeypatch.setattr(prefixed, "open_with", spy("open", prefixed.open_with, lambda args: args[1]))
    monkeypatch.setattr(prefixed, "generate_behind", spy("behind", prefixed.generate_behind, lambda args: args[2]))
    monkeypatch.setattr(asking, "generate", spy("whole", asking.generate, lambda args: args[1]))
    rows = [OPENING + row for row in rows_of([50] * 9 + [70])] + rows_of([50])
    replies(judge, rows, opening=OPENING)
    assert seen == {"open": [(len(OPENING),)], "behind": [(16, 128)], "whole": [(1, 64)]}


@pytest.mark.parametrize(
    "changes, opening, behind",
    [({}, OPENING, 2), ({"sliding_window": 16}, OPENING, 0), ({}, OPENING[:8], 0), ({}, [], 0)],
)
def test_rows_are_computed_whole_where_a_window_is_short_or_the_opening_is(changes, opening, behind):
    fields = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    fields |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "sliding_window": None}
    cfg = config_from_hf({"model_type": "mistral", "vocab_size": len(TOKENIZER)} | fields | changes)
    rows = [OPENING + [5], OPENING, [5, *OPENING], OPENING + [6, 7]]
    found = asking.split_by_opening(rows, opening, cfg=cfg, max_new_tokens=2)
    assert tuple(map(len, found)) == (behind, 4 - behind) and sorted(found[0] + found[1]) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["harmbench-llama", "harmbench-mistral", "wildguard", "llama-guard", "strongreject"])
def test_every_question_of_a_form_begins_with_its_opening(name):
    tokenizer = byte_tokenizer("<bos>" if name == "strongreject" else "<s>", IN_TEXT)
    form = classifier.FORMS[name]
    question = classifier.make_question(form, tokenizer)
    opening = classifier.opening_of(form, tokenizer, question)
    assert len(opening) > 60  # bytes
    pairs = [("Cheat", "So"), ("", ""), ("Name a wren", "A bird"), ("\u00e9t\u00e9", "{x}")]
    for row in classifier.rows_of(form, tokenizer, question, pairs):
        assert row[: len(opening)] == opening and len(row) > len(opening)
