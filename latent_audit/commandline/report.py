"""`latent-audit report WORKDIR`: what the finished units of a stopped run say; no model is loaded, nothing computed."""

import pathlib
from collections.abc import Collection

from absl import logging

from latent_audit import user_files
from latent_audit.commandline import arguments, config_files, workdirs
from latent_audit.errors import InputError
from latent_audit.experiments.series import stopped
from latent_audit.runtime import ends, start

COMMAND = "report"


def run(given: arguments.Arguments, state: ends.Run, closed: Collection[int]) -> int:
    """Write the report of a part of a run, marked so; a finished run has its own already and is left as it is.

    Raises InputError for other words and fields, and as stopped.look and stopped.write.
    """
    places = given.words[1:]
    if len(places) != 1 or given.fields or given.quick or given.limit:
        raise InputError(f"`latent-audit {COMMAND}` takes WORKDIR and --workdir=NEW, and nothing else")
    old = user_files.path_of("WORKDIR", places[0])
    found = stopped.look(old, lambda task: config_files.load(task).config)
    if found.writer:
        logging.info("the run goes on (%s); this is what is there now", found.writer)
    elif stopped.is_finished(old):
        logging.info("this run is finished, so nothing is partial; open %s", old / "report.html")
        return 0
    new = _place(given.workdir, old)
    workdirs.check(new)
    stopped.check_place(found, new)
    if given.dry_run:
        said = f"{found.units} units are there; their report would lie in {new}"
        return ends.tell([said, "dry run: nothing was written"], closed)
    # Not where the run computes, whose memory it may need while it goes on.
    start.start_jax(new, found.config.get("base", found.config).model.dtype, platform="cpu")
    part = stopped.write(found, new)
    logging.info("PARTIAL: %s; the run is as it was. Open %s", part, new / "report.html")
    return 0


def _place(typed: str | None, old: pathlib.Path) -> pathlib.Path:
    if typed is not None:
        return user_files.path_of("--workdir", user_files.check_text("--workdir", typed, lines=False))
    return old / stopped.DIRECTORY
