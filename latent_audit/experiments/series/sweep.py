"""An ablation: one task at several settings of its own fields, each point in its own workdir, one combined table."""

import ast
import difflib
import itertools
import math
import pathlib
import re
import tokenize
from typing import NamedTuple

import pandas as pd
from absl import logging
from ml_collections import ConfigDict

from latent_audit.errors import InputError
from latent_audit.experiments import tasks
from latent_audit.experiments.fields import named
from latent_audit.experiments.forecast.outlook import Series, without_training
from latent_audit.experiments.series import compare, differences, finished
from latent_audit.field_table import TASK
from latent_audit.reports import columns, figures, html, outputs, sweep_figures
from latent_audit.runtime import runlog, shards
from latent_audit.runtime.telling import progress

# Ours: each is a whole run with a report of its own.
MOST_POINTS = 1000


class Plan(NamedTuple):
    """The fields that are swept; name of a point -> field -> value; and -> what the check of its task gave."""

    fields: dict[str, list]
    points: dict[str, dict]
    plans: dict[str, object]


def check(config: ConfigDict) -> Plan:
    """Every point as its own task checks it; InputError names the point, the field, the value and the rule."""
    fields = parse_fields(config.fields, config.base)
    swept = [name for name, task in tasks.TASKS.items() if task.table]
    if config.base.task not in swept:
        raise InputError(f"a sweep over task {config.base.task!r}, expected one of {', '.join(swept)}")
    check_figure(config, fields)
    points, plans = name_points(make_points(fields, config.mode)), {}
    with progress.of(len(points), "points looked at") as meter:
        for name, point in points.items():
            with named(f"point {name}"):
                plans[name] = tasks.check(configure(config.base, point, pathlib.Path("sweep")))
            meter.advance(name)
    return Plan(fields, points, plans)


def outlook(config: ConfigDict, plan: Plan, workdir: pathlib.Path) -> Series:
    """How much every point computes; an organism that they share is made by the first."""
    found: Series = {}
    for name, point in plan.points.items():
        own = configure(config.base, point, workdir)
        one = tasks.outlook(own, workdir / "points" / name, plan.plans[name])
        if one is not None:
            is_shared = own.organism.directory == str(workdir / "organism")
            found[f"points {name}"] = without_training(one) if found and is_shared else one
    return found


def check_figure(config: ConfigDict, fields: dict[str, list]) -> None:
    """InputError where `plot` and `where` cannot be of the table that will be there, tried on one without rows."""
    known = tasks.columns(config.base.task)
    empty = pd.DataFrame(columns=[*known, *fields])
    if known and config.plot not in empty:
        raise InputError(f"plot = {config.plot!r}, expected one of {', '.join(empty)}")
    try:
        _selected(empty, config.where)
    except (SyntaxError, NameError, ValueError, tokenize.TokenError, MemoryError, RecursionError) as error:
        if isinstance(error, NameError) and not known:
            return
        raise InputError(
            f"where = {config.where!r:.200} is no query of pandas on {', '.join(empty)}: {str(error)[:200]}"
        ) from error
    except Exception:  # Of columns without values there is no type.
        return


def _selected(table: pd.DataFrame, where: str) -> pd.DataFrame:
    # Names are those of columns alone, not of our variables.
    return table.query(where, local_dict={}, global_dict={}) if where.strip() else table


def run(config: ConfigDict, workdir: pathlib.Path, plan: Plan | None = None) -> None:
    """Run every point; write sweep.csv, of what compare takes compare.csv, figures/ and the report to `workdir`.

    plan: what check gave; None checks here.
    """
    fields, points, _ = plan or check(config)
    tables, runs, is_read = [], [], config.base.get("shard") == shards.READ
    with progress.of(len(points), "points") as meter:
        for name, point in points.items():
            logging.info("point %s", name)
            directory = workdir / "points" / name
            place = directory / tasks.TASKS[config.base.task].table
            if not is_read:
                tasks.run_in(configure(config.base, point, workdir), directory)
            elif not place.is_file():
                meter.advance(name, missing=True)
                continue
            table = pd.read_csv(place)
            # A part has no whole runs to compare.
            if config.base.task in finished.TASKS and not is_read:
                runs.append(finished.read(directory))
            tables.append(table.assign(**{field: [_label(value)] * len(table) for field, value in point.items()}))
            meter.advance(name)
    if shards.is_complete(shards.READ if is_read else "", meter, workdir):
        _write(config, workdir, fields, pd.concat(tables, ignore_index=True), runs)


