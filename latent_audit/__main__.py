"""`latent-audit` and `python -m latent_audit`: the command line, inside of what says how it ended.

Only the standard library is imported before signals are listened to: an interrupt while jax is read ends in one line.
"""

import os
import pathlib
import resource
import shlex
import sys

from latent_audit.errors import InputError
from latent_audit.runtime import ends

# Ours, bytes of address space: below it jax's libraries end the process without a word, above it they start.
LEAST_ADDRESS_SPACE = 3 * 2**30


def main() -> int:
    """Do what sys.argv says and return the exit status; see runtime/ends.py."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    run = ends.Run(command=typed(sys.argv))
    try:
        closed = ends.open_streams()
        ends.listen(run)
        check_address_space(resource.getrlimit(resource.RLIMIT_AS)[0])
        from latent_audit.commandline import command

        status = command.run(sys.argv[1:], run, closed)
    except BaseException as error:
        status = ends.explain(error, run)
        if run.signals:
            # Who interrupts does not wait for threads and other processes that an ordinary exit joins.
            os._exit(status)
    return ends.close(status)


def typed(argv: list[str]) -> str:
    """The command that was typed, fit to be pasted into a shell."""
    program = pathlib.Path(argv[0])
    if program.name == "__main__.py":
        words = ["python", "-m", "latent_audit"]
    else:
        words = ["python", argv[0]] if program.suffix == ".py" else [program.name]
    return shlex.join([*words, *argv[1:]])


def check_address_space(limit: int) -> None:
    """InputError for a limit (`ulimit -v`, bytes; -1 is none) under which jax cannot even be imported."""
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        raise InputError(
            f"this process may have {limit / 2**30:.2g} GiB of address space (ulimit -v {limit // 1024}), and jax needs "
            f"{LEAST_ADDRESS_SPACE // 2**30} GiB to start: raise the limit (ulimit -v unlimited) in this shell"
        )


if __name__ == "__main__":
    sys.exit(main())
