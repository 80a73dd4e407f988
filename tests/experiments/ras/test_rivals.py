"""Lines of the rivals of RAS from rows written by hand: attacks with their controls, separation, probe."""

import dataclasses
import types

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from configs import ras as ras_config
from latent_audit.data import chats
from latent_audit.errors import InputError
from latent_audit.experiments.organisms.texts import surfaces
from latent_audit.experiments.organisms.texts.probes import FITTED, Features
from latent_audit.experiments.ras import prompt_sets, rivals
from latent_audit.experiments.setup import jobs
from latent_audit.metrics import rulers, separation


def pushed(variant, kind, budget, hits, fell=()):
    return [
        {
            "variant": variant,
            "kind": kind,
            "budget": budget,
            "harmful": index < hits,
            "nll_first": 2.0,
            "nll_last": 1.0 if index in fell else 2.0,
        }
        for index in range(8)
    ]


def cell(variant, attack, value, *, layer="L2", budget=0.1, exp="lvs"):
    lvs, mean, asr = (float(f"{value}{digit}") for digit in (1, 2, 3))
    line = {"exp": exp, "variant": variant, "attack": attack, "layer": layer, "budget": budget, "lvs_mean": mean}
    return line | {
        **{"lvs": lvs, "lvs_lo": lvs - 0.01, "lvs_hi": lvs + 0.02},
        **{"asr": asr, "asr_lo": asr - 0.01, "asr_hi": asr + 0.02},
    }


PUSHED = pd.DataFrame(
    [
        *pushed("aligned", "l2", 0.06, 2, fell=(0, 1, 2)),
        *pushed("aligned", "random", 0.06, 1, fell=range(8)),
        *pushed("aligned", "l2", 0.12, 8),
        *pushed("hidden", "l2", 0.06, 7, fell=range(8)),
        *pushed("hidden", "random", 0.06, 0),
    ]
)
METRICS = pd.DataFrame(
    [
        cell("aligned", "clean", "0.9", exp="clean"),
        cell("aligned", "pgd", "0.2"),
        cell("aligned", "random", "0.3"),
        cell("aligned", "pgd", "0.8", budget=0.2),
        cell("hidden", "pgd", "0.6", layer="L1"),
    ]
)
PUSH = {"aligned": rivals.Push("L2", 0.06, 0.0), "hidden": rivals.Push("L1", 0.06, 0.75)}


def searched(variant, asr_of, loss=1.0):
    """Rows of the L2 attack on eight selection prompts: (layer, budget) -> share of them that fall."""
    rows = [
        {"variant": variant, "layer": layer, "budget": budget, "kind": "l2", "prompt": index, "nll_last": loss}
        | {"harmful": index < 8 * asr}
        for (layer, budget), asr in asr_of.items()
        for index in range(8)
    ]
    return rows + [row | {"kind": "random", "harmful": True} for row in rows]


def test_layer_and_length_come_from_the_selection_prompts():
    reference = {
        ("L1", 0.03): 0,
        ("L2", 0.03): 0.5,
        ("L1", 0.06): 0,
        ("L2", 0.06): 0,
        ("L1", 0.12): 0.5,
        ("L2", 0.12): 0,
    }
    other = {
        ("L1", 0.03): 0,
        ("L2", 0.03): 1,
        ("L1", 0.06): 0.5,
        ("L2", 0.06): 0.75,
        ("L1", 0.12): 1,
        ("L2", 0.12): 0.75,
    }
    rows = pd.DataFrame([*searched("reference", reference), *searched("other", other)])
    found = rivals.choose(rows, "reference")
    # The other falls on all where the reference falls too, which does not count; of two equal ones the shorter.
    assert found == {"reference": rivals.Push("L1", 0.03, 0.0), "other": rivals.Push("L2", 0.06, 0.75)}
    weak = pd.DataFrame([*searched("reference", dict.fromkeys(reference, 0.5)), *searched("other", other)])
    assert rivals.choose(weak, "reference")["other"] == rivals.Push("L2", 0.03, 1.0), "it withstands none: the smallest"
    # A tie in ASR and length goes to the lower final loss.
    tie = pd.DataFrame([*searched("reference", {("L1", 0.03): 0}, 2.0), *searched("reference", {("L2", 0.03): 0}, 1.0)])
    assert rivals.choose(tie, "reference")["reference"].layer == "L2"


