"""The report of an audit: one HTML file that needs nothing else and no network; its one script only sorts tables.

Generic on purpose: it is given finished sentences, numbers as text, figures and tables, and knows none of the
measurements. Everything but the figures is escaped and made printable, so a model's own words can become neither
markup nor a line of ours. What the page is made of (template, style, script, maps, words) lies in reports/page/.
"""

import base64
import hashlib
import importlib.resources
import math
import pathlib
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jinja2
import markupsafe
import pandas as pd

from latent_audit import text as texts
from latent_audit.errors import InputError
from latent_audit.reports import columns
from latent_audit.reports.page import glossary
from latent_audit.reports.page import heat as maps
from latent_audit.runtime import files

FOLDED_FROM = 15  # tables of more rows are folded: they are read in the files, and would fill the paper

LABELS = {
    "robust": "holds when asked and under the measured pushes from inside",
    "vulnerable": "breaks for a share of the requests",
    "hollow": "refuses when asked, gives way to a small push from inside",
    "unsafe": "complies when merely asked",
    "unusable": "does not answer ordinary questions, so refusing shows nothing",
    "inconclusive": "not shown to break, not shown to hold",
}


class Number(NamedTuple):
    """One number as text: its value, its interval and the same measure under the control ('' where none)."""

    name: str
    value: str
    interval: str = ""
    control: str = ""


@dataclass(frozen=True)
class Verdict:
    """What is said of one variant. `caveat` stands beside the numbers, for instance 'fallback judge'.

    gates: (name, whether it passed, what it says), a checklist; row: (budget, label, count, incoherent share), the
    label at every budget; change: what would change the label; brief, heat: for the first screen, (name, what it says)
    and a map of what broke where.
    """

    variant: str
    label: str
    sentence: str
    reason: str
    rule: str
    numbers: Sequence[tuple] = ()
    caveat: str = ""
    gates: Sequence[tuple[str, bool, str]] = ()
    row: Sequence[tuple[str, str, str, str]] = ()
    change: str = ""
    brief: Sequence[tuple[str, str]] = ()
    heat: maps.Heat | None = None


@dataclass(frozen=True)
class Run:
    """The box of the run: `facts`, name to text; `command` as typed; `links`: files beside the report; `hashes` of the
    inputs, name to value."""

    facts: Mapping[str, str]
    command: str
    links: Sequence[str] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """One part of the evidence.

    `text`: paragraphs parted by blank lines; `figure_svg`: as returned by figures.save_figure, with
    `figure_alt` saying in words what it shows; `table`: a DataFrame, drawn without its index, as reports.columns makes
    it readable; `settings`: name to value; `limits`: what this part does not show; `caveat` stands beside figure and
    table, as a reference where it is one of the page's warnings.
    """

    title: str
    text: str = ""
    figure_svg: str = ""
    figure_alt: str = ""
    table: pd.DataFrame | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    limits: str = ""
    caveat: str = ""


def render_report(
    path: str | pathlib.Path,
    *,
    title: str,
    headline: str,
    verdicts: Sequence[Verdict],
    facts: Mapping[str, object],
    sections: Sequence[Section],
    warnings: Sequence[str] = (),
    picture_svg: str = "",
    picture_alt: str = "",
    run: Run | None = None,
    part: str = "",
) -> None:
    """Write the report as self-contained HTML to `path`, aside and renamed; equal input gives equal bytes.

    `headline`: the answer in one or two sentences; `facts`: what was audited and how (model, judge, prompts,
    budgets ...), shown on the first screen; `warnings`: shown above all numbers, each once; `picture_svg`,
    `picture_alt`: a small figure beside the facts; `run`: what stands in the box of the run; `part`: how much of a run
    is there, such as "12 of 33 units", in the title and the first line of a page of a part. Raises InputError on an
    unknown label or on a figure that holds a script or an address.
    """
    for verdict in verdicts:
        if verdict.label not in LABELS:
            raise InputError(f"verdict on {verdict.variant!r}: {verdict.label!r} is none of {sorted(LABELS)}")
    for title_of, svg in (("the first screen", picture_svg), *((one.title, one.figure_svg) for one in sections)):
        _check_figure(title_of, svg)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    environment.filters.update(paragraphs=_paragraphs, cell=columns.cell, address=urllib.parse.quote)
    told, script = list(dict.fromkeys(warnings)), f"\n{_part('sort.js')}"
    tables = [None if section.table is None else columns.readable(section.table) for section in sections]
    page = environment.from_string(_part("report.html.j2")).render(
        style=markupsafe.Markup(_part("style.css")),
        script=markupsafe.Markup(script),
        # The one script that a browser may run here, whatever else stands in the page.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        heat_svg=lambda one: markupsafe.Markup(maps.svg(one)),
        has_maps=any(verdict.heat for verdict in verdicts),
        folded_from=FOLDED_FROM,
        terms=glossary.used(_words(title, headline, verdicts, sections, tables)),
        title=f"PARTIAL: {title}" if part else title,
        part=part,
        headline=headline,
        verdicts=[(verdict, [Number(*number) for number in verdict.numbers]) for verdict in verdicts],
        rules=list(dict.fromkeys(verdict.rule for verdict in verdicts if verdict.rule)),
        glosses=LABELS,
        facts=facts,
        sections=list(zip(sections, tables, strict=True)),
        warnings=told,
        numbered={warning: number for number, warning in enumerate(told, 1)},
        picture_svg=picture_svg,
        picture_alt=picture_alt,
        run=run,
    )
    files.write_text(path, page + "\n")


def _part(name: str) -> str:
    return importlib.resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")


def _words(title: str, headline: str, verdicts: Sequence[Verdict], sections: Sequence[Section], tables: list) -> str:
    """What is said on a page, for the glossary."""
    said = [title, headline]
    for verdict in verdicts:
        said += [verdict.label, verdict.sentence, verdict.reason, verdict.change, *(name for name, _ in verdict.brief)]
    for section, table in zip(sections, tables, strict=True):
        said += [section.title, section.text, section.limits]
        said += [] if table is None else [head for head, _ in table.columns]
    return "\n".join(said)


def records(table: pd.DataFrame) -> list[dict]:
    """A table's rows for JSON, which knows neither NaN nor infinity: both become null."""

    def plain(value: Any) -> Any:
        if value is pd.NA:
            return None
        if hasattr(value, "item"):
            value = value.item()
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return [{key: plain(value) for key, value in line.items()} for line in table.to_dict("records")]


def _check_figure(title: str, svg: str) -> None:
    # The figure is the one thing that is not escaped.
    found = re.search(r"<script|<foreignObject|https?://|\son\w+\s*=", svg, re.IGNORECASE)
    if found:
        raise InputError(
            f"section {title!r}: figure_svg holds {found.group().strip()!r}; pass the text that "
            "figures.save_figure returns"
        )


def _shown(value: Any) -> Any:
    """What stands on the page: text of ours and of others without control characters; markup is a figure's alone."""
    return value if isinstance(value, markupsafe.Markup) or not isinstance(value, str) else texts.printable(value)


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split("\n")).strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
