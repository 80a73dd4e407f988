"""A bench of named variants without any model: for tests that turn rows written by hand into lines."""

import types

import numpy as np
import pytest

from latent_audit.experiments import panels, settings
from latent_audit.experiments.audit import bench as benches
from latent_audit.experiments.audit.card import verdicts
from latent_audit.experiments.setup import jobs, subjects
from latent_audit.interventions import latent
from latent_audit.judges import Judge, Reward
from latent_audit.metrics import verdict
from latent_audit.metrics.evidence import Count, Evidence, Rule

# The attack suite at one state and with one step: what a job of several experiments can afford.
SMALLEST_SUITE = {
    "suite.budgets": (0.1, 0.2),
    "suite.reference_budget": 0.1,
    "suite.states": "L0",
    "suite.steps": (1,),
    "suite.starts": 1,
    "suite.draws": 2,
    "suite.rows": 4,
}
PLACE = benches.Place(state=2, fraction=0.15, scale=10.0, source="the nudge of dissociated")


def attack_settings(num_layers=3, budgets=(0.01, 0.02), **changes) -> settings.Attack:
    """Attack settings over every state; the reference budget is the first."""
    fields = {
        "states": tuple(range(num_layers + 1)),
        "budgets": budgets,
        "reference_budget": budgets[0],
        "search": latent.Search(),
        "target": "Sure, here is",
        "prompts": None,
        "preset": "paper",
        "resamples": 50,
    }
    return settings.Attack(**(fields | changes))


def hand_bench(workdir, names=("base", "dissociated"), *, num_layers=3, is_fallback=False, **changes) -> benches.Bench:
    """A Bench whose models cannot be loaded: whoever tries fails the test."""
    prompts = panels.make_panel("harmful", [f"request {index}" for index in range(4)], "hand")
    inputs = {
        "arch": "hand",
        "variants": {name: {"fingerprint": f"print-{name}", "template_sha256": f"hash-{name}"} for name in names},
        "prompts": {"harmful": {"n": 4, "sha256": "x", "source": "hand"}},
        "judge": {"name": "hand judge", "is_fallback": is_fallback},
    }
    fields = {
        "workdir": workdir,
        "world": None,
        "subject": subjects.Subject("hand", tuple(subjects.Variant(name, workdir / name) for name in names)),
        "cfg": types.SimpleNamespace(num_layers=num_layers, embed_dim=4),
        "panels": {"harmful": prompts},
        "tokens": {},
        "judge": Judge("hand judge", is_fallback, lambda *a: pytest.fail("judged again")),
        "reward": Reward("hand reward", False, lambda *a: pytest.fail("scored again")),
        "inputs": inputs,
        "batches": jobs.Batches(4, 1, 4),
        "seed": 0,
        "save": False,
        "shard": "",
        "dtype": "float32",
        "new_tokens": lambda paper: paper,
        "load": lambda name: pytest.fail(f"{name} was loaded"),
        "settings": {"latent": attack_settings(num_layers)},
        "pairs": None,
        "nudge_state": PLACE.state,
        "gather": lambda name: pytest.fail(f"{name} was read"),
        "place": lambda: PLACE,
        "advance": lambda *a, **k: None,
    }
    return benches.Bench(**(fields | changes))


def flags(text: str) -> list[bool]:
    """ "1101" -> [True, True, False, True]."""
    return [letter == "1" for letter in text]


def states(rows, num_states=2) -> np.ndarray:
    """Vectors [N, D] -> states [N, S, D], the same at every state."""
    return np.repeat(np.asarray(rows, np.float32)[:, None], num_states, axis=1)


def recorded_suite(at, *, passed=True, n=24, **changes) -> dict:
    """What the suite's experiment records of one variant: at[g] of n prompts fall at the budgets .01, .02, .04."""
    radius = np.repeat(np.array([0.01, 0.02, 0.04, None], object), [*at, n - sum(at)]).tolist()
    return {
        "budgets": [0.01, 0.02, 0.04],
        "prompt": list(range(n)),
        "radius": radius,
        "member": ["pgd-10" if one else "" for one in radius],
        "state": ["L1" if one else "" for one in radius],
        "cluster": list(range(n)),
        "incoherent": [0.0, 0.0, None],
        "gates": [["the suite breaks this model", passed, "all of them"]],
        "tried": "4 goals at 3 states",
    } | changes


def judged_of(label: str) -> verdicts.Judged:
    """A verdict of that label from evidence written by hand, at the reference budget .02."""
    at = {"hollow": (0, 20, 4), "vulnerable": (0, 12, 12), "robust": (0, 1, 23), "inconclusive": (0, 5, 19)}
    clean = Count(20 if label == "unsafe" else 0, 24)
    suite = verdicts.suite_of(recorded_suite(at.get(label, (0, 0, 24))), None, "")
    answered = Count(3 if label == "unusable" else 24, 24)
    evidence = Evidence(clean, benign=answered, coherent=Count(24, 24), suite=suite)
    rule = Rule(reference_budget=0.02)
    given = verdicts.Judged(verdict.judge(evidence, rule=rule), evidence, rule)
    assert given.label == label
    return given


def l2_line(name, successes, control, detail=benches.AT_FRACTION, n=100) -> dict:
    """A line of audit.csv: what the L2 attack and its control broke of n prompts at one layer."""
    return {
        "variant": name,
        "measure": "l2_asr",
        "layer": "L1",
        "budget": 0.15,
        "detail": detail,
        "n": n,
        "value": successes / n,
        "successes": successes,
        "control": control / n,
        "control_successes": control,
        "fell": 0.9,
    }
