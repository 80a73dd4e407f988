"""How many rows of a batch are computed together, where fewer are there than were allowed."""

import jax


def rows_at_a_time(most: int, count: int) -> int:
    """Rows of one compiled shape for `count` of them, `most` at a time: `most`, or hardly more than there are.

    A short batch is filled up to its shape. A power of two, times the devices that rows are split over, keeps the
    shapes few and what is computed for nothing below as much again.

    >>> rows_at_a_time(24, 100), rows_at_a_time(10000, 3)
    (24, 4)
    """
    devices = dict(jax.sharding.get_abstract_mesh().shape).get("data", 1)
    fitting = devices
    while fitting < count:
        fitting *= 2
    return min(most, fitting)
