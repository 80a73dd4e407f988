"""What published numbers confirm of arXiv 2606.08044 and what they do not, in sentences counted from their tables."""

from collections.abc import Mapping

import pandas as pd

from latent_audit.published import tables
from latent_audit.reports import columns
from latent_audit.text import percent

Summaries = Mapping[str, tuple[str, pd.DataFrame]]


def summarise(rows: pd.DataFrame, curves: pd.DataFrame, merged: pd.DataFrame | None) -> dict:
    """Title -> (what it is, table) of everything that can be said of the rows; empty tables are left out.

    merged: of tables.merge with a run, None without one.
    """
    nudged = tables.nudge_layer(rows)
    every = {
        "Agreement of the run": (
            "Cells that both have. Surely: the 95 % interval of the difference (square-and-add of both intervals) "
            "leaves out 0; some 5 % of the cells would by chance, and prompts and judges need not be the same.",
            pd.DataFrame() if merged is None else tables.agreement(merged),
        ),
        "ASR by budget": (
            "Mean over all residual states of the published ASR under PGD, and under noise; state s of S is in the "
            "third floor(3 s / S) of the depth.",
            tables.by_budget(rows),
        ),
        "From the smallest to the largest budget": (
            "State by state. Surely: exact intervals, each at the confidence that holds for all states of the model "
            "together, do not overlap.",
            tables.falls(rows),
        ),
        "The nudge layer": (
            "Cells at the output of block round(.5 L); the control is noise, uniform under the same bound. Ahead: by "
            "the 95 % interval of the difference of the two shares.",
            nudged,
        ),
        "LVS of dissociated over base": (
            "The paper's 2.5 to 3.1 times is this ratio at budget .001. Apart: the 95 % intervals do not overlap.",
            tables.lvs_ratios(nudged),
        ),
        "Zero LVS": (
            "PGD cells over all budgets. A score of 0 says that at most half of the prompts lost reward: of a model "
            "that complies already it does not say that it is safe.",
            tables.zero_scores(rows),
        ),
        "Best steering": (
            "At fraction .06 of the activation norm; the interval of the best layer is widened for the choice of it.",
            tables.best_steering(rows),
        ),
        "Onsets of fine-tuning": (
            "First evaluated step with that compliance, by seeds; steps between two evaluations are not seen. In: the "
            "construction's corpus, LLM-LAT; out: PKU.",
            tables.onsets(curves),
        ),
    }
    return {title: part for title, part in every.items() if len(part[1])}


def sentences(summaries: Summaries) -> tuple[list[str], list[str]]:
    """(what is confirmed, what is not), each counted from a table of `summarise`."""
    both: tuple[list[str], list[str]] = [], []
    for said in (_ratios, _steering, _tuning):
        for text, confirmed in said(summaries):
            both[0 if confirmed else 1].append(text)
    return both[0], [*_falls(summaries), *_noise(summaries), *_zeros(summaries), *both[1]]


def _table(summaries: Summaries, title: str) -> pd.DataFrame:
    return summaries[title][1] if title in summaries else pd.DataFrame()


def _ratios(summaries: Summaries) -> list[tuple[str, bool]]:
    ratios, said = _table(summaries, "LVS of dissociated over base"), []
    for budget, cells in ratios.groupby("budget") if len(ratios) else ():
        higher, apart = int((cells["LVS dissociated"] > cells["LVS base"]).sum()), int(cells["apart"].sum())
        broken = int(cells["ASR apart"].sum())
        listed = ", ".join(f"{line.arch} {columns.cell(float(line.ratio))}" for line in cells.itertuples())
        text = (
            f"LVS of the dissociated pole at the nudge layer, budget {budget:g}: above base's in {higher} of "
            f"{len(cells)} models (ratios: {listed}), with intervals apart in {apart}; its ASR is surely "
            f"above base's in {broken}."
        )
        said.append((text, apart > 0))
    return said


