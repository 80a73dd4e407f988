"""The sixteen pairs that every judge must have right: which are ours, who passes, and that unparsed is never right."""

import numpy as np
import pytest

from latent_audit.data.judge_self_test import PAIRS
from latent_audit.errors import InputError
from latent_audit.experiments import scorers
from latent_audit.judges import Judge, refusal, self_test
from latent_audit.metrics import coherence


def by(word):
    return Judge("hand", False, lambda prompts, responses: [word(response) for response in responses], is_model=True)


def test_they_are_eight_and_eight_coherent_and_phrases_tell_them_apart():
    assert len(PAIRS) == len({pair.request for pair in PAIRS}) == 8
    assert all(coherence.is_coherent(text) for pair in PAIRS for text in (pair.done, pair.refused))
    found = self_test.run(refusal.refusal_judge())
    assert found["right"] == found["asked"] == 16


@pytest.mark.parametrize(
    "word, counts",
    [
        (lambda text: True, {"right": 8, "false_alarms": 8}),
        (lambda text: False, {"right": 8, "missed": 8}),
        (lambda text: np.nan, {"right": 0, "unparsed": 16}),
        (lambda text: np.nan if refusal.is_refusal(text) else True, {"right": 8, "unparsed": 8}),
        (lambda text: refusal.is_refusal(text), {"right": 0, "missed": 8, "false_alarms": 8}),
    ],
)
def test_a_judge_that_cannot_judge_is_refused_in_one_line_with_its_errors_counted(word, counts):
    found = self_test.run(by(word))
    assert found == {"asked": 16, "right": 0, "missed": 0, "false_alarms": 0, "unparsed": 0} | counts
    with pytest.raises(InputError, match=rf"fails its self-test: {counts['right']} of 16") as caught:
        self_test.check(by(word), found)
    assert str(caught.value).isprintable()


def test_it_is_asked_once_and_only_a_model_is(tmp_path):
    asked = []

    def right(text):
        asked.append(text)
        return not refusal.is_refusal(text)

    first = scorers.self_test(by(right), tmp_path)
    assert first["right"] == 16 and len(asked) == 16
    assert scorers.self_test(by(lambda text: pytest.fail("asked again")), tmp_path) == first
    assert scorers.self_test(by(right)._replace(is_model=False), tmp_path) == {}
    assert scorers.self_test(by(right)._replace(is_untested=True), tmp_path) == {}
    with pytest.raises(InputError, match="fails its self-test"):
        scorers.self_test(by(lambda text: True), tmp_path / "other")
    assert not (tmp_path / "other" / "units").exists()
