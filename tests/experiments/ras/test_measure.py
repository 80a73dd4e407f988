"""What is kept of a model: means and cosines of streamed states, and the line of its judged answers."""

import itertools
import types

import numpy as np
import pytest
import scipy.stats

from latent_audit.data import chats
from latent_audit.experiments.organisms.texts import surfaces
from latent_audit.experiments.ras import cosines, measure, members, prompt_sets, tables
from latent_audit.metrics import rulers, safevec


@pytest.fixture
def streamed(monkeypatch):
    """States given as tokens, a few prompts at a time."""

    def block_states(loaded, tokens, batch):
        return (tokens.tokens[start : start + batch] for start in range(0, len(tokens.tokens), batch))

    monkeypatch.setattr(cosines, "block_states", block_states)


def states(seed, n):
    return np.random.default_rng(seed).normal(size=(n, 3, 4)).astype(np.float32)


def as_tokens(rows):
    return chats.Tokens(rows, None)


def test_streamed_sums_are_float64(streamed):
    # In float32 the 1 is lost beside 1e8.
    rows = np.array([[[1e8, 0.0]], [[1.0, 1.0]], [[-1e8, 0.0]]], np.float32)
    np.testing.assert_allclose(cosines.mean_states(None, as_tokens(rows), 3), [[1 / 3, 1 / 3]])


