"""Flags of XLA for a sooner start and faster decoding, where the user has not set them and this jax takes them.

Measured on one H100. Without Triton's matrix products compiling falls to a third, and nothing runs slower for it
(docs/startup.md). Merging products that share an operand puts the weights of gate and up, and of queries, keys and
values, into one array at every decode step: a third of a step at 64 rows (dev/LOG.md). XLA ends the process on a flag
that it does not know, so that versions of jax are named.
"""

import importlib.metadata
import os
from collections.abc import Mapping

# Versions of jax that were run with them.
KNOWN = ("0.10.", "0.11.")
FLAGS = ("--xla_gpu_enable_triton_gemm=false", "--xla_gpu_dot_merger_threshold_mb=0")
VARIABLE = "XLA_FLAGS"


def chosen(environment: Mapping[str, str], version: str) -> str:
    """XLA_FLAGS for a process: the user's own, and those of FLAGS whose name the user's do not hold.

    >>> chosen({"XLA_FLAGS": "--xla_gpu_enable_triton_gemm=true"}, "0.11.2")
    '--xla_gpu_enable_triton_gemm=true --xla_gpu_dot_merger_threshold_mb=0'
    """
    own = environment.get(VARIABLE, "")
    if not version.startswith(KNOWN):
        return own
    named = {flag.partition("=")[0] for flag in own.split()}
    return " ".join((*own.split(), *(flag for flag in FLAGS if flag.partition("=")[0] not in named)))


def use() -> str:
    """Set them for this process, which has asked jax for no device yet; returns all that hold."""
    found = chosen(os.environ, importlib.metadata.version("jax"))
    if found:
        os.environ[VARIABLE] = found
    return found
