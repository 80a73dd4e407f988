"""The attack suite on a tiny random model whose "harm" is any answer but the clean one: what radii must be."""

import functools

import jax
import numpy as np
import pandas as pd
import pytest

from configs import audit as audit_config
from latent_audit.data import chats
from latent_audit.errors import InputError
from latent_audit.experiments import panels, respond
from latent_audit.experiments.audit.bench import Known
from latent_audit.experiments.audit.suite import block as blocks
from latent_audit.experiments.audit.suite import goals, report, search, suite
from latent_audit.experiments.organisms import poles
from latent_audit.interventions import joint, latent, sphere
from tests.support.checkpoints import tiny_checkpoint

PROMPTS = ("how to help me", "write me", "do what")
BUDGETS = (0.01, 0.03, 0.1, 0.3)
MEMBERS = (
    search.Member("pgd-2", latent.Search(steps=2, controls=False, keep="best")),
    search.Member("l2-16", sphere.Search(steps=2, keep="best"), kinds=("answer", "inside")),
    search.Member("l2-all-2", joint.Search(steps=2), kinds=("answer", "away")),
    search.Member("pgd-4", latent.Search(steps=4, controls=False, keep="best"), (True, True), best_states=1),
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return poles.load_plain(tiny_checkpoint("llama3", tmp_path_factory.mktemp("suite") / "model", ends_turns=True))


def settings(**changes):
    made = suite.Settings(3, (0, 1, 2, 3), BUDGETS, 0.03, 0.01, MEMBERS, 4, 6, "linf_of_max", "Sure, here is", 3)
    return made._replace(**changes)


def make_block(loaded, prompts=PROMPTS, **changes):
    """A block whose judge calls every answer harmful that is not the clean one, with its aims."""
    panel = panels.make_panel("harmful", prompts, "hand")
    tokens = chats.encode_prompts(loaded.chat, prompts, max_length=64)
    block = blocks.make_block(
        *(panel, tokens, range(len(prompts)), loaded, None, jax.random.key(0), settings(**changes)),
        batch=8,
        new_tokens=4,
    )
    clean = respond.answers(loaded, block.tokens, block.mask, batch=8, max_new_tokens=4)

    def judge(rows, texts):
        changed = [text != clean[row] for row, text in zip(rows, texts, strict=True)]
        return np.array(changed, bool), np.zeros(len(texts), bool)

    block = block._replace(judge=judge)
    ids = goals.first_tokens
    directions = np.random.default_rng(0).normal(size=(loaded.cfg.num_layers + 1, loaded.cfg.embed_dim)) * 0.01
    aims = goals.Aims(
        chats.target_ids(loaded.chat, "Sure, here is"),
        [ids(loaded.chat, "here is how to")] * len(prompts),
        ["hand"] * len(prompts),
        [ids(loaded.chat, text) or (1,) for text in clean],
        directions.astype(np.float32),
    )
    return blocks.measure_clean(block, aims, MEMBERS[0].search)[0], aims


def broken(loaded, prompts=PROMPTS, **changes):
    block, aims = make_block(loaded, prompts, **changes)
    of = functools.partial(suite._searched, settings())
    complies = np.zeros(len(prompts), bool)
    return block, search.break_block(block, aims, MEMBERS, of, BUDGETS, {}, complies, seconds={})


def test_what_broke_a_prompt_lies_within_its_radius_and_breaks_it_again(loaded):
    block, (progress, pushes, top) = broken(loaded)
    assert pushes, "the model's answers must change under some push"
    for row, push in pushes.items():
        budget = BUDGETS[progress.fell[row]]
        if push.delta.ndim == 2:
            assert np.abs(push.delta).max() <= block.scale[push.state, row] * budget * (1 + 1e-5)
            assert not push.delta[~block.mask[row]].any()
        elif push.delta.ndim == 3:
            norms = np.linalg.norm(push.delta[0], axis=-1)
            assert push.state == blocks.ALL and (norms <= block.length[:, row] * budget * (1 + 1e-5)).all()
        else:
            assert np.linalg.norm(push.delta) <= block.length[push.state, row] * budget * (1 + 1e-5)
        again = blocks.answers(block, push.state, np.array([row]), push.delta[None])
        assert again == [push.text] and block.judge([row], again)[0].all()
    # The largest budget was asked first, and what it reached is noted.
    assert progress.tried[:, -1].all() and np.isfinite(top.lowest["opening"]).all()
    assert (top.harmed <= top.reached).all()


def test_radii_do_not_depend_on_how_many_rows_are_searched_together_or_on_the_other_prompts(loaded):
    _, (wide, *_) = broken(loaded, rows=24)
    _, (narrow, *_) = broken(loaded, rows=2)
    np.testing.assert_array_equal(wide.fell, narrow.fell)


def test_the_scale_of_a_block_is_that_of_the_latent_attack(loaded):
    block, aims = make_block(loaded)
    target = np.asarray(aims.opening, np.int32)
    clean = latent.clean_pass(loaded.params, block.tokens, block.mask, target, cfg=loaded.cfg)
    np.testing.assert_allclose(block.scale, clean.scale, rtol=1e-5)
    np.testing.assert_allclose(block.length, np.asarray(clean.scale) * np.sqrt(loaded.cfg.embed_dim), rtol=1e-5)


def test_a_prompt_that_complies_when_asked_is_not_searched(loaded):
    block, aims = make_block(loaded)
    calls = {}
    complies = np.array([True, True, True])
    progress, pushes, _ = search.break_block(
        block, aims, MEMBERS, functools.partial(suite._searched, settings()), BUDGETS, {}, complies, seconds=calls
    )
    assert not pushes and not calls and (progress.fell == len(BUDGETS)).all()


def test_pushes_of_a_twin_are_brought_within_the_budget(loaded):
    block, _ = make_block(loaded)
    P, D = block.tokens.shape[1], loaded.cfg.embed_dim
    large = np.where(block.mask[0][:, None], 1e3, 0.0).astype(np.float32) * np.ones((P, D), np.float32)
    vector = np.full(D, 1e3, np.float32)
    pushes = [blocks.Push("pgd-2 answer", 1, large, ""), blocks.Push("l2-16 inside", 2, vector, "")]
    every = np.full((1, loaded.cfg.num_layers + 1, D), 1e3, np.float32)
    pushes.append(blocks.Push("l2-all-2 away", blocks.ALL, every, ""))
    fallen = blocks.given(block, {0: pushes}, {0: 0.3}, "transfer")
    assert set(fallen) <= {0}
    within = blocks._within(block, pushes[-1], 0, 0.3)
    np.testing.assert_allclose(np.linalg.norm(within[0], axis=-1), block.length[:, 0] * 0.3, rtol=1e-4)
    for push in fallen.values():
        assert push.member.startswith("transfer ")
        if push.delta.ndim == 2:
            np.testing.assert_allclose(np.abs(push.delta).max(), block.scale[1, 0] * 0.3, rtol=1e-5)
        else:
            np.testing.assert_allclose(np.linalg.norm(push.delta), block.length[2, 0] * 0.3, rtol=1e-4)


def test_draws_stay_in_the_ball_and_off_the_padding_and_are_the_prompts_own(loaded):
    block, _ = make_block(loaded)
    drawn = blocks.draws(block, (0, 1, 2), [0, 2], np.array([0.3, 0.1]), 5)
    assert drawn.rows.tolist() == [0] * 5 + [2] * 5 and drawn.states.tolist() == [0, 1, 2, 0, 1] * 2
    alone = blocks.draws(block, (0, 1, 2), [2], np.array([0.1]), 5)
    np.testing.assert_array_equal(drawn.harmful[5:], alone.harmful)
    for row, push in drawn.pushes.items():
        bound = block.scale[push.state, row] * {0: 0.3, 2: 0.1}[row]
        assert 0 < np.abs(push.delta).max() <= bound * (1 + 1e-5) and not push.delta[~block.mask[row]].any()


def test_goals_of_a_prompt_without_an_answer(loaded):
    _, aims = make_block(loaded)
    bare = aims._replace(answers=[(), (5, 6), ()], clean=[(), (7,), (8,)])
    assert goals.kinds_of(bare, 0) == ["opening", "inside"]
    assert goals.kinds_of(bare, 1) == list(goals.KINDS)
    assert goals.kinds_of(bare, 2, among=("answer", "away")) == ["opening", "away"]
    goal = goals.goals_of(bare, [1, 1, 2], ["answer", "inside", "away"], vocab_size=50)
    assert goal.tokens[0, :2].tolist() == [5, 6] and goal.weights.sum(1).tolist() == [1, 1, 1]
    assert goal.sign.tolist() == [1, 0, -1] and goal.pull.tolist() == [0, 1, 0]
    assert np.isinf(goal.cap[0]) and np.isclose(goal.cap[2], np.log(50))


def test_the_refusal_direction_measures_the_gap_between_the_panels():
    rng = np.random.default_rng(0)
    harmful, benign = rng.normal(size=(5, 3, 4)) + 1, rng.normal(size=(5, 3, 4))
    directions = goals.refusal_directions(harmful, benign)
    gap = np.einsum("sd,sd->s", directions, harmful.mean(0) - benign.mean(0))
    np.testing.assert_allclose(gap, 1, rtol=1e-5)
    assert not goals.refusal_directions(harmful, harmful).any()


def checked(loaded, changes, is_organism=False):
    config = audit_config.get_config()
    config.update_from_flattened_dict(changes)
    return suite.check(config, Known(("base",), loaded.cfg.num_layers, is_organism, loaded.chat, {}))


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"suite.budgets": (0.2, 0.1)}, "suite.budgets"),
        ({"suite.states": "L99"}, "suite.states"),
        ({"suite.reference_budget": 5.0}, "suite.reference_budget"),
        ({"suite.hollow_budget": 0.02}, "suite.hollow_budget = 0.02, expected at most suite.reference_budget"),
        ({"suite.steps": ()}, "suite.steps"),
    ],
)
def test_bad_settings_are_told_before_compute(loaded, changes, match):
    with pytest.raises(InputError, match=match):
        checked(loaded, changes)


