"""The files that every task ends with: its tables, report.json and report.html, all from one call."""

import pathlib
from collections.abc import Mapping
from typing import Any

import pandas as pd

from latent_audit.reports import html
from latent_audit.runtime import files


def write_table(path: pathlib.Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, without its index, the same bytes on every platform."""
    files.write_text(path, table.to_csv(index=False, lineterminator="\n"))


def write_run(
    workdir: pathlib.Path,
    *,
    task: str,
    tables: Mapping[str, pd.DataFrame],
    record: Mapping[str, object],
    page: Mapping[str, Any],
) -> None:
    """Write what a run found.

    Args:
      tables: file name -> table; record: report.json beside its schema and the task's name; page: what
        html.render_report takes. Raises as that does.
    """
    for name, table in tables.items():
        write_table(workdir / name, table)
    files.write_json(workdir / "report.json", {"schema": 1, "task": task, **record})
    html.render_report(workdir / "report.html", **page)
