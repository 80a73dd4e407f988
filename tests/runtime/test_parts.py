"""What killed writes left is cleared, and nothing else."""

import fcntl
import os
import signal
import subprocess
import sys

import pytest

from latent_audit.runtime import files

KILLED = """
import os, signal, sys
from latent_audit.runtime import files
os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
files.write_text(sys.argv[1], "new")
"""


def test_parts_of_killed_writes_are_cleared_and_nothing_else(tmp_path):
    inner = tmp_path / "units"
    inner.mkdir()
    for path in (tmp_path / "config.json", inner / "a.json"):
        files.write_text(path, "old")
        done = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True, timeout=60)
        assert done.returncode == -signal.SIGKILL, done.stderr
    ours = ".report.html.abcd_123.part"
    for name in (ours, ".notes.part", "x.12345678.part", ".a.ABCDEFGH.part", ".a.12345678.part.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / ".folder.12345678.part").mkdir()
    (tmp_path / ".link.12345678.part").symlink_to("config.json")
    os.mkfifo(tmp_path / ".pipe.12345678.part")
    kept = {entry.name for entry in tmp_path.iterdir()} - {ours}
    # One that is being written: its writer holds it.
    with open(tmp_path / ".live.12345678.part", "w") as live:
        fcntl.flock(live, fcntl.LOCK_EX)
        assert files.clear_parts(tmp_path) == 3
        assert (tmp_path / ".live.12345678.part").exists()
    assert files.clear_parts(tmp_path) == 1 and files.clear_parts(tmp_path / "absent") == 0
    left = {entry.name for entry in tmp_path.iterdir()}
    assert left == {name for name in kept if not name.startswith(".config.json.")}
    assert (tmp_path / "config.json").read_text() == "old" and os.listdir(inner) == ["a.json"]


def test_a_write_that_fails_names_the_file_that_was_to_be(tmp_path):
    target = tmp_path / "report.html"
    target.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        files.write_text(target, "text")
    assert caught.value.filename == str(target) and list(tmp_path.iterdir()) == [target]
