"""Finished runs side by side: models or dates in one table, differences from the first run with their intervals.

The numbers are differences.py's, what may be compared comparable.py's. A survey has the same page. docs/method.md
section 16.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import pandas as pd

from latent_audit.experiments.series import comparable
from latent_audit.experiments.series.differences import SHARES, SHOWN, leading, table_of
from latent_audit.experiments.series.finished import Run
from latent_audit.metrics import stats
from latent_audit.reports import compare_figures, figures, html, outputs
from latent_audit.text import interval, percent

TASK, TABLE = "compare", "compare.csv"
LIMITS = (
    "Every run is judged by the same prompts and judge, but each model in its own template and pushed relative to its "
    "own states: a difference between models is one of all of these together."
)
DIFFERENCES = (
    "Each run less the first. Paired: on the same prompts, Newcombe's interval and McNemar's exact test for shares, a "
    "bootstrap over prompts for scores. Not paired: as of two independent measures, from the interval of each, which "
    "is wider than it need be where prompts are the same. Intervals of 95 %, one by one: of twenty that say nothing "
    "one excludes 0. Every cell by state and budget, with its difference, is in compare.csv."
)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """One row a run and variant: each shown measure with its interval and control, as text.

    table: rows with run, arch, variant, measure, detail, value, lo, hi, n, control, leading, as of `lines_of`.
    """
    rows = []
    alone = table["variant"].nunique() == 1
    for (run, variant), own in table.groupby(["run", "variant"], sort=False):
        row = {"run": run, "model": own["arch"].iloc[0]} | ({} if alone else {"variant": variant})
        for measure, title in SHOWN.items():
            lines = own[(own["measure"] == measure) & (own["leading"] | (measure == "steer_compliance"))]
            lines = lines.sort_values("value", ascending=False, kind="stable")
            if len(lines):
                row[title] = _told(lines.iloc[0], of=len(lines) if measure == "steer_compliance" else 1)
        rows.append(row)
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


def _told(line: pd.Series, of: int = 1) -> str:
    """A number with its interval; the largest `of` several shares has one that holds for all of them together."""
    n = "" if pd.isna(line["n"]) else f" of {int(line['n'])}"
    if line["measure"] not in SHARES:
        control = "" if pd.isna(line["control"]) else f"; control {line['control']:.3g}"
        known = (
            "" if pd.isna(line["lo"]) or pd.isna(line["hi"]) else f" ({line['lo']:.3g} to {line['hi']:.3g}{control})"
        )
        return f"{line['value']:.3g}{known}"
    lo, hi, most = line["lo"], line["hi"], ""
    if of > 1:
        lo, hi = stats.clopper_pearson(round(line["value"] * line["n"]), int(line["n"]), tail=0.025 / of)
        most = f"; the most of {of}"
    control = "" if pd.isna(line["control"]) else f"; control {percent(line['control'])}"
    # A model that is pushed beyond its language answers nothing that could be judged.
    broken = f"; {percent(line['incoherent'])} incoherent" if line.get("incoherent", 0.0) > 0 else ""
    known = interval(lo, hi)
    return f"{percent(line['value'])}{n}" + (f" ({known}{control}{broken}{most})" if known else "")


def lines_of(runs: Sequence[Run]) -> pd.DataFrame:
    """The lines of all runs with their run's name, for `summarise`."""
    return pd.concat([run.lines.assign(run=run.name, leading=leading(run)) for run in runs], ignore_index=True)


def headline(table: pd.DataFrame, runs: Sequence[Run]) -> str:
    """How many differences there are, and how many exclude 0."""
    known = table[table["leading"] & table["difference_lo"].notna()]
    apart = (known["difference_lo"] > 0) | (known["difference_hi"] < 0)
    told = "; ".join(_moved(line) for line in known[apart].head(3).to_dict("records"))
    count = f"{int(apart.sum())} of {len(known)} differences in the leading measures exclude 0"
    chance = f" ({0.05 * len(known):.1f} would by chance)" if len(known) else ""
    return f"{len(runs)} runs of {runs[0].task}, against {runs[0].name}: {count}{chance}{': ' if told else ''}{told}."


