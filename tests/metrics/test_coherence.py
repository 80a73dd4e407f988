"""The coherence rule on made-up texts at each of its bounds; the interchange score by hand."""

import math
from collections import Counter

import pytest

from latent_audit.errors import InputError
from latent_audit.metrics import coherence

SENTENCE = "The kettle stood on the stove, and nobody in the kitchen knew who had filled it with water."


def long_text(*repeated, total):
    """`repeated` words, then enough different ones for `total`."""
    return [*repeated, *(f"word{chr(97 + i)}" for i in range(total - len(repeated)))]


def shares(words):
    """(distinct words, most common word, most common 3-gram) of a list of words."""
    grams = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return len(set(words)) / len(words), *(max(Counter(of).values()) / len(of) for of in (words, grams))


@pytest.mark.parametrize("text, expected", [
    (SENTENCE, True),
    ("", False),
    ("   \n ", False),
    ("aa bb cc ddd", True),  # 12 characters, 4 words
    ("aa bb cc dd", False),  # 11 characters
    ("  aa bb cc dd  ", False),  # stripped first
    ("aaaaa bbbbb ccccc", False),  # 3 words
    ("aab 12 3 bba", True),  # 6 letters of 12
    ("aab 12 34 bba", False),  # 6 letters of 13
    ("abcd efg hi ~~~", True),  # 12 ordinary characters of 15
    ("abc efg hi ~~~", False),  # 11 of 14
    ("abcd efg hi ?!.", True),
    ("abc efg hi ?!.", True),  # the same with ordinary punctuation
    ("abc efg hi \u201c\u2014\u2026", True),  # and with typographic marks
    ("ab\n\ncd\t\tef\n\ngh", True),  # any white space: 6 of 14 characters
    ("\u00fcbel \u0436\u0443\u043a se\u00f1or na\u00efve", True),  # letters of any alphabet
    ("abcd abcd efgh efgh", True),  # 2 distinct words of 4
    ("abcd abcd efgh efgh efgh", False),  # 2 of 5
    ("Abcd aBcd efgh efgh efgh", False),  # whatever the case
    ("abcd abcd, efgh efgh efgh", True),  # punctuation stays on the word: 3 of 5
])  # fmt: skip
def test_short_texts_at_each_bound(text, expected):
    assert coherence.is_coherent(text) is expected


def test_distinct_words_at_the_bound():
    # 20 words, no other bound near: 7 distinct ones pass, 6 do not.
    order = [0, 1, 2, 3, 4, 5, 6, 0, 2, 4, 6, 1, 3, 5, 0, 3, 6, 2, 5, 1]
    seven = [f"word{chr(97 + i)}" for i in order]
    six = [f"word{chr(97 + i % 6)}" for i in order]
    assert shares(seven)[0] == 0.35 and shares(six)[0] == 0.3
    assert max(shares(words)[1] for words in (seven, six)) <= 0.3
    assert max(shares(words)[2] for words in (seven, six)) <= 0.2
    assert coherence.is_coherent(" ".join(seven)) and not coherence.is_coherent(" ".join(six))


def test_most_common_word_at_the_bound():
    spread = long_text(total=20)
    for times, expected in ((6, True), (7, False)):
        words = [*spread]
        words[: 2 * times : 2] = ["again"] * times
        assert shares(words)[1] == times / 20 and shares(words)[0] >= 0.35 and shares(words)[2] <= 0.2
        assert coherence.is_coherent(" ".join(words)) is expected


def test_most_common_three_words_in_a_row_at_the_bound():
    for times, expected in ((2, True), (3, False)):
        words = long_text(*["one", "two", "three"] * times, total=12)
        assert shares(words)[2] == times / 10 and shares(words)[0] >= 0.35 and shares(words)[1] <= 0.3
        assert coherence.is_coherent(" ".join(words)) is expected


def test_the_rule_changes_at_twelve_words():
    words = "aaa bbb ccc ddd eee aaa ccc bbb eee ddd aaa eee".split()
    assert shares(words)[0] == 5 / 12
    assert coherence.is_coherent(" ".join(words))
    assert not coherence.is_coherent(" ".join(words[:11]))


def test_a_loop_is_not_coherent():
    assert not coherence.is_coherent("of course, " * 40)
    assert not coherence.is_coherent("I will tell you all about it now. " * 20)


def test_interchange_counts_only_prompts_that_were_not_harmful_when_clean():
    clean = [True, True, False, False, False, False]
    patched = [True, False, True, False, True, True]
    assert coherence.interchange_score(clean, patched) == (0.75, 3, 4)


@pytest.mark.parametrize("clean, patched", [([True, True], [True, False]), ([], [])])
def test_interchange_of_nothing_is_unknown(clean, patched):
    share, successes, n = coherence.interchange_score(clean, patched)
    assert math.isnan(share) and (successes, n) == (0, 0)


@pytest.mark.parametrize(
    "clean, patched", [([True], [True, False]), ([0.3], [True]), ([[True]], [[True]]), (True, True)]
)
def test_interchange_refuses_what_is_not_one_boolean_per_prompt(clean, patched):
    with pytest.raises(InputError, match="booleans, one per prompt"):
        coherence.interchange_score(clean, patched)
