"""What a run needs before its first line of work: logging, the other processes, and jax as this project uses it.

jax is imported where it is used: a run shows its first line before that.
"""

import contextlib
import logging as python_logging
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags, logging

from latent_audit.errors import InputError
from latent_audit.runtime import processes, rendezvous, xla_flags


def start_logging() -> None:
    """Log lines of this project with their time, and only warnings of noisy libraries."""
    # absl's own flags are not used here: without this it warns that they have not been read.
    flags.FLAGS.mark_as_parsed()
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    # A line that cannot be written, as to a full disk or a closed terminal, is no fault of the run.
    python_logging.raiseExceptions = False
    logging.get_absl_handler().setFormatter(python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    # jax reports every backend it does not find, transformers that torch is absent: neither is news here.
    for noisy in ("jax", "transformers", "httpx"):
        python_logging.getLogger(noisy).setLevel(python_logging.WARNING)


def check_processes(fields: Mapping[str, Any]) -> None:
    """InputError for settings of join_processes that cannot be; nothing is joined."""
    if fields.get("distributed"):
        rendezvous.check(**_distributed(fields))


def join_processes(fields: Mapping[str, Any]) -> None:
    """Wait for the other processes of this run if it has any; all but the first log only warnings from then on.

    fields: distributed, and what processes.start takes under the names distributed_coordinator, _processes, _process
    and _timeout.
    """
    if not fields.get("distributed"):
        return
    processes.start(**_distributed(fields))
    logging.info("%d processes compute this run; if one stops, the others stop with it", processes.count())
    if not processes.is_first():
        logging.set_verbosity(logging.WARNING)


def _distributed(fields: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: fields[f"distributed_{name}"] for name in ("coordinator", "processes", "process")}
    return given | {"timeout": fields.get("distributed_timeout", 300)}


def start_jax(workdir: pathlib.Path, dtype: str, *, platform: str = "") -> None:
    """Report the devices and keep compiled programs, so that a resumed run does not compile again.

    They are kept in the workdir unless JAX_COMPILATION_CACHE_DIR names another place. platform: "cpu" leaves every
    accelerator alone, "" takes what there is. InputError where JAX_PLATFORMS names a backend that is not there.
    """
    flags = xla_flags.use()
    import jax

    if platform:
        jax.config.update("jax_platforms", platform)
    # Of jax's versions some declare their options and some do not.
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined, unused-ignore]
        jax.config.update("jax_compilation_cache_dir", str(workdir.resolve() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if dtype == "float32":
        # Accelerators otherwise multiply float32 matrices in fewer bits.
        jax.config.update("jax_default_matmul_precision", "highest")
    try:
        devices = jax.devices()
    except Exception as error:  # jax says it by a RuntimeError or, for a plugin that is not installed, an assertion.
        said = " ".join(str(error).split())
        raise InputError(
            f"JAX_PLATFORMS = {os.environ.get('JAX_PLATFORMS', '')!r}: jax finds no such device"
            f"{f' ({said})' if said else ''}. Set it to one that is there, or unset it"
        ) from error
    logging.info(
        "jax %s on %d %s device(s): %s", jax.__version__, len(devices), devices[0].platform, devices[0].device_kind
    )
    if devices[0].platform != "cpu":
        logging.info("XLA_FLAGS: %s", flags or "none")


@contextlib.contextmanager
def exact_products(dtype: str) -> Iterator[None]:
    """Multiply float32 matrices in all their bits, which accelerators otherwise do not; nothing for another dtype."""
    import jax

    if dtype != "float32" or jax.default_backend() == "cpu":
        yield
        return
    with jax.default_matmul_precision("highest"):
        yield
