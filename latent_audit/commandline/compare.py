"""`latent-audit compare RUN RUN ...`: finished runs side by side, with differences; no model is loaded."""

from collections.abc import Collection

from absl import logging

from latent_audit import user_files
from latent_audit.commandline import arguments, workdirs
from latent_audit.errors import InputError
from latent_audit.runtime import ends, runlog


def run(given: arguments.Arguments, state: ends.Run, closed: Collection[int]) -> int:
    """Compare, and write to the working directory; InputError for other words, and for runs that are not comparable."""
    from latent_audit.experiments.series import comparable, compare, finished

    places = given.words[1:]
    if len(places) < 2 or given.fields or given.quick or given.limit:
        raise InputError(
            f"`latent-audit {compare.TASK}` takes RUN RUN ..., working directories of finished runs, and "
            f"--workdir=DIR, got {len(places)} paths{' and other flags' if len(places) > 1 else ''}"
        )
    typed = given.workdir
    workdir = (
        workdirs.default(compare.TASK, places)
        if typed is None
        else user_files.path_of("--workdir", user_files.check_text("--workdir", typed, lines=False))
    )
    workdirs.check(workdir)
    runs = finished.read_all(places)
    comparable.check(runs)
    if any(workdir.resolve() == one.workdir.resolve() for one in runs):
        raise InputError(f"--workdir={workdir} is one of the runs that are compared; give another directory")
    if given.dry_run:
        named = ", ".join(one.name for one in runs)
        return ends.tell([f"{named}: comparable, into {workdir}", "dry run: nothing was written"], closed)
    state.workdir = workdir
    named_runs = [str(one.workdir.resolve()) for one in runs]
    runlog.prepare_workdir(workdir, {"task": compare.TASK, "runs": named_runs})
    with runlog.lock(workdir, ""):
        said = compare.write(workdir, runs)
    logging.info("%s", said)
    logging.info("open %s", workdir / "report.html")
    return 0
