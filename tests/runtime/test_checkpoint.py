"""Training state on disk: exact return, the last good one kept, damage and other arrays passed over."""

import errno

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest

from latent_audit.runtime import checkpoint

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def state(seed=0):
    """A tree with everything a training state has: several dtypes, optax's records, a scalar and a key."""
    rng = np.random.default_rng(seed)
    weights = {
        "embed": jnp.asarray(rng.normal(size=(64, 48)), jnp.float32),
        "blocks": {"query": jnp.asarray(rng.normal(size=(2, 5)), jnp.bfloat16)},
    }
    return {
        "weights": weights,
        "optimizer": OPTIMIZER.init(weights),
        "step": jnp.int32(seed),
        "key": jax.random.key(seed),
    }


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_a_state_comes_back_bit_for_bit_and_the_newest_two_are_kept(tmp_path):
    assert checkpoint.restore(tmp_path / "none", state()) is None and checkpoint.steps(tmp_path / "none") == []
    for step in (5, 10, 15):
        checkpoint.save(tmp_path, step, state(step))
    assert checkpoint.steps(tmp_path) == [10, 15] and not (tmp_path / "5").exists()
    step, found = checkpoint.restore(tmp_path, state())
    assert step == 15
    assert_same(found, state(15))
    step, found = checkpoint.restore(tmp_path, state(), at_most=14)
    assert step == 10
    assert_same(found, state(10))
    assert checkpoint.restore(tmp_path, state(), at_most=9) is None
    checkpoint.save(tmp_path, 15, state(3))  # a step may be written again
    assert_same(checkpoint.restore(tmp_path, state())[1], state(3))


def test_damage_is_noticed_and_an_older_step_taken(tmp_path):
    checkpoint.save(tmp_path, 1, state(1))
    checkpoint.save(tmp_path, 2, state(2))
    largest = max((file for file in (tmp_path / "2").rglob("*") if file.is_file()), key=lambda f: f.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 255
    largest.write_bytes(data)
    step, found = checkpoint.restore(tmp_path, state())
    assert step == 1
    assert_same(found, state(1))


def test_an_unfinished_step_does_not_count(tmp_path):
    checkpoint.save(tmp_path, 1, state(1))
    checkpoint.save(tmp_path, 2, state(2))
    (tmp_path / "2.json").unlink()  # written last, so a kill before it leaves it out
    assert checkpoint.steps(tmp_path) == [1] and checkpoint.restore(tmp_path, state())[0] == 1
    checkpoint.save(tmp_path, 2, state(2))
    assert checkpoint.restore(tmp_path, state())[0] == 2
    checkpoint.drop(tmp_path, 2)
    assert checkpoint.steps(tmp_path) == [1] and not (tmp_path / "2").exists()


def test_other_arrays_are_not_taken(tmp_path):
    checkpoint.save(tmp_path, 1, state())
    other = state()
    other["weights"]["embed"] = jnp.zeros((64, 47))
    assert checkpoint.restore(tmp_path, other) is None
    other["weights"]["embed"] = jnp.zeros((64, 48), jnp.bfloat16)
    assert checkpoint.restore(tmp_path, other) is None
    del other["weights"]["embed"]
    assert checkpoint.restore(tmp_path, other) is None


def test_a_full_disk_is_an_oserror_and_leaves_the_old_steps(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, state(1))

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *exception):
            return None

        def save(self, *arguments, **options):
            raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(orbax.checkpoint, "StandardCheckpointer", Full)
        with pytest.raises(OSError, match="No space left") as raised:
            checkpoint.save(tmp_path, 2, state(2))
    assert raised.value.errno == errno.ENOSPC and checkpoint.steps(tmp_path) == [1]
    assert_same(checkpoint.restore(tmp_path, state())[1], state(1))
