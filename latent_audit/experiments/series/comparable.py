"""Whether numbers of finished runs may stand side by side: what must be the same, what may differ."""

from collections.abc import Sequence
from typing import Any

from latent_audit import text
from latent_audit.errors import InputError
from latent_audit.experiments.series.finished import Run

# Fields of a config that say which model is looked at: what a comparison is of.
SUBJECT = ("model.", "organism.", "targets", "measure_targets", "name")
# How work is done, or drawn: results differ by chance alone, or not at all.
NO_MATTER = ("seed", "prompt_batch", "layer_batch", "rows", "mesh.", "speed", "generation.save", "zoo.directory")
_LAST_PARTS = ("batch", "rows", "timeout")
# What these fields lead to is in inputs.json, with hashes: a file may lie elsewhere and be the same.
IN_INPUTS = ("prompts.", "judge.", "reward.", "static.pairs", "panel.over_refusal", "direction")
# Parts of inputs.json that are the model's own, or only say where something lay.
_OF_MODEL = ("arch", "variants", "place", "labelled_answers.source")
MOST_NAMED, ABSENT = 4, "(absent)"


def check(runs: Sequence[Run]) -> None:
    """InputError, in one line, that names every field in which a run cannot stand beside the first, and both values."""
    if len(runs) < 2:
        raise InputError(f"a comparison needs at least two runs, got {len(runs)}")
    first, *others = runs
    for run in others:
        found = obstacles(first, run)
        if found:
            told = [f"{name} = {_shown(mine)} there, {_shown(its)} here" for name, mine, its in found[:MOST_NAMED]]
            more = [f"and {len(found) - MOST_NAMED} more fields"] if len(found) > MOST_NAMED else []
            raise InputError(
                f"{first.workdir} and {run.workdir} are not comparable: {'; '.join([*told, *more])}. Run one of them "
                "again with the other's settings"
            )


def obstacles(first: Run, run: Run) -> list[tuple[str, Any, Any]]:
    """(name, the first's value, the run's) of everything that must be the same and is not."""
    if first.task != run.task:
        return [("task", first.task, run.task)]
    pairs = [("version", _series(first), _series(run))]
    pairs += [("experiments", *(one.record.get("experiments") for one in (first, run)))]
    mine, its = (_must_be_same(one) for one in (first, run))
    pairs += [(name, mine.get(name, ABSENT), its.get(name, ABSENT)) for name in dict.fromkeys([*mine, *its])]
    return [pair for pair in pairs if pair[1] != pair[2]]


def differing(runs: Sequence[Run]) -> list[dict[str, str]]:
    """A row for every field in which runs differ: its name, what it is to a comparison, and the value of each run."""
    rows = []
    for name in dict.fromkeys(name for run in runs for name in run.config):
        values = [run.config.get(name) for run in runs]
        if any(value != values[0] for value in values):
            rows.append(
                {"field": name, "it is": _kind(name)} | {run.name: _shown(run.config.get(name)) for run in runs}
            )
    versions = [str(run.record.get("about", {}).get("version", "")) for run in runs]
    if len(set(versions)) > 1:
        told = {run.name: version for run, version in zip(runs, versions, strict=True)}
        rows.append({"field": "version", "it is": "no matter"} | told)
    return rows


def _kind(name: str) -> str:
    if matters_not(name):
        return "no matter"
    if name.startswith(SUBJECT):
        return "what is compared"
    return "a name; what it leads to is the same" if name.startswith(IN_INPUTS) else "a setting"


def same_prompts(first: Run, run: Run) -> bool:
    """Whether the two were asked the same, panel by panel, so that outcomes of a prompt can be paired."""
    mine, its = (
        {name: value for name, value in one.inputs.items() if name.endswith("sha256") and "prompts." in name}
        for one in (first, run)
    )
    return bool(mine) and mine == its


def matters_not(name: str) -> bool:
    """Whether a field says only how work is done, or what is drawn at random."""
    return name.startswith(NO_MATTER) or name.rpartition(".")[2] in _LAST_PARTS


def _must_be_same(run: Run) -> dict[str, Any]:
    """Name -> value of the settings, inputs and resolved budgets that both must have."""
    skipped = (*SUBJECT, *IN_INPUTS)
    found = {
        name: value for name, value in run.config.items() if not name.startswith(skipped) and not matters_not(name)
    }
    found |= {name: value for name, value in run.inputs.items() if not _is_of_model(name)}
    # Budgets that a config leaves open follow from the kind of model.
    found |= {f"attack.{name}": run.record.get("settings", {}).get(name) for name in ("budgets", "reference_budget")}
    for suite in list(run.record.get("suite", {}).values())[:1]:
        found |= {f"suite.{name}": suite.get(name) for name in ("budgets", "reference_budget")}
    return found


def _is_of_model(name: str) -> bool:
    # Of RAS everything stands below its family.
    parts = (name, name.partition(".")[2])
    return name.endswith(".source") or any(part.startswith(_OF_MODEL) for part in parts)


def _series(run: Run) -> str:
    """What versions of this package must share: the first number, and below 1.0 the second, which may change a method.

    "" for runs of before versions were recorded.
    """
    version = str(run.record.get("about", {}).get("version", ""))
    return ".".join(version.split(".")[: 2 if version.startswith("0.") else 1])


def _shown(value: Any) -> str:
    return text.printable(repr(value) if isinstance(value, str) and value != ABSENT else str(value), most=80)
