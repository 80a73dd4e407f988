"""The command of this run as it was typed: for messages that end with one that works, and for the record."""

import contextlib
import pathlib
import shlex
import sys
from collections.abc import Iterator, Sequence


def command(arguments: Sequence[str] | None = None) -> str:
    """What a shell would take to start this run again; arguments: in place of those that were typed.

    Needs nothing but the standard library: it is said of a run that ended before anything large was imported.
    """
    program, *typed = sys.argv or [""]
    name = pathlib.PurePath(program).name
    if name == "__main__.py":
        start = ["python", "-m", pathlib.PurePath(program).parent.name]
    else:
        start = ["python", program] if name.endswith(".py") else [name]
    return shlex.join([*start, *(typed if arguments is None else arguments)])


@contextlib.contextmanager
def instead(words: Sequence[str]) -> Iterator[None]:
    """Take these words of `latent-audit` as typed: of a run that Python code started, whose process knows others."""
    before, sys.argv = sys.argv, ["latent-audit", *words]
    try:
        yield
    finally:
        sys.argv = before


def with_workdir(workdir: str | pathlib.Path) -> str:
    """The same command in another working directory."""
    kept: list[str] = []
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        if argument in ("--workdir", "-workdir"):
            next(arguments, None)
        elif not argument.startswith(("--workdir=", "-workdir=")):
            kept.append(argument)
    return command([*kept, f"--workdir={workdir}"])


def next_free(workdir: str | pathlib.Path) -> pathlib.Path:
    """runs/lvs -> the first of runs/lvs-2, runs/lvs-3 ... that is not there."""
    workdir, number = pathlib.Path(workdir), 2
    while workdir.with_name(f"{workdir.name}-{number}").exists():
        number += 1
    return workdir.with_name(f"{workdir.name}-{number}")
