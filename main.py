"""Audit an open-weight language model from the inside: `python main.py --config=configs/lvs.py`.

A config names its task; main reads the flags, prepares the working directory and calls the task's run function.
Exit statuses are those of latent_audit/runtime/ends.py; a task may have others of its own (configs/ras_regression.py:
3).
"""

import os
import pathlib
import sys
import time

from absl import flags, logging
from ml_collections import config_flags

from latent_audit.errors import InputError
from latent_audit.experiments import tasks
from latent_audit.runtime import ends, processes, runlog, start

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file of the task, such as configs/lvs.py.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where everything is written; default runs/NAME. The same workdir and config resume."
)


def read_flags(argv):
    """Parse the command line; InputError for an unknown flag or config field, with the nearest name."""
    if any(argument.split("=")[0].lstrip("-") == "config.task" for argument in argv[1:]):
        raise InputError("config.task cannot be set: a config file is made for its task; give --config of the other")
    try:
        rest = flags.FLAGS(argv)
        config = _CONFIG.value
    except Exception as error:  # A config file is a program of the user's: it may raise anything.
        raise InputError("command line: " + str(error).replace("\\'", "'").replace("\\n", ". ").strip('"')) from error
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]!r}; fields are set as --config.FIELD=VALUE")
    if config is None:
        raise InputError("give --config=configs/lvs.py, or another file of configs/")
    tasks.check_fields(config)
    return config


def main(argv) -> int:
    began = time.monotonic()
    start.start_logging()
    ends.listen()
    try:
        config = read_flags(argv)
        workdir = pathlib.Path(_WORKDIR.value or pathlib.Path("runs") / config.get("name", config.task)).expanduser()
        logging.info("latent_audit: task %s, workdir %s", config.task, workdir)
        start.join_processes(tasks.shared(config))
        start.start_jax(workdir, config.model.dtype)
        plan = tasks.check(config)
        workdir = runlog.prepare_workdir(workdir, config.to_dict())
        with runlog.lock(workdir, tasks.shared(config).get("shard", "")):
            status = tasks.run(config, workdir, plan)
            processes.meet()
    except BaseException as error:
        return ends.explain(error)
    logging.info("done in %.0f s; open %s", time.monotonic() - began, workdir / "report.html")
    return status


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main(sys.argv))
