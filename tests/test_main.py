"""The program as a process: exit statuses, one line whatever happens, closed streams, signals; and the run log."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from latent_audit.errors import InputError
from latent_audit.runtime import ends, files, runlog

ROOT = pathlib.Path(__file__).parents[1]
MAIN = [sys.executable, str(ROOT / "main.py")]


def command(*arguments, cwd=ROOT, start=MAIN, **environment):
    return subprocess.run(
        [*start, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
    )


def test_a_bad_command_line_exits_2_with_one_line(tmp_path):
    (tmp_path / "c.py").write_text("raise RuntimeError('boom')")
    for arguments in ([f"--config={tmp_path / 'c.py'}"], ["lvs", "--config.task=ras"]):
        done = command(*arguments, f"--workdir={tmp_path / 'w'}")
        assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "w").exists()
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_it_is_used_from_any_directory_as_a_module_too(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("raise SystemExit('foreign')")
    module = [sys.executable, "-m", "latent_audit"]
    for words in (["fields", "sweep:l2", "base.l2"], ["gcg", "--help"]):
        done = command(*words, cwd=tmp_path, start=module, PYTHONPATH=str(ROOT))
        assert done.returncode == 0 and done.stdout == command(*words).stdout, done.stderr


@pytest.mark.parametrize("platform", ["cuda", "no_such"])
def test_a_backend_must_be_there_before_anything_is_written(platform, tmp_path):
    done = command("lvs", f"--workdir={tmp_path / 'w'}", JAX_PLATFORMS=platform)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "w").exists()
    assert f"error: JAX_PLATFORMS = '{platform}'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "words, redirected, status, said",
    [
        ("ls", "| head -1", 0, ""),
        ("ls", ">&-", 1, "error: standard output cannot be written: it is closed\n"),
        ("ls", ">&- 2>&-", 1, ""),
        ("--help", "> /dev/full", 1, "error: standard output cannot be written: No space left on device\n"),
        ("lsv", "2> /dev/full", 2, ""),
        ("lsv", "2>&-", 2, ""),
        ("--version", "<&-", 0, ""),
    ],
)
def test_streams_that_are_closed_or_full(words, redirected, status, said, tmp_path):
    line = f"set -o pipefail; {sys.executable} {ROOT / 'main.py'} {words} {redirected}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (status, said)


def test_a_closed_stderr_is_no_file_that_is_opened_next(tmp_path):
    code = (
        "import os; from latent_audit.runtime import ends; closed = ends.open_streams();"
        f"file = open({str(tmp_path / 'data')!r}, 'w'); os.write(2, b'a library speaks');"
        "file.write(str(sorted(closed)))"
    )
    line = f'{sys.executable} -c "{code}" >&- 2>&-'
    assert subprocess.run(["bash", "-c", line], cwd=ROOT, timeout=60).returncode == 0
    assert (tmp_path / "data").read_text() == "[1, 2]"


WAITING = """
import os, sys
sys.argv = ["latent-audit", "lvs", "a b"]
from latent_audit import __main__
from latent_audit.commandline import command

def run(argv, state, closed):
    import ctypes, pathlib
    state.workdir = pathlib.Path(os.environ["WORKDIR"])
    print("ready", flush=True)
    try:
        while True:
            ctypes.CDLL(None).sleep(30)
    except BaseException:
        print("an exception reached the program", flush=True)

