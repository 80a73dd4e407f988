"""What published numbers say, counted: by budget and depth, at the nudge layer, under steering, over fine-tuning steps.

Pure: tables in, tables out. Rows are those of read.Source. docs/method.md section 11. Files hold one number a cell and
none a prompt, so a mean over states has no interval; what can be bounded is bounded cell by cell.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from latent_audit.errors import InputError
from latent_audit.metrics import independent, onset, stats
from latent_audit.published.read import KEY, NUMBERS

THIRDS = ("first third", "middle third", "last third")
# arXiv 2606.08044: the fraction of its nudge, and the level of its onsets; .5 is ours.
NUDGE_FRACTION, LEVELS = 0.06, (0.5, 0.8)
_CELL = ["arch", "variant", "budget"]


def merge(published: pd.DataFrame, run: pd.DataFrame | None) -> pd.DataFrame:
    """One line per published cell, and the run's numbers behind it: NUMBERS as published_ and run_, the difference.

    difference: run less published with its 95 % interval, as of two independent measurements. Raises InputError where
    no cell is in both.
    """
    table = published.rename(columns={name: f"published_{name}" for name in NUMBERS})
    if run is None:
        return table
    arch = same_model(published, run)
    keys = [name for name in KEY if name != "arch"]
    own = run.rename(columns={name: f"run_{name}" for name in NUMBERS} | {"arch": "run_arch"})
    # Budgets and steps come from files of different hands.
    for side in (table, own):
        side[["budget", "step"]] = side[["budget", "step"]].astype(float).round(9)
    found = table[table["arch"] == arch].merge(own, on=keys, how="inner", validate="one_to_one")
    if found.empty:
        raise InputError(f"nothing in common: {_spread(published[published['arch'] == arch])}; the run: {_spread(run)}")
    ends = [
        independent.difference_interval(
            (line.run_value, line.run_lo, line.run_hi), (line.published_value, line.published_lo, line.published_hi)
        )
        for line in found.itertuples()
    ]
    names = ("difference", "difference_lo", "difference_hi")
    return found.assign(**dict(zip(names, zip(*ends, strict=True), strict=True)))


def same_model(published: pd.DataFrame, run: pd.DataFrame) -> str:
    """The published model that the run audits: by its name, else the only one with as many states; InputError."""
    own = str(run["arch"].iloc[0])
    archs = list(dict.fromkeys(published["arch"]))
    named = [arch for arch in archs if _letters(arch) in _letters(own)]
    if named:
        return max(named, key=len)
    depth = run["state"].max()
    alike = [arch for arch in archs if published.loc[published["arch"] == arch, "state"].max() == depth]
    if len(alike) == 1 and not math.isnan(depth):
        return alike[0]
    raise InputError(
        f"nothing in common: the run is of {own} ({depth:g} as its last state), published are "
        f"{', '.join(f'{arch} ({_last(published, arch):g})' for arch in archs)}; give a run of one of these"
    )


def _last(rows: pd.DataFrame, arch: str) -> float:
    return float(rows.loc[rows["arch"] == arch, "state"].max())


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _spread(rows: pd.DataFrame) -> str:
    parts = []
    for name in ("variant", "measure", "budget", "corpus"):
        values = sorted({value for value in rows[name].dropna() if value != ""}, key=str)
        parts += (
            [f"{name} {', '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in values[:6])}"] if values else []
        )
    return "; ".join(parts)


def third_of(state: pd.Series, states: int) -> pd.Series:
    """Which third of the depth a state lies in; state s of S is in third floor(3 s / S)."""
    return (3 * state.astype(int) // states).map(dict(enumerate(THIRDS)))


def by_budget(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean ASR over states by budget, PGD and noise, by thirds of depth, and at how many states noise breaks more."""
    lines = []
    for key, cells in _attacked(rows).groupby(_CELL, sort=False):
        thirds = cells.groupby("third", sort=False)["value"].mean()
        lines.append(
            dict(zip(_CELL, key, strict=True))
            | {"states": len(cells), "mean ASR": cells["value"].mean(), "mean ASR under noise": cells["control"].mean()}
            | {f"{third}": thirds.get(third, math.nan) for third in THIRDS}
            | {"states where noise breaks more": int((cells["control"] > cells["value"]).sum())}
        )
    return pd.DataFrame(lines)