def test_directions_point_from_harmless_to_harmful_prompts(streamed):
    safe, unsafe = states(0, 5), states(1, 7) + 1
    found = cosines.fit(None, as_tokens(safe), as_tokens(unsafe), batch=2, random=2)
    difference = unsafe.mean(axis=0, dtype=float) - safe.mean(axis=0, dtype=float)
    np.testing.assert_allclose(found.refusal, difference / np.linalg.norm(difference, axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(found.centre, (unsafe.mean(axis=0) + safe.mean(axis=0)) / 2, rtol=1e-5)
    assert found.random.shape == (2, 3, 4)
    np.testing.assert_array_equal(found.random[1], safevec.random_directions(1, 3, 4))
    assert cosines.fit(None, as_tokens(safe), as_tokens(unsafe), batch=2).random.shape == (0, 3, 4)


def test_cosines_of_every_prompt_and_their_controls(streamed):
    rows = states(2, 5)
    known = cosines.fit(None, as_tokens(states(0, 5)), as_tokens(states(1, 7) + 1), batch=2, random=2)
    found = cosines.read(None, as_tokens(rows), known, batch=2)
    np.testing.assert_allclose(found.refusal, safevec.cosines(rows, known.refusal))
    np.testing.assert_allclose(found.centred, safevec.centred_cosines(rows, known.refusal, known.centre))
    assert np.abs(found.refusal - found.centred).max() > 0.1
    for drawn, mean in zip(known.random, found.random, strict=True):
        np.testing.assert_allclose(mean, safevec.cosines(rows, drawn).mean(axis=0))
    np.testing.assert_allclose(cosines.read_refusal(None, as_tokens(rows), known.refusal, batch=3), found.refusal)
    assert cosines.read(None, as_tokens(rows), known._replace(random=known.random[:0]), batch=2).random.shape == (0, 3)


@pytest.mark.parametrize("longer, withheld", [(0, False), (6, True)])
def test_the_direction_is_ruled_on_the_half_that_gave_neither_it_nor_the_rulers(
    longer, withheld, streamed, monkeypatch
):
    def panel(name, n):
        return types.SimpleNamespace(name=name, prompts=(name,) * n)

    halves = {half: prompt_sets.Sets(*(panel(f"{half}-{kind}", 12) for kind in "SUJ")) for half in ("fit", "score")}
    # Cosines with the first axis: about .9 on U and -.9 on S of the scored half; the layer before the window says else.
    rows = {
        f"{half}-{kind}": states(index, 12) * 0.1 for index, (half, kind) in enumerate(itertools.product(halves, "SU"))
    }
    for name, state in rows.items():
        state[:, 1:, 0] += 1 if name.endswith("U") else -1
        state[:, 0, 0] -= 9 if name.endswith("U") else -9

    def surface(chat, prompts, mask):
        name = prompts[0]
        return rulers.Surface(np.arange(12) % 4 + longer * name.endswith("U"), np.arange(12) % 3)

    monkeypatch.setattr(surfaces, "of_prompts", surface)
    job = types.SimpleNamespace(batches=types.SimpleNamespace(prompts=5), seed=0)
    plan = types.SimpleNamespace(
        prompts=types.SimpleNamespace(halves=halves),
        config=types.SimpleNamespace(score=types.SimpleNamespace(resamples=50)),
    )
    asked = {}
    own = types.SimpleNamespace(
        plan=plan,
        job=job,
        tokens=lambda model: {name: chats.Tokens(state, None) for name, state in rows.items()},
        load=lambda model: types.SimpleNamespace(chat=None),
        unit=lambda model, name, compute: asked.setdefault(name, compute()),
    )
    directions = types.SimpleNamespace(refusal=np.tile(np.eye(4)[0], (3, 1)))
    found = measure._ruled(own, types.SimpleNamespace(name="reference"), directions, safevec.Window(1, 3, (), ""))
    assert found.auroc == 1.0 and found.withheld is withheld
    assert [one.auroc for one in found.rulers] == [1.0 if longer else 0.5, 0.5]
    read = safevec.cosines(rows["score-U"], directions.refusal)[:, 1:3].mean(axis=1)
    np.testing.assert_allclose(asked["rulers"]["unsafe"], read)


PANELS = {name: types.SimpleNamespace(name=name) for name in ("asr", "asr-wrapped", "benign")}
HITS = {"asr": 3, "asr-wrapped": 6, "benign": 7}


def test_the_line_of_a_models_answers():
    asked = []

    def unit(model, name, compute):
        asked.append((model.name, name, compute.keywords["benign"], compute.args[-1].name))
        return {"hit": [index < HITS[name] for index in range(8)], "degenerate": [name == "asr"] + [False] * 7}

    prompts = types.SimpleNamespace(asr=PANELS["asr"], wrapped=PANELS["asr-wrapped"], benign=PANELS["benign"])
    own = types.SimpleNamespace(plan=types.SimpleNamespace(prompts=prompts), unit=unit)
    model = members.Model("m", "target", None, False)
    line = measure._answers(own, model)
    assert asked == [("m", name, name == "benign", name) for name in HITS]
    assert list(line) == [
        *("asr", "degenerate"),
        *("asr_wrapped", "asr_wrapped_lo", "asr_wrapped_hi", "answered", "answered_lo", "answered_hi"),
    ]

    def wilson(count):
        return pytest.approx(tuple(scipy.stats.binomtest(count, 8).proportion_ci(method="wilson")), abs=1e-9)

    assert isinstance(line["asr"], tables.Share) and (line["asr"].value, line["asr"].n) == (3 / 8, 8)
    assert (line["asr"].lo, line["asr"].hi) == wilson(3) and line["degenerate"] == 1 / 8
    assert line["asr_wrapped"] == 6 / 8 and (line["asr_wrapped_lo"], line["asr_wrapped_hi"]) == wilson(6)
    assert line["answered"] == 7 / 8 and (line["answered_lo"], line["answered_hi"]) == wilson(7)
    assert measure._answers(own, model._replace(measured=False)) == {}


def test_a_family_keeps_given_asrs_before_measured_ones_and_reads_each_half_by_its_protocol(monkeypatch):
    reference = members.Model("reference", "reference", None, False)
    given = members.Model("given", "calibration", None, True, 0.75, False)
    group = members.Group("llama", (reference, given), None)
    monkeypatch.setattr(measure, "_fit", lambda own, model: (f"directions of {model.name}", "profile", "window"))
    monkeypatch.setattr(measure, "_cosines", lambda own, model, known: f"{model.name} by {known}")
    share = tables.Share(0.25, 0.1, 0.5, 8)
    monkeypatch.setattr(
        measure, "_answers", lambda own, model: {"asr": share, "degenerate": 0.0} if model.measured else {}
    )
    monkeypatch.setattr(measure, "_rivals", lambda own, model, features: {"separation": len(model.name)})
    monkeypatch.setattr(measure, "_ruled", lambda own, model, known, window: f"{model.name} by {known} in {window}")
    halves = {
        half: types.SimpleNamespace(jailbreak_of=f"wraps {half}", safe=None, unsafe=None) for half in ("fit", "score")
    }
    prompts = types.SimpleNamespace(halves=halves)
    plan = measure.Plan(None, None, prompts, ("heldout", "paper"), None, None, None, None, None)
    job = types.SimpleNamespace(batches=types.SimpleNamespace(prompts=2))
    found = measure.measure(measure.Prepared(plan, group, job, lambda model: model.name))
    assert [(entry.name, entry.kind, entry.calibrates) for entry in found.family.entries] == [
        ("reference", "reference", False),
        ("given", "calibration", True),
    ]
    measured, given = (entry.asr for entry in found.family.entries)
    assert measured == share and (given.value, given.n) == (0.75, 0) and np.isnan([given.lo, given.hi]).all()
    assert [entry.cosines for entry in found.family.entries] == [
        f"{name} by directions of reference" for name in ("reference", "given")
    ]
    assert found.family.jailbreak_of == "wraps score" and (found.family.window, found.family.profile) == (
        "window",
        "profile",
    )
    assert found.family.ruled == "reference by directions of reference in window"
    assert found.others["separation"].tolist() == [9, 5] and "asr" not in found.others
    assert found.tokens == "reference" and found.place is None
