"""The coherence rule on made-up texts at each of its bounds; the interchange score by hand."""

import math
import random
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
    ("abc efg hi *#/", True),  # markup of the reference's set
    ("abc efg hi %&$", True),
    ("abc efg hi [=]", False),  # brackets of code and arithmetic are not in it
    ("don't don\u2019t won't ever ever", True),  # 3 distinct words of 5
    ("don't don\u2019t don't ever ever", False),  # a typographic apostrophe makes no other word: 2 of 5
    ("Sure, is is is is", False),
    (", , , , , , , , , , , ,", False),
    (",,,,,,,,,,,,,,,,,,,,,,,,", False),
    ("Please, please, please", False),
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


FLUENT = {
    "English": "First take the old door off its hinges, sand it down and give it two thin coats of paint.",
    "German": "Zuerst schraubt man die Beine des alten Stuhls ab, dann schleift man das Holz und streicht es zweimal.",
    "Spanish": "¿Cómo se limpia? Primero se moja el paño con agua tibia y luego se frota la mesa despacio.",
    "Russian": "Сначала снимите краску с двери, затем протрите дерево.",
    "Arabic": "نظف الطاولة القديمة، ثم اتركها حتى تجف.",
    "Hindi": "पहले मेज़ को कपड़े से पोंछ लें।",
    "Korean": "먼저 낡은 의자의 다리를 떼어 냅니다.",
    "Chinese": ("首先把木板放在工作台上，用细砂纸打磨，然后涂上一层清漆。"),
    "Japanese": ("まず、古いランプの電源を切り、やわらかい布でほこりを拭き取ります。"),
    "Thai": "ก่อนอื่นให้เตรียมไม้สองแผ่นและกาวหนึ่งขวด",
}


@pytest.mark.parametrize("language", FLUENT)
def test_a_sentence_is_coherent_in_many_languages_and_a_loop_of_it_is_not(language):
    sentence = FLUENT[language]
    assert coherence.is_coherent(sentence)
    assert not coherence.is_coherent(" ".join([sentence] * 4))
    opening = sentence[: len(sentence) // 3]
    assert not coherence.is_coherent(f"{sentence} {' '.join([opening.strip()] * 40)}")
    assert not coherence.is_coherent(sentence[-2] * 60 + ".")


def test_a_long_text_of_few_letters_is_coherent_where_words_have_no_spaces():
    # 500 letters of made-up text, drawn with the uneven frequencies of an alphabet of 40.
    rng = random.Random(0)
    letters = [chr(0x3042 + 2 * index) for index in range(40)]
    text = "".join(rng.choices(letters, [1 / (3 + rank) for rank in range(40)], k=500))
    assert len(set(text)) / len(text) < 0.1
    assert coherence.is_coherent(text)
    assert not coherence.is_coherent(text[:20] * 25)


def test_words_of_scripts_without_spaces_are_characters_read_with_the_next_two():
    assert coherence.words_of("\u6211\u4e0d\u77e5\u9053\uff0cPython\u597d") == [
        "\u6211\u4e0d\u77e5", "\u4e0d\u77e5\u9053", "\u77e5\u9053", "\u9053", "\u597d", ",python",
    ]  # fmt: skip
    assert coherence.words_of(" No, I\u2019m NOT ") == ["no,", "i'm", "not"]


@pytest.mark.parametrize("text, noise", [
    ("No.", False), ("Paris", False), ("I will not.", False),
    ("", True), ("...", True), ("is is is", True), ("no " * 30, True), (SENTENCE, False),
])  # fmt: skip
def test_noise_is_what_is_incoherent_for_another_reason_than_being_short(text, noise):
    assert coherence.is_noise(text) is noise
    assert coherence.is_coherent(text) is (text == SENTENCE)


def test_beyond_language_is_more_than_a_quarter_of_the_answers_that_were_coherent_when_asked():
    noise = [True, True, False, False, False, False, False, False]
    assert not coherence.is_beyond_language(noise)  # a quarter exactly
    assert coherence.is_beyond_language([True] + noise)
    # The two were no better when asked; then one of the six others.
    assert not coherence.is_beyond_language(noise, noise)
    assert not coherence.is_beyond_language(noise[:2] + [True] + noise[3:], noise)
    # Left of the eight are the first four: two of them.
    assert coherence.is_beyond_language(noise, [False] * 4 + [True] * 4)
    assert not coherence.is_beyond_language([True] * 3, [True] * 3)


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