def falls(rows: pd.DataFrame) -> pd.DataFrame:
    """ASR at the largest budget against the smallest, state by state: how often it is lower, and how often surely.

    surely: the exact intervals, at a confidence that holds for all states of the model together, do not overlap.
    """
    lines = []
    for key, cells in _attacked(rows).groupby(["arch", "variant"], sort=False):
        least, most = cells["budget"].min(), cells["budget"].max()
        if least == most:
            continue
        wide = cells.pivot(index="state", columns="budget", values=["successes", "n"]).dropna()
        tail = 0.025 / (2 * len(wide))
        ends = {
            budget: [
                stats.clopper_pearson(int(k), int(n), tail=tail)
                for k, n in zip(wide["successes", budget], wide["n", budget], strict=True)
            ]
            for budget in (least, most)
        }
        small, large = (np.asarray(ends[budget]).reshape(-1, 2) for budget in (least, most))
        before, after = wide["successes", least], wide["successes", most]
        lines.append(
            dict(zip(("arch", "variant"), key, strict=True))
            | {"from budget": least, "to budget": most, "states": len(wide)}
            | {
                "mean ASR before": (before / wide["n", least]).mean(),
                "mean ASR after": (after / wide["n", most]).mean(),
            }
            | {"lower at": int((after < before).sum()), "surely lower at": int((large[:, 1] < small[:, 0]).sum())}
            | {"surely higher at": int((large[:, 0] > small[:, 1]).sum())}
        )
    return pd.DataFrame(lines)


def nudge_layer(rows: pd.DataFrame) -> pd.DataFrame:
    """Cells at the output of block round(.5 L): ASR and LVS with intervals, noise beside PGD, and which is ahead.

    difference: ASR of PGD less that of noise, as of two independent shares.
    """
    lines = []
    for (arch, variant, budget, state), cells in rows[rows["measure"].isin(("lvs", "latent_asr"))].groupby(
        [*_CELL, "state"], sort=False
    ):
        if state != nudge_state(rows, arch):
            continue
        of = {line.measure: line for line in cells.itertuples()}
        asr, lvs = of["latent_asr"], of["lvs"]
        gap = independent.difference_interval(
            (asr.value, asr.lo, asr.hi), (asr.control, asr.control_lo, asr.control_hi)
        )
        ahead = "noise" if gap[2] < 0 else "PGD" if gap[1] > 0 else "neither surely"
        lines.append(
            {"arch": arch, "variant": variant, "layer": asr.layer, "budget": budget}
            | {"n": asr.n, "asr": asr.value, "asr_lo": asr.lo, "asr_hi": asr.hi, "asr_count": asr.successes}
            | {"control": asr.control, "control_lo": asr.control_lo, "control_hi": asr.control_hi}
            | {"control_successes": asr.control_successes, "ahead": ahead}
            | {"lvs": lvs.value, "lvs_lo": lvs.lo, "lvs_hi": lvs.hi}
            | {
                "LVS under noise": lvs.control,
                "LVS under noise_lo": lvs.control_lo,
                "LVS under noise_hi": lvs.control_hi,
            }
        )
    return pd.DataFrame(lines)


def nudge_state(rows: pd.DataFrame, arch: str) -> int:
    """The state behind block round(.5 L), of a model whose last state is in the rows; half to even."""
    return round(0.5 * _last(rows[rows["measure"] != "tuned_compliance"], arch)) + 1


def lvs_ratios(nudged: pd.DataFrame) -> pd.DataFrame:
    """LVS of dissociated over base at the nudge layer by budget; `apart`: whether their published intervals are."""
    lines = []
    for (arch, budget), cells in nudged.groupby(["arch", "budget"], sort=False) if len(nudged) else ():
        of = {line.variant: line for line in cells.itertuples()}
        if {"base", "dissociated"} <= of.keys():
            base, other = of["base"], of["dissociated"]
            lines.append(
                {"arch": arch, "budget": budget, "LVS base": base.lvs, "LVS dissociated": other.lvs}
                | {"ratio": other.lvs / base.lvs if base.lvs > 0 else math.nan, "apart": other.lvs_lo > base.lvs_hi}
                | {"ASR base": base.asr, "ASR dissociated": other.asr, "ASR apart": other.asr_lo > base.asr_hi}
            )
    return pd.DataFrame(lines)


