"""The working directory at size: many units, clocks that jump."""

import time
import tracemalloc
import types

import pytest

from latent_audit.runtime import runlog

COLUMNS = {"prompt": list(range(24)), "harmful": [False] * 24, "nll_last": [1 / 3] * 24}


@pytest.mark.slow
def test_ten_thousand_units_cost_five_milliseconds_each_and_no_memory(tmp_path):
    def pass_over(count, first):
        began = time.perf_counter()
        with runlog.progress(count, "units") as meter:
            for number in range(first, first + count):
                key = f"model/lvs/L{number % 40}/p{number:05d}"
                columns = runlog.load_unit(tmp_path, key)
                reused = columns is not None
                if not reused:
                    runlog.save_unit(tmp_path, key, COLUMNS)
                meter.advance(key, reused=reused)
        return (time.perf_counter() - began) / count

    pass_over(100, 0)
    written, read = pass_over(10_000, 100), pass_over(10_000, 100)
    tracemalloc.start()
    pass_over(2_000, 20_000)
    before, _ = tracemalloc.get_traced_memory()
    pass_over(8_000, 22_000)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept = (after - before) / 8_000
    print(f"per unit: written {1e3 * written:.2f} ms, read {1e3 * read:.2f} ms; {kept:.1f} bytes of memory kept")
    assert max(written, read) < 5e-3
    assert kept < 12


def test_a_clock_that_jumps_changes_no_rate(monkeypatch):
    """Rates are of the monotonic clock; the wall clock, which may be set while a run is on, is not asked."""
    lines = []
    monkeypatch.setattr(runlog, "LOG_EVERY", 0.0)
    monkeypatch.setattr(runlog, "time", types.SimpleNamespace(monotonic=time.monotonic))
    monkeypatch.setattr(runlog.logging, "info", lambda text, *values: lines.append(text % values))
    with runlog.progress(2, "units") as meter:
        meter.advance("a")
        meter.advance("b")
    assert lines[-1].startswith("2/2 units") and "0 s left" in lines[-1]
