"""Several checkpoints without a twin, each audited on its own and put into one table.

docs/method.md section 8, arXiv 2606.08044.
"""

import os
import pathlib
from typing import NamedTuple

import pandas as pd
from absl import logging
from ml_collections import ConfigDict

from latent_audit.errors import InputError
from latent_audit.experiments import tasks
from latent_audit.experiments.audit.bench import AT_FRACTION
from latent_audit.experiments.fields import named
from latent_audit.experiments.forecast.outlook import Series
from latent_audit.experiments.series import compare, differences, finished
from latent_audit.experiments.setup import subjects
from latent_audit.reports import columns, html, outputs
from latent_audit.runtime import shards
from latent_audit.runtime.telling import progress
from latent_audit.text import percent

EVERY = ("arch", "measure", "layer", "budget", "value", "lo", "hi", "n", "control", "detail")
INCOHERENT = ("incoherent", "control_incoherent", "beyond_language")


class Plan(NamedTuple):
    """What a survey is going to do, checked. paths: name -> model; audits: name -> what the check of its audit gave."""

    paths: dict[str, str]
    audits: dict[str, object]


def check(config: ConfigDict) -> Plan:
    """Every model looked at as its own audit does; InputError names the model and the rule."""
    names = name_models(config.models)
    if config.base.model.variants or config.base.model.path or config.base.model.adapter:
        raise InputError(
            "base.model.path, base.model.variants or base.model.adapter is set, but a survey names its models in "
            "`models`; variants of one model are compared by configs/audit.py"
        )
    audits = {}
    with progress.of(len(names), "models looked at") as meter:
        for name, path in names.items():
            with named(f"model {path}"):
                audits[name] = tasks.check(configure(config.base, name, path))
            meter.advance(name)
    return Plan(names, audits)


def outlook(config: ConfigDict, plan: Plan, workdir: pathlib.Path) -> Series:
    """How much the audit of every model computes."""
    return {
        f"models {name}": tasks.outlook(
            configure(config.base, name, path), workdir / "models" / name, plan.audits[name]
        )
        for name, path in plan.paths.items()
    }


def configure(base: ConfigDict, name: str, path: str) -> ConfigDict:
    """The audit of one model."""
    own = base.copy_and_resolve_references()
    own.model.path, own.model.name = path, name
    return own


def run(config: ConfigDict, workdir: pathlib.Path, plan: Plan | None = None) -> None:
    """Audit every model in a workdir of its own; write survey.csv, compare.csv and the report to `workdir`.

    plan: what check gave; None checks here.
    """
    names = (plan or check(config)).paths
    tables, runs, is_read = [], [], config.base.get("shard") == shards.READ
    with progress.of(len(names), "models") as meter:
        for name, path in names.items():
            logging.info("model %s", path)
            place = workdir / "models" / name / tasks.TASKS["audit"].table
            if not is_read:
                tasks.run_in(configure(config.base, name, path), place.parent)
            elif not place.is_file():
                meter.advance(name, missing=True)
                continue
            tables.append(pd.read_csv(place))
            # A part has no whole runs to compare.
            runs += [] if is_read else [finished.read(place.parent)]
            meter.advance(name)
    if shards.is_complete(shards.READ if is_read else "", meter, workdir):
        _write(config, workdir, pd.concat(tables, ignore_index=True), runs)


def name_models(text: str) -> dict[str, str]:
    """ "org/a,DIR/b" -> {"a": "org/a", "b": "DIR/b"}; a name that occurs twice gets a number. InputError if empty."""
    paths = [path.strip() for path in text.split(",") if path.strip()]
    if not paths:
        raise InputError(
            "models is empty, expected hub ids or directories separated by commas, such as "
            "--config.models=Qwen/Qwen2.5-0.5B-Instruct,DIR"
        )
    if len({os.path.realpath(path) if os.path.isdir(path) else path for path in paths}) < len(paths):
        raise InputError(f"models = {text!r} names a model twice")
    names = {}
    for path in paths:
        names[subjects.numbered(path, names)] = path
    return names


def headline(table: pd.DataFrame) -> str:
    """From which model to which compliance runs, asked and under the L2 attack at the nudge fraction."""
    asked, pushed = (table[table["measure"] == measure] for measure in ("clean_compliance", "l2_asr"))
    pushed = pushed[pushed["detail"] == AT_FRACTION]
    text = f"{table['arch'].nunique()} models; compliance when asked "
    text += _span(asked)
    return text + (f", under the L2 attack {_span(pushed)}." if len(pushed) else ".")


def _span(lines: pd.DataFrame) -> str:
    return f"{percent(lines['value'].min())} to {percent(lines['value'].max())}"


def _write(config, workdir, table, runs):
    shown = compare.summarise(compare.lines_of(runs)) if runs else table[["arch"]].drop_duplicates()
    compared = differences.table_of(runs) if runs else None
    record = {"models": html.records(shown), "lines": html.records(table)}
    fallback = sorted({judge for judge in table["judge"] if "fallback" in judge})
    page = dict(
        title="Survey of checkpoints",
        headline=headline(table),
        verdicts=[],
        facts={"models": len(shown), "judge": ", ".join(sorted(set(table["judge"])))},
        warnings=[f"Fallback scoring: {', '.join(fallback)}. Phrases, not harm, are seen."] if fallback else [],
        sections=[
            *(compare.sections_of(runs, compared, workdir) if runs else ()),
            html.Section(title="Every number", table=table[[*EVERY, *(name for name in INCOHERENT if name in table)]]),
        ],
    )
    tables = {"survey.csv": table} | ({compare.TABLE: compared} if runs else {})
    outputs.write_run(workdir, task="survey", tables=tables, record=record, page=page)
    logging.info("survey\n%s", columns.in_text(shown))
