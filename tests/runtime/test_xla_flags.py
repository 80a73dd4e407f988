"""Flags that start a run sooner: beside the user's, never against them, and only where they are known."""

import importlib.metadata
import json
import os
import subprocess
import sys

import pytest

from latent_audit.runtime import xla_flags

TRITON, MERGER = "--xla_gpu_enable_triton_gemm", "--xla_gpu_dot_merger_threshold_mb"


@pytest.mark.parametrize(
    "own, version, expected",
    [
        ("", "0.11.2", f"{TRITON}=false {MERGER}=0"),
        ("", "0.12.0", ""),
        ("--xla_a=1  --xla_b", "0.10.0", f"--xla_a=1 --xla_b {TRITON}=false {MERGER}=0"),
        (f"{TRITON}=true {MERGER}=32", "0.10.2", f"{TRITON}=true {MERGER}=32"),
        (f"{TRITON}=true", "0.10.2", f"{TRITON}=true {MERGER}=0"),
        ("--xla_a=1", "0.13.0", "--xla_a=1"),
    ],
)
def test_the_users_flags_count(own, version, expected):
    assert xla_flags.chosen({"XLA_FLAGS": own}, version) == expected


def test_this_jax_takes_the_flags():
    """XLA reads them when the first device is asked for, and ends the process on one that it does not know."""
    lines = "; ".join(
        (
            "from latent_audit.runtime import xla_flags",
            "found = xla_flags.use()",
            "import jax, json",
            "print(json.dumps([found, float(jax.numpy.ones(3).sum())]))",
        )
    )
    found = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    flags, total = json.loads(found.stdout)
    assert total == 3.0
    assert flags == xla_flags.chosen(os.environ, importlib.metadata.version("jax"))
