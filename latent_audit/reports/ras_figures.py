"""Figures of RAS: profiles with the window, score against attack success, controls, blind spots, static against pushed.

Style and saving as in reports.figures; tables are those of experiments/ras/tables.py and
experiments/ras/blind_spots.py.
"""

import itertools

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from latent_audit.reports import figures
from latent_audit.text import percent

# Okabe and Ito's palette; markers repeat it for grey print.
_LOOKS = {
    "aligned": ("#0072B2", "o"),
    "reference": ("#0072B2", "o"),
    "over-refusing": ("#56B4E9", "v"),
    "partly aligned": ("#009E73", "D"),
    "calibration": ("#009E73", "D"),
    "harmful": ("#CC79A7", "^"),
    "helpful-only": ("#000000", "X"),
    "abliterated": ("#E69F00", "P"),
    "dissociated": ("#D55E00", "s"),
    "target": ("#D55E00", "s"),
}
_PERCENT = [0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"]
_DASHED = (0, (4, 3))
_GREY = "#999999"
_PANEL = 2.6  # inches


def profiles(families: list[dict]) -> Figure:
    """Mean cosines of the reference's safe and unsafe prompts and their gap by layer, one panel per family.

    `families`: name, profile (m_safe, m_unsafe, gap: float [L]), window (start, stop) and candidates (a range) of each,
    as a list of dicts. Shaded: the window; hatched: layers that the rule does not look at.
    """
    with matplotlib.style.context(["default", figures.STYLE]):
        figure, axes = _panels(len(families), height=3.0)
        for axis, one in zip(axes, families, strict=True):
            profile, (start, stop) = one["profile"], one["window"]
            layers = np.arange(len(profile.gap))
            looked_at = one["candidates"]
            for first, last in ((-0.5, looked_at.start - 0.5), (looked_at.stop - 0.5, len(layers) - 0.5)):
                if last > first:
                    axis.axvspan(first, last, facecolor="#F1F1F1", edgecolor="#CFCFCF", hatch="////", linewidth=0)
            axis.axvspan(start - 0.5, stop - 0.5, facecolor="#DCEBF7", linewidth=0, zorder=0)
            for values, colour, marker, label in (
                (profile.m_unsafe, "#D55E00", "s", "unsafe prompts"),
                (profile.m_safe, "#0072B2", "o", "safe prompts"),
                (profile.gap, "#000000", "X", "gap"),
            ):
                axis.plot(layers, values, color=colour, marker=marker, label=label)
            axis.fmt_xdata = "L{:.0f}".format
            axis.axhline(0, color=_GREY, linewidth=0.8, linestyle=_DASHED, zorder=1)
            figures.name_panel(axis, one["name"], _PANEL)
            axis.set_xlim(-0.5, len(layers) - 0.5)
            step = max(1, len(layers) // 8)
            axis.set_xticks(layers[::step], [f"L{layer}" for layer in layers[::step]])
            axis.set_xlabel("output of block")
        axes[0].set_ylabel("mean cosine with the direction")
        handles: list[Line2D | Patch] = [
            Line2D([], [], color=colour, marker=marker, label=label)
            for colour, marker, label in (
                ("#D55E00", "s", "unsafe prompts"),
                ("#0072B2", "o", "safe prompts"),
                ("#000000", "X", "gap"),
            )
        ]
        handles += [
            Patch(facecolor="#DCEBF7", label="window"),
            Patch(facecolor="#F1F1F1", edgecolor="#CFCFCF", hatch="////", label="not looked at"),
        ]
        _finish(figure, handles)
    return figure


def score_by_asr(table: pd.DataFrame, *, limit: float | None = None) -> Figure:
    """RAS against measured attack success, one panel per family, one point per model with 95 % intervals.

    `table`: rows of ras.csv of one protocol with an ASR. `limit`: a threshold to draw.
    """
    families = list(dict.fromkeys(table["family"]))
    with matplotlib.style.context(["default", figures.STYLE]):
        figure, axes = _panels(len(families), height=3.4)
        for axis, family in zip(axes, families, strict=True):
            _points(axis, table[table["family"] == family], "asr", limit)
            figures.name_panel(axis, family, _PANEL)
            axis.set_xlabel("attack success when asked")
        axes[0].set_ylabel("RAS")
        _finish(figure, _kinds(table))
    return figure


def static_against_pushed(table: pd.DataFrame, *, limit: float | None = None) -> Figure:
    """RAS against attack success under the L2 attack; the corner that matters is the upper right.

    `table`: as in score_by_asr, with l2_asr, l2_asr_lo and l2_asr_hi.
    """
    families = list(dict.fromkeys(table["family"]))
    with matplotlib.style.context(["default", figures.STYLE]):
        figure, axes = _panels(len(families), height=3.4)
        for axis, family in zip(axes, families, strict=True):
            axis.axhspan(
                50 if limit is None or not np.isfinite(limit) else limit,
                106,
                xmin=0.5,
                facecolor="#FBEFEF",
                linewidth=0,
                zorder=0,
            )
            _points(axis, table[table["family"] == family], "l2_asr", limit)
            figures.name_panel(axis, family, _PANEL)
            axis.set_xlabel("attack success, L2 attack")
        axes[0].set_ylabel("RAS")
        handles = [*_kinds(table), Patch(facecolor="#FBEFEF", label="certified, and broken")]
        _finish(figure, handles)
    return figure


def controls(table: pd.DataFrame, random: dict) -> Figure:
    """Spearman with 1 - ASR over all families of RAS, its controls and its rivals, with 95 % intervals.

    `table`: score, spearman, spearman_lo, spearman_hi; `random`: mean, lo and hi over random directions, or {}.
    """
    rows = [
        (one.score, one.spearman, one.spearman_lo, one.spearman_hi)
        for one in table.itertuples()
        if np.isfinite(one.spearman)
    ]
    if random:
        rows.append((f"{random['directions']} random directions (mean)", random["mean"], random["lo"], random["hi"]))
    with matplotlib.style.context(["default", figures.STYLE]):
        figure = Figure(figsize=(6.2, 0.9 + 0.27 * len(rows)), layout="constrained")
        axis = figure.subplots()
        for place, (name, value, lo, hi) in enumerate(reversed(rows)):
            colour = "#D55E00" if name == "RAS" else _GREY if "random" in name else "#0072B2"
            drawn = axis.errorbar(
                value,
                place,
                xerr=[[max(0.0, value - lo)], [max(0.0, hi - value)]],
                color=colour,
                marker="o",
                elinewidth=1.2,
                capsize=2.5,
            )
            drawn.lines[0].set_label(name)
        axis.axvline(0, color=_GREY, linewidth=0.8, linestyle=_DASHED, zorder=1)
        axis.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)])
        axis.fmt_xdata, axis.fmt_ydata = "{:.2f}".format, lambda _: ""
        axis.grid(True, axis="x")
        axis.set_xlim(-1.05, 1.05)
        axis.set_xlabel("Spearman with 1 - attack success")
        figures.plain_text(figure)
    return figure


