"""The comparison as files: compare.csv, findings.markdown, figures, report.json and report.html.

docs/method.md section 11.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from latent_audit.published import findings, read, tables
from latent_audit.reports import columns, compare_figures, figures, html, outputs
from latent_audit.runtime import files

TASK = "compare-paper"
NOTES = (
    "Counts are those of the published shares, which have four digits: of 24 prompts a cell (prompts 0 to 23 of "
    "HarmBench standard) and of a panel of 60 for curves, as the paper says, unless a file has a column n; a share "
    "that is no count of these is refused. Intervals of shares are exact (Clopper-Pearson); those of LVS are the "
    "bootstrap ones in the files; of curves the mean over seeds stands with the lowest and the highest end of a "
    "seed's interval. Files hold no answer of a single prompt: states share their prompts, a mean over states has no "
    "interval, and whether an answer was coherent cannot be told from them."
)
# What is confirmed, and what is not.
TOLD = ("What the published numbers confirm", "What they do not confirm")
_FIGURES = (
    ("depth", "Latent attack by depth", ("lvs", "latent_asr"), "budget", "state", "uniform noise under the same bound"),
    ("steering", "Steering by depth", ("steer_compliance",), "budget", "state", "random direction of the same length"),
    ("tuning", "Harmful fine-tuning", ("tuned_compliance",), "corpus", "step", ""),
)


class Comparison(NamedTuple):
    """What was read and merged, all that `write` needs; run: None without one."""

    published: read.Source
    run: read.Source | None
    merged: pd.DataFrame
    places: tuple[str, ...]


def compare(csv: str, workdir: str | None = None) -> Comparison:
    """Read published CSVs, and a run to set beside them; InputError for files that cannot be, or share nothing."""
    published, run = read.published(csv), read.run(workdir) if workdir is not None else None
    merged = tables.merge(published.rows, None if run is None else run.rows)
    return Comparison(published, run, merged, tuple(place for place in (workdir, csv) if place is not None))


def sentence(found: Comparison) -> str:
    """What is compared, in one line."""
    archs = ", ".join(dict.fromkeys(found.merged["arch"]))
    beside = "" if found.run is None else f" beside the run {found.run.name}"
    return f"{found.published.name}: {archs}{beside}, {len(found.merged)} cells of {len(found.published.files)} files"


def write(workdir: pathlib.Path, found: Comparison) -> str:
    """Write the comparison to a directory; returns the headline."""
    rows = found.published.rows
    rows = rows[rows["arch"].isin(set(found.merged["arch"]))]
    curves = found.published.curves
    curves = curves[curves["arch"].isin(set(rows["arch"]))] if len(curves) else curves
    summaries = findings.summarise(rows, curves, None if found.run is None else found.merged)
    yes, no = findings.sentences(summaries)
    said = headline(found, summaries)
    sections = [*_pictures(workdir, found.merged), *_sections(summaries)]
    record = {
        "source": found.published.name,
        "files": list(found.published.files),
        "left_out": list(found.published.left),
        "run_files": [] if found.run is None else list(found.run.files),
        "confirmed": yes,
        "not_confirmed": no,
        "tables": {title: html.records(table) for title, (_, table) in summaries.items()},
    }
    page = dict(
        title="Published numbers of arXiv 2606.08044" + ("" if found.run is None else " and a run beside them"),
        headline=said,
        verdicts=[],
        facts={
            "source": found.published.name,
            "models": ", ".join(dict.fromkeys(rows["arch"])),
            "run": "none" if found.run is None else found.run.name,
            "cells": len(found.merged),
            "files read": len(found.published.files),
            "files left out": len(found.published.left),
        },
        sections=[_said(summaries), *sections],
        warnings=[],
    )
    outputs.write_run(workdir, task=TASK, tables={"compare.csv": found.merged}, record=record, page=page)
    files.write_text(workdir / "findings.markdown", markdown(found.published.name, summaries))
    return said


def headline(found: Comparison, summaries: findings.Summaries) -> str:
    """The comparison in one or two sentences."""
    if found.run is not None:
        table = summaries["Agreement of the run"][1]
        differ = int(table["run surely higher"].sum() + table["run surely lower"].sum())
        return (
            f"{differ} of {int(table['cells in both'].sum())} cells of the run differ from the "
            f"{found.published.name} by more than both intervals allow; some 5 % would by chance."
        )
    yes, no = findings.sentences(summaries)
    name = found.published.name
    said = [f"{name[0].upper()}{name[1:]}, with our intervals.", *yes[:1], *(f"Not confirmed: {one}" for one in no[:1])]
    return " ".join(said)


def markdown(name: str, summaries: findings.Summaries) -> str:
    """Findings and tables in Markdown, as a page of documents takes them."""
    lines = [f"Source: {name}. {NOTES}", ""]
    for title, said in zip(TOLD, findings.sentences(summaries), strict=True):
        lines += [f"**{title}**", "", *(f"- {one}" for one in said), ""]
    for title, (text, table) in summaries.items():
        lines += [f"**{title}.** {text}", "", *_rows(table), ""]
    return "\n".join(lines).rstrip() + "\n"


def _rows(table: pd.DataFrame) -> list[str]:
    shown = columns.readable(table)
    heads = [head for head, _ in shown.columns]
    return ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *shown.rows)]


def _said(summaries: findings.Summaries) -> html.Section:
    parts = zip(TOLD, findings.sentences(summaries), strict=True)
    text = "\n\n".join(part for title, said in parts if said for part in (f"{title}:", *said))
    return html.Section(title="What they say", text=text, limits=NOTES)


def _sections(summaries: findings.Summaries) -> list[html.Section]:
    return [html.Section(title=title, text=text, table=table) for title, (text, table) in summaries.items()]


def _pictures(workdir: pathlib.Path, merged: pd.DataFrame) -> list[html.Section]:
    found: list[html.Section] = []
    for arch in dict.fromkeys(merged["arch"]):
        own = merged[merged["arch"] == arch]
        for name, title, measures, across, along, control in _FIGURES:
            rows = _drawn(own, measures)
            if rows.empty:
                continue
            there = [measure for measure in measures if (rows["measure"] == measure).any()]
            picture = compare_figures.side_by_side(rows, measures=there, columns=across, along=along, control=control)
            svg = figures.save_figure(picture, workdir / "figures", f"{name}_{arch}")
            found.append(
                html.Section(
                    title=f"{title}: {arch}", figure_svg=svg, figure_alt=f"{title} of {arch}, by variant, with controls"
                )
            )
    return found


def _drawn(rows: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    # At fraction 0 nothing is added.
    kept = rows[rows["measure"].isin(measures)]
    return kept[(kept["measure"] != "steer_compliance") | (kept["budget"] > 0)]
