"""From the words of a command line to a task that runs: the one flow behind `latent-audit` and main.py."""

import pathlib
import time
from collections.abc import Collection, Sequence

from absl import logging

from latent_audit import __version__, column_table, user_files
from latent_audit.commandline import arguments, config_files, pages, presets, workdirs
from latent_audit.errors import InputError
from latent_audit.experiments import tasks
from latent_audit.runtime import ends, processes, runlog, start
from latent_audit.runtime.telling import progress


def run(argv: Sequence[str], state: ends.Run, closed: Collection[int] = ()) -> int:
    """Do what was typed (argv without the program's name) and return the exit status; raises what ended it.

    state: is told where the run writes; closed: standard streams that were closed at the start.
    """
    start.start_logging()
    given = arguments.read(argv)
    if given.version:
        return ends.tell([f"latent_audit {__version__}"], closed)
    for line in given.repeated:
        logging.warning("%s", line)
    words = given.words
    if given.help and not words and given.config is None:
        return ends.tell(pages.usage(), closed)
    word = words[0] if words and given.config is None else ""
    if word in arguments.COMMANDS:
        return _answer(word, given, state, closed)
    if given.config is None and not words:
        raise InputError("give a task, such as `lvs` or --config=configs/lvs.py; `latent-audit ls` lists them")
    loaded = config_files.load(given.config or word)
    models = words if given.config is not None else words[1:]
    if given.help:
        return ends.tell(pages.of_task(loaded.task, loaded.text), closed)
    if len(models) > 1:
        raise InputError(f"unexpected argument {models[1]!r}; fields are set as --config.FIELD=VALUE")
    config_files.set_fields(loaded.config, ({"preset": "quick"} if given.quick else {}) | given.fields)
    if given.limit is not None:
        presets.limit(loaded.config, given.limit)
    if models:
        config_files.set_model(loaded.config, models[0], given.fields)
    return _do(loaded.config, given, state, closed)


def _answer(word: str, given: arguments.Arguments, state: ends.Run, closed: Collection[int]) -> int:
    """One of arguments.COMMANDS: what is asked for goes to stdout; some write a directory."""
    rest = given.words[1:]
    if given.help or word == "help":
        return ends.tell(pages.usage(), closed)
    if word == "compare":
        from latent_audit.commandline import compare

        return compare.run(given, state, closed)
    if word == "compare-paper":
        from latent_audit.commandline import compare_paper

        return compare_paper.run(given, state, closed)
    if word == "rejudge":
        from latent_audit.commandline import rejudge

        return rejudge.run(given, state, closed)
    if word == "report":
        from latent_audit.commandline import report

        return report.run(given, state, closed)
    if word in ("export", "push"):
        from latent_audit.commandline import export

        return {"export": export.run, "push": export.push}[word](given, state, closed)
    most = {"fields": 2}.get(word, 0)
    if (
        len(rest) > most
        or given.workdir is not None
        or given.quick
        or given.limit
        or given.dry_run
        or given.fields
        and word != "fields"
    ):
        raise InputError(f"`latent-audit {word}` takes nothing of the kind; `latent-audit --help` says how it is used")
    if word == "ls":
        return ends.tell(pages.tasks(), closed)
    if word == "columns":
        return ends.tell(column_table.markdown().splitlines(), closed)
    if word == "doctor":
        from latent_audit.commandline import doctor

        lines, missing = doctor.look()
        return ends.tell(lines, closed) or int(missing)
    from latent_audit.experiments import fields

    if not rest:
        page = fields.markdown({task: config_files.load(task).config for task in tasks.TASKS})
        return ends.tell(page.splitlines(), closed)
    loaded = config_files.load(rest[0])
    config_files.set_fields(loaded.config, given.fields)
    lines = fields.lines(loaded.config, *rest[1:])
    if not lines:
        raise InputError(f"no field of {rest[0]} has {rest[1]!r} in its name or its line" if rest[1:] else "no fields")
    return ends.tell(lines, closed)


def _do(config, given: arguments.Arguments, state: ends.Run, closed: Collection[int]) -> int:  # type: ignore[no-untyped-def]
    """Everything that can be wrong is looked at first; then the run, in its working directory."""
    began = time.monotonic()
    workdir = workdir_of(config, given.workdir)
    shared = tasks.shared(config)
    logging.info("latent_audit %s: task %s, workdir %s", __version__, config.task, workdir)
    workdirs.check(workdir)
    tasks.check_fields(config)
    start.check_processes(shared)
    start.join_processes(shared)
    # A library that joins processes takes signals for itself.
    ends.listen_again()
    start.start_jax(workdir, config.model.dtype)
    if config.model.dtype != "auto":
        logging.info("dtype %s", config.model.dtype)
    config = tasks.resolved(config)
    plan = tasks.check(config, workdir)
    if given.dry_run:
        return ends.tell(
            [*tasks.outline(config, workdir, plan), "dry run: all checks passed, nothing was written"], closed
        )
    state.workdir = workdir
    workdir = runlog.prepare_workdir(workdir, config.to_dict())
    with runlog.lock(workdir, shared.get("shard", "")), progress.heartbeat():
        status = tasks.run(config, workdir, plan)
        processes.meet()
    logging.info("done in %.0f s; open %s", time.monotonic() - began, workdir / "report.html")
    return status


def workdir_of(config, typed: str | None) -> pathlib.Path:  # type: ignore[no-untyped-def]
    """The working directory that was typed, or the default of a task and its models."""
    if typed is not None:
        # Its name stands in lines of the log, in tables and commands.
        return user_files.path_of("--workdir", user_files.check_text("--workdir", typed, lines=False))
    return workdirs.default(config.get("name") or config.task, config_files.models_of(config))
