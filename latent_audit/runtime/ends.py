"""How a run ends: one line on stderr and an exit status for everything that is the user's or the machine's.

0 success, 1 internal failure or a machine that gave out, 2 bad input, 130 interrupted, 143 terminated. A fault of the
program itself is raised again, with its traceback.
"""

import signal
import sys

from latent_audit.errors import InputError
from latent_audit.runtime import processes

KEPT = "Finished work is kept; the same command goes on from there."


class Terminated(BaseException):
    """SIGTERM came: as KeyboardInterrupt, nothing that catches errors catches it."""


def listen() -> None:
    """Turn SIGTERM into Terminated, so that files are closed and locks released."""

    def end(number: int, frame: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, end)


def explain(error: BaseException) -> int:
    """Print what ended the run in one line and return the exit status; raises what is a fault of the program."""
    if isinstance(error, InputError):
        return _say(f"error: {error}", 2)
    if isinstance(error, KeyboardInterrupt):
        return _say(f"interrupted. {KEPT}", 130)
    if isinstance(error, Terminated):
        return _say(f"terminated. {KEPT}", 143)
    if isinstance(error, OSError):
        # Disk full, read-only: finished units are safe, since files are renamed only when whole.
        where = error.filename or "no file named"
        return _say(f"error: {error.strerror or error} ({where}). {KEPT} Start it again once this is mended.", 1)
    if processes.is_lost(error):
        processes.leave()
    raise error


def _say(line: str, status: int) -> int:
    print(line, file=sys.stderr, flush=True)
    return status
