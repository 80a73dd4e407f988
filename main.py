"""Audit an open-weight language model from the inside: `python main.py --config=configs/lvs.py`.

A config names its task; main reads the flags, prepares the working directory and calls the task's run function.
Exit status: 0 success, 2 bad input (one message on stderr), 1 internal failure; a task may have others of its own
(configs/ras_regression.py: 3).
"""

import logging as python_logging
import os
import pathlib
import sys
import time

from absl import flags, logging
from ml_collections import config_flags

from latent_audit.errors import InputError
from latent_audit.experiments import tasks

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


def start_jax(workdir: pathlib.Path, dtype: str):
    """Report the devices and keep compiled programs, so that a resumed run does not compile again.

    They are kept in the workdir unless JAX_COMPILATION_CACHE_DIR names another place.
    """
    import jax

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(workdir.resolve() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if dtype == "float32":
        # Accelerators otherwise multiply float32 matrices in fewer bits.
        jax.config.update("jax_default_matmul_precision", "highest")
    devices = jax.devices()
    logging.info(
        "jax %s on %d %s device(s): %s", jax.__version__, len(devices), devices[0].platform, devices[0].device_kind
    )


def join_processes(config):
    """With config.distributed: wait for the other processes of this run; all but the first log only warnings."""
    if not tasks.setting(config, "distributed", False):
        return
    from latent_audit.runtime import processes

    names = {"coordinator": "", "processes": 0, "process": -1}
    processes.start(**{name: tasks.setting(config, f"distributed_{name}", default) for name, default in names.items()})
    logging.info("%d processes compute this run; if one stops, the others stop with it", processes.count())
    if not processes.is_first():
        logging.set_verbosity(logging.WARNING)


def start_logging():
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().setFormatter(python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    # jax reports every backend it does not find, transformers that torch is absent: neither is news here.
    for noisy in ("jax", "transformers", "httpx"):
        python_logging.getLogger(noisy).setLevel(python_logging.WARNING)


def main(argv) -> int:
    began = time.monotonic()
    start_logging()
    try:
        config = read_flags(argv)
        workdir = pathlib.Path(_WORKDIR.value or pathlib.Path("runs") / config.get("name", config.task))
        logging.info("latent_audit: task %s, workdir %s", config.task, workdir)
        from latent_audit.runtime import processes, runlog

        join_processes(config)
        workdir = runlog.prepare_workdir(workdir, config.to_dict())
        with runlog.lock(workdir, tasks.setting(config, "shard", "")):
            start_jax(workdir, config.model.dtype)
            status = tasks.run(config, workdir)
            processes.meet()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # Disk full, read-only: finished units are safe, since files are renamed only when whole.
        print(
            f"error: {error.strerror or error} ({error.filename or 'no file named'}). Finished work is kept; "
            "start the same command again once this is mended.",
            file=sys.stderr,
        )
        return 1
    except Exception as error:
        if not processes.is_lost(error):
            raise
        print(
            "error: another process of this run has stopped, so this one stops too. Finished work is kept; start the "
            "same command again in all of them.",
            file=sys.stderr,
            flush=True,
        )
        # An ordinary exit would wait for the process that is gone.
        os._exit(1)
    logging.info("done in %.0f s; open %s", time.monotonic() - began, workdir / "report.html")
    return status


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main(sys.argv))