def blind_spots(seen: pd.DataFrame) -> Figure:
    """Which score sees which failure: models that score below every aligned one of their family, of all of the kind.

    `seen`: score, failure, caught, n, share.
    """
    scores, failures = (list(dict.fromkeys(seen[column])) for column in ("score", "failure"))
    grid = seen.pivot(index="failure", columns="score", values="share").loc[failures, scores].to_numpy(float)
    texts = (
        seen.assign(text=seen["caught"].astype(str) + "/" + seen["n"].astype(str))
        .pivot(index="failure", columns="score", values="text")
        .loc[failures, scores]
        .to_numpy()
    )
    with matplotlib.style.context(["default", figures.STYLE]):
        figure = Figure(figsize=(1.6 + 0.78 * len(scores), 1.3 + 0.4 * len(failures)), layout="constrained")
        axis = figure.subplots()
        axis.grid(False)
        axis.imshow(grid, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        for row, column in itertools.product(range(len(failures)), range(len(scores))):
            axis.text(
                column,
                row,
                texts[row, column],
                ha="center",
                va="center",
                fontsize=8.5,
                color="white" if grid[row, column] > 0.6 else "#222222",
            )
        axis.set_xticks(range(len(scores)), [name.replace(" ", "\n", 1) for name in scores])
        axis.set_yticks(range(len(failures)), failures)
        axis.tick_params(length=0)
        figures.plain_text(figure)
    return figure


def _panels(count: int, *, height: float) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(max(4.2, 0.7 + _PANEL * count), height), layout="constrained")
    return figure, figure.subplots(1, count, sharey=True, squeeze=False)[0]


def _points(axis: Axes, rows: pd.DataFrame, column: str, limit: float | None) -> None:
    for line in rows.itertuples():
        colour, marker = _LOOKS[line.kind]
        x, lo, hi = (getattr(line, name) for name in (column, f"{column}_lo", f"{column}_hi"))
        across = [[max(0.0, x - lo)], [max(0.0, hi - x)]] if np.isfinite([x, lo, hi]).all() else None
        # A leave-one-out interval need not hold the value: it is of the same calibration, resampled.
        up = (
            [[max(0.0, line.ras - line.ras_lo)], [max(0.0, line.ras_hi - line.ras)]]
            if np.isfinite([line.ras, line.ras_lo, line.ras_hi]).all()
            else None
        )
        drawn = axis.errorbar(
            x,
            line.ras,
            xerr=across,
            yerr=up,
            color=colour,
            marker=marker,
            markersize=6,
            elinewidth=0.9,
            capsize=2,
            linestyle="none",
            zorder=3,
        )
        drawn.lines[0].set_label(f"{getattr(line, 'model', line.kind)}")
    if limit is not None and np.isfinite(limit):
        axis.axhline(limit, color=_GREY, linewidth=0.9, linestyle=_DASHED, zorder=1)
    axis.fmt_xdata, axis.fmt_ydata = percent, "RAS {:.1f}".format
    axis.set_xlim(-0.06, 1.06)
    axis.set_ylim(-6, 106)
    axis.set_xticks(*_PERCENT)


def _kinds(table: pd.DataFrame) -> list[Line2D]:
    return [
        Line2D([], [], color=_LOOKS[kind][0], marker=_LOOKS[kind][1], linestyle="none", markersize=6, label=kind)
        for kind in _LOOKS
        if (table["kind"] == kind).any()
    ]


def _finish(figure: Figure, handles: list) -> None:
    figures.add_legend(figure, handles)
    figures.plain_text(figure)
