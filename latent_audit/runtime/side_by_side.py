"""Pieces of work that know nothing of each other, at the same time: each in a thread of this process.

A small model leaves most of a machine idle: while one is compiled or judged, another can be computed. What comes out is
the same, since every piece computes as it would alone.
"""

import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax

from latent_audit.runtime import processes

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Stopped(Exception):
    """The work on another item has failed."""


def heeding(advance: Callable[..., None], failed: threading.Event) -> Callable[..., None]:
    """`advance` for the works of one of_each: told by one thread at a time, and where a work stops once another failed.

    failed: what of_each is given.
    """
    one_at_a_time = threading.Lock()

    def told(*label, **more) -> None:  # type: ignore[no-untyped-def]  # as advance
        with one_at_a_time:
            if failed.is_set():
                raise _Stopped
            advance(*label, **more)

    return told


def of_each(work: Callable[[Item], Result], items: Sequence[Item], failed: threading.Event) -> list[Result]:
    """[work(item) for item in items], all items at the same time where that is possible.

    It is not on a mesh or with several processes, where every device has to meet the same programs in one order.

    failed: set when a work fails; the others go on until they next come to a function of `heeding`. Then the error of
    the first item that has one is raised.
    """
    if len(items) < 2 or processes.count() > 1 or not jax.sharding.get_mesh().empty:
        return [work(item) for item in items]

    def guarded(item: Item) -> Result:
        try:
            return work(item)
        except BaseException:
            failed.set()
            raise

    with concurrent.futures.ThreadPoolExecutor(len(items)) as threads:
        running = [threads.submit(guarded, item) for item in items]
    errors = [error for one in running if (error := one.exception()) is not None and not isinstance(error, _Stopped)]
    if errors:
        raise errors[0]
    return [one.result() for one in running]
