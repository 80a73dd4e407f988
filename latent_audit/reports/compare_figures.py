"""Numbers of several sources in one figure: published ones with a run on top, and runs in the order of their dates.

Style as in reports.figures.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from latent_audit.errors import InputError
from latent_audit.reports import figures

_DASHED, _BEYOND = (0, (4, 2)), "*"
_AXES = {
    "lvs": "LVS (median)",
    "latent_asr": "attack success rate",
    "steer_compliance": "compliance when steered",
    "tuned_compliance": "compliance",
}
_SHARES = [0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"]
_CORPORA = {"in": "in distribution", "out": "out of distribution"}
# Ours: panels of a row of `history`, how far apart models of one date stand, letters of a run's name on its axis.
_PANELS, _SHIFT, _NAME = 3, 0.3, 24
# Ours: an axis ends at the largest end of an interval, or half above the end that so many lie below.
_WITHIN = 0.95


def side_by_side(table: pd.DataFrame, *, measures: Sequence[str], columns: str, along: str, control: str) -> Figure:
    """One row of panels per measure and one column per value of `columns`; line and band published, points a run's.

    `table`: DataFrame with variant, measure, `columns` (budget or corpus), `along` (state or step), published_value,
    published_lo, published_hi, published_control, and where a run is compared run_value, run_lo, run_hi. Dashed:
    `control`, in words; '' for none. Stars at an upper edge: values beyond it. Raises InputError without rows.
    """
    rows = table[table["measure"].isin(measures)]
    if rows.empty:
        raise InputError(f"side_by_side: no rows of {', '.join(measures)}")
    across = sorted(rows[columns].unique())
    looks = figures.looks_of(list(dict.fromkeys(rows["variant"])))
    has_run = "run_value" in rows
    with matplotlib.style.context(["default", figures.STYLE]):
        size = max(6.6, 0.9 + 2.45 * len(across)), 0.6 + 2.4 * len(measures)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(measures), len(across), sharex=True, sharey="row", squeeze=False)
        for panels, measure in zip(axes, measures, strict=True):
            own = rows[rows["measure"] == measure]
            _scale(panels[0], own, measure)
            for axis, value in zip(panels, across, strict=True):
                here = own[own[columns] == value].sort_values(along)
                for variant, look in looks.items():
                    _draw(axis, here[here["variant"] == variant], along, *look, has_run=has_run)
                if along == "state":
                    axis.fmt_xdata = figures.state_name
        for axis, value in zip(axes[0], across, strict=True):
            axis.set_title(
                _CORPORA.get(value, str(value)) if columns == "corpus" else f"{_named(columns, measures)} {value:g}"
            )
        _name_x(figure, axes, rows, along)
        _legend(figure, looks, control, has_run)
        figures.plain_text(figure)
    return figure


def _named(columns: str, measures: Sequence[str]) -> str:
    return "fraction" if "steer_compliance" in measures else columns


def _scale(axis: Axes, rows: pd.DataFrame, measure: str) -> None:
    axis.set_ylabel(_AXES[measure])
    if measure != "lvs":
        axis.set_ylim(-0.03, 1.04)
        axis.set_yticks(*_SHARES)
        return
    ends = np.concatenate([rows[name].dropna().to_numpy(float) for name in ("published_hi", "run_hi") if name in rows])
    top = min(float(ends.max()), 1.5 * float(np.quantile(ends, _WITHIN))) or 1.0
    axis.set_ylim(-0.03 * top, 1.04 * top)


def _draw(axis: Axes, rows: pd.DataFrame, along: str, colour: str, marker: str, *, has_run: bool) -> None:
    place, top = rows[along].to_numpy(float), axis.get_ylim()[1]
    value = rows["published_value"].to_numpy(float)
    axis.fill_between(place, rows["published_lo"], rows["published_hi"], color=colour, alpha=0.13, linewidth=0)
    every = max(1, round(len(rows) / 12))
    shape: dict[str, Any] = {} if has_run else {"marker": marker, "markevery": every}
    axis.plot(place, value, color=colour, zorder=3, **shape)
    axis.plot(place, rows["published_control"].astype(float), color=colour, linestyle=_DASHED, linewidth=1.1, zorder=2)
    beyond = place[value > top]
    axis.plot(beyond, np.full(len(beyond), 0.98 * top), color=colour, marker=_BEYOND, linestyle="none", zorder=4)
    if has_run:
        run = rows[rows["run_value"].notna()]
        lengths = np.abs(run[["run_lo", "run_hi"]].to_numpy(float) - run[["run_value"]].to_numpy(float)).T
        style: dict[str, Any] = {"color": colour, "marker": marker, "markerfacecolor": "white", "elinewidth": 0.9}
        axis.errorbar(run[along], run["run_value"], lengths, linestyle="none", zorder=5, **style)


def _name_x(figure: Figure, axes: np.ndarray, rows: pd.DataFrame, along: str) -> None:
    if along == "step":
        figure.supxlabel("fine-tuning step", fontsize=figures.SIZE, color="#222222")
        return
    first, last = int(rows[along].min()), int(rows[along].max())
    ticks = sorted({first, *range(first, last, max(1, -(-(last - first) // 6))), last})
    if len(ticks) > 2 and last - ticks[-2] < 0.75 * (ticks[1] - ticks[0]):
        ticks.pop(-2)
    names = list(map(figures.state_name, ticks))
    for axis in axes.flat:
        axis.set_xticks(ticks, names)
        axis.tick_params(length=2.5)
    figure.supxlabel(figures.states_axis(names[0], names[-1]), fontsize=figures.SIZE, color="#222222")


def _legend(figure: Figure, looks: dict[str, tuple[str, str]], control: str, has_run: bool) -> None:
    names = figures.names_of(looks)
    handles = [
        Line2D([], [], color=colour, marker=marker, label=names[variant]) for variant, (colour, marker) in looks.items()
    ]
    handles.append(Line2D([], [], color="#666666", label="published, band: 95% interval"))
    if control:
        handles.append(Line2D([], [], color="#666666", linestyle=_DASHED, linewidth=1.1, label=f"published, {control}"))
    if has_run:
        shape: dict[str, Any] = {"marker": "o", "markerfacecolor": "white", "linestyle": "none"}
        handles.append(Line2D([], [], color="#666666", label="this run, bar: 95% interval", **shape))
    if any(line.get_marker() == _BEYOND and np.size(line.get_xdata()) for axis in figure.axes for line in axis.lines):
        handles.append(Line2D([], [], color="#666666", marker=_BEYOND, linestyle="none", label="beyond the axis"))
    figures.add_legend(figure, handles)


def history(table: pd.DataFrame, *, names: Mapping[str, str], shares: Collection[str]) -> Figure:
    """One panel per measure: every run in the order of its date, evenly spaced, with its interval.

    `table`: DataFrame with run, date, arch, variant, measure, value, lo, hi; names: measure -> title of its panel, in
    the order of panels; shares: measures whose axis runs from 0 to 1. A line joins runs of one model and variant.
    Raises InputError without rows.
    """
    measures = [name for name in names if (table["measure"] == name).any()]
    if not measures:
        raise InputError(f"history: no rows of {', '.join(names)}")
    runs = table.drop_duplicates("run").sort_values("date", kind="stable")
    places = {run: place for place, run in enumerate(runs["run"])}
    alone = table["variant"].nunique() == 1
    called = table["arch"] if alone else table["arch"] + ", " + table["variant"]
    looks = figures.looks_of(list(dict.fromkeys(called)))
    columns = min(len(measures), _PANELS)
    lines = -(-len(measures) // columns)
    with matplotlib.style.context(["default", figures.STYLE]):
        wide, called_runs = max(2.6, 0.9 + 0.36 * len(runs)), [_dated(row) for row in runs.to_dict("records")]
        # Upright names below the last row of panels, and below the one above it where that row is not full.
        below = 0.08 * max(len(part) for name in called_runs for part in name.split("\n"))
        below *= 1 if len(measures) % columns == 0 else 2
        size = max(5.2, 0.6 + wide * columns), 0.6 + 2.2 * lines + below
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(lines, columns, sharex=True, squeeze=False).ravel()
        for axis, measure in zip(axes, measures, strict=False):
            own = table[table["measure"] == measure]
            for shift, (model, (colour, marker)) in enumerate(looks.items()):
                here = own[called.loc[own.index] == model]
                # Side by side where several models share a date.
                place = here["run"].map(places).to_numpy(float) + _SHIFT * (shift - (len(looks) - 1) / 2) / len(looks)
                order = np.argsort(place, kind="stable")
                _bars(axis, place[order], here.iloc[order], colour, marker, model)
            axis.fmt_xdata = lambda place: str(runs["run"].iloc[min(len(runs) - 1, max(0, round(place)))])
            figures.name_panel(axis, names[measure], wide)
            if measure in shares:
                axis.set_ylim(-0.03, 1.04)
                axis.set_yticks(*_SHARES)
        for axis in axes[len(measures) :]:
            axis.set_axis_off()
        for axis in axes[: len(measures)][-columns:]:
            axis.set_xticks(range(len(runs)), called_runs, rotation=90)
            axis.tick_params(labelbottom=True)
        handles = [Line2D([], [], color=look[0], marker=look[1], label=model) for model, look in looks.items()]
        handles.append(
            Line2D([], [], color="#666666", marker="|", markersize=9, linestyle="none", label="bar: 95% interval")
        )
        figures.add_legend(figure, handles)
        figures.plain_text(figure)
    return figure


def _bars(axis: Axes, place: np.ndarray, rows: pd.DataFrame, colour: str, marker: str, name: str) -> None:
    value = rows["value"].to_numpy(float)
    # An interval whose end is not known has no bar on that side.
    lengths = np.nan_to_num(np.abs(rows[["lo", "hi"]].to_numpy(float) - value[:, None]).T, posinf=0.0)
    style: dict[str, Any] = {"color": colour, "marker": marker, "elinewidth": 0.9, "linewidth": 1.0}
    axis.errorbar(place, value, lengths, **style).lines[0].set_label(name)


def _dated(row: Mapping[str, Any]) -> str:
    name = str(row["run"])
    short = name if len(name) <= _NAME else f"{name[: _NAME - 1]}\u2026"
    day = str(row["date"] or "")[:10]
    return f"{short}\n{day}" if day else short
