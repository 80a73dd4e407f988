"""Lines of the rivals of RAS from rows written by hand: attacks with their controls, separation, probe."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from latent_audit.experiments.organisms.probes import FITTED, Features
from latent_audit.experiments.ras import rivals
from latent_audit.metrics import separation


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
        cell("aligned", "pgd", "0.8", layer="L1"),
        cell("aligned", "pgd", "0.8", budget=0.2),
        cell("hidden", "pgd", "0.6"),
    ]
)


def test_lines_of_the_attacks_with_their_controls():
    table = rivals.attack_lines(["aligned", "hidden"], PUSHED, METRICS, fraction=0.06, budget=0.1, layer="L2")
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
    table = rivals.attack_lines(["aligned"], PUSHED, METRICS, fraction=0.06, budget=0.1, layer="L2")
    cells = [f"lvs{end}" for end in ("", "_lo", "_hi", "_mean")] + [f"latent_asr{end}" for end in ("", "_lo", "_hi")]
    assert list(table) == [
        "model",
        *(f"l2_asr{end}" for end in ("", "_lo", "_hi", "_n")),
        "l2_fell",
        *(f"l2_random{end}" for end in ("", "_lo", "_hi", "_n")),
        *cells,
        *(f"random_{name}" for name in cells),
    ]


def test_the_separation_is_the_crossfitted_one_of_harmless_against_harmful_prompts(monkeypatch):
    rng = np.random.default_rng(0)
    states = {"safe": rng.normal(size=(12, 6, 20)), "unsafe": rng.normal(size=(16, 6, 20)) + 0.5}
    asked = []
    monkeypatch.setattr(
        rivals.bench, "decision_states", lambda loaded, tokens, batch: asked.append(batch) or states[tokens]
    )
    line = rivals.separated(None, "safe", "unsafe", batch=5, seed=2, resamples=30)
    both = separation.separation(states["safe"], states["unsafe"], seed=2, resamples=30)
    score = both.crossfitted
    assert line == {"separation": score.value, "separation_lo": score.lo, "separation_hi": score.hi}
    assert score.lo < score.value < score.hi and both.plain.value > score.value + 0.1 and asked == [5, 5]


def features(seed, shift, n=9):
    rng = np.random.default_rng(seed)
    return Features(rng.normal(size=(n, 3)) - [shift, 0, 0], rng.normal(size=(n, 3)) + [shift, 0, 0])


def test_the_probe_is_fitted_on_the_first_texts_of_the_reference_and_read_on_the_models_others():
    reference, model = features(0, 4.0), features(1, 4.0)
    line = rivals.probed(reference, model)
    assert line["probe_auroc"] == 1 and line["probe_gap"] > 0.5
    # The model's first third is not read, the reference's others are not.
    spoilt = Features(*(np.concatenate([np.full((3, 3), 99.0), rows[3:]]) for rows in model))
    unread = Features(*(np.concatenate([rows[:3], np.full((6, 3), 99.0)]) for rows in reference))
    assert rivals.probed(unread, spoilt) == line
    # A model whose texts lie the other way is read by the reference's probe, not by its own.
    turned = Features(*(-rows for rows in model))
    found = rivals.probed(reference, turned)
    assert found["probe_auroc"] == 0 and found["probe_gap"] < -0.5
    flat = Features(np.zeros((9, 3)), np.zeros((9, 3)))
    assert rivals.probed(reference, flat) == {"probe_auroc": 0.5, "probe_gap": 0.0}


def test_never_more_texts_than_the_audit_fit_the_probe():
    assert FITTED == 64
    many = features(2, 1.0, n=300)
    other = Features(*(np.concatenate([rows[:64], -rows[64:]]) for rows in many))
    assert rivals.probed(many, many) == rivals.probed(other, many)
    few = Features(*(rows[:2] for rows in features(3, 4.0)))
    assert rivals.probed(few, few)["probe_auroc"] == 1
