"""The facts of a run that stand on its report: when, by which version and command, on what, for how long."""

import datetime
import os
import resource
import sys
import time
from collections.abc import Mapping

import latent_audit
from latent_audit.runtime import typed

# The first thing a run imports of what writes its report is imported before its work begins.
_BEGAN = time.time()
_GB = 1e9


def begin() -> None:
    """A run begins now, in a process that may have done others."""
    global _BEGAN
    _BEGAN = time.time()


def describe(*, seed: int | None = None, began: float | None = None, now: float | None = None) -> dict[str, object]:
    """date, version, command, seed, hardware and minutes of this process, plain values for JSON.

    began, now: seconds since the epoch (of this process or the last `begin`, and the clock's).
    """
    began = _BEGAN if began is None else began
    now = time.time() if now is None else now
    return {
        "date": datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": latent_audit.__version__,
        "command": typed.command(),
        "seed": seed,
        "hardware": hardware(),
        "minutes": round((now - began) / 60, 1),
    }


def hardware() -> dict[str, object]:
    """Devices that jax computes on, CPUs and memory of this host, and the most memory this process has held, in GB."""
    import jax

    devices = jax.devices()
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return {
        "device": devices[0].device_kind,
        "devices": len(devices),
        "host_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "host_memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB, 1),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GB, 1),
    }


def in_words(facts: Mapping[str, object]) -> dict[str, str]:
    """What `describe` gave, as names and text for a page; the command apart, since it needs a line of its own."""
    machine = facts["hardware"]
    assert isinstance(machine, Mapping)
    shown = {
        "date": str(facts["date"]),
        "version": f"latent_audit {facts['version']}",
        "took": f"{facts['minutes']} minutes since this start",
        "hardware": f"{machine['devices']} x {machine['device']}; host: {machine['host_cpus']} CPUs, "
        f"{machine['host_memory_gb']} GB of memory, at most {machine['peak_memory_gb']} GB used",
    }
    return shown if facts["seed"] is None else shown | {"seed": str(facts["seed"])}
