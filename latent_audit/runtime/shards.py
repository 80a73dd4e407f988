"""Units of one run split over independent jobs: `--config.shard=i/n`, and `merge` or nothing to put them together.

A unit belongs to the job whose number is the CRC-32 of its key modulo n: no job needs to know of another, and the split
does not depend on the order of units. Jobs write units and nothing else; they share only the working directory.
"""

import re
import zlib
from typing import NamedTuple

from absl import logging

from latent_audit.errors import InputError
from latent_audit.runtime.telling import progress

MERGE = "merge"


class Shard(NamedTuple):
    """Job `index`, from 0, of `count`."""

    # In a tuple these two names are methods, which no shard needs.
    index: int  # type: ignore[assignment]
    count: int  # type: ignore[assignment]


def parse(text: str) -> Shard | None:
    """The job that a text means; None for a whole run ("") and for the merge; InputError for anything else.

    >>> parse("1/4")
    Shard(index=1, count=4)
    """
    if text in ("", MERGE):
        return None
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    shard = found and Shard(int(found[1]), int(found[2]))
    if not shard or not shard.index < shard.count:
        raise InputError(f"shard = {text!r}, expected i/n with i from 0 to n - 1, such as 0/4, or merge")
    return shard


def computes(text: str, key: str) -> bool:
    """Whether this job computes the unit `key` if it is not there; the merge computes none."""
    shard = parse(text)
    return text != MERGE if shard is None else zlib.crc32(key.encode()) % shard.count == shard.index


def is_complete(text: str, meter: progress.Progress) -> bool:
    """Whether tables and reports are to be written: by a whole run and by the merge, never by a shard.

    meter: progress.Progress of all units. Raises InputError for a merge of units that are not all there.
    """
    missing = len(meter.missing)
    if parse(text) is not None:
        logging.info("shard %s is done; %d of %d units are still to come from other shards", text, missing, meter.total)
        return False
    if missing:
        raise InputError(
            f"shard = 'merge', but {missing} of {meter.total} units are missing, such as "
            f"{', '.join(meter.missing[:3])}. Start the shards that lack them again, or start without "
            "shard to compute them here"
        )
    return True
