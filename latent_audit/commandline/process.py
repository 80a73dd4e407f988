"""What a process looks at before anything large is imported; needs the standard library only."""

import os
import resource

from latent_audit.errors import InputError

# Ours, bytes of address space: below it jax's libraries end the process without a word, above it they start.
LEAST_ADDRESS_SPACE = 3 * 2**30


def prepare() -> None:
    """What jax and transformers are to find when they are imported; InputError where they cannot be."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # transformers says at every start that torch is absent, which is so by design.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    check_address_space(resource.getrlimit(resource.RLIMIT_AS)[0])


def check_address_space(limit: int) -> None:
    """InputError for a limit (`ulimit -v`, bytes; -1 is none) under which jax cannot even be imported."""
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        raise InputError(
            f"this process may have {limit / 2**30:.2g} GiB of address space (ulimit -v {limit // 1024}), and jax "
            f"needs {LEAST_ADDRESS_SPACE // 2**30} GiB to start: raise the limit (ulimit -v unlimited) in this shell"
        )
