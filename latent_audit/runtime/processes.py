"""Several processes that compute one run together: start them, let the first one speak, notice when one is gone.

Every process runs the same program on the same inputs and takes part in every computation; the first alone reads and
writes the working directory (runtime/files.py), and tells the others what it found. jax is imported where it is used:
main shows its first line before that.
"""

import contextlib
import contextvars
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

import numpy as np
from absl import logging

from latent_audit.errors import InputError
from latent_audit.runtime import rendezvous

T = TypeVar("T")

# Ours, seconds: how long a silent process is waited for, and how long one that has ended waits for the others.
HEARTBEAT = 30
# What a computation says whose other end is gone: gloo, NCCL, and JAX's own coordination service.
_LOST = re.compile(r"gloo|nccl|coordination|unavailable|deadline.exceeded|heartbeat|connection (closed|reset)", re.I)
# Texts are sent in arrays of at least this many bytes, then powers of two, which bounds how many sizes are compiled.
_LEAST_BYTES = 1024
# Whether this process computes something that the others only wait for.
_solo = contextvars.ContextVar("solo", default=False)


def start(*, coordinator: str = "", processes: int = 0, process: int = -1, timeout: float = 300) -> None:
    """Join the other processes; before anything is computed.

    Args:
      coordinator: "host:port" of the first process, the same for all; empty takes JAX_COORDINATOR_ADDRESS, or what the
        cluster says (Slurm, Open MPI, Kubernetes, Cloud TPU). processes: how many; process: which one this is, from 0;
        0 and -1 take what the cluster says. timeout: seconds that the others are waited for.
    Raises InputError when one of these is missing or wrong, or the others do not come.
    """
    named = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    address = rendezvous.check(coordinator=named, processes=processes, process=process, timeout=timeout)
    left = timeout
    if address and processes and process >= 0:
        began = time.monotonic()
        rendezvous.meet(address, processes=processes, process=process, timeout=timeout)
        left = max(10.0, timeout - (time.monotonic() - began))
    import jax

    # CPUs have no other way to talk to another process; accelerators bring their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        with _watched(named or "the coordinator that the cluster names", left, timeout):
            jax.distributed.initialize(
                coordinator_address=coordinator or None,
                num_processes=processes or None,
                process_id=None if process < 0 else process,
                # Ours ends first: at its own limit the library ends the process without a word of use.
                initialization_timeout=int(timeout) + 60,
                heartbeat_timeout_seconds=HEARTBEAT,
                shutdown_timeout_seconds=HEARTBEAT,
            )
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise InputError(
            f"distributed = True with distributed_coordinator = {coordinator!r}, distributed_processes = "
            f"{processes}, distributed_process = {process}: {error}. Expected host:port of the first "
            "process, how many there are and which one this is, unless the cluster says so"
        ) from error


@contextlib.contextmanager
def _watched(where: str, left: float, timeout: float) -> Iterator[None]:
    """Say every SAY_EVERY seconds that others are waited for, and end this process with status 2 after `left` seconds.

    The library's own wait is in C++: it hears no exception of ours.
    """
    done = threading.Event()

    def watch() -> None:
        deadline = time.monotonic() + left
        while not done.wait(min(rendezvous.SAY_EVERY, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                print(
                    f"error: the other processes of this run did not come to {where} within distributed_timeout = "
                    f"{timeout:g} seconds. Start the same command in all of them",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(2)
            logging.info(
                "waiting for the other processes at %s: %.0f of %g seconds left",
                where,
                deadline - time.monotonic(),
                timeout,
            )

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def count() -> int:
    """How many processes compute this run together; 1 inside of on_first."""
    import jax

    return 1 if _solo.get() or not jax.distributed.is_initialized() else jax.process_count()


def is_first() -> bool:
    """Whether this is the process that reads and writes the working directory."""
    import jax

    return not jax.distributed.is_initialized() or jax.process_index() == 0


def is_solo() -> bool:
    """Whether this process computes something that the others only wait for; see on_first."""
    return _solo.get()


def on_first(compute: Callable[[], T]) -> T:
    """compute() of the first process alone, told to all: a value that JSON can hold. With one process just compute().

    An InputError there is raised in all of them. What is computed must not need another process (mesh.alone).
    """
    if count() == 1:
        return compute()
    outcome: dict | None = None
    if is_first():
        token = _solo.set(True)
        try:
            outcome = {"value": compute()}
        except InputError as error:
            outcome = {"error": str(error)}
        finally:
            _solo.reset(token)
    outcome = json.loads(_from_first(json.dumps(outcome).encode()))
    if "error" in outcome:
        raise InputError(outcome["error"])
    return outcome["value"]


def _from_first(data: bytes) -> bytes:
    from jax.experimental.multihost_utils import broadcast_one_to_all

    length = int(broadcast_one_to_all(np.int32(len(data))))
    padded = np.zeros(max(_LEAST_BYTES, 1 << (length - 1).bit_length()), np.uint8)
    if is_first():
        padded[:length] = np.frombuffer(data, np.uint8)
    return np.asarray(broadcast_one_to_all(padded)).astype(np.uint8)[:length].tobytes()


def gather(data: bytes) -> list[bytes]:
    """Bytes of equal length of every process, in their order, in all of them."""
    if count() == 1:
        return [data]
    from jax.experimental.multihost_utils import process_allgather

    return [row.tobytes() for row in process_allgather(np.frombuffer(data, np.uint8))]


def meet() -> None:
    """Wait until every process is here."""
    gather(b".")


def leave() -> NoReturn:
    """End this process because another one is gone; an ordinary exit would wait for it."""
    print(
        "error: another process of this run has stopped, so this one stops too. Finished work is kept; start the same "
        "command again in all of them.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def is_lost(error: BaseException) -> bool:
    """Whether a computation failed because another process of this run is gone."""
    return count() > 1 and _LOST.search(str(error)) is not None
