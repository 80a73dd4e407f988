"""The figure of a sweep; style and saving as in reports.figures."""

import matplotlib.style
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from latent_audit.reports import figures


def by_field(table: pd.DataFrame, *, fields: list[str], measure: str) -> Figure:
    """Mean of a measure against the first field, one line per variant, one panel per value of the second field.

    `table`: DataFrame with the fields (as text), mean, min, max, and variant where there are several. Bands run from
    the least to the most. Further fields are averaged over, as the title says.
    """
    first, second = fields[0], fields[1] if len(fields) > 1 else None
    panels = list(dict.fromkeys(table[second])) if second else [None]
    variants = list(dict.fromkeys(table["variant"])) if "variant" in table else [measure]
    looks = figures.looks_of(variants)
    values = list(dict.fromkeys(table[first]))
    with matplotlib.style.context(["default", figures.STYLE]):
        figure = Figure(figsize=(max(4.8, 0.9 + 2.8 * len(panels)), 3.4), layout="constrained")
        axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            here = table if second is None else table[table[second] == panel]
            for variant, (colour, marker) in looks.items():
                own = here[here["variant"] == variant] if "variant" in table else here
                averaged = own.groupby(first, sort=False)[["mean", "min", "max"]].mean().reindex(values)
                axis.fill_between(
                    range(len(values)), averaged["min"], averaged["max"], color=colour, alpha=0.12, linewidth=0
                )
                axis.plot(range(len(values)), averaged["mean"], color=colour, marker=marker, label=variant)
            axis.fmt_xdata = lambda place: f"{first} {values[round(place)]}"
            axis.set_xticks(range(len(values)), values)
            axis.set_xlabel(first)
            if second:
                figures.name_panel(axis, f"{second} = {panel}", 2.8)
        axes[0].set_ylabel(measure if len(fields) < 3 else f"{measure}, averaged over {', '.join(fields[2:])}")
        handles = [
            Line2D([], [], color=colour, marker=marker, label=variant) for variant, (colour, marker) in looks.items()
        ]
        figures.add_legend(figure, handles)
        figures.plain_text(figure)
    return figure
