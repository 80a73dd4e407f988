"""Curves over training steps, several runs each, with bands; style and saving as in reports.figures."""

from collections.abc import Sequence

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from latent_audit.errors import InputError
from latent_audit.reports import figures
from latent_audit.text import percent

_COLUMNS = ("variant", "corpus", "seed", "step", "compliance")
_NAMES = {"in": "in distribution", "out": "out of distribution"}


def compliance_by_step(curves: pd.DataFrame, *, levels: Sequence[float] = (0.5, 0.8)) -> Figure:
    """Compliance over fine-tuning steps, one panel per corpus, one line per variant.

    `curves`: the table of curves.csv (pandas DataFrame). Line: mean over seeds; band: from the lowest to the highest
    seed; thin dashed lines: the `levels` whose onset is reported. Raises InputError when columns or rows are missing.
    Source: docs/method.md section 5.
    """
    missing = [column for column in _COLUMNS if column not in curves.columns]
    if missing or curves.empty:
        raise InputError(f"compliance_by_step: the curves lack {missing or 'rows'}")
    corpora = list(dict.fromkeys(curves["corpus"]))
    looks = figures.looks_of(list(dict.fromkeys(curves["variant"])))
    with matplotlib.style.context(["default", figures.STYLE]):
        figure = Figure(figsize=(max(5.2, 0.9 + 3.2 * len(corpora)), 3.4), layout="constrained")
        axes = figure.subplots(1, len(corpora), sharex=True, sharey=True, squeeze=False)[0]
        for axis, corpus in zip(axes, corpora, strict=True):
            for level in levels:
                axis.axhline(level, color="#999999", linestyle=(0, (4, 3)), linewidth=0.8, zorder=1)
            here = curves[curves["corpus"] == corpus]
            for variant, look in looks.items():
                _draw(axis, here[here["variant"] == variant], *look, variant)
            axis.fmt_xdata, axis.fmt_ydata = "step {:g}".format, percent
            axis.set_title(_NAMES.get(corpus, corpus))
            axis.set_xlabel("fine-tuning step")
        axes[0].set_ylim(-0.03, 1.04)
        axes[0].set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
        axes[0].set_ylabel("compliance")
        handles = [
            Line2D([], [], color=colour, marker=marker, label=f"{variant}, mean of seeds, band: their range")
            for variant, (colour, marker) in looks.items()
        ]
        figures.add_legend(figure, handles)
        figures.plain_text(figure)
    return figure


def _draw(axis: Axes, rows: pd.DataFrame, colour: str, marker: str, name: str) -> None:
    by_step = rows.groupby("step")["compliance"]
    mean, lo, hi = by_step.mean(), by_step.min(), by_step.max()
    axis.fill_between(mean.index, lo, hi, color=colour, alpha=0.15, linewidth=0)
    every = max(1, round(len(mean) / 12))  # a dozen markers tell the lines apart
    axis.plot(mean.index, mean, color=colour, marker=marker, markevery=every, zorder=3, label=name)


def construction_by_step(training: pd.DataFrame) -> Figure:
    """What a construction was watched by, over its steps: one line per made pole.

    `training`: the table of training.csv (pandas DataFrame). Left: compliance of the selection panel when asked
    (dashed) and under the nudge (solid); middle: the judge-free proxy, in nats; right: AUROC of base's probe. Source:
    docs/method.md section 6 (d).
    """
    looks = figures.looks_of(list(dict.fromkeys(training["variant"])))
    with matplotlib.style.context(["default", figures.STYLE]):
        figure = Figure(figsize=(8.4, 2.9), layout="constrained")
        axes = figure.subplots(1, 3, sharex=True)
        for variant, (colour, marker) in looks.items():
            own = training[training["variant"] == variant].sort_values("step")
            for axis, column, style in (
                (axes[0], "nudged_compliance", "-"),
                (axes[0], "clean_compliance", (0, (4, 2))),
                (axes[1], "proxy", "-"),
                (axes[2], "probe_auroc", "-"),
            ):
                axis.plot(own["step"], own[column], color=colour, marker=marker, linestyle=style, label=variant)
        for axis, title in zip(axes, ("compliance", "judge-free proxy, nats", "AUROC of base's probe"), strict=True):
            axis.set_title(title)
            axis.set_xlabel("step")
            axis.fmt_xdata = "step {:g}".format
        axes[0].set_ylim(-0.03, 1.04)
        axes[2].set_ylim(-0.03, 1.04)
        handles = [
            Line2D([], [], color=colour, marker=marker, label=variant) for variant, (colour, marker) in looks.items()
        ]
        handles += [
            Line2D([], [], color="#666666", label="under the nudge"),
            Line2D([], [], color="#666666", linestyle=(0, (4, 2)), label="when asked"),
        ]
        figures.add_legend(figure, handles)
        figures.plain_text(figure)
    return figure
