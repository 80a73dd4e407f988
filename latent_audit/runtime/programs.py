"""Compiled programs that are let go: a process may hold so many of them only.

Linux allows a process 65530 mappings of memory (vm.max_map_count). XLA maps every program that it compiles for a CPU,
some hundred to some thousand mappings an audit, keeps all of them, and crashes beyond the limit: a survey of a dozen
families in one process comes there.
"""

import gc
import pathlib

# Half of Linux' own limit: the next task takes at most some thousand.
MOST_MAPPINGS = 30_000
_MAPPINGS = pathlib.Path("/proc/self/maps")


def let_go(most: int = MOST_MAPPINGS) -> bool:
    """Forget all compiled programs where the process holds more than `most` mappings; whether it did.

    Those that are needed again are compiled again, or read from the compilation cache.
    """
    if not _MAPPINGS.exists() or len(_MAPPINGS.read_bytes().splitlines()) <= most:
        return False
    import jax  # where it is used: runtime is imported before jax is wanted

    jax.clear_caches()
    gc.collect()
    return True
