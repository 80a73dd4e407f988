"""Units of one run split over independent jobs: `--config.shard=i/n`, and `merge` or nothing to put them together.

A unit belongs to the job whose number is the CRC-32 of its key modulo n: no job needs to know of another, and the split
does not depend on the order of units. Jobs write units and nothing else; they share only the working directory.

A report of a stopped run (READ) is the job that computes nothing: it tells of the units that are there, in a directory
of its own, which says of itself how many these are (MARK).
"""

import json
import pathlib
import re
import zlib
from typing import NamedTuple

from absl import logging

from latent_audit.errors import InputError
from latent_audit.runtime import files
from latent_audit.runtime.telling import progress

MERGE = "merge"
# Of a report of a stopped run; no config may say it (parse).
READ = "read"
# In a directory whose tables and pages are of a part of a run.
MARK = "partial.json"


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
    """Whether this job computes the unit `key` if it is not there; the merge and a report of a stopped run none."""
    if text == READ:
        return False
    shard = parse(text)
    return text != MERGE if shard is None else zlib.crc32(key.encode()) % shard.count == shard.index


def is_complete(text: str, meter: progress.Progress, workdir: pathlib.Path) -> bool:
    """Whether tables and reports are to be written: by a whole run, the merge and a report, never by a shard.

    meter: progress.Progress of all units; workdir: is marked as that of a part, if the job only reads. Raises
    InputError for a merge of units that are not all there, and for a report where there are none.
    """
    missing = len(meter.missing)
    if text == READ:
        if missing == meter.total:
            raise InputError(
                f"there is nothing to report yet: none of the run's {meter.total} {meter.unit} is there, and the first "
                f"is {meter.missing[0]}. Start the run again with the same command: it goes on where it stopped"
            )
        mark(workdir, meter.total - missing, meter.total, meter.unit)
        return True
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


def mark(directory: pathlib.Path, there: int, total: int, unit: str = "units") -> None:
    """Say in a directory that what is written there is of a part of a run: `there` of `total` units."""
    files.write_json(directory / MARK, {"there": there, "of": total, "unit": unit})


def part_of(directory: pathlib.Path) -> str:
    """ "12 of 33 units" of a directory that `mark` marked, "" of any other."""
    try:
        found = json.loads((directory / MARK).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    return f"{found['there']} of {found['of']} {found['unit']}"
