"""Settings of every test: several fake devices, exact matrix products, and compiles that are quick, not optimal."""

import importlib.metadata
import os
import pathlib
import shutil
import tempfile

import pytest

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4 --xla_cpu_multi_thread_eigen=false"
)
if importlib.metadata.version("jax").startswith("0.10."):
    # The older emitters of loops compile these programs in a third of the time: three quarters of the suite are
    # compilation. XLA aborts on a flag that it does not know, so only versions it was tried with are given it.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# One thread each: the workers of pytest-xdist share the cores, and tiny arrays gain nothing from more.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Many tests compile the same program of the same tiny model: once is enough for all workers of one session. Short ones
# are not kept: writing one crashed jaxlib (put_executable_and_time) in one run of the suite.
SESSION = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"alone-{os.getpid()}")
COMPILED = pathlib.Path(tempfile.gettempdir()) / f"latent-audit-tests-{SESSION}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Compiled programs are let go between files, and by long tests between tests; runtime/programs.py says why."""
    yield
    from latent_audit.runtime import programs  # noqa: PLC0415  after the settings above

    programs.let_go()


@pytest.fixture(autouse=True)
def few_programs_of_long_tests(request):
    yield
    if request.node.get_closest_marker("slow"):
        from latent_audit.runtime import programs  # noqa: PLC0415  after the settings above

        programs.let_go()


@pytest.fixture(autouse=True, scope="session")
def everything_written_is_described():
    """Every CSV that any test writes has columns of the data dictionary alone, every report.json keeps the schema."""
    from tests.support import described  # noqa: PLC0415  after the settings above

    with described.watched():
        yield


def pytest_sessionfinish(session):
    """The last process to end, the one that is no worker, clears the compiled programs away."""
    if not hasattr(session.config, "workerinput"):
        for directory in {COMPILED, *COMPILED.parent.glob(f"{COMPILED.name}*")}:
            shutil.rmtree(directory, ignore_errors=True)
