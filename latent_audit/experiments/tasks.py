"""Task of a config -> the module whose run(config, workdir) does it, imported only when asked for."""

import importlib
import pathlib
from typing import NamedTuple

from latent_audit.errors import InputError
from latent_audit.runtime import runlog


class Task(NamedTuple):
    """A row of TASKS.

    module: below latent_audit.experiments; table: the CSV that a sweep or a survey combines, "" for these themselves;
    shardable: whether independent jobs can share its units (config.shard); function: of the module, what is run.
    """

    module: str
    table: str = ""
    shardable: bool = False
    function: str = "run"


TASKS = {
    "lvs": Task("audit.audit", "metrics.csv", shardable=True),
    "audit": Task("audit.audit", "audit.csv", shardable=True),
    "finetune": Task("tampering.finetune", "curves.csv", shardable=True),
    "dissociate": Task("tampering.dissociate", "dissociate.csv"),
    "abliterate": Task("tampering.abliterate", "abliterate.csv"),
    "ras": Task("ras.ras", "ras.csv"),
    "ras_regression": Task("ras.frozen", "ras.csv", function="regress"),
    "survey": Task("survey"),
    "sweep": Task("sweep"),
    "claims": Task("claims"),
}


def check(task) -> None:
    """InputError for a task that there is not."""
    if task not in TASKS:
        raise InputError(f"task = {task!r} in the config, expected one of {', '.join(TASKS)}")


def run(config, workdir: pathlib.Path) -> int:
    """Do a config's task in a workdir that is prepared already, on the mesh that the config names.

    Returns the exit status, 0 where a task has none.
    """
    from latent_audit.runtime import mesh

    task, shard = TASKS[config.task], shared(config).get("shard", "")
    if shard and (not task.shardable or "base" in config):
        shardable = ", ".join(name for name, one in TASKS.items() if one.shardable)
        raise InputError(
            f"shard = {shard!r}, but the units of task {config.task!r} cannot be split; those of {shardable} can"
        )
    with mesh.use(config.get("mesh")):
        module = importlib.import_module(f"{__package__}.{task.module}")
        return getattr(module, task.function)(config, workdir) or 0


def shared(config):
    """The config that holds the fields of configs/common.py: `base` in those of tasks that run other tasks."""
    return config.get("base", config)


def run_in(config, workdir: pathlib.Path) -> pathlib.Path:
    """Prepare `workdir` (or take it up, if it holds the same config) and do the task there; returns the workdir."""
    workdir = runlog.prepare_workdir(workdir, config.to_dict())
    run(config, workdir)
    return workdir
