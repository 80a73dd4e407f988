"""A finished run judged again by another judge, beside the old one. docs/method.md section 9, docs/judges.md."""

import json
import pathlib
from typing import NamedTuple

from absl import logging
from ml_collections import ConfigDict

from latent_audit import user_files
from latent_audit.errors import InputError
from latent_audit.experiments import scorers, tasks
from latent_audit.experiments.judging import agreement
from latent_audit.experiments.series import again
from latent_audit.experiments.setup import subjects
from latent_audit.judges import Judge
from latent_audit.runtime import runlog


class Plan(NamedTuple):
    """What is going to be judged again, checked. of_task: what the task's own check gave; units: of the old run."""

    of_task: object
    judge: Judge
    units: again.Sorted


def config_of(old: pathlib.Path, judge: ConfigDict, how: ConfigDict) -> ConfigDict:
    """The config of a finished run with another judge section; judge.confusion of the old one stays unless it is set.

    how: fields that say how work is done (runlog.HOW), which no run records. Raises InputError for a directory that is
    no run of again.TASKS.
    """
    path = old / "config.json"
    if not path.is_file():
        raise InputError(f"{old} is no working directory of a run: it has no config.json")
    config = ConfigDict(user_files.read_json("the run's config", path, kind=dict))
    if config.get("task") not in again.TASKS:
        raise InputError(
            f"{old} is a run of task {config.get('task')!r}; rejudge takes those of {', '.join(again.TASKS)}: "
            "in others the judge's word chooses what is trained or kept"
        )
    if not config.get("generation", {}).get("save"):
        raise InputError(
            f"{old} saved no answers (generation.save = False), so there is nothing to judge again; run it with "
            "--config.generation.save=True"
        )
    confusion = judge.confusion or config.judge.get("confusion", "")
    config.judge = judge.copy_and_resolve_references()
    config.judge.confusion = confusion
    for name in runlog.HOW:
        if name in how and name not in config:
            config[name] = how[name]
    if not config.model.path and not config.organism.directory:
        config.organism.directory = str(old / "organism")
    return config


def check(config: ConfigDict, old: pathlib.Path, new: pathlib.Path) -> Plan:
    """Everything that can be wrong with judging `old` again under config_of's config; nothing is asked or written."""
    if old.resolve() == new.resolve() or new.resolve().is_relative_to((old / "units").resolve()):
        raise InputError(f"--workdir={new} is the run that is judged again; its results are kept: give another one")
    if config.judge.live_kind:
        raise InputError("judge.live_kind is of a run; rejudge has one judge, which judges answers that are there")
    units = again.sort_units(old)
    judge = scorers.make_judge(config, subjects.world_of(config))
    return Plan(tasks.check(config, new), judge, units)


def run(config: ConfigDict, old: pathlib.Path, new: pathlib.Path, plan: Plan, *, keep_searched: bool = False) -> dict:
    """Judge the answers of `old` again, and let the task write its tables to `new`, which is prepared already.

    keep_searched: as again.carry_over. Returns the record of agreement.describe. Raises InputError for a judge that
    fails its self-test, and where the models or prompts are not those of the old run any more.
    """
    inputs = user_files.read_json("the old run's inputs", old / "inputs.json", kind=dict)
    first = str(inputs["judge"]["name"])
    labelled = scorers.labelled(config)
    inputs.pop("labelled_answers", None)
    inputs |= {} if labelled is None else {"labelled_answers": labelled.describe()}
    runlog.pin(new / "inputs.json", inputs | {"judge": json.loads(json.dumps(scorers.describe(plan.judge)))})
    scorers.self_test(plan.judge, new)
    table = again.carry_over(old, new, plan.units, plan.judge, keep_searched=keep_searched)
    record = agreement.describe(table, first, plan.judge.name)
    record |= {"searched_by_first": list(plan.units.searched) if keep_searched else []}
    agreement.write(new, record)
    tasks.run(config, new, plan.of_task)
    logging.info("%s", agreement.in_words(record))
    return record
