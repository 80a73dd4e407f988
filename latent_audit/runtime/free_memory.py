"""How much memory is free where jax computes."""

import os
import pathlib

import jax

# Beside what is free: file, field, and the file that says what is used of it (of a container, in bytes).
_LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def free_bytes() -> int:
    """Bytes that are free on the device of this process, or on the host where that is the device.

    An estimate: what a program keeps for itself is not counted, and pages of a file read before count as free.
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return host_free_bytes(pathlib.Path("/"))
    limit, used = device_bytes() or (0, 0)
    return limit - used


def device_bytes() -> tuple[int, int] | None:
    """(bytes of an accelerator that jax may take, those it has taken); None on a CPU, whose memory is the host's, and
    of a device that does not say."""
    device = jax.local_devices()[0]
    stats = None if device.platform == "cpu" else device.memory_stats()
    return (int(stats["bytes_limit"]), int(stats["bytes_in_use"])) if stats and "bytes_limit" in stats else None


def host_free_bytes(root: pathlib.Path) -> int:
    """Bytes that processes may still take by Linux's files below `root`; elsewhere half of the machine's memory."""
    found = []
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    for most, used in _LIMITS:
        limit, taken = (_read(root / "sys/fs/cgroup" / name).strip() for name in (most, used))
        if limit.isdigit() and taken.isdigit():
            found.append(max(int(limit) - int(taken), 0))
    if found:
        return min(found)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