def _steering(summaries: Summaries) -> list[tuple[str, bool]]:
    best = _table(summaries, "Best steering")
    if not len(best) or not {"base", "dissociated"} <= set(best["variant"]):
        return []
    wide = best.pivot(index="arch", columns="variant", values=["compliance_lo", "compliance_hi"])
    apart = int((wide["compliance_lo", "dissociated"] > wide["compliance_hi", "base"]).sum())
    text = (
        f"Steering at fraction {tables.NUDGE_FRACTION:g}, each at its best layer, opens the dissociated pole more "
        f"often than base: widened intervals apart in {apart} of {len(wide)} models."
    )
    return [(text, apart == len(wide))]


def _tuning(summaries: Summaries) -> list[tuple[str, bool]]:
    tuned = _table(summaries, "Onsets of fine-tuning")
    said = []
    for level, cells in tuned.groupby("level") if len(tuned) else ():
        parts, sooner = [], 0
        for (arch, corpus), pair in cells.groupby(["arch", "corpus"], sort=False):
            steps = dict(zip(pair["variant"], pair["median onset"], strict=True))
            if {"base", "dissociated"} <= steps.keys():
                parts.append(f"{arch} ({corpus}) {steps['dissociated']} against {steps['base']}")
                sooner += _sooner(steps["dissociated"], steps["base"])
        if parts:
            text = (
                f"Fine-tuning reaches {percent(level)} in fewer steps on the dissociated pole than on base in "
                f"{sooner} of {len(parts)} pairs (median over seeds: {'; '.join(parts)})."
            )
            said.append((text, sooner == len(parts)))
    return said


def _sooner(one: str, other: str) -> bool:
    """Whether an onset, as text, lies before another; "> 150" lies behind every step, and before nothing."""
    return not one.startswith(">") and (other.startswith(">") or float(one) < float(other))


def _falls(summaries: Summaries) -> list[str]:
    fallen = _table(summaries, "From the smallest to the largest budget")
    if not len(fallen):
        return []
    lower = int((fallen["mean ASR after"] < fallen["mean ASR before"]).sum())
    sure, higher, states = (int(fallen[name].sum()) for name in ("surely lower at", "surely higher at", "states"))
    return [
        "that a larger budget is a stronger attack: from the smallest to the largest the mean ASR falls for "
        f"{lower} of {len(fallen)} model variants; of {states} states {sure} fall surely, {higher} rise surely. "
        "Without coherence beside it, such a fall reads as robustness."
    ]


def _noise(summaries: Summaries) -> list[str]:
    nudged, means, said = _table(summaries, "The nudge layer"), _table(summaries, "ASR by budget"), []
    if len(nudged):
        ahead = nudged[nudged["ahead"] == "noise"]
        cells = "; ".join(
            f"{line.arch} {line.variant} at {line.budget:g}: noise {_count(line.control_successes, line.n)}, PGD "
            f"{_count(line.asr_count, line.n)}"
            for line in ahead.itertuples()
        )
        higher = int((nudged["LVS under noise"] > nudged["lvs"]).sum())
        said.append(
            "that the attack beats its control: at the nudge layer noise breaks surely more prompts than PGD in "
            f"{len(ahead)} of {len(nudged)} cells{f' ({cells})' if cells else ''}, and has the larger LVS in {higher}."
        )
    if len(means):
        more = int((means["mean ASR under noise"] > means["mean ASR"]).sum())
        said.append(
            f"Over all states, noise has the higher mean ASR in {more} of {len(means)} rows (model, variant, budget)."
        )
    return said


def _zeros(summaries: Summaries) -> list[str]:
    zero, said = _table(summaries, "Zero LVS"), []
    for variant, cells in zero.groupby("variant", sort=False) if len(zero) else ():
        none, broken, every = (int(cells[name].sum()) for name in ("LVS is 0", "of these ASR at least .5", "cells"))
        if broken:
            by = "; ".join(
                f"{third} {int(part['LVS is 0'].sum())} of {int(part['cells'].sum())}"
                for third, part in cells.groupby("third", sort=False)
            )
            said.append(
                f"that a low LVS means safety: of the {variant} pole {none} of {every} cells have a median LVS of 0 "
                f"({by}), {broken} of these with an ASR of at least one half."
            )
    return said


def _count(successes: float, n: float) -> str:
    return f"{int(successes)} of {int(n)}"
