"""Task of a config -> the module whose run(config, workdir) does it, imported only when asked for."""

import importlib
import pathlib

from latent_audit.errors import InputError
from latent_audit.runtime import runlog

TASKS = ("lvs", "finetune", "dissociate", "abliterate", "claims", "audit", "sweep", "survey", "ras",
         "ras_regression")
# Those whose units independent jobs can share (config.shard).
SHARDED = ("lvs", "finetune", "audit")
# The table that each task writes, for tasks that combine the results of others.
TABLES = {"lvs": "metrics.csv", "finetune": "curves.csv", "dissociate": "dissociate.csv",
          "abliterate": "abliterate.csv", "audit": "audit.csv", "ras": "ras.csv", "ras_regression": "ras.csv"}


def check(task) -> None:
    """InputError for a task that there is not."""
    if task not in TASKS:
        raise InputError(f"task = {task!r} in the config, expected one of {', '.join(TASKS)}")


def run(config, workdir: pathlib.Path) -> int:
    """Do a config's task in a workdir that is prepared already, on the mesh that the config names.

    Returns the exit status, 0 where a task has none.
    """
    from latent_audit.runtime import mesh

    shard = setting(config, "shard", "")
    if shard and (config.task not in SHARDED or not config.get("shard")):
        raise InputError(f"shard = {shard!r}, but the units of task {config.task!r} cannot be split; those of "
                         f"{', '.join(SHARDED)} can")
    with mesh.use(config.get("mesh")):
        return importlib.import_module(f"latent_audit.experiments.{config.task}").run(config, workdir) or 0


def setting(config, field: str, default):
    """A field of configs/common.py, or of `base` in the configs of tasks that run other tasks; else the default."""
    return next((one[field] for one in (config, config.get("base", {})) if field in one), default)


def run_in(config, workdir: pathlib.Path) -> pathlib.Path:
    """Prepare `workdir` (or take it up, if it holds the same config) and do the task there; returns the workdir."""
    workdir = runlog.prepare_workdir(workdir, config.to_dict())
    run(config, workdir)
    return workdir
