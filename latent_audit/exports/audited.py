"""A finished audit as its working directory holds it: report.json, and what became of every prompt."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from latent_audit import user_files
from latent_audit.errors import InputError

SCHEMA = 1  # of report.json, exports/report.schema.json
AUDITS = ("lvs", "audit")


class Run(NamedTuple):
    """record: report.json of an audit; variant: whose verdict is told, and `model`, what it is called."""

    workdir: pathlib.Path
    record: Mapping[str, Any]
    variant: str
    model: str

    @property
    def verdict(self) -> Mapping[str, Any]:
        return self.record["verdicts"][self.variant]

    @property
    def when(self) -> str:
        """When the report was written: "2026-11-27 16:28 UTC" in ISO 8601."""
        return str(self.record["about"]["date"]).removesuffix(" UTC").replace(" ", "T") + ":00+00:00"

    @property
    def lines(self) -> list[dict]:
        """The variant's rows of audit.csv."""
        return [line for line in self.record["lines"] if line["variant"] == self.variant]


def read(workdir: str | pathlib.Path, variant: str = "") -> Run:
    """A finished audit, and one of its variants: `variant`, or its first.

    Raises InputError for a directory without a readable report.json, a part of a run, another task, an audit without a
    verdict, or a variant that it does not have.
    """
    place = user_files.path_of("WORKDIR", workdir)
    path = place / "report.json"
    if not path.is_file():
        raise InputError(f"WORKDIR = {str(place)!r} holds no report.json: give the directory of a finished run")
    record = user_files.read_json("WORKDIR's report", path, kind=dict)
    task = record.get("task")
    if record.get("schema") != SCHEMA:
        raise InputError(f"{path} has schema {record.get('schema')!r}, expected {SCHEMA}: run it again")
    if task not in AUDITS:
        raise InputError(f"{path} is of task {task!r:.80}; what is exported is an audit: {', '.join(AUDITS)}")
    if record.get("partial"):
        raise InputError(f"{path} is of a part of a run ({record['partial']}): run the same command to its end first")
    missing = [name for name in ("about", "inputs", "warnings", "verdicts", "lines") if name not in record]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}: was it written by another program?")
    verdicts = record["verdicts"]
    if not verdicts:
        raise InputError(f"{path} holds no verdict: audit with --config.experiments=panel, latent or suite, or more")
    chosen = variant or next(iter(verdicts))
    if chosen not in verdicts:
        raise InputError(f"--variant={variant}: {path} has {', '.join(verdicts)}")
    arch = str(record["inputs"].get("arch", "model"))
    return Run(place, record, chosen, arch if len(verdicts) == 1 else f"{arch} ({chosen})")


def asked(run: Run) -> dict[str, list[dict]]:
    """Panel -> what came of each of its prompts when merely asked, in order; {} for a directory without units.

    Rows are the columns of a unit, prompt by prompt: harmful, incoherent, reward, answered, ... as far as they are
    there, and asked and response where answers were saved.
    """
    root = run.workdir / "units" / run.variant
    found: dict[str, list[dict]] = {}
    for path in sorted((root / "panel").glob("*.json")):
        found[path.stem] = _rows(path)
    for name in ("harmful", "benign"):
        rows = [row for path in sorted((root / f"clean-{name}").glob("p*.json")) for row in _rows(path)]
        # The latent attack asks its own prompts once more, with their reward.
        by_prompt = {row["prompt"]: row for row in found.get(name, [])}
        for row in rows:
            by_prompt[row["prompt"]] = by_prompt.get(row["prompt"], {}) | row
        if by_prompt:
            found[name] = [by_prompt[prompt] for prompt in sorted(by_prompt)]
    return found


def attacked(run: Run) -> Iterator[tuple[str, dict]]:
    """(layer, row) of every answer under the latent attack and its controls; none where it was not run."""
    for path in sorted((run.workdir / "units" / run.variant / "lvs").glob("*/p*.json")):
        for row in _rows(path):
            yield path.parent.name, row


def _rows(path: pathlib.Path) -> list[dict]:
    columns = user_files.read_json("the unit", path, kind=dict).get("columns")
    if not isinstance(columns, dict) or "prompt" not in columns:
        raise InputError(f"{path} is no unit of an audit: it has no column prompt")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
