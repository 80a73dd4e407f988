"""A run in two tiers: a small judge while it goes on, the final one at its end on every answer.

The first tier is a run of its own in live/, with its tables and its report; the second judges its answers again
(rejudge.py). One judge is in memory at a time. docs/method.md section 9, docs/judges.md.
"""

import pathlib
from typing import NamedTuple

from ml_collections import ConfigDict

from latent_audit.errors import InputError
from latent_audit.experiments import scorers, tasks
from latent_audit.experiments.forecast.outlook import Series
from latent_audit.experiments.series import again, rejudge
from latent_audit.experiments.setup import subjects
from latent_audit.judges import Judge
from latent_audit.runtime.telling import progress

LIVE = "live"  # the first tier, in the workdir


class Plan(NamedTuple):
    """Both tiers, checked: their configs, the final judge, and what the task's check gave for the second tier."""

    live: ConfigDict
    final: ConfigDict
    judge: Judge
    of_task: object


def live_config(config: ConfigDict) -> ConfigDict:
    """The first tier: the small judge of judge.live_*, every answer saved."""
    live = ConfigDict(config.to_dict())
    live.generation.save = True
    for name in ("kind", "path", "form"):
        live.judge[name] = config.judge[f"live_{name}"]
    live.judge.live_kind, live.judge.confusion = "", ""
    return live


def final_config(config: ConfigDict) -> ConfigDict:
    """The second tier: the final judge alone."""
    final = ConfigDict(config.to_dict())
    final.generation.save = True
    final.judge.live_kind = ""
    return final


def check(config: ConfigDict) -> Plan:
    """Everything that can be wrong with either tier; InputError for one that is split into shards."""
    if config.shard:
        raise InputError(f"shard = {config.shard!r}: a run in two tiers is not split; leave it or judge.live_kind out")
    live, final = live_config(config), final_config(config)
    tasks.check(live)
    return Plan(live, final, scorers.make_judge(final, subjects.world_of(final)), tasks.check(final))


def outlook(config: ConfigDict, plan: Plan, workdir: pathlib.Path) -> Series:
    """How much the first tier computes; what the second judges anew is not counted."""
    return {f"tiers {LIVE}": tasks.outlook(plan.live, workdir / LIVE, plan.of_task)}


def run(config: ConfigDict, workdir: pathlib.Path, plan: Plan | None = None) -> None:
    """The run with the live judge in workdir/live, then its answers judged by the final one, whose tables lie in
    workdir; plan: what check gave."""
    plan = plan or check(config)
    live, final = workdir / LIVE, plan.final
    with progress.of(1, "tiers") as meter:
        tasks.run_in(plan.live, live)
        meter.advance(LIVE)
    of_task = plan.of_task
    if not final.model.path and not final.organism.directory:
        final.organism.directory = str(live / "organism")
        of_task = tasks.check(final)
    second = rejudge.Plan(of_task, plan.judge, again.sort_units(live))
    rejudge.run(final, live, workdir, second, keep_searched=True)
