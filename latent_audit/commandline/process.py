"""What a process looks at before anything large is imported; needs the standard library only."""

import pathlib
import resource
import shlex
from collections.abc import Sequence

from latent_audit.errors import InputError

# Ours, bytes of address space: below it jax's libraries end the process without a word, above it they start.
LEAST_ADDRESS_SPACE = 3 * 2**30


def typed(argv: Sequence[str]) -> str:
    """The command that was typed, fit to be pasted into a shell.

    >>> typed(["/usr/bin/latent-audit", "lvs", "my model"]), typed(["main.py", "ls"])
    ("latent-audit lvs 'my model'", 'python main.py ls')
    """
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
            f"this process may have {limit / 2**30:.2g} GiB of address space (ulimit -v {limit // 1024}), and jax "
            f"needs {LEAST_ADDRESS_SPACE // 2**30} GiB to start: raise the limit (ulimit -v unlimited) in this shell"
        )
