"""Compiled programs are let go before Linux' limit on mappings, and what was computed with them stays right."""

import jax
import jax.numpy as jnp
import numpy as np

from latent_audit.runtime import programs


def test_programs_are_let_go_only_where_there_are_many(monkeypatch, tmp_path):
    maps = tmp_path / "maps"
    monkeypatch.setattr(programs, "_MAPPINGS", maps)
    assert not programs.let_go()
    double = jax.jit(lambda x: 2 * x)
    held = double(jnp.arange(3.0))
    maps.write_text("one\n" * 3)
    assert not programs.let_go(most=3) and double._cache_size() == 1
    assert programs.let_go(most=2) and double._cache_size() == 0
    # Arrays outlive the program that made them, and the program is made again.
    np.testing.assert_array_equal(held + double(jnp.ones(3)), [2.0, 4.0, 6.0])
