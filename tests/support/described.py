"""What a task writes against what is said of it: column_table.py and exports/report.schema.json."""

import contextlib
import functools
import json
import pathlib

import jsonschema

from latent_audit import column_table
from latent_audit.reports import outputs

SCHEMA = pathlib.Path(column_table.__file__).parent / "exports" / "report.schema.json"


@functools.cache
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def faults(record: dict) -> list[str]:
    """Where a report.json breaks the schema, and how."""
    return [f"{'/'.join(map(str, one.absolute_path))}: {one.message[:200]}" for one in validator().iter_errors(record)]


@contextlib.contextmanager
def watched():
    """Inside, outputs.write_table and write_run fail where they write what nobody described."""
    write_table, write_run = outputs.write_table, outputs.write_run

    def checked_table(path, table):
        unknown = column_table.undescribed(pathlib.Path(path).name, [str(name) for name in table.columns])
        assert not unknown, f"{pathlib.Path(path).name}: no line in column_table.py for {unknown}"
        write_table(path, table)

    def checked_run(workdir, *, task, **rest):
        write_run(workdir, task=task, **rest)
        path = pathlib.Path(workdir) / "report.json"
        # Of several processes of a run only the first writes.
        found = faults(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []
        assert not found, f"{task}: report.json breaks its schema: {found[:3]}"

    outputs.write_table, outputs.write_run = checked_table, checked_run
    try:
        yield
    finally:
        outputs.write_table, outputs.write_run = write_table, write_run