def zero_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """By third of depth, over all budgets: cells with a median LVS of 0, and how much they comply all the same."""
    both = rows[rows["measure"].isin(("lvs", "latent_asr"))]
    if both.empty:
        return pd.DataFrame()
    keys = ["arch", "variant", "state", "budget"]
    wide = both.pivot(index=keys, columns="measure", values="value").dropna().reset_index()
    wide["third"] = _thirds(wide)
    order = {name: place for place, name in enumerate(dict.fromkeys(both["variant"]))}
    lines = []
    for key, cells in wide.groupby(["arch", "variant", "third"], sort=False):
        none = cells[cells["lvs"] == 0]
        lines.append(
            dict(zip(("arch", "variant", "third"), key, strict=True))
            | {
                "cells": len(cells),
                "LVS is 0": len(none),
                "of these ASR at least .5": int((none["latent_asr"] >= 0.5).sum()),
            }
            | {"median LVS": cells["lvs"].median(), "mean ASR": cells["latent_asr"].mean()}
            | {"mean ASR where LVS is 0": none["latent_asr"].mean() if len(none) else math.nan}
        )
    found = pd.DataFrame(lines)
    place = found["variant"].map(order) * len(THIRDS) + found["third"].map(THIRDS.index)
    archs = {name: number for number, name in enumerate(dict.fromkeys(both["arch"]))}
    return found.iloc[np.lexsort((place, found["arch"].map(archs)))].reset_index(drop=True)


def best_steering(rows: pd.DataFrame) -> pd.DataFrame:
    """At the nudge fraction: the layer that complies most, its interval widened for the choice, the control."""
    steered = rows[(rows["measure"] == "steer_compliance") & np.isclose(rows["budget"].astype(float), NUDGE_FRACTION)]
    lines = []
    for (arch, variant), cells in steered.groupby(["arch", "variant"], sort=False):
        best = cells.loc[cells["value"].idxmax()]
        tail = 0.025 / len(cells)
        lo, hi = stats.clopper_pearson(int(best["successes"]), int(best["n"]), tail=tail)
        lines.append(
            {"arch": arch, "variant": variant, "fraction": NUDGE_FRACTION, "layers": len(cells), "layer": best["layer"]}
            | {"compliance": best["value"], "compliance_lo": lo, "compliance_hi": hi, "n": best["n"]}
            | {"compliance_count": best["successes"], "random direction, its best layer": cells["control"].max()}
        )
    return pd.DataFrame(lines)


def onsets(curves: pd.DataFrame, levels: Sequence[float] = LEVELS) -> pd.DataFrame:
    """First evaluated step at each level: median over seeds, range, and the mean and sd that the paper gives."""
    lines = []
    for (arch, corpus), of_corpus in curves.groupby(["arch", "corpus"], sort=False) if len(curves) else ():
        for level in levels:
            for variant, seeds in of_corpus.groupby("variant", sort=False):
                steps = [onset.onset(one.step, one.value, level) for one in seeds.itertuples()]
                found, last = onset.summarise(steps), max(max(one.step) for one in seeds.itertuples())
                reached = np.asarray([step for step in steps if step is not None], float)
                lines.append(
                    {"arch": arch, "corpus": corpus, "level": level, "variant": variant}
                    | {"median onset": _step(found.median, last)}
                    | {"range over seeds": f"{_step(found.lo, last)} to {_step(found.hi, last)}"}
                    | {"mean of those reached": reached.mean() if len(reached) else math.nan}
                    | {"sd of those reached": reached.std(ddof=1) if len(reached) > 1 else math.nan}
                    | {"seeds that reached it": f"{found.reached} of {found.n}"}
                )
    return pd.DataFrame(lines)


def agreement(merged: pd.DataFrame) -> pd.DataFrame:
    """Per variant and measure of a merged table: how many cells differ, by the interval of their difference."""
    lines: list[dict[str, Any]] = []
    for (variant, measure), cells in merged.groupby(["variant", "measure"], sort=False):
        lines.append(
            {"variant": variant, "measure": measure, "cells in both": len(cells)}
            | {"mean published": cells["published_value"].mean(), "mean of the run": cells["run_value"].mean()}
            | {"run surely higher": int((cells["difference_lo"] > 0).sum())}
            | {"run surely lower": int((cells["difference_hi"] < 0).sum())}
            | {"largest distance": cells["difference"].abs().max()}
        )
    return pd.DataFrame(lines)


def _attacked(rows: pd.DataFrame) -> pd.DataFrame:
    cells = rows[rows["measure"] == "latent_asr"]
    return cells.assign(third=_thirds(cells))


def _thirds(cells: pd.DataFrame) -> pd.Series:
    states = cells.groupby("arch")["state"].transform("max").astype(int) + 1
    return pd.Series(
        [third_of(pd.Series([s]), n).iloc[0] for s, n in zip(cells["state"], states, strict=True)],
        cells.index,
        dtype=object,
    )


def _step(value: float | None, last: float) -> str:
    return f"> {last:g}" if value is None else f"{value:g}"
