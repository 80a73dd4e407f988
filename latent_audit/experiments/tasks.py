"""Task of a config -> the module whose run(config, workdir) does it, imported only when asked for."""

import importlib
import pathlib
from typing import NamedTuple

from absl import logging

from latent_audit.errors import InputError
from latent_audit.experiments import fields
from latent_audit.models.files.dtypes import AUTO
from latent_audit.runtime import programs, runlog, shards, start
from latent_audit.runtime.telling import progress


class Task(NamedTuple):
    """A row of TASKS.

    module: below latent_audit.experiments; table: the CSV that a sweep or a survey combines, "" for these themselves;
    columns: the module whose COLUMNS are those of the table, "" where they depend on the run; shardable: whether
    independent jobs can share its units (config.shard); function, check: of the module, what is run and what looks at
    everything before.
    """

    module: str
    table: str = ""
    columns: str = ""
    shardable: bool = False
    function: str = "run"
    check: str = "check"


TASKS = {
    "lvs": Task("audit.audit", "metrics.csv", "audit.readings.latent_report", shardable=True),
    "audit": Task("audit.audit", "audit.csv", "audit.card.card", shardable=True),
    "finetune": Task("tampering.finetune", "curves.csv", "tampering.finetune_report", shardable=True),
    "dissociate": Task("tampering.dissociate", "dissociate.csv", "tampering.dissociate"),
    "abliterate": Task("tampering.abliterate", "abliterate.csv", "tampering.abliterate_report"),
    "ras": Task("ras.ras", "ras.csv"),
    "ras_regression": Task("ras.frozen", "ras.csv", function="regress", check="check_regression"),
    "survey": Task("series.survey"),
    "sweep": Task("series.sweep"),
    "claims": Task("series.claims"),
    "impostors": Task("tampering.impostors"),
}


# Tasks that a small judge can go through first, and the final one at the end (judge.live_kind).
TIERED = ("lvs", "audit")


def check_fields(config) -> None:
    """InputError for a task that there is not, and for fields that are wrong by themselves; needs no device."""
    task = config.get("task")
    if task not in TASKS:
        raise InputError(f"task = {task!r} in the config, expected one of {', '.join(TASKS)}")
    fields.check(config)
    live = shared(config).get("judge", {}).get("live_kind")
    if live and shared(config).task not in TIERED:
        raise InputError(
            f"judge.live_kind = {live!r}, but task {shared(config).task!r} has one judge; two tiers are for "
            f"{', '.join(TIERED)}"
        )
    shard = shared(config).get("shard", "")
    shards.parse(shard)
    if shard and (not TASKS[task].shardable or "base" in config):
        shardable = ", ".join(name for name, one in TASKS.items() if one.shardable)
        raise InputError(f"shard = {shard!r}, but the units of task {task!r} cannot be split; those of {shardable} can")


def check(config, workdir: pathlib.Path | None = None):
    """Everything that can be wrong with a run, before anything is trained, loaded or written; raises InputError.

    Every checkpoint is looked at, every prompt tokenised, every point of a sweep, model of a survey and part of the
    claims checked as its own task. Returns what the task's run takes as its plan.

    workdir: where it will run, None where that is not known yet.
    """
    from latent_audit.runtime import mesh

    check_fields(config)
    config = resolved(config)
    if workdir is not None:
        fields.check_places(config, workdir)
    with mesh.use(config.get("mesh")):
        return getattr(_module(config), TASKS[config.task].check)(config)


def resolved(config):
    """The config with the dtype that model.dtype = auto means here, which its workdir then records; told in the log.

    A config that holds others (`base`) stays: each of them is resolved when it is run.
    """
    if "base" in config or config.get("model", {}).get("dtype") != AUTO:
        return config
    # A task whose models have no path in the config says it itself.
    of_task = getattr(_module(config), "dtype_of", None)
    found = (of_task or importlib.import_module(f"{__package__}.setup.subjects").dtype_of)(config)
    logging.info("dtype %s (model.dtype = auto)", found)
    config = config.copy_and_resolve_references()
    config.model.dtype = found
    return config


def columns(task: str) -> tuple[str, ...]:
    """Columns of the table that a task writes and a sweep combines; none where they depend on the run."""
    named = TASKS[task].columns
    return importlib.import_module(f"{__package__}.{named}").COLUMNS if named else ()


def run(config, workdir: pathlib.Path, plan=None) -> int:
    """Do a config's task in a workdir that is prepared already, on the mesh that the config names.

    plan: what check gave; None checks here. Returns the exit status, 0 where a task has none.
    """
    from latent_audit.experiments.forecast import outlook as outlooks
    from latent_audit.runtime import mesh

    config = resolved(config)
    plan = check(config) if plan is None else plan
    # Of the task before, where one runs many.
    programs.let_go()
    # What only reads what is there has no time left to tell.
    reads = shared(config).get("shard") == shards.READ
    expected = [] if reads else outlooks.parts_of(outlook(config, workdir, plan))
    with (
        mesh.use(config.get("mesh")),
        start.exact_products(config.get("model", {}).get("dtype", "")),
        progress.expect(expected),
    ):
        return getattr(_module(config), TASKS[config.task].function)(config, workdir, plan) or 0


def _module(config):
    module = "series.tiers" if config.get("judge", {}).get("live_kind") else TASKS[config.task].module
    return importlib.import_module(f"{__package__}.{module}")


def outline(config, workdir: pathlib.Path, plan=None) -> list[str]:
    """What a checked config is going to do, in words, for a run that only looks (--dry-run).

    plan: what check gave; None leaves out how much is computed.
    """
    from latent_audit.experiments.forecast import outlook as outlooks

    subject = shared(config)
    model = subject.get("model", {}).get("path") or "; ".join(
        f"{name} {config[name]}" for name in ("models", "reference", "targets", "before", "after") if config.get(name)
    )
    lines = [
        f"task {config.task} in {workdir}",
        f"model: {model or 'the embedded organism, trained on the spot where it is not there'}",
    ]
    if variants := subject.get("model", {}).get("variants"):
        lines.append(f"variants: {variants}")
    if "prompts" in subject and "harmful" in subject.prompts:
        section = subject.prompts
        lines.append(
            f"prompts: at most {section.harmful_count} of {section.harmful}, {section.benign_count} of {section.benign}"
        )
    if "judge" in subject:
        live = f", live {subject.judge.live_kind}" if subject.judge.get("live_kind") else ""
        lines.append(f"judge: {subject.judge.kind}{live}; reward: {subject.reward.kind}")
    seen = outlook(config, workdir, plan)
    return lines + (outlooks.in_words(seen) if seen else [])


def outlook(config, workdir: pathlib.Path, plan=None):
    """How much a checked config computes, as forecast.outlook.Outlook or Series; None for a task that does not say."""
    counted = getattr(_module(config), "outlook", None)
    return counted(resolved(config), plan, workdir) if counted is not None and plan is not None else None


def shared(config):
    """The config that holds the fields of configs/common.py: `base` in those of tasks that run other tasks."""
    return config.get("base", config)


def run_in(config, workdir: pathlib.Path) -> pathlib.Path:
    """Check a config, prepare `workdir` (or take it up, if it holds the same config) and do the task there.

    Returns the workdir.
    """
    config = resolved(config)
    plan = check(config, workdir)
    workdir = runlog.prepare_workdir(workdir, config.to_dict())
    run(config, workdir, plan)
    return workdir
