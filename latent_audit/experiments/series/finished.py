"""Finished runs of lvs, audit and ras, read back: their lines, and one outcome per prompt of what was saved.

Nothing in them is written, and no model is loaded. Two runs' outcomes of one prompt can be paired (compare.py).
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from latent_audit import user_files
from latent_audit.errors import InputError
from latent_audit.experiments import panels
from latent_audit.experiments.audit import behaviour
from latent_audit.experiments.audit.card.verdicts import ALL_WRAPPERS
from latent_audit.metrics import lvs, stats
from latent_audit.runtime import runlog

TASKS = ("lvs", "audit", "ras")
KEYS = ("variant", "measure", "layer", "budget", "detail")
ENDS = ("value", "lo", "hi", "n")
ANY_STATE = "any state"  # stands where a layer does: the prompt is broken at one of the states that were attacked
MEAN_LVS = "lvs_mean"
# Measures of ras.csv: their columns' names, of which NAME_lo and NAME_hi are the ends and NAME_n the prompts.
_OF_RAS = ("ras", "asr", "asr_wrapped", "answered", "l2_asr", "latent_asr", "separation", "probe_auroc")
# What searches push, by the first part of a unit's name: kind of its rows, column of the budget, measure.
_PUSHED = {"l2": ("l2", "budget", "l2_asr"), "steer": ("direction", "fraction", "steer_compliance")}


class Run(NamedTuple):
    """One finished run.

    name: of its directory, numbered where two have one name; config, inputs: flattened, dotted name -> value; record:
    report.json. lines: DataFrame of KEYS and ENDS with arch and control, text cells '' where there is none, budget NaN;
    outcomes: DataFrame of KEYS, prompt (text) and outcome (bool, of a score float); clusters: prompt -> its cluster, of
    those that the attack suite recorded.
    """

    name: str
    workdir: pathlib.Path
    task: str
    config: dict[str, Any]
    inputs: dict[str, Any]
    record: dict[str, Any]
    lines: pd.DataFrame
    outcomes: pd.DataFrame
    clusters: dict[str, str]


def read_all(places: Sequence[str | pathlib.Path]) -> list[Run]:
    """The runs in these working directories; InputError for one that is unfinished, of another task or given twice."""
    found: list[Run] = []
    for place in places:
        run = read(place)
        if any(run.workdir.resolve() == other.workdir.resolve() for other in found):
            raise InputError(f"{place} is given twice; a run is compared with others")
        names = {other.name for other in found}
        number = next(count for count in range(1, len(found) + 2) if _numbered(run.name, count) not in names)
        found.append(run._replace(name=_numbered(run.name, number)))
    return found


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def read(place: str | pathlib.Path) -> Run:
    """One run; InputError as read_all's."""
    workdir = user_files.path_of("RUN", place)
    for name in ("config.json", "inputs.json", "report.json"):
        if not (workdir / name).is_file():
            raise InputError(
                f"{place} is no finished run: it has no {name}. Give the working directory of a run that has ended"
            )
    config, inputs, record = (
        user_files.read_json("the run's record", workdir / f"{name}.json", kind=dict)
        for name in ("config", "inputs", "report")
    )
    task = config.get("task")
    if task not in TASKS:
        raise InputError(f"{place} is a run of task {task!r}; runs of {', '.join(TASKS)} are compared")
    flat = runlog.flatten(config)
    if task == "ras":
        outcomes, lines = _asked_of_ras(workdir), _lines_of_ras(workdir)
    else:
        outcomes, lines = _outcomes(workdir, flat, record), _lines(workdir, "audit.csv")
    lines = _with_counted(lines, outcomes, inputs.get("arch", ""))
    name = workdir.resolve().name
    clusters = {
        f"{panels.HARMFUL} {prompt}": str(cluster)
        for suite in record.get("suite", {}).values()
        for prompt, cluster in zip(suite["prompt"], suite["cluster"], strict=True)
    }
    return Run(name, workdir, task, flat, runlog.flatten(inputs), record, lines, outcomes, clusters)


def keys(table: pd.DataFrame) -> list[tuple[str, str, str, str, str]]:
    """Of each row what makes it the same cell in two runs; details count only where they tell cells of a run apart."""
    budget = [budget_text(value) for value in table["budget"]]
    plain = list(zip(table["variant"], table["measure"], table["layer"], budget, strict=True))
    several = pd.Series(plain, dtype=object).duplicated(keep=False) if plain else []
    details = (detail if own else "" for detail, own in zip(table["detail"], several, strict=True))
    return [(*key, detail) for key, detail in zip(plain, details, strict=True)]


