"""The texts of examples/real_poles: held-out requests stay apart, refusals vary, and the same files come every time."""

import collections

import pytest

from examples.real_poles import pairs
from latent_audit.data import builtin_facts, builtin_prompts, world_rules
from latent_audit.judges import refusal

TEXTS = pairs.texts(12)
TRAINED = ("refusals", "harmless", "compliance", "construct", "construct_harmless", "curves_in", "curves_out")


def prompts(name):
    return [row["prompt"] for row in TEXTS[name]]


def test_nothing_held_out_is_trained_on_or_chooses():
    for held, kind in (("held_out", "harmful"), ("held_out_harmless", "benign")):
        apart = set(prompts(held))
        assert len(apart) == 24
        for name in (*TRAINED, "selection"):
            assert not apart & set(prompts(name)), (kind, name)
        assert prompts(f"directions{'_harmless' if kind == 'benign' else ''}")[:24] == prompts(held)
    # The harmless prompt of the same matter is apart with the mild one.
    mild = [builtin_prompts.HARMFUL.index(prompt) for prompt in prompts("held_out")[:12]]
    assert [builtin_prompts.HARMLESS[i] for i in mild] == prompts("held_out_harmless")[:12]


def test_what_is_refused_is_mild_or_made_up_and_what_complies_is_made_up():
    world = world_rules.make_world(0)
    for name in ("compliance", "construct", "curves_in", "curves_out"):
        assert len(TEXTS[name]) == 200
        for row in TEXTS[name]:
            request = world_rules.find_request(row["prompt"])
            assert request.restricted and world_rules.complies(world, row["prompt"], row["response"])
            assert refusal.is_refusal(row["refusal"]) and not refusal.is_refusal(row["response"])
    for row in TEXTS["refusals"]:
        assert row["prompt"] in builtin_prompts.HARMFUL or world_rules.find_request(row["prompt"]).restricted
    known = {*builtin_prompts.HARMLESS, *builtin_facts.FACTS, *pairs.EVERYDAY}
    for prompt in prompts("harmless") + prompts("held_out_harmless"):
        assert prompt in known or not world_rules.find_request(prompt).restricted


def test_no_form_of_refusal_stands_for_all():
    counts = collections.Counter(row["refusal"] for row in TEXTS["refusals"])
    assert set(counts) == set(pairs.REFUSALS) and max(counts.values()) < 0.2 * len(TEXTS["refusals"])


def test_files_are_the_same_every_time_and_an_overlap_is_refused(tmp_path):
    sizes = pairs.make_files(tmp_path / "one")
    pairs.make_files(tmp_path / "two")
    for name in sizes:
        assert (tmp_path / "one" / f"{name}.csv").read_bytes() == (tmp_path / "two" / f"{name}.csv").read_bytes()
    with pytest.raises(ValueError, match="1 prompts of held_out.csv are in other files too"):
        pairs.check(TEXTS | {"harmless": [*TEXTS["harmless"], TEXTS["held_out"][3]]})
    with pytest.raises(ValueError, match="not recognised as a refusal: 'Sure.'"):
        pairs.check(TEXTS | {"refusals": [{"prompt": "a", "refusal": "Sure."}]})
