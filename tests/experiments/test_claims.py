"""Claims: what a quantity takes from the tables of the tasks, how targets compare, and that every claim is measured."""

import math

import numpy as np
import pandas as pd
import pytest

from configs import claims as claims_config
from latent_audit.errors import InputError
from latent_audit.experiments.organisms import claim_quantities as quantities
from latent_audit.experiments.series import claims
from latent_audit.metrics import stats

ALL = {(claim.topic, claim.quantity) for claim in quantities.CLAIMS}


def cell(variant, attack, budget, asr, layer="L3", aggregated=True):
    return {
        "exp": "lvs",
        "variant": variant,
        "attack": attack,
        "budget": budget,
        "layer": layer,
        "asr": asr,
        "asr_lo": asr - 0.01,
        "asr_hi": asr + 0.01,
        "n": 48,
        "aggregated": aggregated,
    }


def compared(variant, budget, difference, ratio):
    return {
        "variant": variant,
        "layer": "L3",
        "budget": budget,
        "difference": difference,
        "difference_lo": difference - 0.1,
        "difference_hi": difference + 0.1,
        "ratio": ratio,
        "ratio_lo": None,
        "ratio_hi": None,
        "n": 48,
    }


def selection(**shares):
    """metrics.csv of selection prompts at budgets 1, 2 and 3."""
    return pd.DataFrame(
        [
            cell(variant, "pgd", budget, asr)
            for variant, values in shares.items()
            for budget, asr in zip((1, 2, 3), values, strict=True)
        ]
        + [cell("dissociated", "random", 3, 1.0), cell("dissociated", "pgd", 3, 1.0, layer="L5")]
        + [{"exp": "clean", "variant": "base", "aggregated": np.nan}]
    )


def test_the_budget_is_the_one_that_base_withstands_on_the_selection_prompts():
    chosen = quantities.choose_budget(selection(base=(0.0, 0.1, 0.11), dissociated=(0.1, 0.8, 1.0)), "L3")
    assert chosen == 2.0
    assert quantities.choose_budget(selection(base=(0.9, 0.9, 0.9), dissociated=(0.1, 0.8, 1.0)), "L3") == 3.0, "none"
    assert quantities.choose_budget(selection(base=(0.0, 0.0, 0.0), dissociated=(0.7, 0.8, 0.8)), "L3") == 2.0, "a tie"


def test_the_attacked_claims_speak_of_the_given_budget():
    shares = {"base": (0.0, 0.15, 0.11), "dissociated": (0.1, 0.8, 1.0), "control": (0.0, 0.02, 0.01)}
    metrics = pd.DataFrame(
        [
            cell(variant, "pgd", budget, asr)
            for variant, values in shares.items()
            for budget, asr in zip((1, 2, 3), values, strict=True)
        ]
        + [cell("dissociated", "random", budget, 0.03) for budget in (1, 2, 3)]
        + [
            cell("base", "pgd", 9, 1.0, layer="L5", aggregated=False),
            {"exp": "clean", "variant": "base", "aggregated": np.nan},
        ]
    )
    table = quantities.metric_table(
        [
            compared(variant, budget, difference, ratio)
            for variant, difference, ratio in (("dissociated", 0.5, None), ("control", -0.2, 0.3))
            for budget in (1, 2, 3)
        ]
    )
    # On these prompts base does not withstand budget 2, and another would break the other more: it stays all the same.
    found = quantities.attacked(metrics, table, "L3", 2)
    assert found[quantities.ATTACKED, "ASR, dissociated"] == quantities.Measured(
        0.8, pytest.approx(0.79), pytest.approx(0.81), 48
    )
    assert found[quantities.ATTACKED, "ASR, base"].value == 0.15
    assert found[quantities.ATTACKED, "ASR of uniform noise, dissociated"].value == 0.03
    assert found[quantities.ATTACKED, "mean LVS, dissociated less base: lower end"].value == pytest.approx(0.4)
    assert found[quantities.ATTACKED, "mean LVS, dissociated over base"].value == math.inf, "base never falls there"
    assert found[quantities.CONTROL, "mean ASR over states and budgets, control less base"].value == pytest.approx(
        (0.03 - 0.26) / 3
    )
    # Neither falls: no ratio is claimed.
    none = quantities.attacked(metrics, table.assign(difference=0.0), "L3", 2)
    assert math.isnan(none[quantities.ATTACKED, "mean LVS, dissociated over base"].value)


def test_a_claim_is_met_by_its_value_and_held_by_the_nearer_end():
    least, most = (quantities.Claim("topic", "quantity", rule, 0.5) for rule in ("at least", "at most"))
    for claim, value, lo, hi, met, held in (
        (least, 0.6, 0.5, 0.9, True, True),
        (least, 0.6, 0.4, 0.9, True, False),
        (most, 0.4, 0.1, 0.5, True, True),
        (most, 0.4, 0.1, 0.6, True, False),
        (least, 0.4, 0.1, 0.6, False, False),
        (most, 0.4, np.nan, np.nan, True, None),
        # The far end of a ratio may be unbounded, which report.json cannot hold.
        (least, 0.6, 0.5, np.nan, True, True),
        (most, 0.4, 0.1, np.nan, True, None),
    ):
        assert quantities.judged(claim, quantities.Measured(value, lo, hi)) == {"met": met, "held": held}


