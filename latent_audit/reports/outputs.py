"""The files that every task ends with: its tables, report.json and report.html, all from one call."""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from latent_audit import text
from latent_audit.reports import html
from latent_audit.runtime import about, files, shards

_HASHED = re.compile(r"sha256|fingerprint|hash")


def write_table(path: pathlib.Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, without its index, the same bytes on every platform.

    Text, and columns' names, are written so that a terminal and a spreadsheet show them and run nothing. In a directory
    of a part of a run every line says so, in a last column `partial`: a table is read without the page beside it.
    """
    if part := shards.part_of(path.parent):
        table = table.assign(partial=part)
    files.write_text(path, fit_to_show(table).to_csv(index=False, lineterminator="\n"))


def fit_to_show(table: pd.DataFrame) -> pd.DataFrame:
    """The table with every text cell and every column's name as text.cell makes them; numbers are untouched."""
    shown = table.rename(columns=_cell)
    for place, kind in enumerate(table.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            shown.isetitem(place, shown.iloc[:, place].map(_cell, na_action="ignore"))
    return shown


def _cell(value: Any) -> Any:
    return text.cell(value) if isinstance(value, str) else value


def write_run(
    workdir: pathlib.Path,
    *,
    task: str,
    tables: Mapping[str, pd.DataFrame],
    record: Mapping[str, object],
    page: Mapping[str, Any],
) -> None:
    """Write what a run found, and when, how and on what it was run (runtime.about).

    Args:
      tables: file name -> table; record: report.json beside its schema, the task's name and `about`; page: what
        html.render_report takes. Raises as that does.
    In a directory of a part of a run (shards.part_of) all of them say so.
    """
    workdir = pathlib.Path(workdir)
    for name, table in tables.items():
        write_table(workdir / name, table)
    facts, part = about.describe(seed=_seed(workdir)), shards.part_of(workdir)
    opening = {"schema": 1, "task": task, "headline": page["headline"], "about": facts}
    files.write_json(workdir / "report.json", {**opening, **({"partial": part} if part else {}), **record})
    box = html.Run(
        facts=about.in_words(facts) | thoughts_of(record.get("inputs")),
        command=str(facts["command"]),
        links=_written(workdir, {*tables, "report.json"}),
        hashes=hashes_of(record.get("inputs")),
    )
    # Another precision or an adapter is another model: on the first screen of every report, whatever the task.
    facts_of_page = {**page["facts"], **stored_weights(record.get("inputs"))}
    html.render_report(workdir / "report.html", run=box, part=part, **{**page, "facts": facts_of_page})


def _written(workdir: pathlib.Path, names: set[str]) -> list[str]:
    """The CSV and JSON files beside the report: tables first, each in alphabetical order."""
    beside = {path.name for kind in ("csv", "json") for path in workdir.glob(f"*.{kind}")}
    return sorted(names | beside, key=lambda name: (not name.endswith(".csv"), name))


def _seed(workdir: pathlib.Path) -> int | None:
    """The run's seed as its config.json has it; None where there is none."""
    try:
        config = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    # Tasks that run other tasks hold the common fields in `base`.
    return config.get("seed", config.get("base", {}).get("seed"))


def thoughts_of(inputs: object) -> dict[str, str]:
    """What was done about thoughts in front of answers, "thought, base" -> words; {} where no model has any."""
    found: dict[str, str] = {}
    for name, value in inputs.items() if isinstance(inputs, Mapping) else ():
        if isinstance(value, Mapping):
            found |= thoughts_of(value)
            if value.get("thought", "none") != "none":
                found[f"thought, {name}"] = str(value["thought"])
    return found


def stored_weights(inputs: object) -> dict[str, str]:
    """The fact of weights that are quantised or merged with an adapter, by model; {} where there are none."""
    named = _stored(inputs)
    return {"stored weights": "; ".join(named)} if named else {}


def _stored(inputs: object) -> list[str]:
    found = []
    for name, told in inputs.items() if isinstance(inputs, Mapping) else ():
        if isinstance(told, Mapping):
            kinds = [str(told["quantization"])] if "quantization" in told else []
            kinds += ["with an adapter"] if "adapter" in told else []
            found += [f"{name} {', '.join(kinds)}"] if kinds else _stored(told)
    return found


def hashes_of(inputs: object, name: str = "") -> dict[str, str]:
    """Every hash in a record of inputs, "variants, base, fingerprint" -> value; {} where there are none."""
    found: dict[str, str] = {}
    for key, value in inputs.items() if isinstance(inputs, Mapping) else ():
        place = f"{name}, {key}" if name else str(key)
        if isinstance(value, Mapping):
            found |= hashes_of(value, place)
        elif isinstance(value, str) and _HASHED.search(str(key)):
            found[place] = value
    return found
