"""The working directory at size: many units, clocks that jump."""

import time
import tracemalloc

import pytest

from latent_audit.runtime import runlog
from latent_audit.runtime.telling import progress

COLUMNS = {"prompt": list(range(24)), "harmful": [False] * 24, "nll_last": [1 / 3] * 24}


@pytest.mark.slow
def test_ten_thousand_units_cost_five_milliseconds_each_and_no_memory(tmp_path):
    def pass_over(count, first):
        began = time.perf_counter()
        with progress.of(count, "units") as meter:
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
