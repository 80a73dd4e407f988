"""`latent-audit rejudge WORKDIR --config.judge.FIELD=VALUE`: saved answers judged again by another judge."""

import pathlib
from collections.abc import Collection

from absl import logging

from latent_audit import user_files
from latent_audit.commandline import arguments, config_files, workdirs
from latent_audit.errors import InputError
from latent_audit.experiments import tasks
from latent_audit.experiments.series import rejudge
from latent_audit.runtime import ends, runlog, start

COMMAND = "rejudge"


def run(given: arguments.Arguments, state: ends.Run, closed: Collection[int]) -> int:
    """Judge the answers of a finished run again; InputError for other words and fields, and as rejudge.check."""
    places = given.words[1:]
    others = [field for field in given.fields if not field.startswith("judge.")]
    if len(places) != 1 or others:
        raise InputError(
            f"`latent-audit {COMMAND}` takes WORKDIR, --workdir=NEW and --config.judge.FIELD=VALUE, got {len(places)} "
            f"paths{f' and config.{others[0]}' if others else ''}"
        )
    if not given.fields:
        raise InputError(f"`latent-audit {COMMAND}` needs another judge: name it, with --config.judge.kind=KIND")
    old = user_files.path_of("WORKDIR", places[0])
    new = _workdir(given.workdir, old)
    workdirs.check(new)
    template = config_files.load("lvs").config
    config_files.set_fields(template, given.fields)
    config = rejudge.config_of(old, template.judge, template)
    tasks.check_fields(config)
    start.start_jax(new, config.model.dtype)
    plan = rejudge.check(config, old, new)
    if given.dry_run:
        said = f"{len(plan.units.judged)} units judged again, {len(plan.units.searched)} computed anew, into {new}"
        return ends.tell([said, "dry run: all checks passed, nothing was written"], closed)
    state.workdir = new
    runlog.prepare_workdir(new, config.to_dict())
    with runlog.lock(new, ""):
        rejudge.run(config, old, new, plan)
    logging.info("the old run is as it was, in %s; open %s", old, new / "report.html")
    return 0


def _workdir(typed: str | None, old: pathlib.Path) -> pathlib.Path:
    if typed is not None:
        return user_files.path_of("--workdir", user_files.check_text("--workdir", typed, lines=False))
    return old.with_name(f"{old.name}-{COMMAND}d")
