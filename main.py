"""Audit an open-weight language model from the inside: `python main.py --config=configs/lvs.py`.

A config names its task; main reads the flags, prepares the working directory and calls the task's run function.
Exit status: 0 success, 2 bad input (one message on stderr), 1 internal failure; a task may have others of its own
(configs/ras_regression.py: 3).
"""

import os
import pathlib
import sys
import time

from absl import flags, logging
from ml_collections import config_flags

from latent_audit.errors import InputError
from latent_audit.experiments import tasks
from latent_audit.runtime import processes, runlog, start

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file of the task, such as configs/lvs.py.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where everything is written; default runs/NAME. The same workdir and config resume."
)


def read_flags(argv):
    """Parse the command line; InputError for an unknown flag or config field, with the nearest name."""
    try:
        rest = flags.FLAGS(argv)
        config = _CONFIG.value
        task = None if config is None else config.get("task")
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError, SyntaxError) as error:
        raise InputError("command line: " + str(error).replace("\\'", "'").replace("\\n", ". ").strip('"')) from error
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]!r}; fields are set as --config.FIELD=VALUE")
    if config is None:
        raise InputError("give --config=configs/lvs.py, or another file of configs/")
    tasks.check(task)
    return config


def main(argv) -> int:
    began = time.monotonic()
    start.start_logging()
    try:
        config = read_flags(argv)
        workdir = pathlib.Path(_WORKDIR.value or pathlib.Path("runs") / config.get("name", config.task))
        logging.info("latent_audit: task %s, workdir %s", config.task, workdir)
        start.join_processes(tasks.shared(config))
        workdir = runlog.prepare_workdir(workdir, config.to_dict())
        with runlog.lock(workdir, tasks.shared(config).get("shard", "")):
            start.start_jax(workdir, config.model.dtype)
            status = tasks.run(config, workdir)
            processes.meet()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # Disk full, read-only: finished units are safe, since files are renamed only when whole.
        print(
            f"error: {error.strerror or error} ({error.filename or 'no file named'}). Finished work is kept; start the "
            "same command again once this is mended.",
            file=sys.stderr,
        )
        return 1
    except Exception as error:
        if not processes.is_lost(error):
            raise
        processes.leave()
    logging.info("done in %.0f s; open %s", time.monotonic() - began, workdir / "report.html")
    return status


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main(sys.argv))
