"""Figures of the audit card: two axes, success by budget, steering by layer, projection by depth.

Style and saving as in reports.figures; tables are those of audit.csv. Controls are dashed everywhere.
"""

from typing import Any

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from latent_audit.reports import figures
from latent_audit.text import percent

_PERCENT = [0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"]
_DASHED = (0, (4, 2))


def two_axes(points: pd.DataFrame, *, refusing: float = 0.9, broken: float = 0.5) -> Figure:
    """Behavioural safety (refusal when asked) against robustness under intervention, one point per variant.

    `points`: DataFrame with variant, refusal, refusal_lo, refusal_hi, robustness, robustness_lo, robustness_hi; bars
    are 95 % intervals. Shaded, lower right, is the corner that matters: refuses at least `refusing` when asked, is
    broken more often than `broken` from inside.
    """
    looks = figures.looks_of(list(points["variant"]))
    with matplotlib.style.context(["default", figures.STYLE]):
        figure = Figure(figsize=(4.2, 4.0), layout="constrained")
        axis = figure.subplots()
        corner = (refusing, -0.05), 1.05 - refusing, 1 - broken + 0.05
        axis.add_patch(Rectangle(*corner, facecolor="#F6D9D9", linewidth=0, zorder=0))
        words: dict[str, Any] = {"fontsize": figures.SMALL, "ha": "right"}
        # In the middle, where points seldom lie: most hold altogether, or not at all.
        hollow = "shaded: refuses when asked,\nbreaks from inside"
        axis.text(refusing - 0.02, 1 - broken - 0.02, hollow, color="#8A3B3B", va="top", **words)
        axis.text(refusing - 0.02, 1.02, "right: holds both ways", color="#555555", va="top", **words)
        names = figures.names_of(looks)
        for place, line in enumerate(points.itertuples()):
            colour, marker = looks[line.variant]
            error = [
                [[line.refusal - line.refusal_lo], [line.refusal_hi - line.refusal]],
                [[line.robustness - line.robustness_lo], [line.robustness_hi - line.robustness]],
            ]
            drawn = axis.errorbar(
                line.refusal,
                line.robustness,
                xerr=error[0],
                yerr=error[1],
                color=colour,
                marker=marker,
                # Smaller from one to the next: what lies under another is seen as its rim.
                markersize=8 + 3 * (len(points) - 1 - place),
                elinewidth=1.2,
                capsize=2.5,
                zorder=3,
            )
            drawn.lines[0].set_label(names[line.variant])
        axis.set_xlim(-0.05, 1.05)
        axis.set_ylim(-0.05, 1.05)
        axis.set_xticks(*_PERCENT)
        axis.set_yticks(*_PERCENT)
        axis.grid(True, axis="both")
        axis.set_xlabel("refusal of harmful requests when asked")
        axis.set_ylabel("1 - worst attack success from inside")
        axis.fmt_xdata = axis.fmt_ydata = percent
        handles = [
            Line2D([], [], color=colour, marker=marker, linestyle="none", markersize=8, label=names[variant])
            for variant, (colour, marker) in looks.items()
        ]
        figures.add_legend(figure, handles)
        figures.plain_text(figure)
    return figure


def by_budget(table: pd.DataFrame, *, reference: float, title: str) -> Figure:
    """Attack success by budget, one panel per layer, one line per variant with its band; dotted: the reference budget.

    `table`: lines of audit.csv with variant, layer, budget, value, lo, hi, control; a grey disc marks those whose
    beyond_language, if they have one, is True.
    """
    layers = list(dict.fromkeys(table["layer"]))
    looks = figures.looks_of(list(dict.fromkeys(table["variant"])))
    with matplotlib.style.context(["default", figures.STYLE]):
        figure = Figure(figsize=(max(4.6, 0.9 + 2.9 * len(layers)), 3.3), layout="constrained")
        axes = figure.subplots(1, len(layers), sharex=True, sharey=True, squeeze=False)[0]
        for axis, layer in zip(axes, layers, strict=True):
            here = table[table["layer"] == layer]
            axis.axvline(reference, color="#999999", linestyle=":", linewidth=1.0, zorder=1)
            for variant, look in looks.items():
                own = here[here["variant"] == variant].sort_values("budget")
                _curve(axis, own, "budget", *look, figures.names_of(looks)[variant])
            axis.set_xscale("log")
            axis.set_xticks(sorted(set(here["budget"])), [f"{budget:g}" for budget in sorted(set(here["budget"]))])
            axis.minorticks_off()
            axis.set_title(f"{title}, {layer}")
            axis.set_xlabel("budget, of the activation norm")
            axis.fmt_xdata, axis.fmt_ydata = "budget {:g}".format, percent
        _share_axis(axes[0], "attack success rate")
        beyond = bool(figures.are_beyond_language(table).any())
        _legend(figure, looks, "random direction of the same length", beyond=beyond)
    return figure


def survival(table: pd.DataFrame, *, reference: float) -> Figure:
    """Share of prompts broken at or below each budget, one line per variant with its band; dotted: the reference.

    `table`: lines of audit.csv with variant, budget, value, lo, hi.
    """
    looks = figures.looks_of(list(dict.fromkeys(table["variant"])))
    with matplotlib.style.context(["default", figures.STYLE]):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        axis = figure.subplots()
        axis.axvline(reference, color="#999999", linestyle=":", linewidth=1.0, zorder=1)
        for variant, (color, marker) in looks.items():
            here = table[table["variant"] == variant].sort_values("budget")
            budgets, value, lo, hi = (here[name].to_numpy(float) for name in ("budget", "value", "lo", "hi"))
            style: dict[str, Any] = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.6}
            axis.step(budgets, value, where="post", label=figures.names_of(looks)[variant], **style)
            axis.fill_between(budgets, lo, hi, step="post", color=color, alpha=0.14, linewidth=0)
        axis.set_xscale("log")
        shown = sorted(set(table["budget"]))[::2]
        axis.set_xticks(shown, [f"{budget:g}" for budget in shown], rotation=30)
        axis.minorticks_off()
        axis.set_ylim(-0.02, 1.02)
        axis.set_xlabel("budget, of the state's largest coordinate")
        axis.set_ylabel("share of prompts broken")
        axis.fmt_xdata, axis.fmt_ydata = "budget {:g}".format, percent
        _legend(figure, looks, "", beyond=False)
    return figure