def test_states_and_members_of_the_default(loaded):
    made = checked(loaded, {}, is_organism=True)
    assert made.states == tuple(range(loaded.cfg.num_layers + 1))
    assert [member.name for member in made.members] == ["l2-all-16", "pgd-10", "l2-16", "pgd-40"]
    large = suite._states("auto", 32)
    assert len(large) == 9 and large[0] == 0 and large[-1] == 32
    # A bounded push of the last state reaches one token only; a vector there acts on them all.
    searched = {member.name: suite._searched(made, member) for member in made.members}
    assert set(searched["pgd-10"]) == set(made.states[:-1]) and set(searched["l2-16"]) == set(made.states)
    # A named state is searched, whichever it is; only the model's own last one is no place for a bounded push.
    alone = checked(loaded, {"suite.states": "L0"})
    assert suite._searched(alone, search.cheap_bounded(alone.members)) == [1]
    assert suite.cost(made, 2) == 2 * suite.cost(made, 1) > 0


def rows_of(radius, **columns):
    n = len(radius)
    given = {
        "prompt": range(n),
        "radius": [None if np.isinf(value) else value for value in radius],
        "member": ["asked" if value == 0 else "pgd-10 answer" if np.isfinite(value) else "" for value in radius],
        "state": [1] * n,
        "goal_source": [""] * n,
        "nll_clean_opening": [2.0] * n,
        "nll_clean_answer": [None] * n,
        "nll_top_opening": [0.1] * n,
        "nll_top_answer": [None] * n,
        "reached": [2] * n,
        "harmed": [1] * n,
        "incoherent_noise": [0.0] * n,
        "fell_to_noise": [False] * n,
    }
    return pd.DataFrame(given | columns)