def _moved(line: dict[str, Any]) -> str:
    unit = (
        "{:+.0f} points".format(100 * line["difference"]) if line["measure"] in SHARES else f"{line['difference']:+.3g}"
    )
    return f"{line['run']} {SHOWN[line['measure']]} {unit}"


def sections_of(runs: Sequence[Run], table: pd.DataFrame, directory: pathlib.Path) -> list[html.Section]:
    """The sections of the page: side by side, differences, history (drawn into directory/figures), what differs."""
    leading_lines = table[table["leading"]]
    differences = leading_lines[leading_lines["difference"].notna()]
    shown = ["run", "variant", "measure", "budget", "difference", "difference_lo", "difference_hi", "n"]
    sections = [
        html.Section(
            title="Side by side",
            table=summarise(lines_of(runs)),
            limits=LIMITS,
            text="Share of answers judged harmful and coherent (or harmless and answered), 95 % interval, the same "
            "under the random control, and the share of incoherent answers where there are any; at the reference "
            "budget where there are several. Steered: the fraction with the highest compliance. Every run's own card "
            "lies in its working directory.",
        )
    ]
    if len(differences):
        sections.append(
            html.Section(
                title="Differences from the first run",
                text=DIFFERENCES,
                table=differences.assign(measure=differences["measure"].map(SHOWN))[
                    [*shown, "paired", "only_here", "only_there", "p_value", "design"]
                ],
                limits="Prompts that share a topic count as fewer where the runs recorded it (the attack suite's), "
                "and so does one request in several wrappers: intervals are wider by the root of the design effect. "
                "Elsewhere, and in p values, prompts count as independent. More states are more tries: what "
                "breaks at some state is comparable between models of one depth only.",
            )
        )
    history = leading_lines[leading_lines["value"].notna()]
    if len(history):
        svg = figures.save_figure(
            compare_figures.history(history, names=SHOWN, shares=SHARES), directory / "figures", "history"
        )
        sections.append(
            html.Section(
                title="By date",
                figure_svg=svg,
                figure_alt="Leading measures of every run with their intervals, in the order of the runs' dates",
                text="The runs in the order of their dates, evenly spaced; a line joins runs of one model.",
            )
        )
    fields = comparable.differing(runs)
    if fields:
        sections.append(
            html.Section(
                title="What differs between the runs",
                table=pd.DataFrame(fields),
                text="Fields of their configs; all others are the same.",
            )
        )
    return sections


def runs_table(runs: Sequence[Run]) -> pd.DataFrame:
    """A row per run: where it lies, of which model, when, by which version, and its verdicts."""
    rows = []
    for run in runs:
        about, verdicts = run.record.get("about", {}), run.record.get("verdicts", {})
        labels = [one["label"] for one in verdicts.values()]
        told = [f"{name}: {label}" for name, label in zip(verdicts, labels, strict=True)] if len(labels) > 1 else labels
        rows.append(
            {
                "run": run.name,
                "model": ", ".join(dict.fromkeys(run.lines["arch"])),
                "date": about.get("date"),
                "version": about.get("version"),
                "verdict": "; ".join(told) or None,
                "workdir": str(run.workdir),
            }
        )
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


def write(workdir: pathlib.Path, runs: Sequence[Run]) -> str:
    """Write compare.csv, figures/ and the report of comparable runs to `workdir`; returns the headline."""
    table = table_of(runs)
    said, overview = headline(table, runs), runs_table(runs)
    compared = table[table["difference"].notna()]
    record = {
        "runs": html.records(overview),
        "differing": comparable.differing(runs),
        "leading": html.records(table[table["leading"]]),
    }
    page = dict(
        title=f"{len(runs)} runs of {runs[0].task} side by side",
        headline=said,
        verdicts=[],
        facts={
            "task": runs[0].task,
            "runs": len(runs),
            "against": runs[0].name,
            "cells compared": len(compared),
            "of these paired by prompt": int(compared["paired"].eq(True).sum()),
        },
        warnings=list(
            dict.fromkeys(one for run in runs for one in run.record.get("warnings", []) if "fallback" in one)
        ),
        sections=[html.Section(title="Runs", table=overview), *sections_of(runs, table, workdir)],
    )
    outputs.write_run(workdir, task=TASK, tables={TABLE: table}, record=record, page=page)
    return said
