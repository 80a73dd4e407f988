"""Going on with half as many rows where a device ran out of memory: results do not depend on how rows are batched."""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from absl import logging

from latent_audit.runtime import processes
from latent_audit.runtime.telling import progress

T = TypeVar("T")


def in_halves(compute: Callable[[np.ndarray], T], rows: np.ndarray, what: str) -> list[T]:
    """[compute(rows)], or if a device runs out of memory the results of both halves, and so on, in order of rows.

    Args:
      compute: takes int row numbers [R]; what it returns must be on the host, so that running out shows inside of it.
      rows: int [R], R >= 1; what: named in the log, and as what a run is at.
    Raises the device's own error when a single row does not fit, and every other error; where several processes
    compute a run together always, since only one of them may have run out, and all have to take the same steps.
    """
    progress.within(f"{what}, {len(rows)} rows")
    try:
        return [compute(rows)]
    except jax.errors.JaxRuntimeError as error:
        if len(rows) == 1 or processes.count() > 1 or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0][:200]
    # Only here is the error gone, and with it what its frames held on the device.
    half = (len(rows) + 1) // 2
    logging.warning(
        "%s: no memory for %d rows at once, going on with %d (%s). A smaller prompt_batch, layer_batch or "
        "rows saves the attempt.",
        what,
        len(rows),
        half,
        reason,
    )
    return in_halves(compute, rows[:half], what) + in_halves(compute, rows[half:], what)
