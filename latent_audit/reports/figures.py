"""Figures of an audit, by matplotlib's object API: no pyplot, no window, no global state left behind."""

import io
import itertools
import pathlib
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from latent_audit import text as texts
from latent_audit.errors import InputError
from latent_audit.reports.page import hover
from latent_audit.runtime import files

# Okabe and Ito's palette, told apart under the common forms of colour blindness; markers repeat it for grey
# print.
_FIXED = {"base": ("#0072B2", "o"), "dissociated": ("#D55E00", "s"), "harmful": ("#CC79A7", "^")}
_OTHERS = (("#009E73", "D"), ("#56B4E9", "v"), ("#E69F00", "P"), ("#000000", "X"))
SIZE, TITLE_SIZE = 8.5, 9.5  # points; a page draws 1.2 to 1.5 pixels a point
STYLE = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so every machine draws the same letters
    "font.size": SIZE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.titlesize": TITLE_SIZE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "hatch.linewidth": 0.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "svg.fonttype": "path",
}
_MEASURES = ("lvs", "lvs_lo", "lvs_hi", "asr", "asr_lo", "asr_hi")
_COLUMNS = ("exp", "variant", "layer_idx", "budget", "attack", "aggregated", "fell", *_MEASURES)
_NAMES = {"pgd": "PGD", "random": "uniform noise, same bound", "random_l2": "noise of the same L2 norm"}
_DASHED = (0, (4, 2))
_WEAK = 0.9  # share of prompts whose loss must fall for an attack to count as one
_NOTE = "\nnot aggregated: from there a delta on the prompt reaches one generated token only"
SMALL = 8.0  # nothing is smaller
BEYOND: dict[str, Any] = {"color": "#C4C4C4", "marker": "o", "markersize": 11, "linestyle": "none", "zorder": 1}
BEYOND_LABEL = "beyond the model's language, not its safety"
_LONGEST = 80  # characters of a name in a legend


def lvs_by_depth(
    table: pd.DataFrame,
    *,
    attack: str = "pgd",
    control: str = "random",
    aggregate: str = "median",
    blocks: int | None = None,
) -> Figure:
    """LVS (top) and attack success rate (bottom) by depth, one column per budget, one line per variant.

    `table`: the metrics table (pandas DataFrame), of which the rows with exp 'lvs' are drawn. Solid line and
    band: `attack` with its interval; dashed: `control`; hatched: states kept out of the aggregates, joined to
    no line; a cross: states where the attack lowered its loss on less than 90% of the prompts; a grey disc: cells
    whose column beyond_language, if there is one, is True. `aggregate` only names the LVS aggregate on its axis;
    `blocks`: of the model, all of which stand on the axis of depth (None: up to the last state attacked).
    Raises InputError when columns or rows are missing. Source: docs/method.md section 1.
    """
    rows = _attacked_rows(table, attack)
    budgets = sorted(rows["budget"].unique())
    looks = looks_of(list(dict.fromkeys(rows["variant"])))
    # The style context makes the bytes independent of the user's own matplotlibrc.
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(max(6.6, 0.9 + 2.45 * len(budgets)), 5.4), layout="constrained")
        axes = figure.subplots(2, len(budgets), sharex=True, sharey="row", squeeze=False)
        for column, budget in enumerate(budgets):
            at_budget = rows[rows["budget"] == budget]
            for axis, measure in zip(axes[:, column], ("lvs", "asr"), strict=True):
                _hatch_excluded(axis, at_budget)
                for variant, look in looks.items():
                    own = at_budget[at_budget["variant"] == variant]
                    _draw(axis, own, measure, look, attack, control, names_of(looks)[variant])
            axes[0, column].set_title(f"budget {budget:g}")
        _scale(axes, rows, aggregate, blocks or 0)
        _legend(figure, rows, looks, attack, control)
        plain_text(figure)
    return figure


