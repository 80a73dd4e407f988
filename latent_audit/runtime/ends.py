"""How a run ends: one line on stderr and an exit status, whatever ended it.

0 success, 1 a fault of the program or a machine that gave out, 2 bad input, 130 interrupted, 143 terminated, 129
terminated because its terminal was closed. Needs nothing but the standard library until something has ended, so that
it listens before anything large is imported.
"""

import contextlib
import dataclasses
import errno
import os
import pathlib
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable

from latent_audit.errors import InputError
from latent_audit.text import printable

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
WORDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "terminated (its terminal was closed)",
}
# Ours, seconds: how long the last line may take, where nobody reads what is written.
LAST_LINE = 2.0
# In a workdir before any work: not counted as something kept.
_BARE = re.compile(r"(config|versions|inputs)\.json|fault\.txt|compiled|units|\..*")
# What XLA says where a device has no memory left, and the loader of a library where the process may have no more.
_NO_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|out of memory|cannot allocate memory|bad_alloc", re.I)
_OURS = ("", "latent_audit", "configs")
_PACKAGE = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass
class Run:
    """What an end has to say about its run, filled in as it becomes known.

    command: what goes on with it; workdir: where it writes, None before that is known; saying: held by the one of two
    threads that tells how it ended.
    """

    command: str = ""
    workdir: pathlib.Path | None = None
    saying: threading.Lock = dataclasses.field(default_factory=threading.Lock)


def open_streams() -> set[int]:
    """Put /dev/null in the place of standard streams that are closed; returns their numbers.

    Otherwise the next file that is opened gets such a number, and what libraries print is written into it.
    """
    closed = set()
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            closed.add(number)
            # The lowest number that is free, hence this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        # A name in letters that the terminal does not have is shown by its code.
        with contextlib.suppress(AttributeError):
            getattr(sys, name).reconfigure(errors="backslashreplace")
    return closed


