"""The mesh of devices that a run is computed on: axes "data" (rows of a batch) and "model" (parts of each weight).

How arrays lie on it is said in models/sharding.py. Without a mesh (1 x 1, the default) one device computes everything.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import jax
from jax.sharding import AxisType, Mesh

from latent_audit.errors import InputError

AXES = ("data", "model")


def make_mesh(data: int = 1, model: int = 1, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of data x model devices, the first ones of `devices` (default: all there are, of all processes).

    Raises InputError for sizes below 1, more devices than there are, or processes left without a part in it.
    """
    sizes = {"data": data, "model": model}
    for axis, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"mesh.{axis} = {size!r}, expected a whole number of at least 1")
    there = jax.devices() if devices is None else devices
    if data * model > len(there):
        raise InputError(
            f"mesh.data = {data} times mesh.model = {model} needs {data * model} devices, there are "
            f"{len(there)} ({there[0].platform})"
        )
    if devices is None and jax.process_count() > 1 and data * model != len(there):
        raise InputError(
            f"mesh.data = {data} times mesh.model = {model} is {data * model}, but {jax.process_count()} "
            f"processes bring {len(there)} devices: give a mesh of all of them, such as "
            f"mesh.data={len(there)}"
        )
    # Auto: layouts are hints to the compiler, which inserts the communication.
    return jax.make_mesh((data, model), AXES, (AxisType.Auto,) * 2, devices=there[: data * model])


@contextlib.contextmanager
def use(sizes: Mapping[str, int] | None) -> Iterator[None]:
    """Compute what is inside on a mesh of sizes["data"] x sizes["model"]; None or 1 x 1 of one process: as it is."""
    sizes = sizes or {}
    mesh = make_mesh(sizes.get("data", 1), sizes.get("model", 1))
    if mesh.size == 1:
        yield
        return
    with jax.set_mesh(mesh):
        yield


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Compute what is inside on one device of this process, whatever mesh is in force: as without a mesh."""
    if jax.sharding.get_mesh().empty:
        yield
        return
    with jax.set_mesh(make_mesh(devices=jax.local_devices()[:1])):
        yield
