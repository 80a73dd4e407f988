"""A pair is put to a scorer once, whichever call it comes in, and what is kept of it is bounded."""

import numpy as np
import pytest

from latent_audit.experiments.judging.once import once


def counting(dtype=float):
    put = []

    def ask(prompts, responses):
        put.extend(zip(prompts, responses, strict=True))
        return np.array(
            [np.nan if text == "?" else len(prompt) for prompt, text in zip(prompts, responses, strict=True)], dtype
        )

    return ask, put


@pytest.mark.parametrize("most", [100, 1, 0])
def test_each_pair_is_put_once_and_the_answers_are_those_without(most):
    plain, _ = counting(np.float32)
    ask, put = counting(np.float32)
    asked = once(ask, most=most)
    calls = [(["a", "bb", "a"], ["x", "?", "x"]), (["bb", "a", "ccc"], ["?", "x", "x"]), ([], []), (["ab"], ["x"])]
    for prompts, responses in calls:
        found, wanted = asked(prompts, responses), plain(prompts, responses)
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == wanted.dtype == np.float32
    if most == 100:
        assert put == [("a", "x"), ("bb", "?"), ("ccc", "x"), ("ab", "x")]
    else:
        assert len(put) > 4  # forgotten, and asked again


def test_where_a_prompt_ends_matters():
    ask, put = counting()
    asked = once(ask)
    assert asked(["ab", "a"], ["c", "bc"]).tolist() == [2, 1] and len(put) == 2


def test_an_error_is_not_kept():
    calls = []

    def fails_once(prompts, responses):
        calls.append(len(prompts))
        if len(calls) == 1:
            raise ValueError("no")
        return np.ones(len(prompts))

    asked = once(fails_once)
    with pytest.raises(ValueError, match="no"):
        asked(["a"], ["b"])
    assert asked(["a"], ["b"]).tolist() == [1] and calls == [1, 1]
