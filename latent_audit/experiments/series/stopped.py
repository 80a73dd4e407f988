"""The report of a run that was stopped, or goes on: what its finished units say, marked as partial everywhere.

It is written to a directory of its own, which holds a copy of the run's records and, while it is made, of its units.
The run itself is only read: started again it goes on as if nobody had looked. No model is loaded, no judge is asked.
"""

import contextlib
import fcntl
import pathlib
import shutil
from collections.abc import Callable
from typing import NamedTuple

from absl import logging
from ml_collections import ConfigDict

from latent_audit import user_files
from latent_audit.errors import InputError
from latent_audit.experiments import tasks
from latent_audit.runtime import files, runlog, shards

DIRECTORY = "partial"  # in the workdir
UNITS = "units"
PARTS = ("points", "models")  # where a sweep and a survey have their runs
# What lies beside units and stands in the report.
RECORDS = (*runlog.PINNED, "versions.json", "agreement.json")
# Tasks of which no part can be read before the whole is there, and why.
WHOLE = {
    "dissociate": "its poles are measured when both are built",
    "abliterate": "it chooses when all candidates are scored, and measures what it chose",
    "ras": "scores are calibrated on all models of a family",
    "ras_regression": "two models are compared when both are scored",
    "claims": "quantities are compared when all organisms are measured",
    "impostors": "impostors are compared when all are made",
}


class Stopped(NamedTuple):
    """A run that is to be read. config: as it was started; units: files of units; writer: who writes it now, or ""."""

    directory: pathlib.Path
    config: ConfigDict
    units: int
    writer: str


def look(directory: pathlib.Path, default_of: Callable[[str], ConfigDict]) -> Stopped:
    """What there is of a run; nothing is written.

    default_of: default_of(task), or of "sweep:lvs" and the like, the task's config file; for the fields that no run
    records (runlog.HOW). Raises InputError for a directory that is no run, and for a run of which nothing can be told.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise InputError(f"{directory} is no working directory of a run: it has no config.json")
    config = ConfigDict(user_files.read_json("the run's config", path, kind=dict))
    task = config.get("task")
    if task not in tasks.TASKS:
        raise InputError(f"{path} names task {task!r}, expected one of {', '.join(tasks.TASKS)}")
    if (directory / shards.MARK).exists():
        raise InputError(f"{directory} is itself the report of a part of a run; give the run's own directory")
    units = len(runlog.unit_keys(directory))
    if task in WHOLE:
        raise InputError(
            f"{directory} is a run of task {task!r}, of which no part can be reported: {WHOLE[task]}. "
            f"{units} units are there; start it again with the same command: it goes on where it stopped"
        )
    if config.get("judge", {}).get("live_kind"):
        raise InputError(
            f"{directory} is a run in two tiers (judge.live_kind); the first is a run of its own: give "
            f"{directory / 'live'}"
        )
    default = default_of(f"sweep:{config.base.task}" if task == "sweep" else task)
    for section, defaults in ((config, default), (config.get("base"), default.get("base"))):
        for name in runlog.HOW:
            if section is not None and name in defaults and name not in section:
                section[name] = defaults[name]
    return Stopped(directory, config, units, writer(directory))


def writer(directory: pathlib.Path) -> str:
    """The process that holds a workdir, in its own words; "" where none does. Nothing waits, nothing is kept held."""
    for path in sorted(directory.glob(".lock*")):
        with contextlib.suppress(OSError), open(path, encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return handle.read().strip() or "unknown process"
    return ""


def is_finished(directory: pathlib.Path) -> bool:
    """Whether a run wrote its report: then that is the whole one, and there is no other to write."""
    return (directory / "report.json").is_file() and (directory / "report.html").is_file()


def check_place(run: Stopped, new: pathlib.Path) -> None:
    """InputError for a place of the report that is the run itself, or holds something else."""
    if new.resolve() == run.directory.resolve() or new.resolve().is_relative_to((run.directory / UNITS).resolve()):
        raise InputError(f"--workdir={new} is the run that is read; its results are kept: give another one")
    if new.exists() and not (new.is_dir() and (not any(new.iterdir()) or (new / shards.MARK).is_file())):
        raise InputError(f"{new} holds something else than the report of a part of a run; give another --workdir")


def write(run: Stopped, new: pathlib.Path) -> str:
    """Write the report of what is there to `new`, in the place of an earlier one; how much that is, in words.

    Raises InputError where nothing is there, where the models or prompts are not those of the run any more, and for
    units of another run; nothing is left in `new` then.
    """
    files.remove_tree(new)
    new.mkdir(parents=True)
    try:
        # First of all: whatever is written here is of a part.
        shards.mark(new, 0, 0)
        for name in RECORDS:
            if (run.directory / name).is_file():
                shutil.copyfile(run.directory / name, new / name)
        for table in _tables(run):
            (new / table).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run.directory / table, new / table)
        damaged = runlog.copy_units(run.directory, new)
        for key in damaged:
            logging.warning("%s: the unit %s is damaged (checksum or form) and left out", run.directory, key)
        config = _config_of(run)
        plan = tasks.check(config)
        config.get("base", config).shard = shards.READ
        tasks.run(config, new, plan)
        return shards.part_of(new)
    except BaseException:
        files.remove_tree(new)
        raise
    finally:
        for name in (UNITS, *PARTS):
            files.remove_tree(new / name)


def _tables(run: Stopped) -> list[pathlib.Path]:
    """Of a task that runs others the tables of those that are finished, by their places in its workdir."""
    if "base" not in run.config:
        return []
    table = tasks.TASKS[run.config.base.task].table
    found = (path for part in PARTS for path in sorted((run.directory / part).glob(f"*/{table}")))
    return [path.relative_to(run.directory) for path in found if is_finished(path.parent)]


def _config_of(run: Stopped) -> ConfigDict:
    """The run's config, to be done without its devices: its organism where it lies, on one device."""
    config = ConfigDict(run.config.to_dict())
    fields = config.get("base", config)
    if "base" not in config and not fields.model.path and not fields.organism.directory:
        fields.organism.directory = str(run.directory / "organism")
    for section in (config, fields):
        if "mesh" in section:
            section.mesh = {"data": 1, "model": 1}
    return config
