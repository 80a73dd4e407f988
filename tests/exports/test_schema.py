"""The published form of report.json, against the committed reports and against what must not pass for one."""

import json
import tomllib

import pandas as pd
import pytest

from latent_audit import column_table
from latent_audit.exports import audited
from tests.support import described, finished_runs

ROOT = finished_runs.ROOT


def test_every_committed_report_keeps_the_schema_and_every_table_its_columns():
    reports = sorted((ROOT / "docs").rglob("report.json"))
    assert finished_runs.EXAMPLE / "report.json" in reports
    for path in reports:
        assert described.faults(json.loads(path.read_text(encoding="utf-8"))) == [], path
    for path in (ROOT / "docs").rglob("*.csv"):
        assert column_table.undescribed(path.name, list(pd.read_csv(path, nrows=1).columns)) == [], path


def test_the_number_of_a_state_is_a_number_in_the_committed_table():
    table = pd.read_csv(finished_runs.EXAMPLE / "metrics.csv")
    cells = table[table["exp"] == "lvs"]
    named = cells["layer"].str.removeprefix("L").replace("embedding", "-1").astype(int)
    assert (cells["layer_idx"] == named).all() and "frac" not in table
    # What complies anyway has no score that could be read as safety.
    assert table.loc[(table["variant"] == "harmful") & (table["exp"] == "lvs"), "lvs"].isna().all()


@pytest.mark.parametrize(
    "place, value, where",
    [
        (("schema",), 2, "schema"),
        (("about",), {}, "about"),
        (("lines", 0, "value"), [1.0], "lines/0"),
        (("metrics", 2, "layer_idx"), "embedding", "metrics/2/layer_idx"),
        (("metrics", 2, "layer_idx"), -2, "metrics/2/layer_idx"),
        (("verdicts", "base", "rows", 0, "hi"), 1.5, "verdicts/base/rows/0/hi"),
        (("verdicts", "base", "label"), "", "verdicts/base/label"),
        (("axes",), None, "axes"),
    ],
)
def test_what_breaks_the_schema_is_found_where_it_is(place, value, where):
    record = finished_runs.example()
    inner = record
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    assert any(fault.startswith(where) for fault in described.faults(record)), described.faults(record)


def test_a_task_may_record_more_and_not_less():
    record = finished_runs.example() | {"more": {"of": ["its", "own"]}}
    assert described.faults(record) == []
    del record["verdicts"]
    assert "'verdicts' is a required property" in described.faults(record)[0]
    assert described.faults({"schema": 1, "task": "sweep", "about": record["about"]}) == []


def test_the_schema_is_shipped_and_of_the_version_that_is_read():
    assert described.validator().schema["properties"]["schema"]["const"] == audited.SCHEMA
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "*.json" in project["tool"]["setuptools"]["package-data"]["latent_audit.exports"]