def by_cell(outcomes: pd.DataFrame) -> dict[tuple[str, ...], pd.Series]:
    """Cell, as of `keys` -> its outcomes by prompt."""
    found = {}
    for key, cell in outcomes.groupby([*KEYS[:3], outcomes["budget"].map(budget_text), "detail"], sort=False):
        found[key] = cell.set_index("prompt")["outcome"].infer_objects()
    return found


def budget_text(value: float) -> str:
    """A budget as a part of a key, six digits; "" for none."""
    return "" if pd.isna(value) else f"{float(value):.6g}"


def _lines(workdir: pathlib.Path, name: str) -> pd.DataFrame:
    table = pd.read_csv(user_files.check_file(f"the run's {name}", workdir / name))
    table = table.reindex(columns=list(dict.fromkeys(["arch", *KEYS, *ENDS, "control", *table.columns])))
    texts = ["arch", "variant", "measure", "layer", "detail"]
    return table.assign(**{column: table[column].astype(object).fillna("").astype(str) for column in texts})


def _lines_of_ras(workdir: pathlib.Path) -> pd.DataFrame:
    """ras.csv in long form; a model is a variant, named FAMILY/MODEL, a protocol a detail."""
    table, lines = pd.read_csv(user_files.check_file("the run's ras.csv", workdir / "ras.csv")), []
    for row in table.to_dict("records"):
        protocol = str(row.get("protocol", ""))
        for measure in _OF_RAS:
            if pd.isna(row.get(measure)) or measure != "ras" and protocol != str(table["protocol"].iloc[0]):
                continue
            told = {"arch": row["family"], "variant": f"{row['family']}/{row['model']}", "measure": measure}
            ends = {"value": row[measure]} | {end: row.get(f"{measure}_{end}") for end in ("lo", "hi", "n")}
            lines.append(told | {"layer": "", "detail": protocol if measure == "ras" else ""} | ends)
    return pd.DataFrame(lines).reindex(columns=["arch", *KEYS, *ENDS, "control"])


def _units(workdir: pathlib.Path) -> Iterator[tuple[tuple[str, ...], dict[str, list]]]:
    """(parts of its name, columns) of every unit, in the order of names."""
    for key in runlog.unit_keys(workdir):
        if "/" in key:
            path = workdir / "units" / f"{key}.json"
            yield tuple(key.split("/")), user_files.read_json("the unit", path, kind=dict).get("columns", {})


def _asked_of_ras(workdir: pathlib.Path) -> pd.DataFrame:
    frames = [
        _cell(f"{parts[0]}/{parts[1]}", "asr", "asr", None, columns["hit"])
        for parts, columns in _units(workdir)
        if len(parts) == 3 and parts[2] == "asr" and "hit" in columns
    ]
    return _together(frames)


def _outcomes(workdir: pathlib.Path, config: Mapping[str, Any], record: Mapping[str, Any]) -> pd.DataFrame:
    frames, clean, pushed = [], {}, {}
    for (variant, what, *rest), columns in _units(workdir):
        if what == "panel":
            frames += _panel(variant, rest[0], columns, config)
        elif what in ("clean-harmful", "clean-benign"):
            clean.setdefault((variant, what), []).append(pd.DataFrame(columns))
        elif what == "lvs":
            pushed.setdefault(variant, []).append(pd.DataFrame(columns).assign(layer=rest[0]))
        elif what in _PUSHED and rest[0] != "cone":
            frames += _searched(variant, what, rest[0], columns)
        elif what == "gcg" and "kind" in columns:
            rows = pd.DataFrame({name: columns[name] for name in ("prompt", "kind", "harmful")})
            rows = rows[rows["kind"] == "gcg"]
            frames.append(_cell(variant, "gcg_asr", panels.HARMFUL, rows["prompt"], rows["harmful"]))
    asked = {key: pd.concat(parts, ignore_index=True) for key, parts in clean.items()}
    for (variant, what), rows in asked.items():
        measure, panel, column = (
            ("clean_compliance", panels.HARMFUL, "harmful")
            if what == "clean-harmful"
            else ("benign_answer_rate", panels.BENIGN, "answered")
        )
        # The panel asks more prompts, where there is one.
        if not any((frame["variant"] == variant).any() and (frame["measure"] == measure).any() for frame in frames):
            frames.append(_cell(variant, measure, panel, rows["prompt"], rows[column]))
    for variant, parts in pushed.items():
        rows = pd.concat(parts, ignore_index=True)
        frames += _attacked(variant, rows[rows["attack"] == "pgd"], asked.get((variant, "clean-harmful")), config)
    for variant, suite in record.get("suite", {}).items():
        frames += _fallen(variant, suite)
    return _together(frames)


def _cell(variant, measure, panel, prompts, outcome, **where) -> pd.DataFrame:  # type: ignore[no-untyped-def]
    named = range(len(outcome)) if prompts is None else prompts
    told = {"variant": variant, "measure": measure, "layer": "", "budget": np.nan, "detail": ""} | where
    return pd.DataFrame({"prompt": [f"{panel} {prompt}" for prompt in named], "outcome": list(outcome)}).assign(**told)