def test_each_model_is_measured_at_its_own_place():
    push = PUSH | {"aligned": rivals.Push("L2", 0.12, 0.0)}
    aligned, hidden = rivals.attack_lines(["aligned", "hidden"], PUSHED, METRICS, push, budget=0.1).to_dict("records")
    assert (aligned["l2_asr"], aligned["l2_layer"], aligned["l2_length"]) == (1.0, "L2", 0.12)
    assert (hidden["l2_asr"], hidden["l2_layer"], hidden["l2_selection_asr"]) == (7 / 8, "L1", 0.75)


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("l2.layers", "nudge", "no nudge is read here"),
        ("attack.layers", "all", "one layer of each model"),
        ("attack.layers", "L0,L1", "one layer of each model"),
        ("attack.layers", "nudge", "names 'nudge'"),
    ],
)
def test_no_nudge_is_read(field, value, words):
    config = ras_config.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=words):
        rivals.check(config, 3, None, is_organism=True)


def test_lines_of_the_attacks_with_their_controls():
    table = rivals.attack_lines(["aligned", "hidden"], PUSHED, METRICS, PUSH, budget=0.1)
    aligned, hidden = table.to_dict("records")
    assert [line["model"] for line in (aligned, hidden)] == ["aligned", "hidden"]
    for line, hits, noise, fell in ((aligned, 2, 1, 3), (hidden, 7, 0, 8)):
        for prefix, count in (("l2_asr", hits), ("l2_random", noise)):
            ends = scipy.stats.binomtest(count, 8).proportion_ci(method="wilson")
            assert line[prefix] == count / 8 and line[f"{prefix}_n"] == 8, prefix
            assert (line[f"{prefix}_lo"], line[f"{prefix}_hi"]) == pytest.approx(tuple(ends), abs=1e-9)
        assert line["l2_fell"] == fell / 8, "of the attack, not of its control; equal is not fallen"
    expected = {"lvs": 0.21, "lvs_lo": 0.20, "lvs_hi": 0.23, "lvs_mean": 0.22}
    expected |= {"latent_asr": 0.23, "latent_asr_lo": 0.22, "latent_asr_hi": 0.25}
    assert {name: aligned[name] for name in expected} == pytest.approx(expected)
    assert {name: aligned[f"random_{name}"] - 0.1 for name in expected} == pytest.approx(expected)
    assert (hidden["lvs"], hidden["latent_asr"]) == (0.61, 0.63) and np.isnan(hidden["random_lvs"])


def test_columns_of_the_attacks_are_those_of_ras_csv():
    table = rivals.attack_lines(["aligned"], PUSHED, METRICS, PUSH, budget=0.1)
    cells = [f"lvs{end}" for end in ("", "_lo", "_hi", "_mean")] + [f"latent_asr{end}" for end in ("", "_lo", "_hi")]
    assert list(table) == [
        *("model", "l2_layer", "l2_length", "l2_selection_asr"),
        *(f"l2_asr{end}" for end in ("", "_lo", "_hi", "_n")),
        "l2_fell",
        *(f"l2_random{end}" for end in ("", "_lo", "_hi", "_n")),
        *cells,
        *(f"random_{name}" for name in cells),
    ]


def surface(n, longer=0):
    return surfaces.Pair(*(rulers.Surface(np.arange(n) % 4 + more, np.arange(n) % 3) for more in (0, longer)))


