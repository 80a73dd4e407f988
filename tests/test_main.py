"""The command line: exit statuses, messages without tracebacks, speed of the first line; and the run log."""

import errno
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from latent_audit.errors import InputError
from latent_audit.runtime import ends, files, runlog

ROOT = pathlib.Path(__file__).parents[1]


def command(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "give --config=configs/lvs.py"),
        (["--config=configs/none.py"], "configs/none.py"),
        (["--config=configs/lvs.py", "--config.modle.path=x"], 'Did you mean "model"'),
        (["--config=configs/lvs.py", "--config.attack.stepz=3"], 'Did you mean "steps"'),
        (["--config=configs/lvs.py", "--config.seed=many"], "seed"),
        (["--config=configs/lvs.py", "extra"], "unexpected argument 'extra'"),
        (["--config=configs/lvs.py", "--config.attack.budgets=(0.1,-2.0)"], "attack.budgets holds -2.0"),
    ],
)
def test_bad_command_lines_exit_2_with_one_message(arguments, message, tmp_path):
    done = command(*arguments, f"--workdir={tmp_path / 'w'}")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("text", ["raise RuntimeError('boom')", "raise KeyError('x')", "1 / 0", "def get_config(: 1"])
def test_a_config_file_that_raises_exits_2(text, tmp_path):
    (tmp_path / "c.py").write_text(text)
    done = command(f"--config={tmp_path / 'c.py'}")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith("error: command line: ")


def test_a_config_stays_with_its_task_and_a_backend_must_be_there(tmp_path, monkeypatch):
    done = command("--config=configs/lvs.py", "--config.task=ras", f"--workdir={tmp_path / 'w'}")
    assert done.returncode == 2 and "config.task cannot be set" in done.stderr and not (tmp_path / "w").exists()
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    done = command("--config=configs/lvs.py", f"--workdir={tmp_path / 'w'}")
    assert done.returncode == 2 and "JAX_PLATFORMS" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "number, status, word", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_an_interrupted_run_says_what_is_kept(number, status, word, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "main.py", "--config=configs/lvs.py", f"--workdir={tmp_path}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "embedded organism" in line:
            break
    for _ in range(4):
        process.send_signal(number)
        try:
            lines += process.communicate(timeout=20)[1].splitlines(keepends=True)
            break
        except subprocess.TimeoutExpired:
            continue  # One that comes inside a callback of jax's own is swallowed there; a user presses again.
    assert process.wait(60) == status, "".join(lines)
    assert lines[-1] == f"{word}. Finished work is kept; the same command goes on from there.\n"
    assert not any("Traceback" in line for line in lines)


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        ends.explain(ZeroDivisionError())
    assert ends.explain(OSError(errno.ENOSPC, "No space left on device", "x.json")) == 1


def test_unwritable_workdir_exits_2(tmp_path):
    (tmp_path / "file").touch()
    done = command("--config=configs/lvs.py", f"--workdir={tmp_path / 'file' / 'w'}")
    assert done.returncode == 2 and "cannot be written" in done.stderr and "Traceback" not in done.stderr


def test_first_line_comes_within_five_seconds(tmp_path):
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "main.py", "--config=configs/lvs.py", f"--workdir={tmp_path}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stderr.readline()
    waited = time.monotonic() - start
    process.kill()
    process.communicate()
    assert "latent_audit: task lvs" in line and waited < 5


def test_changed_config_is_refused_by_field(tmp_path):
    runlog.prepare_workdir(tmp_path, {"a": {"b": 1, "c": (1, 2)}, "d": None})
    runlog.prepare_workdir(tmp_path, {"a": {"b": 1, "c": [1, 2]}, "d": None})
    with pytest.raises(InputError, match=r"a\.b: 1 there, 2 now; e: '\(absent\)' there, 0 now"):
        runlog.prepare_workdir(tmp_path, {"a": {"b": 2, "c": (1, 2)}, "d": None, "e": 0})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        runlog.prepare_workdir(tmp_path, {})


def test_second_run_in_one_workdir_is_refused(tmp_path):
    with runlog.lock(tmp_path):
        with pytest.raises(InputError, match="another run is writing"), runlog.lock(tmp_path):
            pass
    with runlog.lock(tmp_path):
        pass


def test_units_come_back_exactly_and_damage_is_noticed(tmp_path):
    columns = {"x": [0.1, 1e-300, 3.0], "name": ["a", "ü", "c"], "flag": [True, False, True]}
    assert runlog.load_unit(tmp_path, "base/lvs/L0/p00000") is None
    runlog.save_unit(tmp_path, "base/lvs/L0/p00000", columns)
    assert runlog.load_unit(tmp_path, "base/lvs/L0/p00000") == columns
    path = tmp_path / "units/base/lvs/L0/p00000.json"
    text = path.read_text()
    for damaged in (text.replace("0.1", "0.2"), text[:40], "", "[]"):
        path.write_text(damaged)
        assert runlog.load_unit(tmp_path, "base/lvs/L0/p00000") is None and not path.exists()


def test_full_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    files.write_text(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]
