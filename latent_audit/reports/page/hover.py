"""What hovering says over a figure's points: an unseen ring round each, with its numbers, laid over the drawn SVG."""

import html
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from latent_audit import text as texts

_POINTS = 72  # an inch, as in SVG
_MOST = 4000  # points of one figure; more would be a page of megabytes


def rings(figure: Figure) -> str:
    """SVG circles of 5 points radius over every finite point of every line, each with a title; '' for none.

    figure: drawn before, so that its layout stands. A line's label is its name where it has one; Axes.fmt_xdata and
    fmt_ydata, where set, say how its numbers are told. Lines across a whole panel are left out.
    """
    height, found = figure.get_figheight() * _POINTS, []
    for axis in figure.axes:
        for line in axis.get_lines():
            if line.get_transform() != axis.transData or not line.get_visible():
                continue
            xy = np.asarray(line.get_xydata(), float)
            xy = xy[np.isfinite(xy).all(axis=1)]
            for (x, y), (right, up) in zip(xy, axis.transData.transform(xy) * _POINTS / figure.dpi, strict=True):
                inside = axis.get_xlim()[0] <= x <= axis.get_xlim()[1] and axis.get_ylim()[0] <= y <= axis.get_ylim()[1]
                if inside:
                    told = _escaped(f"{_name(line)}{_told(axis, x, y)}")
                    found.append(
                        f'<circle cx="{right:.1f}" cy="{height - up:.1f}" r="5"><title>{told}</title></circle>'
                    )
    if not found or len(found) > _MOST:
        return ""
    return f'<g class="hover" fill="none" pointer-events="all">{"".join(found)}</g>'


def _name(line: Line2D) -> str:
    label = str(line.get_label())
    return "" if label.startswith("_") else f"{label}: "


def _told(axis: Axes, x: float, y: float) -> str:
    panel = f"{axis.get_title()}, " if axis.get_title() else ""
    place = _number(x, axis.fmt_xdata, axis.format_xdata)
    value = _number(y, axis.fmt_ydata, axis.format_ydata)
    return f"{panel}{place}: {value}" if value else f"{panel}{place}"


def _number(value: float, own: Callable[[float], str] | None, general: Callable[[float], str]) -> str:
    return own(value) if own is not None else general(value).strip() or f"{value:.4g}"


def _escaped(told: str) -> str:
    # As entities, since a page refuses figures that hold an address or a handler, whoever wrote a model's name.
    return html.escape(texts.printable(told)).replace("=", "&#61;").replace("://", "&#58;//")
