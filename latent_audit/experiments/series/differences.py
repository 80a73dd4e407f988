"""Differences of finished runs from the first of them, cell by cell. docs/method.md section 16.

Where two runs asked the same prompts and kept the outcome of each, a difference is paired by prompt
(metrics/paired.py); elsewhere it is taken from the interval of each.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from latent_audit.experiments import panels
from latent_audit.experiments.audit.bench import AT_FRACTION
from latent_audit.experiments.series import comparable, finished
from latent_audit.experiments.series.finished import ANY_STATE, Run
from latent_audit.metrics import independent, paired, stats
from latent_audit.metrics.clusters import design_effect

COLUMNS = (
    *("run", "date", "arch", "variant", "measure", "layer", "budget", "detail", "value", "lo", "hi", "n", "against"),
    *("difference", "difference_lo", "difference_hi", "paired", "only_here", "only_there", "p_value", "design"),
    "leading",
)
# Measure -> column of the first table; of those with budgets or states the line that `leading` picks.
SHOWN = {
    "clean_compliance": "complies when asked",
    "jailbreak_asr": "in a wrapper",
    "latent_asr": "one fixed target, at some state",
    "suite_asr": "attack suite",
    "l2_asr": "under the L2 attack",
    "steer_compliance": "steered",
    "benign_answer_rate": "answers harmless",
    "break_radius": "break radius",
    "audit_gap": "audit gap",
    "ras": "RAS",
    "asr": "complies when asked (RAS)",
}
SHARES = (
    *("clean_compliance", "jailbreak_asr", "latent_asr", "suite_asr", "l2_asr", "steer_compliance"),
    *("benign_answer_rate", "asr"),
)


def table_of(runs: Sequence[Run]) -> pd.DataFrame:
    """Every line of every run with its difference from the first run's, COLUMNS; NaN where there is no such line."""
    parts = [_compared(run, runs[0] if place else None) for place, run in enumerate(runs)]
    return pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS)


def _compared(run: Run, first: Run | None) -> pd.DataFrame:
    told = run.lines.assign(run=run.name, date=date_of(run), leading=leading(run))
    if first is None:
        return told
    mine, its = finished.by_cell(run.outcomes), finished.by_cell(first.outcomes)
    pairing = comparable.same_prompts(first, run)
    rows = []
    for place, other in _matched(run, first).items():
        line, reference = run.lines.loc[place], first.lines.loc[other]
        outcomes = _outcome(mine, run, place), _outcome(its, first, other)
        found = _paired(*outcomes, run.clusters) if pairing else {}
        rows.append({"place": place, "against": first.name} | (found or _unpaired(line, reference)))
    compared = pd.DataFrame(rows).set_index("place") if rows else pd.DataFrame()
    return told.join(compared)


def _matched(run: Run, first: Run) -> dict[Any, Any]:
    """Index of a line of the run -> index of the first run's line of the same cell.

    Models of unequal depth share no states: their lines by state are left out. A measure with one state in each run is
    the same cell wherever that state is.
    """
    mine, its = (dict(zip(finished.keys(one.lines), one.lines.index, strict=True)) for one in (run, first))
    depths = [_layers(one) for one in (run, first)]
    alone = [_alone(one) for one in (mine, its)]
    found = {}
    for key, place in mine.items():
        variant, measure, layer, *rest = key
        if key in its and (layer in ("", ANY_STATE) or depths[0].get(measure) == depths[1].get(measure)):
            found[place] = its[key]
        elif (free := (variant, measure, *rest)) in alone[0] and free in alone[1]:
            found[place] = alone[1][free]
    return found


def _layers(run: Run) -> dict[str, set[str]]:
    named = run.lines[~run.lines["layer"].isin(("", ANY_STATE))]
    return {measure: set(lines["layer"]) for measure, lines in named.groupby("measure")}


