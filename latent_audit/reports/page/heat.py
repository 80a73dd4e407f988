"""A map of shares by residual state and budget, drawn as SVG: every block of the model, a hover text in every cell.

Colours are the page's own (style.css), so that light, dark and paper each have theirs; a share is an opacity, which is
lightness too and is told apart by every eye.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_SHORTEST, _LONGEST, _WIDTH = 8.0, 30.0, 304.0  # of a cell, and of all of them where they fit, in pixels
_HEIGHT, _LEFT, _TOP, _LETTER = 21.0, 46.0, 3.0, 6.2
_READABLE = 20.0  # a cell this wide holds its count
_STRONG = 0.85  # from here on a count is written in the colour of the paper


class Cell(NamedTuple):
    """share: 0 to 1; shown: text of a few letters in the cell; told: what hovering says; mark: '', 'beyond' (the
    model's language) or 'apart' (kept out of aggregates)."""

    share: float
    shown: str
    told: str
    mark: str = ""


@dataclass(frozen=True)
class Heat:
    """rows, columns: names from top to bottom and from left to right; cells: (row, column) -> Cell, those measured;
    what: the map in words; note: what must be known to read it, shown below."""

    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[str, str], Cell]
    what: str
    note: str = ""


def svg(heat: Heat) -> str:
    """The map as inline SVG, all text of others escaped; a cell that was not measured is drawn empty."""
    wide = min(_LONGEST, max(_SHORTEST, _WIDTH / max(1, len(heat.columns))))
    width, height = _LEFT + wide * len(heat.columns) + 4, _TOP + _HEIGHT * len(heat.rows) + 18
    parts = [
        f'<svg class="heat" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'role="img" aria-label="{html.escape(heat.what)}">'
    ]
    for row, name in enumerate(heat.rows):
        top = _TOP + _HEIGHT * row
        parts.append(f'<text class="axis" x="{_LEFT - 5:.1f}" y="{top + 14:.1f}" text-anchor="end">')
        parts.append(f"{html.escape(name)}</text>")
        for place, column in enumerate(heat.columns):
            parts.append(_cell(heat.cells.get((name, column)), f"{column}, {name}", _LEFT + wide * place, top, wide))
    below = _TOP + _HEIGHT * len(heat.rows) + 13
    for place in _named(heat.columns, wide):
        middle = _LEFT + wide * (place + 0.5)
        parts.append(f'<text class="axis" x="{middle:.1f}" y="{below:.1f}" text-anchor="middle">')
        parts.append(f"{html.escape(heat.columns[place])}</text>")
    return "".join([*parts, "</svg>"])


def _cell(cell: Cell | None, place: str, left: float, top: float, wide: float) -> str:
    box = f'x="{left + 0.5:.1f}" y="{top + 0.5:.1f}" width="{wide - 1:.1f}" height="{_HEIGHT - 1:.1f}"'
    if cell is None:
        return f'<g><title>{html.escape(place)}: not attacked</title><rect class="none" {box}/></g>'
    strong = " strong" if cell.share >= _STRONG else ""
    drawn = f'<rect class="under {cell.mark}" {box}/><rect class="cell" {box} fill-opacity="{cell.share:.2f}"/>'
    if cell.mark == "beyond":
        right, bottom = left + wide - 1, top + _HEIGHT - 1
        drawn += f'<path class="struck" d="M{left + 1:.1f} {bottom:.1f}L{right:.1f} {top + 1:.1f}"/>'
    if wide >= _READABLE:
        middle = f'x="{left + wide / 2:.1f}" y="{top + 14.5:.1f}" text-anchor="middle"'
        drawn += f'<text class="count{strong}" {middle}>{html.escape(cell.shown)}</text>'
    return f"<g><title>{html.escape(cell.told)}</title>{drawn}</g>"


def _named(columns: Sequence[str], wide: float) -> list[int]:
    """Which columns are named below the map: the first, the last, and as many between as have room."""
    last = len(columns) - 1
    room = max((len(name) for name in columns), default=1) * _LETTER + 6
    step = max(1, -(-int(room) // int(wide)))
    return [*(place for place in range(0, last, step) if place == 0 or last - place >= step), *([last] * (last >= 0))]