def listen(run: Run) -> None:
    """From now on a signal ends the process at once, with its line and status, wherever the program is.

    No exception is raised where the program stands: jax calls Python from C++ in places that end the process with an
    abort, or forget what was raised. Nothing has to be closed, since files are written aside and renamed, as for a
    process that is killed. A signal that is ignored already, as those of nohup, stays so.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for number in STATUS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _no_exception)
    # The number of a signal comes through here even while the main thread is in C++.
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading, run), daemon=True).start()


def listen_again() -> None:
    """Take the signals back from a library that took them, where `listen` had them."""
    for number in STATUS:
        if signal.getsignal(number) is _no_exception:
            signal.signal(number, _no_exception)


def _no_exception(number: int, frame: object) -> None:
    """The thread that watches ends the process."""


def _watch(reading: int, run: Run) -> None:
    number = 0
    while number not in STATUS:
        number = os.read(reading, 1)[0]
    status, word = STATUS[signal.Signals(number)], WORDS[signal.Signals(number)]

    def say() -> None:
        # From under a progress bar to a line of its own.
        start = b"\n" if os.isatty(2) else b""
        with contextlib.suppress(OSError):
            os.write(2, start + f"{word}. {kept(run)}\n".encode(errors="backslashreplace"))

    if run.saying.acquire(blocking=False):
        # In a thread of its own: a terminal that has stopped takes no line.
        speaker = threading.Thread(target=say, daemon=True)
        speaker.start()
        speaker.join(LAST_LINE)
    else:
        time.sleep(LAST_LINE)
    os._exit(status)


def kept(run: Run) -> str:
    """What of a run is on disk, and the command that goes on from there."""
    again = printable(run.command) or "the same command"
    if run.workdir is None or not run.workdir.is_dir():
        return f"Nothing was written. Start it again with: {again}"
    where = printable(str(run.workdir))
    units, more = 0, False
    # The program may be at work in it.
    with contextlib.suppress(OSError):
        more = any(not _BARE.fullmatch(path.name) for path in run.workdir.iterdir())
        units = sum(1 for _ in run.workdir.rglob("units/**/*.json"))
    if units:
        return f"{units} finished unit{'s are' if units > 1 else ' is'} kept in {where}. Go on with: {again}"
    if more:
        return f"What is finished is kept in {where}. Go on with: {again}"
    return f"No unit of work was finished. Start it again with: {again}"


def explain(error: BaseException, run: Run) -> int:
    """Print what ended the run in one line and return the exit status."""
    if not run.saying.acquire(blocking=False):
        # The thread that watches tells it, and ends the process.
        time.sleep(2 * LAST_LINE)
    status, line = _describe(error, run)
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)
    return status


def _describe(error: BaseException, run: Run) -> tuple[int, str]:
    """(exit status, line) of what ended the run."""
    if isinstance(error, KeyboardInterrupt):
        return STATUS[signal.SIGINT], f"{WORDS[signal.SIGINT]}. {kept(run)}"
    if isinstance(error, InputError):
        return 2, f"error: {error}"
    text = printable(" ".join(str(error).split()), most=300).rstrip(".")
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return 1, (
            f"error: no memory left ({text or type(error).__name__}). Lower config.prompt_batch, config.layer_batch or "
            f"config.rows, or take bfloat16 as config.model.dtype. {kept(run)}"
        )
    if isinstance(error, OSError):
        # Disk full, read-only: finished units are safe, since files are renamed only when whole.
        where = printable(str(error.filename)) if error.filename else "no file named"
        return 1, f"error: {error.strerror or text} ({where}). Once this is mended: {kept(run)}"
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] not in _OURS:
        return 1, f"error: the package {error.name!r} is missing; `pip install latent_audit` brings all it needs"
    if _is_lost(error):
        from latent_audit.runtime import processes

        processes.leave()
    return 1, _fault(error, text, run)


def _is_lost(error: BaseException) -> bool:
    if "jax" not in sys.modules:
        return False
    from latent_audit.runtime import processes

    return processes.is_lost(error)


def _fault(error: BaseException, text: str, run: Run) -> str:
    """The line of a fault of the program itself; its traceback goes to the workdir, or to stderr if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if pathlib.Path(frame.filename).is_relative_to(_PACKAGE)] or frames
    place = f" at {pathlib.Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    line = f"internal error: {type(error).__name__}{place}: {text}. "
    trace = "".join(traceback.format_exception(error))
    if run.workdir is not None and run.workdir.is_dir():
        path = run.workdir / "fault.txt"
        with contextlib.suppress(OSError):
            path.write_text(f"{run.command}\n\n{trace}", encoding="utf-8", errors="backslashreplace")
            return line + f"This is a fault of latent_audit: please report it with {printable(str(path))}. {kept(run)}"
    with contextlib.suppress(OSError, ValueError):
        print(printable(trace, keep="\n"), file=sys.stderr)
    return line + "This is a fault of latent_audit: please report it with the lines above"


def tell(lines: Iterable[str], closed: Iterable[int] = ()) -> int:
    """Print what was asked for on stdout; 0, or 1 with a line on stderr where it cannot be written.

    closed: standard streams that were closed at the start. A reader that has gone, such as head, has what it wanted.
    """
    try:
        if 1 in closed:
            raise OSError(errno.EBADF, "it is closed")
        for line in lines:
            print(line)
        sys.stdout.flush()
    except OSError as error:
        _silence(1)
        if error.errno == errno.EPIPE:
            return 0
        print(f"error: standard output cannot be written: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def close(status: int) -> int:
    """The last thing of a process: flush its streams and stop listening; returns the exit status."""
    for number in STATUS:
        if signal.getsignal(number) is _no_exception:
            signal.signal(number, signal.SIG_DFL)
    for descriptor, stream in ((2, sys.stderr), (1, sys.stdout)):
        try:
            stream.flush()
        except (OSError, ValueError):
            _silence(descriptor)
    return status


def _silence(number: int) -> None:
    """Let /dev/null take what is still to be flushed to a stream."""
    with contextlib.suppress(OSError):
        target = os.open(os.devnull, os.O_WRONLY)
        os.dup2(target, number)
        os.close(target)