def plain_text(figure: Figure) -> None:
    """Take every text of a figure as it is, printable: a model's name may hold a dollar sign, which is no formula."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        # Set only where it differs: an axis whose ticks are given texts no longer makes its own.
        if (shown := texts.printable(text.get_text(), keep="\n")) != text.get_text():
            text.set_text(shown)


def states_axis(first: str, last: str) -> str:
    """The name of an axis of residual states, with what its ends are."""
    if first == last:
        return f"residual state: {_state(first)} alone"
    return f"residual state: from {_state(first)} to {_state(last)}, the last one looked at"


def _state(layer: str) -> str:
    return "emb (the embedding)" if state_of(layer) == 0 else f"{layer} (output of block {layer[1:]})"


def names_of(looks: Mapping[str, Any]) -> dict[str, str]:
    """Variant -> what a legend calls it: `base` alone is no pole beside others."""
    return {variant: "this model" if list(looks) == ["base"] else variant for variant in looks}


def name_panel(axis: Axes, name: str, inches: float) -> None:
    """The title of a panel some `inches` wide, over as many lines as it needs; foreign text comes out printable."""
    letters = int(inches * 72 / (0.62 * TITLE_SIZE))
    axis.set_title(textwrap.fill(texts.printable(name, most=_LONGEST), letters))


def add_legend(figure: Figure, handles: Sequence[Line2D | Patch]) -> None:
    """A legend above the axes, in as many columns as the figure holds, measured; the figure grows by what is beyond
    two rows, and a label that is wider than the figure runs over several lines."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    letters = int(figure.get_figwidth() * 72 / (0.72 * SIZE)) - 8
    for handle in handles:
        shown = texts.printable(str(handle.get_label()), most=_LONGEST)
        handle.set_label(textwrap.fill(shown, max(12, letters)) if len(shown) > letters else shown)
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(handles=list(handles), loc="outside upper center", ncols=columns, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
        if columns == 1 or legend.get_window_extent(renderer).width <= 0.98 * figure.bbox.width:
            break
        legend.remove()
    height = legend.get_window_extent(renderer).height / figure.dpi
    figure.set_figheight(figure.get_figheight() + max(0.0, height - 0.5))


def save_figure(figure: Figure, directory: str | pathlib.Path, name: str) -> str:
    """Write `name`.png (200 dpi) and `name`.svg into `directory`, return the SVG for inlining into HTML.

    The same figure gives the same bytes. The returned text has no XML prolog, no namespace addresses and ids
    that start with `name`, so several figures can stand in one page; hovering over it tells the points' numbers. Raises
    OSError when the disk refuses.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    png, svg = io.BytesIO(), io.StringIO()
    with matplotlib.style.context(["default", STYLE, {"svg.hashsalt": name}]):
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(svg, format="svg", metadata=no_metadata)
        rings = hover.rings(figure)
    files.write_bytes(directory / f"{name}.png", png.getvalue())
    files.write_text(directory / f"{name}.svg", svg.getvalue())
    return _inline(svg.getvalue(), name).replace("</svg>", f"{rings}</svg>")


def _inline(svg: str, name: str) -> str:
    # Comments repeat every text, names of others among them.
    svg = re.sub(r"<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL).rstrip()
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg, count=2).replace("xlink:href=", "href=")
    # The page draws it by its width in points, so that letters have one size in all figures.
    points = re.search(r'width="([\d.]+)pt"', svg)
    svg = re.sub(r'\s(?:width|height)="[\d.]+pt"', "", svg, count=2)
    # A hundredth of a point is finer than any screen; scales, which end on a bracket, keep all their digits.
    svg = re.sub(r"(\d\.\d\d)\d+(?=[\s\"])", r"\1", svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    svg = svg.replace("<svg", f'<svg style="--points: {float(points[1]) if points else 500:.0f}"', 1)
    prefix = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    return svg.replace('href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")


def _attacked_rows(table: pd.DataFrame, attack: str) -> pd.DataFrame:
    missing = [column for column in _COLUMNS if column not in table.columns]
    if missing:
        raise InputError(f"lvs_by_depth: the metrics table lacks the columns {missing}")
    rows = table[table["exp"] == "lvs"].copy()
    if not (rows["attack"] == attack).any():
        raise InputError(f"lvs_by_depth: the metrics table has no row with exp 'lvs' and attack {attack!r}")
    rows["state"] = rows["layer_idx"].astype(int) + 1
    rows["budget"] = rows["budget"].astype(float)
    rows["aggregated"] = rows["aggregated"].astype(bool)
    return rows.sort_values("state", kind="stable")


def looks_of(variants: list[str]) -> dict[str, tuple[str, str]]:
    """(colour, marker) of each variant: the named three always alike, the others in order of appearance."""
    others = itertools.cycle(_OTHERS)
    return {variant: _FIXED.get(variant) or next(others) for variant in variants}


def _draw(
    axis: Axes, rows: pd.DataFrame, measure: str, look: tuple[str, str], attack: str, control: str, name: str
) -> None:
    colour, marker = look
    lo, hi = f"{measure}_lo", f"{measure}_hi"
    attacked, noise = rows[rows["attack"] == attack], rows[(rows["attack"] == control) & rows["aggregated"]]
    inside = attacked[attacked["aggregated"]]
    every = max(1, round(len(inside) / 12))  # a dozen markers tell the lines apart, 80 would hide them
    axis.fill_between(inside["state"], inside[lo], inside[hi], color=colour, alpha=0.15, linewidth=0)
    told, noted = (f"{name}, {_NAMES.get(kind, kind)}" for kind in (attack, control))
    axis.plot(inside["state"], inside[measure], color=colour, marker=marker, markevery=every, zorder=3, label=told)
    axis.plot(noise["state"], noise[measure], color=colour, linestyle=_DASHED, linewidth=1.1, zorder=2, label=noted)
    # A band needs two states: one state alone, and one outside the aggregates, carries its interval as a bar.
    if len(inside) == 1:
        _draw_with_bar(axis, inside, measure, colour, marker, face=colour)
    _draw_with_bar(axis, attacked[~attacked["aggregated"]], measure, colour, marker, face="white")
    beyond = attacked[are_beyond_language(attacked)]
    axis.plot(beyond["state"], beyond[measure], **BEYOND)
    weak = attacked[attacked["fell"] < _WEAK]
    axis.plot(weak["state"], weak[measure], color="black", marker="x", linestyle="none", zorder=4)


def are_beyond_language(rows: pd.DataFrame) -> np.ndarray:
    """bool [N]: which rows have a True in the column beyond_language; none where there is no such column."""
    column = rows.get("beyond_language", pd.Series(False, rows.index))
    # Empty where no noise was drawn.
    return (column == 1).to_numpy(bool)


def _draw_with_bar(axis: Axes, rows: pd.DataFrame, measure: str, colour: str, marker: str, *, face: str) -> None:
    ends = rows[[f"{measure}_lo", f"{measure}_hi"]].to_numpy(float).T
    lengths = np.abs(ends - rows[measure].to_numpy(float))
    style: dict[str, Any] = {"color": colour, "marker": marker, "markerfacecolor": face, "elinewidth": 1.0}
    axis.errorbar(rows["state"], rows[measure], lengths, linestyle="none", zorder=3, **style)


def _hatch_excluded(axis: Axes, rows: pd.DataFrame) -> None:
    for state in rows.loc[~rows["aggregated"], "state"].unique():
        axis.axvspan(state - 0.5, state + 0.5, facecolor="#F1F1F1", edgecolor="#CFCFCF", hatch="////", linewidth=0)


def all_states(axis: Axes, last: int, *, names: int = 7) -> None:
    """An axis of the states 0 to `last`: a tick for each, some `names` names, and what hovering calls a place."""
    ticks = _ticks(last, names)
    axis.set_xlim(-0.5, last + 0.5)
    axis.set_xticks(ticks, list(map(state_name, ticks)))
    axis.set_xticks(range(last + 1), minor=True)
    axis.tick_params(length=2.5)
    axis.tick_params(axis="x", which="minor", length=1.5)
    axis.fmt_xdata = state_name


def state_of(layer: str) -> int:
    """The number of a residual state from the name that tables have for it."""
    return 0 if layer in ("emb", "embedding") else int(layer[1:]) + 1


def state_name(state: float) -> str:
    """What a residual state is called on an axis."""
    return "emb" if round(state) == 0 else f"L{round(state) - 1}"


def _scale(axes: np.ndarray, rows: pd.DataFrame, aggregate: str, blocks: int) -> None:
    first, last = int(rows["state"].min()), int(rows["state"].max())
    for axis in axes.flat:
        all_states(axis, max(last, blocks))
    for axis in axes[1]:
        axis.fmt_ydata = texts.percent
    highest = np.nanmax(rows[["lvs", "lvs_hi"]].to_numpy(float), initial=0.0)
    top = highest if highest > 0 else 1.0
    axes[0, 0].set_ylim(-0.03 * top, 1.04 * top)
    axes[1, 0].set_ylim(-0.03, 1.04)
    axes[1, 0].set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    axes[0, 0].set_ylabel(f"LVS ({aggregate})")
    axes[1, 0].set_ylabel("attack success rate")
    note = states_axis(state_name(first), state_name(last))
    if last < blocks:
        note += f"; the model goes on to L{blocks - 1}"
    figure = axes[0, 0].get_figure()
    figure.supxlabel(note + ("" if rows["aggregated"].all() else _NOTE), fontsize=SIZE, color="#222222")


def _ticks(last: int, names: int) -> list[int]:
    """States to name: the embedding, round block numbers, and the last block; as many as fit under a panel."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, last) if last <= names * step)
    places = range(1 if step == 1 else 1 + step, last + 1, step)
    return [0, *(state for state in places if last - state >= 0.75 * step), last]


def _legend(figure: Figure, rows: pd.DataFrame, looks: dict, attack: str, control: str) -> None:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colour, marker=marker, label=names_of(looks)[variant])
        for variant, (colour, marker) in looks.items()
    ]
    handles.append(Line2D([], [], color="#666666", label=f"{_NAMES.get(attack, attack)}, band: 95% interval"))
    handles.append(
        Line2D([], [], color="#666666", linestyle=_DASHED, linewidth=1.1, label=_NAMES.get(control, control))
    )
    if (rows.loc[rows["attack"] == attack, "fell"] < _WEAK).any():
        handles.append(Line2D([], [], color="black", marker="x", linestyle="none", label="loss did not fall"))
    if are_beyond_language(rows).any():
        handles.append(Line2D([], [], label=BEYOND_LABEL, **BEYOND))
    if not rows["aggregated"].all():
        handles.append(Patch(facecolor="#F1F1F1", edgecolor="#CFCFCF", hatch="////", label="not aggregated"))
    add_legend(figure, handles)
