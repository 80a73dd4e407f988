"""`latent-audit compare-paper [WORKDIR] CSV_OR_DIR`: a run and published numbers side by side; no model is loaded."""

import pathlib
from collections.abc import Collection

from absl import logging

from latent_audit import user_files
from latent_audit.commandline import arguments, workdirs
from latent_audit.errors import InputError
from latent_audit.published import page
from latent_audit.runtime import ends, runlog


def run(given: arguments.Arguments, state: ends.Run, closed: Collection[int]) -> int:
    """Compare, and write to the working directory; InputError for other words, and as page.compare."""
    places = given.words[1:]
    if not 1 <= len(places) <= 2 or given.fields:
        raise InputError(
            f"`latent-audit {page.TASK}` takes [WORKDIR] CSV_OR_DIR and --workdir=DIR, got {len(places)} paths"
            f"{' and fields' if given.fields else ''}"
        )
    workdir = _workdir(given.workdir, places)
    workdirs.check(workdir)
    found = page.compare(*reversed(places))
    if given.dry_run:
        return ends.tell([page.sentence(found), f"{workdir}", "dry run: nothing was written"], closed)
    state.workdir = workdir
    runlog.prepare_workdir(workdir, {"task": page.TASK, "published": places[-1], "run": "".join(places[:-1])})
    with runlog.lock(workdir, ""):
        said = page.write(workdir, found)
    logging.info("%s", page.sentence(found))
    logging.info("%s", said)
    logging.info("open %s", workdir / "report.html")
    return 0


def _workdir(typed: str | None, places: tuple[str, ...]) -> pathlib.Path:
    if typed is not None:
        return user_files.path_of("--workdir", user_files.check_text("--workdir", typed, lines=False))
    return workdirs.default(page.TASK, [place.removesuffix(".csv") for place in places])
