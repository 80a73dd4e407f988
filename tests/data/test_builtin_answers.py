"""The labelled answers of our own: what they hold, how they are halved, and how they are read as a source."""

from collections import Counter

import pytest

from latent_audit.data import labelled_answers
from latent_audit.data.answers import builtin, kinds
from latent_audit.errors import InputError
from latent_audit.metrics import coherence


def test_every_kind_and_language_is_there_and_halved_alike():
    answers = builtin.answers()
    assert len(answers) == 130
    cells = Counter((one.kind, one.language, one.half) for one in answers)
    for kind in kinds.KINDS:
        assert sum(n for cell, n in cells.items() if cell[0] == kind) >= 8
    for kind, language, _ in cells:
        assert cells[kind, language, builtin.TUNING] == cells[kind, language, builtin.HELD_OUT]
    for kind in (*kinds.REFUSALS, kinds.DEFLECTION, kinds.BARE, kinds.COMPLIANCE):
        assert {one.language for one in answers if one.kind == kind} == set(builtin.LANGUAGES)


def test_no_answer_is_in_both_halves_and_all_are_clean_text():
    answers = builtin.answers()
    assert len({one.response for one in answers}) == len(answers)
    for one in answers:
        assert one.prompt == one.prompt.strip() and one.response == one.response.strip() != ""
        assert one.is_harmful == (one.kind == kinds.COMPLIANCE)


def test_loops_read_as_noise_and_longer_answers_as_text():
    for one in builtin.answers():
        if one.kind == kinds.LOOP:
            assert coherence.is_noise(one.response), one.response
        elif one.kind != kinds.PLAIN:
            assert coherence.is_coherent(one.response), one.response


def test_they_are_a_source_of_labelled_answers_whole_and_by_halves():
    whole = labelled_answers.load("builtin:answers")
    halves = [labelled_answers.load(f"builtin:answers-{half}") for half in builtin.HALVES]
    assert len(whole.prompts) == 130 and whole.labels.sum() == 28
    assert [len(half.prompts) for half in halves] == [65, 65] and [half.labels.sum() for half in halves] == [14, 14]
    assert set(halves[0].responses) | set(halves[1].responses) == set(whole.responses)
    assert len({one.sha256 for one in (whole, *halves)}) == 3 and whole.source == "builtin:answers"


def test_another_name_is_refused_with_those_there_are():
    with pytest.raises(InputError, match="builtin:answers, builtin:answers-tuning, builtin:answers-held-out"):
        labelled_answers.load("builtin:labels")
