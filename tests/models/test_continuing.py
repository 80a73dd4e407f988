"""Rows that ended leave the batch, which changes no token; and a step writes the cache where it lies."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latent_audit import models
from latent_audit.interventions import edits
from latent_audit.models import continuing, decode
from latent_audit.models import generate as generation
from latent_audit.models.generate import Sampling, generate
from tests.support import tiny

ROWS, NEW = 17, 24


@functools.cache
def loaded(case):
    return models.load(tiny.checkpoint(case))


@functools.cache
def prompts():
    return tiny.rows(5, tuple(4 + row % 7 for row in range(ROWS)))


def free(case, **options):
    """All tokens of a generation that no token ends."""
    cfg, params = loaded(case)
    return np.asarray(generate(params, *prompts(), cfg=cfg, max_new_tokens=NEW, eos_ids=(), **options).tokens)


def ends_of(tokens):
    """Tokens that end most rows at different lengths, and leave two or three to the last steps."""
    ends: set[int] = set()
    places = [(row, (row + turn) % 7) for turn in range(7) for row in range(ROWS)]
    for row, place in places:
        token = int(tokens[row, place])
        left = (~np.isin(tokens, [*ends, token])).all(axis=1).sum()
        late = (~np.isin(tokens[:, :7], list(ends))).all(axis=1).sum()
        ends |= {token} if left >= 2 and late > 4 else set()
    return tuple(sorted(ends))


def cut(tokens, ends):
    """(tokens with nothing behind a row's first end, lengths), by numpy."""
    hit = np.isin(tokens, ends)
    lengths = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, NEW)
    return np.where(np.arange(NEW) < lengths[:, None], tokens, 0), lengths


@pytest.fixture
def widths(monkeypatch):
    """The widths that batches are narrowed to."""
    seen, narrowed = [], continuing._narrowed
    monkeypatch.setattr(continuing, "LEAST_OPERATIONS", 0)

    def spy(going, width):
        seen.append(width)
        return narrowed(going, width)

    monkeypatch.setattr(continuing, "_narrowed", spy)
    return seen


@pytest.mark.parametrize("case", ["gemma2", "qwen3_5", "gemma4_e2b", pytest.param("gpt_oss", marks=pytest.mark.slow)])
def test_rows_that_ended_leave_and_the_others_say_the_same(case, widths):
    cfg, params = loaded(case)
    tokens = free(case)
    ends = ends_of(tokens)
    assert not widths, "no row has ended"
    new = generate(params, *prompts(), cfg=cfg, max_new_tokens=NEW, eos_ids=ends)
    expected, lengths = cut(tokens, ends)
    np.testing.assert_array_equal(new.tokens, expected)
    np.testing.assert_array_equal(new.lengths, lengths)
    assert widths and widths[-1] == 4 and len(set(lengths)) > 1


def test_what_belongs_to_a_row_goes_with_it(widths):
    cfg, params = loaded("llama3")
    push = 0.3 * jax.random.normal(jax.random.key(1), (ROWS, 1, cfg.embed_dim))
    options = {
        "prompt_edit": edits.add_at(1, push),
        "decode_edit": edits.compose(edits.add_at(jnp.arange(ROWS) % 4, push), edits.add_everywhere(jnp.ones((4, 1)))),
        "repetition_penalty": 1.3,
    }
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(3), row))(np.arange(ROWS))
    for sampling in (None, Sampling(jax.random.key(2), 1.5, 0.9), Sampling(keys, 2.0)):
        tokens = free("llama3", sampling=sampling, **options)
        ends = ends_of(tokens)
        widths.clear()
        new = generate(params, *prompts(), cfg=cfg, max_new_tokens=NEW, eos_ids=ends, sampling=sampling, **options)
        expected, lengths = cut(tokens, ends)
        np.testing.assert_array_equal(new.tokens, expected)
        np.testing.assert_array_equal(new.lengths, lengths)
        assert widths