def parse_fields(text: str, base: ConfigDict) -> dict[str, list]:
    """Field -> values; InputError for what is no dict of lists, an empty list, or a field that base does not have."""
    try:
        fields = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise InputError(
            f"fields = {text!r:.200} is no Python dict ({error}), expected such as \"{{'attack.steps': [5, 10]}}\""
        ) from error
    known = [*runlog.flatten(base.to_dict())]
    if not isinstance(fields, dict) or not fields:
        raise InputError(f"fields = {text!r}, expected field -> list of values")
    # What a config file is made for, and what it is called, are no settings.
    known = [name for name in known if name not in TASK]
    for field, values in fields.items():
        if field not in known:
            near = difflib.get_close_matches(str(field), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"fields names {field!r}, which {base.task} does not have{hint}")
        if not isinstance(values, list | tuple) or not values:
            raise InputError(f"fields: {field} = {values!r}, expected a list of at least one value")
    return {field: list(values) for field, values in fields.items()}


def make_points(fields: dict[str, list], mode: str) -> list[dict]:
    """Every combination (grid), or the n-th values of all fields together (list, InputError if lengths differ)."""
    if mode == "list" and len({len(values) for values in fields.values()}) > 1:
        lengths = ", ".join(f"{field} {len(values)}" for field, values in fields.items())
        raise InputError(f"mode = 'list' needs as many values of every field, got {lengths}")
    count = len(next(iter(fields.values()))) if mode == "list" else math.prod(map(len, fields.values()))
    if count > MOST_POINTS:
        raise InputError(f"fields gives {count} points, at most {MOST_POINTS} are run; take some out")
    rows = zip(*fields.values(), strict=True) if mode == "list" else itertools.product(*fields.values())
    return [dict(zip(fields, row, strict=True)) for row in rows]


def name_points(points: list[dict]) -> dict[str, dict]:
    """Name of its directory -> point: field=value, what no file name should hold as -, numbered where they repeat."""
    found: dict[str, dict] = {}
    for point in points:
        label = "_".join(f"{field.rpartition('.')[2]}={_label(value)}" for field, value in point.items())
        stem = re.sub(r"[^\w.=,+\-]", "-", label, flags=re.ASCII)[:100]
        name, number = stem, 2
        while name in found:
            name, number = f"{stem}-{number}", number + 1
        found[name] = point
    return found


def configure(base: ConfigDict, point: dict, workdir: pathlib.Path) -> ConfigDict:
    """The config of one point; points share one organism unless a field of the organism is swept."""
    own = base.copy_and_resolve_references()
    if not own.model.path and not own.organism.directory and not any(f.startswith("organism.") for f in point):
        own.organism.directory = str(workdir / "organism")
    for field, value in point.items():
        try:
            own.update_from_flattened_dict({field: tuple(value) if isinstance(value, list) else value})
        except (TypeError, ValueError) as error:
            raise InputError(f"fields: {field} = {value!r}: {error}") from error
    return own


def _label(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _write(config, workdir, fields, table, runs):
    # The points are computed and their tables written: what cannot be drawn is no reason to lose them.
    outputs.write_table(workdir / "sweep.csv", table)
    try:
        rows = _selected(table, config.where)
    except Exception as error:  # A query is a small program of the user's.
        raise InputError(
            f"sweep.csv is written, but where = {config.where!r} cannot be applied to it: {error}"
        ) from error
    shown = rows[config.plot] if config.plot in rows else pd.Series(dtype=float)
    if not pd.api.types.is_numeric_dtype(shown) or not shown.notna().any():
        raise InputError(
            f"sweep.csv is written, but plot = {config.plot!r} with where = {config.where!r} selects no numbers of it; "
            f"columns are {', '.join(map(str, table.columns))}"
        )
    grouped = [*fields, *(["variant"] if "variant" in rows else [])]
    shown = rows.groupby(grouped, sort=False)[config.plot].agg(["mean", "min", "max", "count"]).reset_index()
    svg = figures.save_figure(
        sweep_figures.by_field(shown, fields=list(fields), measure=config.plot), workdir / "figures", "sweep"
    )
    compared = differences.table_of(runs) if runs else None
    record = {"fields": fields, "plot": config.plot, "where": config.where, "points": html.records(shown)}
    page = dict(
        title=f"Sweep of {config.base.task} over {', '.join(fields)}",
        headline=f"{config.plot} by {', '.join(fields)}: mean, least and most of the rows where {config.where}.",
        verdicts=[],
        facts={"task": config.base.task, "points": len(shown[list(fields)].drop_duplicates())},
        sections=[
            html.Section(
                title="Points",
                table=shown,
                figure_svg=svg,
                figure_alt=f"{config.plot} against {next(iter(fields))}",
                text="Every point is a whole run with its own report under points/; the table of all rows is "
                "sweep.csv.",
                limits="The band runs from the least to the most over the selected rows; it is no interval.",
            ),
            *(compare.sections_of(runs, compared, workdir) if runs else ()),
        ],
    )
    tables = {"sweep.csv": table} | ({compare.TABLE: compared} if runs else {})
    outputs.write_run(workdir, task="sweep", tables=tables, record=record, page=page)
    logging.info("sweep\n%s", columns.in_text(shown))
