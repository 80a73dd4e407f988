"""What the host may still take, read from Linux's files of a machine and of a container."""

import pytest

from latent_audit.runtime import free_memory


@pytest.mark.parametrize(
    "limits, expected",
    [
        ({}, 3_000_000 * 1024),
        ({"memory.max": "max\n", "memory.current": "5\n"}, 3_000_000 * 1024),
        ({"memory.max": "1000000000\n", "memory.current": "400000000\n"}, 600_000_000),
        ({"memory.max": "1000\n", "memory.current": "4000\n"}, 0),
        ({"memory/memory.limit_in_bytes": "9000\n", "memory/memory.usage_in_bytes": "4000\n"}, 5000),
    ],
)
def test_a_container_may_have_less_than_its_machine(tmp_path, limits, expected):
    files = {f"sys/fs/cgroup/{name}": text for name, text in limits.items()}
    files["proc/meminfo"] = "MemTotal:  8000000 kB\nMemFree: 1 kB\nMemAvailable:  3000000 kB\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory.host_free_bytes(tmp_path) == expected


def test_elsewhere_half_of_the_memory_is_taken_for_free(tmp_path):
    assert 0 < free_memory.host_free_bytes(tmp_path) and free_memory.free_bytes() > 0