command.run = run
sys.exit(__main__.main())
"""


def hear_signals():
    """In a child: where the tests run in the background or under nohup, signals are ignored, and it takes that over."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def interrupt(workdir, *numbers):
    """What a process that is in C says when signals come: (exit status, stdout, stderr)."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"WORKDIR": str(workdir)},
        preexec_fn=hear_signals,
    )
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        process.send_signal(number)
    out, said = process.communicate(timeout=20)
    return process.returncode, out, said


@pytest.mark.parametrize(
    "numbers, status, word",
    [
        ([signal.SIGINT], 130, "interrupted"),
        ([signal.SIGINT, signal.SIGINT], 130, "interrupted"),
        ([signal.SIGTERM], 143, "terminated"),
        ([signal.SIGHUP], 129, "terminated (its terminal was closed)"),
    ],
)
def test_a_signal_ends_a_run_in_one_line_even_while_it_is_in_c(numbers, status, word, tmp_path):
    runlog.save_unit(tmp_path, "base/lvs/L0/p00000", {"x": [1.0]})
    again = "Go on with: latent-audit lvs 'a b'\n"
    said = interrupt(tmp_path, *numbers)
    assert said == (status, "", f"{word}. 1 finished unit is kept in {tmp_path}. {again}")


def test_what_is_kept_is_what_is_there(tmp_path):
    run = ends.Run("latent-audit lvs", tmp_path / "w")
    assert ends.kept(ends.Run("c")) == "Nothing was written. Start it again with: c"
    assert ends.kept(run).startswith("Nothing was written.")
    for name in ("compiled/x", "config.json", "inputs.json", ".lock"):
        (tmp_path / "w" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "w" / name).touch()
    assert ends.kept(run) == "No unit of work was finished. Start it again with: latent-audit lvs"
    (tmp_path / "w" / "organism").mkdir()
    assert ends.kept(run).startswith(f"What is finished is kept in {tmp_path / 'w'}. Go on with: ")
    for number in (1, 2):
        runlog.save_unit(tmp_path / "w" / "points" / "a=1", f"base/L{number}/p0", {})
    assert ends.kept(run).startswith("2 finished units are kept in ")


def test_an_interrupted_run_names_the_command_that_goes_on(tmp_path):
    process = subprocess.Popen(
        [*MAIN, "lvs", f"--workdir={tmp_path}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_signals,
    )
    try:
        for line in process.stderr:
            if "device(s)" in line:
                break
        process.send_signal(signal.SIGINT)
        lines = process.communicate(timeout=30)[1].splitlines()
    finally:
        process.kill()
    assert process.returncode == 130 and lines[-1].startswith("interrupted. "), lines
    assert lines[-1].endswith(f"main.py lvs --workdir={tmp_path}") and not any("Traceback" in line for line in lines)


@pytest.mark.parametrize(
    "error, status, words",
    [
        (InputError("x = 1"), 2, ["error: x = 1"]),
        (KeyboardInterrupt(), 130, ["interrupted. Nothing was written"]),
        (OSError(errno.ENOSPC, "No space left on device", "x.json"), 1, ["error: No space left on device (x.json)"]),
        (MemoryError(), 1, ["no memory left (MemoryError)", "config.prompt_batch"]),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 9 bytes"), 1, ["no memory left", "bfloat16"]),
        (ModuleNotFoundError("No module named 'jax'", name="jax"), 1, ["the package 'jax' is missing"]),
    ],
)
def test_every_end_is_one_line_with_its_status(error, status, words, capsys):
    assert ends.explain(error, ends.Run("c")) == status
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(word in said for word in words) and "Traceback" not in said


def test_a_fault_of_the_program_keeps_its_traceback_in_a_file(tmp_path, capsys):
    def fault():
        return runlog.flatten(None)

    for workdir in (tmp_path, None):
        try:
            fault()
        except AttributeError as error:
            assert ends.explain(error, ends.Run("latent-audit lvs", workdir)) == 1
        said = capsys.readouterr().err
        assert "internal error: AttributeError at runlog.py:" in said.splitlines()[-1] and "report it with" in said
        assert ("Traceback" in said) == (workdir is None)
    assert (
        "Traceback" in (tmp_path / "fault.txt").read_text()
        and "latent-audit lvs" in (tmp_path / "fault.txt").read_text()
    )


def test_first_line_comes_within_five_seconds(tmp_path):
    start = time.monotonic()
    process = subprocess.Popen(
        [*MAIN, "--config=configs/lvs.py", f"--workdir={tmp_path}"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    line = process.stderr.readline()
    waited = time.monotonic() - start
    process.kill()
    process.communicate()
    assert "task lvs" in line and waited < 5


def test_second_run_in_one_workdir_is_refused(tmp_path):
    with runlog.lock(tmp_path):
        with pytest.raises(InputError, match="another run is writing"), runlog.lock(tmp_path):
            pass
    with runlog.lock(tmp_path):
        pass


def test_full_disk_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    files.write_text(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]