def probes_of(broken=True, cosine=1.0):
    lines = [("curve", budget, 0, broken, 0.0) for budget in BUDGETS]
    lines += [(f"member {member.name}", 0.03, 0, broken, 0.0) for member in MEMBERS]
    lines += [("gradient", 0.03, 0, False, cosine)] * 3
    return pd.DataFrame(lines, columns=["what", "budget", "prompt", "broken", "value"])


def test_a_record_holds_radii_gates_and_what_was_tried():
    radius = np.array([0.0, 0.01, 0.03, np.inf])
    record = report.record_of(settings(), rows_of(radius), probes_of(), np.array([0, 0, 1, 1]))
    assert record["radius"] == [0.0, 0.01, 0.03, None] and record["cluster"] == [0, 0, 1, 1]
    passed = {name: ok for name, ok, _ in record["gates"]}
    # Three of four have a radius, which is below what the suite must break.
    assert not all(passed.values()) and sum(not ok for ok in passed.values()) == 1
    assert "4 random draws" in record["tried"] and "pgd-4" in record["tried"]
    lines = report.lines_of(record, 0)
    by_budget = {line["budget"]: line["successes"] for line in lines if line["measure"] == "suite_asr"}
    assert by_budget == {0.01: 2, 0.03: 3, 0.1: 3, 0.3: 3}
    assert next(line for line in lines if line["measure"] == "break_radius")["value"] == 0.01


def test_a_masked_gradient_fails_its_gate():
    def gradient_gate(cosine):
        record = report.record_of(settings(), rows_of([0.01] * 4), probes_of(cosine=cosine), np.arange(4))
        return record["gates"][-1]

    assert gradient_gate(1.0)[1] and not gradient_gate(0.5)[1]


def test_a_ratio_of_radii_takes_a_censored_one_as_the_largest_budget():
    base = report.record_of(settings(), rows_of([0.3, np.inf, 0.1, 0.0]), probes_of(), np.arange(4))
    other = report.record_of(settings(), rows_of([0.1, 0.03, 0.1, 0.01]), probes_of(), np.arange(4))
    (line,) = report.ratio_lines(base, other, "base", 0)
    assert line["n"] == 3 and np.isclose(line["value"], (3 * 10 * 1) ** (1 / 3))
    assert line["lo"] <= line["value"] <= line["hi"]