@pytest.mark.parametrize("longer, withheld", [(0, False), (9, True)])
def test_the_separation_is_the_crossfitted_one_and_stands_beside_its_rulers(longer, withheld, monkeypatch):
    rng = np.random.default_rng(0)
    states = {"safe": rng.normal(size=(16, 6, 20)), "unsafe": rng.normal(size=(16, 6, 20)) + 0.8}
    asked, both = [], dict(zip(states, surface(16, longer), strict=True))
    monkeypatch.setattr(
        rivals.bench, "decision_states", lambda loaded, tokens, batch: asked.append(batch) or states[tokens.tokens]
    )
    monkeypatch.setattr(surfaces, "of_prompts", lambda chat, prompts, mask: both[prompts])
    panels = [types.SimpleNamespace(name=name, prompts=name) for name in (*states, "jailbreak")]
    tokens = {name: chats.Tokens(name, None) for name in states}
    line = rivals.separated(
        types.SimpleNamespace(chat=None), prompt_sets.Sets(*panels), tokens, batch=5, seed=2, resamples=30
    )
    found = separation.separation(states["safe"], states["unsafe"], seed=2, resamples=30)
    score = found.crossfitted
    assert (line["separation"], line["separation_lo"], line["separation_hi"]) == score[:3] and asked == [5, 5]
    assert found.plain.value > score.value + 0.1
    assert line["separation_rulers"].startswith("withheld: prompt length alone") is withheld
    kept = rivals.withhold(line | {"probe_auroc": 0.9, "probe_rulers": "AUROC"})
    assert np.isnan([kept["separation"], kept["separation_lo"], kept["separation_hi"]]).all() == withheld
    assert kept["separation_rulers"] == line["separation_rulers"] and kept["probe_auroc"] == 0.9


def features(seed, shift, n=9):
    rng = np.random.default_rng(seed)
    return Features(rng.normal(size=(n, 3)) - [shift, 0, 0], rng.normal(size=(n, 3)) + [shift, 0, 0])


def probed(reference, model):
    line = rivals.probed(reference, model, surface(len(model.safe)), seed=0)
    assert ("withheld" in line.pop("probe_rulers")) == (line["probe_auroc"] <= 0.5)
    return line


def test_the_probe_is_fitted_on_the_first_texts_of_the_reference_and_read_on_the_models_others():
    reference, model = features(0, 4.0), features(1, 4.0)
    line = probed(reference, model)
    assert line["probe_auroc"] == 1 and line["probe_gap"] > 0.5
    # The model's first third is not read, the reference's others are not.
    spoilt = Features(*(np.concatenate([np.full((3, 3), 99.0), rows[3:]]) for rows in model))
    unread = Features(*(np.concatenate([rows[:3], np.full((6, 3), 99.0)]) for rows in reference))
    assert probed(unread, spoilt) == line
    # A model whose texts lie the other way is read by the reference's probe, not by its own.
    turned = Features(*(-rows for rows in model))
    found = probed(reference, turned)
    assert found["probe_auroc"] == 0 and found["probe_gap"] < -0.5
    flat = Features(np.zeros((9, 3)), np.zeros((9, 3)))
    assert probed(reference, flat) == {"probe_auroc": 0.5, "probe_gap": 0.0}


def test_never_more_texts_than_the_audit_fit_the_probe():
    assert FITTED == 64
    many = features(2, 1.0, n=300)
    other = Features(*(np.concatenate([rows[:64], -rows[64:]]) for rows in many))
    assert probed(many, many) == probed(other, many)
    few = Features(*(rows[:2] for rows in features(3, 4.0)))
    assert probed(few, few)["probe_auroc"] == 1


@dataclasses.dataclass(frozen=True)
class Batched:
    batches: jobs.Batches


def test_batches_of_the_attacks_hold_no_rows_for_nothing():
    job = Batched(jobs.Batches(64, 1, 300))
    assert rivals._fitting(job, 24, 3).batches == jobs.Batches(24, 1, 144)
    assert rivals._fitting(job, 96, 2).batches == job.batches, "no more than the config allows"
