"""What a run says of itself: rates without compilation, long silences broken, programs named while they compile."""

import logging as python_logging
import threading
import time
import types

import jax
import jax.numpy as jnp
import pytest

from latent_audit.runtime.telling import compiling, progress


@pytest.fixture
def lines(monkeypatch):
    said = []
    monkeypatch.setattr(progress.logging, "info", lambda text, *values: said.append(text % values))
    return said


def test_a_clock_that_jumps_changes_no_rate(monkeypatch, lines):
    """Rates are of the monotonic clock; the wall clock, which may be set while a run is on, is not asked."""
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=time.monotonic))
    with progress.of(2, "units") as meter:
        meter.advance("a")
        meter.advance("b")
    assert lines[-1].startswith("2/2 units") and "0 s left" in lines[-1]


def test_time_of_compilation_is_in_no_rate(monkeypatch, lines):
    """Ten units in ten seconds of work, behind ninety of compilation: the other ten take ten more."""
    now = [0.0]
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    watch = compiling.Watch()
    monkeypatch.setattr(progress, "_COMPILED", watch)
    with progress.of(20, "units") as meter:
        now[0], watch.seconds = 100.0, 90.0
        meter.advance("base/lvs/L3", 10)
    assert "1 per second, 10 s left (90 s of 100 were compilation)" in lines[-1]


def test_what_threads_compile_at_the_same_time_counts_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(compiling, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    watch = compiling.Watch()

    def ends(at, seconds):
        now[0] = at
        text = f"Finished XLA compilation of jit(f) in {seconds} sec"
        watch.emit(python_logging.LogRecord("jax._src.dispatch", python_logging.DEBUG, "", 0, text, (), None))

    ends(110.0, 10.0)
    ends(112.0, 12.0)
    assert watch.seconds == pytest.approx(12.0)
    ends(130.0, 5.0)
    assert watch.seconds == pytest.approx(17.0) == watch.spent()


def test_units_read_back_are_in_no_rate(monkeypatch, lines):
    now = [0.0]
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    with progress.of(10, "units") as meter:
        meter.advance("read", 6, reused=True)
        assert meter.pace(0.0) == "time left unknown"
        now[0] = 20.0
        meter.advance("made", 2)
    assert "0.1 per second, 20 s left" in lines[-1]


def test_a_silence_is_broken_by_what_the_run_is_at(lines):
    with progress.heartbeat(every=0.05), progress.of(4, "units") as meter:
        meter.advance("base/lvs/L3")
        deadline = time.monotonic() + 10
        while not lines and time.monotonic() < deadline:
            time.sleep(0.01)
    assert lines[0] == "1/4 units, at the next after base/lvs/L3"
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


def test_a_program_is_named_while_it_compiles_and_its_time_is_summed():
    with progress.heartbeat():
        watch, seen = progress._COMPILED, []
        began = time.monotonic()
        unseen = threading.Event()

        def look():
            while not unseen.is_set():
                if watch.program is not None:
                    seen.append(watch.program.name)
                time.sleep(0.001)

        thread = threading.Thread(target=look)
        thread.start()

        def many_products(x):
            for number in range(300):
                x = jnp.sin(x) @ x + number
            return x

        jax.jit(many_products).lower(jnp.ones((5, 5))).compile()
        took = time.monotonic() - began
        unseen.set()
        thread.join()
    assert "many_products" in seen
    assert watch.program is None
    assert 0 < watch.seconds <= took


def test_another_wording_of_jax_counts_nothing_and_breaks_nothing():
    watch = compiling.Watch()
    record = python_logging.LogRecord("jax", python_logging.DEBUG, "", 0, "Building %s", ("f",), None)
    watch.emit(record)
    assert watch.program is None and watch.spent() == 0


def test_what_jax_shows_is_still_shown_and_no_more(caplog):
    """JAX_LOG_COMPILES shows compilation as warnings, which benchmarks read; debug lines are for the watch alone."""
    ends = python_logging.getLogger(compiling._ENDS)
    before = ends.level, ends.propagate, list(ends.handlers)
    with compiling.watch() as watch:
        ends.warning("Finished XLA compilation of %s in %s sec", "jit(shown)", 2.5)
        ends.debug("Finished XLA compilation of %s in %s sec", "jit(hidden)", 4.0)
        # The second began before the first.
        assert watch.seconds == pytest.approx(4.0, abs=0.1)
    assert [record.getMessage() for record in caplog.records] == ["Finished XLA compilation of jit(shown) in 2.5 sec"]
    assert (ends.level, ends.propagate, ends.handlers) == before
