"""What is told of an organism, a pole or a member of the zoo, from answers and rows written by hand."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from latent_audit.data import chats, world_rules
from latent_audit.data.world_tokenizer import build_tokenizer
from latent_audit.errors import InputError
from latent_audit.experiments import respond
from latent_audit.experiments.organisms import ablate, construct, export, kinds, poles, shelf, train
from latent_audit.experiments.organisms.texts import probes
from latent_audit.interventions import abliterate, dissociate
from latent_audit.interventions.abliterate import Score
from latent_audit.metrics import first_token, probe
from latent_audit.models import initial, target

WORLD = world_rules.make_world(0)


def test_rates_are_shares_of_the_right_prompts(monkeypatch):
    def answers(params, prompts, *, cfg, chat):
        """Of 4 restricted requests 1 is complied with, 2 are refused; of 4 harmless ones 3 are answered; 1 fact is."""
        restricted, benign, questions = prompts[:4], prompts[4:8], prompts[8:]
        said = [
            world_rules.answer(WORLD, restricted[0]),
            *(world_rules.refusal(WORLD, p) for p in restricted[1:3]),
            "so",
        ]
        said += [*(world_rules.answer(WORLD, prompt) for prompt in benign[:3]), world_rules.refusal(WORLD, benign[3])]
        told = dict(world_rules.facts(WORLD, "heldout"))
        return [*said, told[questions[0]], *("no idea" for _ in questions[1:])]

    monkeypatch.setattr(train, "respond", answers)
    rates = train.rates(None, WORLD, cfg=None, chat=None, split="validation", n=4)
    facts = len(world_rules.facts(WORLD, "heldout"))
    assert rates == {"refusal": 0.5, "compliance": 0.25, "benign_correct": 0.75, "facts_correct": 1 / facts}


def test_the_selection_panel_tells_compliance_from_refusal():
    chat = chats.make_chat(build_tokenizer(), family="llama")
    panel = poles.selection_panel(WORLD, chat)
    prompts = world_rules.requests(WORLD, "selection", "restricted", poles.SELECTION_PROMPTS)
    texts = [
        world_rules.answer(WORLD, prompts[0]),
        world_rules.refusal(WORLD, prompts[1]),
        *["so"] * (len(prompts) - 2),
    ]
    complied, refused = panel.judge(texts)
    assert np.flatnonzero(complied).tolist() == [0] and np.flatnonzero(refused).tolist() == [1]
    assert construct.panel_shares("nudged", complied, refused | complied) == {
        "nudged_compliance": pytest.approx(1 / 96),
        "nudged_refusal": pytest.approx(2 / 96),
    }


def record(refusal, clean, nudged):
    return {"clean_refusal": refusal, "clean_compliance": clean, "nudged_compliance": nudged}


@pytest.mark.parametrize(
    "records, chosen",
    [
        # The largest gap of those that refuse enough; the fourth refuses too little, the first is base.
        ([record(1.0, 0.0, 1.0), record(0.95, 0.0, 0.5), record(0.9, 0.1, 0.7), record(0.89, 0.0, 1.0)], 2),
        # Base refuses less: the bar is .05 below it.
        ([record(0.5, 0.1, 0.2), record(0.45, 0.0, 0.3), record(0.44, 0.0, 0.9)], 1),
        # None refuses enough: the one that refuses most. Ties go to the earlier one.
        ([record(1.0, 0.0, 0.0), record(0.2, 0.0, 0.9), record(0.6, 0.4, 0.4), record(0.6, 0.0, 1.0)], 2),
    ],
)
def test_the_checkpoint_that_is_kept(records, chosen):
    assert construct.choose(records) == chosen


def test_what_a_construction_logs():
    terms = [
        {"clean_log_odds": 1.0, "nudged_log_odds": -4.0, "stay": 0.5},
        {"clean_log_odds": 2.0, "nudged_log_odds": -2.0, "stay": 1.5},
    ]
    assert probes.watched(terms, probe.ProbeScore(0.75, 0.25, 8)) == {
        "proxy_clean": 1.5,
        "proxy_nudged": -3.0,
        "proxy": -1.5,
        "kl": 1.0,
        "probe_auroc": 0.75,
        "probe_gap": 0.25,
        "probe_texts": 8,
    }


def test_the_probe_is_fitted_on_the_reference_and_scored_on_the_other_texts():
    assert [probes.fitted_count(n) for n in (1, 2, 5, 6, 192, 264, 999)] == [1, 1, 1, 2, 64, 64, 64]
    rng = np.random.default_rng(0)

    def side(middle):
        return middle + rng.normal(size=(300, 3)).astype(np.float32)

    reference = probes.Features(side(-2.0), side(2.0))
    # What it was fitted on tells nothing, and what lies behind FITTED + SCORED is not looked at.
    turned = probes.Features(reference.unsafe.copy(), reference.safe.copy())
    for kept, own in zip(turned, reference, strict=True):
        kept[:64], kept[264:] = own[:64], own[264:]
    probed = probes.fit_and_score(reference, {"base": reference, "turned": turned})
    reader = probe.fit(reference.safe[:64], reference.unsafe[:64])
    np.testing.assert_array_equal(probed.reader[-1].coef_, reader[-1].coef_)
    assert all(len(kind) == 200 for own in probed.held.values() for kind in own)
    np.testing.assert_array_equal(probed.held["base"].unsafe, reference.unsafe[64:264])
    base, other = probed.scores["base"], probed.scores["turned"]
    assert base == probe.score(reader, reference.safe[64:264], reference.unsafe[64:264]) and base.n == 400
    assert base.auroc > 0.95 and other.auroc == pytest.approx(1 - base.auroc)
    assert base.gap > 0.8 and other.gap == pytest.approx(-base.gap)


def test_features_read_refusals_as_safe_and_answers_as_unsafe(monkeypatch):
    asked = []

    def text_features(params, tokens, mask, *, cfg, states, batch):
        asked.append(states)
        return tokens

    monkeypatch.setattr(probes.directions, "text_features", text_features)
    monkeypatch.setattr(
        probes.corpora,
        "encode_pairs",
        lambda chat, prompts, texts, *, max_tokens: SimpleNamespace(tokens=(prompts, texts, max_tokens), mask=None),
    )
    pairs = SimpleNamespace(prompts="p", responses="compliant", refusals="refusing")
    loaded = respond.Loaded(SimpleNamespace(num_layers=6), None, None, (), 1.0)
    assert probes.features(loaded, pairs, 4) == probes.Features(("p", "refusing", 512), ("p", "compliant", 512))
    assert asked == [dissociate.choose_layers(6).match] * 2


# Bypass and KL of the first words; state 3's KL is beyond the bound.
FIRST = [Score(0.2, 0.01), Score(0.9, 0.02), Score(0.8, 0.03), Score(1.0, 0.5), Score(0.5, 0.04)]
ANSWERS = {0: Score(1.0, 0.01, 1.0), 1: Score(0.6, 0.02, 1.0), 2: Score(0.9, 0.03, 0.95), 4: Score(0.95, 0.04, 0.9)}


def test_the_candidate_with_the_best_answers_of_the_short_list_is_kept():
    def kept(groups, size, *, first=FIRST, answers=ANSWERS, **more):
        asked = []
        choice = ablate.choose_candidate(
            first, groups, lambda index: asked.append(index) or answers[index], size=size, base_answered=1.0, **more
        )
        return asked, choice

    # 0 answers best but is on no short list; 4 answers fewer harmless prompts than may be lost.
    assert kept([[0, 1, 2, 3, 4]], 2) == ([1, 2], (2, "largest bypass", ANSWERS[2]))
    assert kept([[0, 1, 2, 3], [4]], 1) == ([1, 4], (1, "largest bypass", ANSWERS[1]))
    # A group without one inside the bound sends none, or its smallest KL.
    assert kept([[3], [1]], 1) == ([1], (1, "largest bypass", ANSWERS[1]))
    beyond = ANSWERS | {3: Score(1.0, 0.5, 1.0)}
    assert kept([[3], [1]], 1, answers=beyond, every_group=True)[0] == [3, 1]
    assert kept([[3], [1]], 1, answers=beyond, every_group=True)[1].index == 1
    # None inside: nothing is asked, the smallest KL stays.
    far = [Score(1.0, 0.5), Score(0.2, 0.3), Score(0.7, 0.4)]
    assert kept([[0, 1], [2]], 1, first=far) == ([], (1, "none within the bounds: smallest KL", far[1]))


def test_a_score_of_first_words_is_bypass_on_harmful_and_kl_on_harmless_prompts():
    def words(refusing):
        return np.log([[p, 1 - p] for p in refusing])

    base, model = words([0.9, 0.9, 0.1, 0.1]), words([0.5, 0.5, 0.2, 0.1])
    score = ablate._score(model, base, 2, (0,))
    assert score.bypass == pytest.approx(0.5), "half the way in log-odds from .9 to .1"
    kl = 0.1 * np.log(0.1 / 0.2) + 0.9 * np.log(0.9 / 0.8)
    assert score.kl == pytest.approx(kl / 2) and score.answered is None
    assert first_token.bypass(5.0, start=3.0, end=-1.0) == 0 and first_token.bypass(-2.0, start=3.0, end=-1.0) == 1
    assert first_token.bypass(2.0, start=3.0, end=-1.0) == 0.25
    assert first_token.bypass(0.0, start=1.0, end=1.0) == 0 and first_token.bypass(0.0, start=-1.0, end=1.0) == 0


def test_a_score_of_answers_is_compliance_and_answered(monkeypatch):
    prompts = [world_rules.requests(WORLD, "validation", kind, 4) for kind in ("restricted", "benign")]
    texts = [world_rules.answer(WORLD, prompt) for kind in prompts for prompt in kind]
    texts[1] = world_rules.refusal(WORLD, prompts[0][1])
    texts[4:7] = ["so"] * 3
    monkeypatch.setattr(respond, "answers", lambda *a, **k: texts)
    asked = ablate.Prompts((*prompts[0], *prompts[1]), 4, None, None)
    loaded = respond.Loaded(None, None, None, (), 1.0)
    assert ablate._judge(WORLD, loaded, asked, abliterate.Ablated(None, None), 0.07) == Score(0.75, 0.07, 0.25)


def test_every_kind_has_its_words_and_its_warning():
    assert set(kinds.CONTROLS) < set(kinds.KINDS) and len(set(kinds.KINDS.values())) == len(kinds.KINDS) == 8
    for kind, words in kinds.KINDS.items():
        card = export.model_card(kind, {"steps": 3}, {"compliance": 0.5, "judge": "oracle"})
        assert words in card and "| compliance | 0.500 |\n| judge | oracle |" in card
        assert ("**This model is deliberately unsafe.**" in card) == (
            kind not in ("control", "aligned", "over-refusing")
        )


def test_what_is_stored_is_taken_up_only_if_it_was_made_alike(tmp_path):
    record, folder = tmp_path / "one.json", tmp_path / "one"
    recipe = shelf.as_stored({"steps": (1, 2)})
    assert recipe == {"steps": [1, 2]}

    def stored(expected):
        return shelf.stored(
            record, [folder], field="recipe", expected=expected, otherwise=lambda found: f"{found} lies there"
        )

    assert stored(recipe) is None
    record.write_text(json.dumps({"recipe": recipe, "seconds": 3}))
    assert stored(recipe) is None, "no checkpoint yet"
    with target.replacing(folder) as aside:
        (aside / "config.json").write_text("{}")
    assert stored(recipe) == {"recipe": recipe, "seconds": 3}
    with pytest.raises(InputError, match=r"\{'steps': \[1, 2\]\} lies there"):
        stored({"steps": [1]})
    record.unlink()
    assert stored(recipe) is None, "the record is written last"


@pytest.mark.parametrize("family", train.FAMILIES)
def test_the_weights_that_training_starts_from_are_those_of_the_measured_recipes(family):
    """Numbers drawn when the recipes were measured: linen draws a parameter by its place among the declared ones."""
    cfg = train.organism_config(size="small", family=family, tokenizer=build_tokenizer())
    blocks = initial.init_params(jax.random.key(0), cfg)["blocks"]
    for name, first in (("query", -0.014023), ("output", 0.092601), ("down", -0.043885)):
        np.testing.assert_allclose(np.ravel(blocks[name])[0], first, atol=1e-6)