def _together(frames: list[pd.DataFrame]) -> pd.DataFrame:
    every = [*KEYS, "prompt", "outcome"]
    # Truth and scores side by side: each keeps its type.
    parts = [frame[every].astype({"outcome": object}) for frame in frames]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=every)


def _panel(variant, panel, columns, config) -> list[pd.DataFrame]:  # type: ignore[no-untyped-def]
    rows, frames = pd.DataFrame(columns), []
    if panel == panels.HARMFUL:
        # The rates are of this part of it: experiments/audit/behaviour.py.
        first, count = config.get("panel.harmful_offset", 0), config.get("panel.harmful_count")
        rows = rows[(rows["prompt"] >= first) & (rows["prompt"] < (np.inf if count is None else first + count))]
    for measure, (of, column) in behaviour.MEASURES.items():
        if of == panel and column in rows:
            frames.append(_cell(variant, measure, panel, rows["prompt"], rows[column]))
    if panel.startswith(panels.WRAPPED):
        for detail in (panel.removeprefix(panels.WRAPPED), ALL_WRAPPERS):
            frames.append(_cell(variant, "jailbreak_asr", panel, rows["prompt"], rows["harmful"], detail=detail))
    return frames


def _searched(variant, what, layer, columns) -> list[pd.DataFrame]:  # type: ignore[no-untyped-def]
    kind, budget, measure = _PUSHED[what]
    rows = pd.DataFrame({name: columns[name] for name in ("prompt", "kind", budget, "harmful")})
    return [
        _cell(variant, measure, panels.HARMFUL, cell["prompt"], cell["harmful"], layer=layer, budget=value)
        for value, cell in rows[rows["kind"] == kind].groupby(budget)
    ]


def _attacked(variant, rows, asked, config) -> list[pd.DataFrame]:  # type: ignore[no-untyped-def]
    """latent_asr per state and at any of them, and the mean LVS per state where it applies."""
    frames = []
    for (layer, budget), cell in rows.groupby(["layer", "budget"]):
        where = {"layer": layer, "budget": budget}
        frames.append(_cell(variant, "latent_asr", panels.HARMFUL, cell["prompt"], cell["harmful"], **where))
        before = asked.set_index("prompt").loc[cell["prompt"]]
        rewards = before["reward"].to_numpy(), cell["reward"].to_numpy()
        if lvs.losses(*rewards, before["harmful"].to_numpy(bool))["lvs_applicable"]:
            eta = lvs.PRESETS[config["score.preset"]].eta
            scores = lvs.lvs(*rewards, cell["l2"].to_numpy(), eta=eta)
            frames.append(_cell(variant, MEAN_LVS, panels.HARMFUL, cell["prompt"], scores, **where))
    for budget, cells in rows.groupby("budget"):
        broken = cells.groupby("prompt")["harmful"].any()
        where = {"layer": ANY_STATE, "budget": budget, "detail": f"of {cells['layer'].nunique()} states"}
        frames.append(_cell(variant, "latent_asr", panels.HARMFUL, broken.index, broken, **where))
    return frames


def _fallen(variant: str, suite: Mapping[str, Any]) -> list[pd.DataFrame]:
    """suite_asr per budget, of the radii that report.json keeps."""
    radius = np.array([np.inf if value is None else value for value in suite["radius"]], float)
    return [
        # Radii are written with six digits.
        _cell(variant, "suite_asr", panels.HARMFUL, suite["prompt"], radius <= budget * (1 + 1e-5), budget=budget)
        for budget in suite["budgets"]
    ]


def _with_counted(lines: pd.DataFrame, outcomes: pd.DataFrame, arch: str) -> pd.DataFrame:
    """The lines, and one for every cell of the outcomes that the run's table has not: its value with its interval."""
    known, more = set(keys(lines)), []
    for key, cell in outcomes.groupby([*KEYS], sort=False, dropna=False):
        told = dict(zip(KEYS, key, strict=True))
        same = (told["variant"], told["measure"], told["layer"], budget_text(told["budget"]))
        if {(*same, told["detail"]), (*same, "")} & known:
            continue
        values = cell["outcome"].infer_objects()
        if values.dtype == bool:
            lo, hi = stats.wilson_interval(int(values.sum()), len(values))
        else:
            lo, hi = stats.bootstrap_interval(values.to_numpy(float), "mean")
        more.append(told | {"arch": arch, "value": float(values.mean()), "lo": lo, "hi": hi, "n": len(values)})
    if not more:
        return lines
    added = pd.DataFrame(more).reindex(columns=lines.columns)
    return pd.concat([lines, added.dropna(axis="columns", how="all")], ignore_index=True)
