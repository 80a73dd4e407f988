"""Abliteration by layer: how much each way bypasses and what it costs; style and saving as in reports.figures."""

from typing import Any

import matplotlib.style
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from latent_audit.errors import InputError
from latent_audit.reports import figures

_COLUMNS = ("way", "layer_idx", "split", "bypass", "kl", "chosen")
# KL below this is drawn on the axis: it does not matter by how much a thousandth is undercut.
_KL_FLOOR = 1e-4


def bypass_by_layer(table: pd.DataFrame, *, max_kl: float) -> Figure:
    """Bypass (left) and KL on harmless prompts (right) by layer, one line per way; chosen candidates are ringed.

    `table`: the table of abliterate.csv (pandas DataFrame), of which validation rows with a layer are drawn. Of the
    positions and strengths at a layer the one with the largest bypass within `max_kl` (dashed) is shown, or the one
    with the smallest KL where none is within. Raises InputError when columns or rows are missing.
    """
    missing = [column for column in _COLUMNS if column not in table.columns]
    rows = table if missing else table[(table["split"] == "validation") & table["layer_idx"].notna()]
    if missing or rows.empty:
        raise InputError(f"bypass_by_layer: the table lacks {missing or 'validation rows with a layer'}")
    if rows["bypass"].isna().any():
        raise InputError("bypass_by_layer: a row has no bypass")
    rows = rows.assign(
        layer_idx=rows["layer_idx"].astype(int),
        drawn_kl=rows["kl"].clip(lower=_KL_FLOOR),
        chosen=rows["chosen"].astype(bool),
    )
    ways = list(dict.fromkeys(rows["way"]))
    # Names of poles bring all seven looks into play: the ways need five.
    palette = figures.looks_of(["base", "dissociated", "harmful", *ways]).values()
    looks = dict(zip(ways, palette, strict=False))
    with matplotlib.style.context(["default", figures.STYLE]):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2, sharex=True)
        for way, (colour, marker) in looks.items():
            own = rows[rows["way"] == way]
            best = own.loc[[_best(layer, max_kl) for _, layer in own.groupby("layer_idx")]]
            chosen = own[own["chosen"]]
            for axis, column in ((left, "bypass"), (right, "drawn_kl")):
                axis.plot(best["layer_idx"], best[column], color=colour, marker=marker, label=way)
                axis.plot(
                    chosen["layer_idx"],
                    chosen[column],
                    color="black",
                    marker="o",
                    markersize=9,
                    fillstyle="none",
                    linestyle="none",
                    zorder=4,
                )
        left.set_ylim(-0.03, 1.04)
        left.set_ylabel("bypass")
        right.set_yscale("log")
        right.yaxis.set_major_formatter("{x:g}")
        right.yaxis.set_minor_formatter("")
        right.set_ylabel("KL on harmless prompts")
        right.axhline(max_kl, color="#999999", linestyle=(0, (4, 3)), linewidth=0.8, zorder=1)
        for axis in (left, right):
            axis.fmt_xdata, axis.fmt_ydata = "L{:.0f}".format, "{:.3g}".format
            axis.set_xlabel(f"layer of the direction, up to L{rows['layer_idx'].max()}")
            axis.xaxis.get_major_locator().set_params(integer=True)
        handles = [Line2D([], [], color=colour, marker=marker, label=way) for way, (colour, marker) in looks.items()]
        handles.append(
            Line2D([], [], color="black", marker="o", markersize=9, fillstyle="none", linestyle="none", label="chosen")
        )
        figures.add_legend(figure, handles)
        figures.plain_text(figure)
    return figure


def _best(layer: pd.DataFrame, max_kl: float) -> Any:
    """Row label of the candidate that stands for one way at one layer."""
    within = layer[layer["kl"] <= max_kl]
    return within["bypass"].idxmax() if len(within) else layer["kl"].idxmin()