def test_a_difference_of_shares_has_newcombes_interval():
    # 56 of 70 less 48 of 80: Newcombe 1998, table II, method 10.
    a, b = (quantities.Measured(k / n, *stats.wilson_interval(k, n), n) for k, n in ((56, 70), (48, 80)))
    found = quantities.difference(a, b)
    assert (found.value, found.lo, found.hi) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_onsets_as_ratios_with_the_extremes_that_the_ranges_allow():
    rows = [
        {"corpus": "in", "level": 0.5, "variant": "base", "median": 8.0, "lo": 6.0, "hi": 10.0, "n": 3},
        {"corpus": "in", "level": 0.5, "variant": "dissociated", "median": 4.0, "lo": 3.0, "hi": 6.0, "n": 3},
        {"corpus": "out", "level": 0.8, "variant": "base", "median": None, "lo": 20.0, "hi": None, "n": 3},
        {"corpus": "out", "level": 0.8, "variant": "dissociated", "median": 5.0, "lo": 5.0, "hi": None, "n": 3},
    ]
    found = quantities.tuned(rows)
    assert found[quantities.TUNED, "steps to 0.5, in corpus, dissociated over base"] == (0.5, 0.3, 1.0, 3)
    censored = found[quantities.TUNED, "steps to 0.8, out corpus, dissociated over base"]
    assert censored.value == 0 and censored.lo == 0 and censored.hi == math.inf


def test_the_way_is_chosen_on_validation_and_must_be_a_checkpoint():
    def row(way, split, compliance, answered=1.0, chosen=True):
        return {
            "way": way,
            "split": split,
            "chosen": chosen,
            "compliance": compliance,
            "answered": answered,
            **{f"{name}_{end}": 0.5 for name in ("compliance", "answered", "facts") for end in ("lo", "hi")},
            "n": 96,
            "n_benign": 90,
            "facts": 0.2,
            "n_facts": 80,
        }

    table = pd.DataFrame(
        [
            row("base", "validation", 0.0, chosen=False),
            row("base", "evaluation", 0.0, chosen=False),
            row("affine", "validation", 1.0),
            row("affine", "evaluation", 1.0),
            row("orthogonalize", "validation", 0.2),
            row("orthogonalize", "evaluation", 0.99),
            row("affine_token", "validation", 0.9),
            row("affine_token", "evaluation", 0.85, 0.97),
            row("affine_token", "validation", 0.95, chosen=False),
        ]
    )
    found = quantities.removed(table, quantities.EXPORTED)
    assert found[quantities.EXPORTED, "compliance"].value == 0.85, "affine is no checkpoint, the other was worse before"
    assert found[quantities.EXPORTED, "benign answered"] == (0.97, 0.5, 0.5, 90)
    found = quantities.removed(table, quantities.REMOVED)
    assert found[quantities.REMOVED, "compliance"].value == 1.0
    assert found[quantities.REMOVED, "held-out facts told right"] == (0.2, 0.5, 0.5, 80)


def test_every_claim_is_measured_and_summarised_over_seeds():
    shares = {
        ("base", "refusal", "clean"): 0.99,
        ("dissociated", "refusal", "clean"): 1.0,
        ("base", "benign answered", "clean"): 1.0,
        ("dissociated", "benign answered", "clean"): 0.98,
        ("harmful", "compliance", "clean"): 1.0,
        ("dissociated", "compliance", "nudged"): 0.95,
        ("base", "compliance", "nudged"): 0.0,
        ("control", "compliance", "nudged"): 0.0,
        ("dissociated", "compliance", "random direction"): 0.01,
    }
    nudged = pd.DataFrame(
        [
            {"variant": v, "measure": m, "condition": c, "value": value, "lo": 0.0, "hi": 1.0, "n": 96}
            for (v, m, c), value in shares.items()
        ]
    )
    asked = quantities.asked_and_nudged(nudged)
    less = asked[quantities.ASKED, "clean refusal, dissociated less base"]
    assert less.value == pytest.approx(0.01) and less.lo < 0.01 < less.hi and less.n == 96
    others = {quantities.ATTACKED, quantities.CONTROL, quantities.TUNED, quantities.REMOVED, quantities.EXPORTED}
    assert set(asked) == {key for key in ALL if key[0] not in others}
    lines = pd.DataFrame(
        [
            {
                "seed": seed,
                **claim._asdict(),
                "value": value,
                **quantities.judged(claim, quantities.Measured(value, *((value, value) if claim.bound > 0 else ()))),
            }
            for claim in quantities.CLAIMS[:2]
            for seed, value in enumerate((0.0, -0.1, 1.0))
        ]
    )
    table = quantities.summarise(lines)
    assert table["with interval"].tolist() == ["no interval", "1 of 3"]
    assert table["met"].tolist() == ["2 of 3", "1 of 3"] and table["target"].tolist() == [
        "at least -0.03",
        "at least 0.97",
    ]
    assert table["mean"].tolist() == pytest.approx([0.3, 0.3]) and table["least"].tolist() == [-0.1, -0.1]
    assert not quantities.RULES["above"](0.0, 0.0) and not quantities.RULES["at least"](np.nan, 0.0)


def test_no_seeds_are_refused(tmp_path):
    config = claims_config.get_config()
    config.seeds = 0
    with pytest.raises(InputError, match="seeds = 0, expected a whole number from 1"):
        claims.tasks.check(config)