def steering_by_layer(table: pd.DataFrame, *, blocks: int | None = None) -> Figure:
    """Compliance under steering by layer, one panel per fraction, one line per variant.

    `table`: lines of audit.csv with variant, layer, budget (the fraction), value, lo, hi, control; `blocks`: of the
    model, all of which stand on the axis (None: up to the last layer steered).
    """
    fractions = sorted(fraction for fraction in set(table["budget"]) if fraction > 0)
    layers = list(dict.fromkeys(table["layer"]))
    looks = figures.looks_of(list(dict.fromkeys(table["variant"])))
    with matplotlib.style.context(["default", figures.STYLE]):
        figure = Figure(figsize=(max(5.2, 0.9 + 1.9 * len(fractions)), 3.1), layout="constrained")
        axes = figure.subplots(1, len(fractions), sharex=True, sharey=True, squeeze=False)[0]
        for axis, fraction in zip(axes, fractions, strict=True):
            here = table[table["budget"] == fraction]
            for variant, look in looks.items():
                own = here[here["variant"] == variant].assign(place=lambda rows: rows["layer"].map(figures.state_of))
                _curve(axis, own.sort_values("place"), "place", *look, figures.names_of(looks)[variant])
            axis.set_title(f"fraction {fraction:g}")
            figures.all_states(axis, max([blocks or 0, *map(figures.state_of, layers)]), names=5)
            axis.fmt_ydata = percent
            axis.set_xlabel(f"layer, steered: {layers[0]} to {layers[-1]}")
        _share_axis(axes[0], "compliance")
        beyond = bool(figures.are_beyond_language(table).any())
        _legend(figure, looks, "random direction of the same length", beyond=beyond)
    return figure


def projection_by_depth(table: pd.DataFrame) -> Figure:
    """Projection of mean states on the way from base (0) to the harmful pole (1), one line per condition, with bands.

    `table`: lines of audit.csv with variant (the condition), state, value, lo, hi.
    """
    looks = figures.looks_of(list(dict.fromkeys(table["variant"])))
    with matplotlib.style.context(["default", figures.STYLE]):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axis = figure.subplots()
        for variant, (colour, marker) in looks.items():
            own = table[table["variant"] == variant].sort_values("state")
            style = "-" if "+" not in variant else _DASHED
            axis.fill_between(own["state"], own["lo"], own["hi"], color=colour, alpha=0.12, linewidth=0)
            axis.plot(own["state"], own["value"], color=colour, marker=marker, linestyle=style, label=variant)
        for level in (0, 1):
            axis.axhline(level, color="#999999", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        states = sorted(set(table["state"]))
        figures.all_states(axis, states[-1], names=10)
        axis.set_xlabel(figures.states_axis(*map(figures.state_name, (states[0], states[-1]))))
        axis.set_ylabel("projection")
        handles = [
            Line2D([], [], color=colour, marker=marker, linestyle="-" if "+" not in variant else _DASHED, label=variant)
            for variant, (colour, marker) in looks.items()
        ]
        figures.add_legend(figure, handles)
        figures.plain_text(figure)
    return figure


def _curve(axis: Axes, rows: pd.DataFrame, column: str, colour: str, marker: str, name: str) -> None:
    axis.fill_between(rows[column], rows["lo"], rows["hi"], color=colour, alpha=0.15, linewidth=0)
    axis.plot(rows[column], rows["value"], color=colour, marker=marker, zorder=3, label=name)
    control: dict[str, Any] = {"color": colour, "linestyle": _DASHED, "linewidth": 1.1, "zorder": 2}
    axis.plot(rows[column], rows["control"], label=f"{name}, control", **control)
    beyond = rows[figures.are_beyond_language(rows)]
    axis.plot(beyond[column], beyond["value"], **figures.BEYOND)


def _share_axis(axis: Axes, label: str) -> None:
    axis.set_ylim(-0.03, 1.04)
    axis.set_yticks(*_PERCENT)
    axis.set_ylabel(label)


def _legend(figure: Figure, looks: dict[str, tuple[str, str]], control: str, *, beyond: bool) -> None:
    names = figures.names_of(looks)
    handles = [
        Line2D([], [], color=colour, marker=marker, label=names[variant]) for variant, (colour, marker) in looks.items()
    ]
    if control:
        handles.append(Line2D([], [], color="#666666", linestyle=_DASHED, linewidth=1.1, label=control))
    if beyond:
        handles.append(Line2D([], [], label=figures.BEYOND_LABEL, **figures.BEYOND))
    figures.add_legend(figure, handles)
    figures.plain_text(figure)
