"""Several processes of one run on this machine: what the first says reaches all; one that is gone stops the others."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pandas as pd
import pytest

from latent_audit.runtime import processes
from tests.experiments.audit.test_latent_job import flags
from tests.support.checkpoints import tiny_checkpoint

ROOT = pathlib.Path(__file__).parents[2]

TALK = """
import json, sys
from latent_audit.errors import InputError
from latent_audit.runtime import checkpoint, files, mesh, processes

directory, coordinator, process = sys.argv[1], sys.argv[2], int(sys.argv[3])
processes.start(coordinator=coordinator, processes=2, process=process)
import jax, jax.numpy as jnp, numpy as np
from latent_audit.models import sharding

def refuse():
    raise InputError(f"process {process} refuses")

said = {"count": processes.count(), "first": processes.is_first()}
said["told"] = processes.on_first(lambda: {"from": process, "text": "a" * 3000 + chr(233)})
said["inside"] = processes.on_first(lambda: [processes.count(), processes.is_solo()])
try:
    processes.on_first(refuse)
except InputError as error:
    said["refused"] = str(error)
said["gathered"] = [part.decode() for part in processes.gather(b"%d!" % process)]
files.write_text(directory + "/written", f"by {process}")
whole = np.arange(48, dtype=np.float32).reshape(2, 3, 4, 2)
with mesh.use({"data": 1, "model": 2}):
    tree = {"query": sharding.place("blocks/query", whole), "key": jax.random.key(7), "step": jnp.int32(3)}
    said["here"] = [list(part.data.shape) for part in tree["query"].addressable_shards]
    for step in (1, 2, 3):
        checkpoint.save(directory + "/kept", step, tree)
    step, found = checkpoint.restore(directory + "/kept", tree)
    said["restored"] = [step, bool((sharding.to_host(found["query"]) == whole).all()), int(found["step"]),
                        bool((jax.random.key_data(found["key"]) == jax.random.key_data(tree["key"])).all())]
    said["steps"] = checkpoint.steps(directory + "/kept")
    with mesh.alone():
        said["alone"] = processes.on_first(lambda: float(jnp.arange(4.0).sum()))
processes.meet()
print(json.dumps(said))
"""


def coordinator():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{server.getsockname()[1]}"


def environment(devices: int = 1):
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen=false --xla_force_host_platform_device_count={devices}",
    }


def begin(command, **options):
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), **options
    )


def end(started, *, within: float):
    """[(exit status, stdout, stderr)]; none of them is left running."""
    try:
        done = [process.communicate(timeout=within) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(started, done, strict=True)]


def test_what_the_first_process_says_reaches_all_and_checkpoints_are_of_all(tmp_path):
    at = coordinator()
    ended = end(
        [begin([sys.executable, "-c", TALK, str(tmp_path), at, str(process)]) for process in range(2)], within=150
    )
    assert [status for status, _, _ in ended] == [0, 0], ended
    first, second = (json.loads(out.splitlines()[-1]) for _, out, _ in ended)
    assert first.pop("first") and not second.pop("first")
    assert (
        first
        == second
        == {
            "count": 2,
            "told": {"from": 0, "text": "a" * 3000 + "\u00e9"},
            "inside": [1, True],
            "refused": "process 0 refuses",
            "gathered": ["0!", "1!"],
            "here": [[2, 3, 2, 2]],
            "restored": [3, True, 3, True],
            "steps": [2, 3],
            "alone": 6.0,
        }
    )
    assert (tmp_path / "written").read_text() == "by 0"


def test_one_process_needs_no_other():
    assert processes.count() == 1 and processes.is_first() and not processes.is_solo()
    assert processes.on_first(lambda: 5) == 5 and processes.gather(b"x") == [b"x"]
    assert not processes.is_lost(RuntimeError("gloo: connection closed by peer"))


def run_together(path, workdir, at, *, data=2, model=1):
    """main.py as data x model processes of one run of the tiny lvs job, one device each."""
    shared = [
        *flags(path, workdir),
        f"--config.mesh.data={data}",
        f"--config.mesh.model={model}",
        "--config.distributed=True",
        f"--config.distributed_coordinator={at}",
        f"--config.distributed_processes={data * model}",
    ]
    return [begin([*shared, f"--config.distributed_process={process}"]) for process in range(data * model)]


@pytest.mark.slow
@pytest.mark.parametrize("data, model", [(2, 1), (2, 2)])
def test_processes_write_together_what_one_writes(data, model, tmp_path):
    path = tiny_checkpoint("llama3", tmp_path / "model")
    alone = subprocess.run(flags(path, tmp_path / "one"), cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    ended = end(run_together(path, tmp_path / "two", coordinator(), data=data, model=model), within=500)
    assert {status for status, _, _ in ended} == {0}, ended
    assert "units" not in ended[1][2], "the second process is silent"
    one, two = tmp_path / "one", tmp_path / "two"
    names = [
        sorted(
            str(file.relative_to(root)) for file in root.rglob("*") if file.is_file() and "compiled" not in file.parts
        )
        for root in (one, two)
    ]
    assert names[0] == names[1]
    tables = [pd.read_csv(root / "metrics.csv") for root in (one, two)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_stops_the_other_and_the_run_resumes(victim, tmp_path):
    path = tiny_checkpoint("llama3", tmp_path / "model")
    workdir = tmp_path / "w"
    started = run_together(path, workdir, coordinator())
    try:
        deadline = time.monotonic() + 300
        while len(list(workdir.glob("units/**/*.json"))) < 2:
            assert all(process.poll() is None for process in started) and time.monotonic() < deadline
            time.sleep(0.01)
        started[victim].send_signal(signal.SIGKILL)
        died = time.monotonic()
        _, said = started[1 - victim].communicate(timeout=90)
        waited = time.monotonic() - died
    finally:
        for process in started:
            process.kill()
    assert started[1 - victim].returncode not in (0, None) and waited < 60, (waited, said)
    # Ours, or that of JAX's own coordination service, whichever notices first.
    assert "another process of this run has stopped" in said or "another task died" in said, said
    assert not (workdir / "metrics.csv").exists()
    kept = {file: file.stat().st_mtime_ns for file in workdir.glob("units/**/*.json")}
    ended = end(run_together(path, workdir, coordinator()), within=400)
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert all(file.stat().st_mtime_ns == made for file, made in kept.items()) and len(kept) >= 2
    assert len(pd.read_csv(workdir / "metrics.csv")) > 0


@pytest.mark.slow
def test_what_is_missing_to_find_the_others_is_named():
    code = "from latent_audit.runtime import processes; processes.start({})"
    for arguments, message in (
        ("coordinator='127.0.0.1:1', processes=2", "distributed_process = -1"),
        ("processes=2, process=0", "distributed_coordinator = ''"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.format(arguments)],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1 and "InputError: distributed = True" in done.stderr, done.stderr
        assert message in done.stderr and "Expected host:port of the first process" in done.stderr