def test_it_is_told_how_far_it_is_and_the_answers_stay():
    cfg, params = loaded("llama3")
    told: list[int] = []
    new = generate(params, *prompts(), cfg=cfg, max_new_tokens=40, eos_ids=(), told=told.append)
    assert told == [17, 33, 40]
    np.testing.assert_array_equal(np.asarray(new.tokens)[:, :NEW], free("llama3"))


@pytest.mark.parametrize(
    "platform, rows, expected",
    [
        ("cpu", 144, 64),
        ("cpu", 36, 16),
        ("cpu", 16, 4),
        ("cpu", 7, 0),
        ("gpu", 144, 64),
        ("tpu", 512, 256),
        ("gpu", 100, 0),
    ],
)
def test_widths_are_few_and_at_most_half(platform, rows, expected, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert continuing.narrower(rows) == expected


def test_a_program_more_has_to_pay():
    cfg, params = loaded("llama3")
    tokens = free("llama3")
    ends = ends_of(tokens)
    # A layer of some thousand weights saves nothing worth a compilation; one of a million does in a few steps.
    assert continuing.steps_that_pay(params, ROWS, cfg=cfg) > 1000
    wide = {"blocks": {"gate": jax.ShapeDtypeStruct((cfg.num_layers, 1000, 1000), jnp.float32)}}
    assert continuing.steps_that_pay(wide, 50, cfg=cfg) == 10
    before = continuing.go_on._cache_size()
    new = generate(params, *prompts(), cfg=cfg, max_new_tokens=NEW, eos_ids=ends)
    assert continuing.go_on._cache_size() <= before + 1
    np.testing.assert_array_equal(new.tokens, cut(tokens, ends)[0])


@pytest.mark.parametrize("prompt, new, room", [(40, 128, 128), (5, 4, 3), (8, 1, 0), (7, 1, 1)])
def test_a_cache_is_as_wide_as_products_take_columns(prompt, new, room):
    cfg, _ = loaded("llama3")
    assert decode.room_behind(prompt, new, cfg=cfg) == room
    assert (prompt + room) % decode.COLUMNS_TOGETHER == 0


def test_a_cache_is_no_wider_than_a_rope_was_made_for():
    cfg, _ = loaded("llama3")
    longrope = dataclasses.replace(cfg.ropes[0], kind="longrope", original_max_positions=21)
    limited = dataclasses.replace(cfg, ropes=(longrope,))
    assert decode.room_behind(10, 12, cfg=limited) == 11
    assert decode.room_behind(10, 5, cfg=limited) == 6


def test_one_row_alone_in_a_short_float_says_what_it_says_among_others():
    cfg, params = models.load(tiny.checkpoint("llama3"), dtype="bfloat16")
    tokens, mask = prompts()
    options = {"cfg": cfg, "max_new_tokens": NEW, "eos_ids": ()}
    among = generate(params, tokens[:2], mask[:2], **options).tokens
    np.testing.assert_array_equal(generate(params, tokens[:1], mask[:1], **options).tokens, among[:1])


def test_a_step_writes_the_cache_where_it_lies():
    from benchmarks import work

    problem = work.make(work.Size("steps", 3, 128, 2048, 4, 96, (8,) * 8))
    cfg, params, rules = problem.cfg, problem.params, continuing.Rules(200, ())
    begin = functools.partial(generation.begin, cfg=cfg, rules=rules)
    going, _ = jax.eval_shape(begin, params, problem.tokens, problem.mask, None, None)
    options = {"cfg": cfg, "rules": rules}
    memory = continuing.go_on.lower(params, going, None, None, 200, 0, 2, **options).compile().memory_analysis()
    entry = 4 * 8 * 208 * 128
    assert memory.alias_size_in_bytes >= 2 * cfg.num_layers * entry
    # One layer's keys, values and weights are cut out of their stacks on a CPU, never all layers'.
    assert memory.temp_size_in_bytes < 2 * entry + 4 * (3 * 128 * 2048 + 4 * 128 * 128) + entry
