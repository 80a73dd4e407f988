"""How arrays lie on a mesh of devices with the axes "data" and "model"; without a mesh everything here is the identity.

The mesh is the one in force (jax.set_mesh, see runtime/mesh.py): jit knows it and compiles anew for another. Batches go
over "data"; weights, their optimiser state and the key-value cache over "model", by RULES. Everything else is left to
the compiler, which derives it from these (GSPMD).
"""

import re
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from latent_audit.errors import InputError
from latent_audit.models.config import ModelConfig, parameter_shapes

T = TypeVar("T")  # A tree of arrays keeps its structure.

# Name -> layouts to try in order, one mesh axis or None for each dimension, () for a copy on every device. The first
# rule whose expression is the end of a name holds. Names and dimensions are those of config.parameter_shapes, where
# blocks have a leading L, and of lora.init_adapters, where R is the rank.
RULES = (
    # A vocabulary that does not divide leaves the width to be split.
    (r"embed", (("model", None), (None, "model"))),
    (r"head", ((None, "model"), ("model", None))),
    (r"inputs_embed", (("model", None, None), (None, None, "model"))),
    (r"inputs_projection", ((None, None, "model"),)),
    (r"blocks/(global_)?query", ((None, None, "model", None),)),
    # Fewer key and value heads than devices: every device holds them all.
    (r"blocks/(global_)?(key|value)", ((None, None, "model", None), ())),
    (r"blocks/(global_)?query_bias", ((None, "model", None),)),
    (r"blocks/sinks", ((None, "model"),)),
    (r"blocks/(global_)?(key|value)_bias", ((None, "model", None), ())),
    (r"blocks/(global_)?output", ((None, "model", None, None),)),
    (r"blocks/(shared_|wide_)?(gate|up)", ((None, None, "model"),)),
    (r"blocks/(gate|up)_bias", ((None, "model"),)),
    (r"blocks/(shared_|wide_)?down", ((None, "model", None),)),
    (r"blocks/inputs_gate", ((None, None, "model"),)),
    (r"blocks/inputs_output", ((None, "model", None),)),
    (r"blocks/(output|down)_bias", ((),)),
    # Experts are cut as a dense MLP is: every device holds its part of each.
    (r"blocks/(router|router_bias|router_scale|router_expert_scale|shared_router|expert_down_bias)", ((),)),
    (r"blocks/expert_(gate|up)_bias", ((None, None, "model"),)),
    (r"blocks/expert_(gate|up)", ((None, None, None, "model"),)),
    (r"blocks/expert_down", ((None, None, "model", None),)),
    # Queries, keys and values side by side on one axis: cut by what the projection sums over.
    (r"blocks/delta_mixed", ((None, "model", None),)),
    (r"blocks/delta_gate", ((None, None, "model", None),)),
    (r"blocks/delta_(beta|decay)", ((None, None, "model"),)),
    (r"blocks/delta_(convolution|rate|rate_bias)", ((),)),
    (r"blocks/delta_output", ((None, "model", None, None),)),
    (r"\w*norm|blocks/layer_scale", ((),)),
    (
        r"(global_|shared_|wide_)?(query|key|value|gate|up|router|delta_gate|delta_beta|delta_decay|inputs_gate)/a",
        ((),),
    ),
    (r"(global_|shared_|wide_)?(output|down|delta_output|delta_mixed|inputs_output)/b|shared_router/b", ((),)),
    (r"(global_)?(query|delta_gate)/b", ((None, None, "model", None),)),
    (r"(global_)?(key|value)/b", ((None, None, "model", None), ())),
    (r"((shared_|wide_)?(gate|up)|delta_beta|delta_decay|inputs_gate)/b", ((None, None, "model"),)),
    (r"(global_)?(output|delta_output)/a", ((None, "model", None, None),)),
    (r"((shared_|wide_)?down|delta_mixed|inputs_output)/a", ((None, "model", None),)),
)


def spec_of(name: str, shape: tuple[int, ...], sizes: dict[str, int]) -> PartitionSpec:
    """The layout of a parameter on a mesh of these axis sizes.

    Raises InputError for a name that no rule matches, and for a dimension that does not divide.
    """
    layouts = next((layouts for rule, layouts in RULES if re.fullmatch(rf"(.*/)?({rule})", name)), None)
    if layouts is None:
        raise InputError(
            f"no rule says how the parameter {name} {list(shape)} lies on a mesh; there are rules for "
            f"{', '.join(rule for rule, _ in RULES)}"
        )
    for layout in layouts:
        uneven = [(place, axis) for place, axis in enumerate(layout) if axis and shape[place] % sizes[axis]]
        if not uneven:
            return PartitionSpec(*layout)
    place, axis = uneven[0]
    raise InputError(
        f"{name} {list(shape)}: dimension {place} of {shape[place]} cannot be cut into mesh.{axis} = "
        f"{sizes[axis]} equal parts; expected a mesh.{axis} that divides it"
    )


def check(cfg: ModelConfig) -> None:
    """InputError unless every parameter of `cfg` can be laid out on the mesh in force."""
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    if sizes:
        for name, shape in named_shapes(cfg).items():
            spec_of(name, shape, sizes)


def named_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Parameter name, such as "embed" or "blocks/query" -> shape."""
    shapes = parameter_shapes(cfg)
    blocks = shapes.pop("blocks")
    return shapes | {f"blocks/{name}": shape for name, shape in blocks.items()}


def place(name: str, array: np.ndarray) -> jax.Array:
    """Put a parameter on the devices of the mesh in force by RULES, or on the default device where there is none.

    Of several processes each passes the whole array and keeps what its own devices hold.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.block_until_ready(jax.device_put(array))
    sharding = NamedSharding(mesh, spec_of(name, array.shape, dict(mesh.shape)))
    # Waiting for each copy, so that host buffers do not pile up behind an accelerator.
    return jax.block_until_ready(jax.make_array_from_callback(array.shape, sharding, lambda index: array[index]))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """`x` laid out over the mesh in force: a mesh axis or None for each dimension, the last ones may be left out.

    An axis that does not divide its dimension is dropped: small batches are computed by every device alike.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    kept = (axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in zip(axes, x.shape, strict=False))
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*kept))


def replicate(tree: T) -> T:
    """`tree` with every array whole on every device: what the host is to read, whichever process it is."""
    return jax.tree.map(constrain, tree)


def constrain_parameters(tree: T) -> T:
    """A tree of parameters or adapters, or an optimiser's state of them, laid out by RULES; scalars on every device."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree

    def lay_out(path: tuple, leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = spec_of(name, leaf.shape, dict(mesh.shape)) if leaf.ndim else PartitionSpec()
        return jax.lax.with_sharding_constraint(leaf, spec)

    return jax.tree_util.tree_map_with_path(lay_out, tree)


def to_host(array: jax.Array | np.ndarray) -> np.ndarray:
    """A copy on the host of an array, however it is laid out; every process has to ask for it."""
    if isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated):
        return multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)