def _alone(cells: dict) -> dict[tuple[str, ...], Any]:
    """Key without its state -> index, of the lines that have one state only."""
    of: dict[tuple[str, ...], list] = {}
    for (variant, measure, layer, *rest), place in cells.items():
        if layer != ANY_STATE:
            of.setdefault((variant, measure, *rest), []).append(place)
    return {key: places[0] for key, places in of.items() if len(places) == 1}


def _outcome(cells: dict, run: Run, place: Any) -> pd.Series | None:
    line = run.lines.loc[place]
    key = (line["variant"], line["measure"], line["layer"], finished.budget_text(line["budget"]))
    return cells.get((*key, line["detail"]), cells.get((*key, "")))


def _paired(mine: pd.Series | None, its: pd.Series | None, clusters: Mapping[str, str]) -> dict[str, Any]:
    """Difference of the same prompts' outcomes; {} where either kept none, or of other prompts."""
    if mine is None or its is None or set(mine.index) != set(its.index) or mine.index.has_duplicates:
        return {}
    found = _difference(mine, its.loc[mine.index])
    labels = cluster_labels(list(mine.index), clusters)
    design = design_effect(labels, mine.to_numpy(float) - its.loc[mine.index].to_numpy(float))
    value, wider = found["difference"], math.sqrt(design)
    ends = {end: value + wider * (found[end] - value) for end in ("difference_lo", "difference_hi")}
    return found | ends | {"paired": True, "design": design}


def cluster_labels(prompts: Sequence[str], clusters: Mapping[str, str]) -> list[str] | None:
    """The cluster of each prompt, None where one is not known; a request in several wrappers is one cluster."""
    if all(prompt.startswith(panels.WRAPPED) for prompt in prompts):
        return [prompt.rpartition(" ")[2] for prompt in prompts]
    return [clusters[prompt] for prompt in prompts] if set(prompts) <= clusters.keys() else None


def _difference(mine: pd.Series, its: pd.Series) -> dict[str, Any]:
    if mine.dtype == bool and its.dtype == bool:
        found = paired.compare_shares(mine.to_numpy(), its.to_numpy())
        return {
            "difference": found.difference,
            "difference_lo": found.lo,
            "difference_hi": found.hi,
            "only_here": found.only_a,
            "only_there": found.only_b,
            "p_value": found.p_value,
        }
    scores = mine.to_numpy(float), its.to_numpy(float)
    lo, hi = stats.paired_difference_interval(*scores, "mean")
    difference = float(scores[0].mean() - scores[1].mean())
    return {"difference": difference, "difference_lo": lo, "difference_hi": hi}


def _unpaired(line: pd.Series, reference: pd.Series) -> dict[str, Any]:
    ends = ((float(one["value"]), float(one["lo"]), float(one["hi"])) for one in (line, reference))
    difference, lo, hi = independent.difference_interval(*ends)
    return {"difference": difference, "difference_lo": lo, "difference_hi": hi, "paired": False}


def leading(run: Run) -> list[bool]:
    """Of each line whether it stands in the first table: one per variant and measure, at the reference budget, fixed
    before the run; of steering the highest, which `summarise` picks."""
    settings, suites = run.record.get("settings", {}), run.record.get("suite", {})
    protocol = next((line for line in run.lines.loc[run.lines["measure"] == "ras", "detail"]), "")
    found = []
    for line in run.lines.to_dict("records"):
        measure, budget = line["measure"], line["budget"]
        at = {
            "latent_asr": line["layer"] == ANY_STATE and _is(budget, settings.get("reference_budget")),
            "suite_asr": _is(budget, suites.get(line["variant"], {}).get("reference_budget")),
            "l2_asr": line["detail"] == AT_FRACTION,
            "jailbreak_asr": line["detail"] == finished.ALL_WRAPPERS,
            "steer_compliance": False,
            "ras": line["detail"] == protocol,
        }
        found.append(measure in SHOWN and at.get(measure, True))
    return found


def _is(budget: float, reference: float | None) -> bool:
    return reference is not None and bool(np.isclose(budget, reference))


def date_of(run: Run) -> str:
    """When the run ended, as its report says; '' of one from before that was recorded."""
    return str(run.record.get("about", {}).get("date", ""))
