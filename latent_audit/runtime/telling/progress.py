"""How far a run is: what is done, what it is at, and how long it will take without compilation.

On a terminal a bar, elsewhere a log line now and then; where nothing was said for a while, a line all the same.
"""

import contextlib
import logging as python_logging
import sys
import threading
import time
from collections.abc import Iterable, Iterator

from absl import logging
from tqdm import tqdm

from latent_audit.runtime.telling import compiling
from latent_audit.runtime.telling.forecast import Forecast, Part

# A log line this often, in seconds, where there is no terminal to draw a bar on.
LOG_EVERY = 10.0
# The longest silence, in seconds.
HEARTBEAT = 15.0
# The meters and forecasts that are open, the innermost last, and what jax compiles: one of each in a process, as of the
# log itself.
_OPEN: list["Progress"] = []
_FORECASTS: list[Forecast] = []
_COMPILED = compiling.Watch()


class Progress:
    """One bar on a terminal, a log line every LOG_EVERY seconds elsewhere: done/total, rate and time left."""

    def __init__(self, total: int, unit: str):
        self.total, self.unit, self.done, self.skipped = total, unit, 0, 0
        self.missing: list[str] = []
        self.began = self.last = time.monotonic()
        self.compiled = _COMPILED.spent()
        self.forecast = _FORECASTS[-1] if _FORECASTS else None
        self.label, self.at_work, self.since = "", "", self.worked(self.began)
        self.bar: tqdm | None = None

    def advance(self, label: str, count: int = 1, *, reused: bool = False, missing: bool = False) -> None:
        """Count `count` units; `reused` ones were read back and stay out of the rate, as do `missing` ones, which
        another shard has to compute and has not."""
        self.done += count
        self.label = label
        self.skipped += count if reused or missing else 0
        self.missing += [label] * count if missing else []
        now = time.monotonic()
        worked, self.since = self.worked(now) - self.since, self.worked(now)
        self.at_work = ""
        if self.forecast is not None:
            self.forecast.done(f"{self.unit} {label}", count, None if reused or missing else worked)
        if sys.stderr.isatty():
            self.bar = self.bar or tqdm(total=self.total, unit=f" {self.unit}", dynamic_ncols=True)
            self.bar.set_postfix_str(self.shown(now), refresh=False)
            self.bar.update(count)
            return
        if now - self.last >= LOG_EVERY or self.done == self.total:
            self.last = now
            logging.info("%d/%d %s, %s (%s)", self.done, self.total, self.unit, self.pace(now), label)

    def pace(self, now: float) -> str:
        """The rate and the time left by it; both leave out what was compiled, which comes once."""
        if whole := left_in_all(now):
            return whole
        fresh = self.done - self.skipped
        if not fresh:
            return "time left unknown"
        compiled = _COMPILED.spent() - self.compiled
        worked = max(now - self.began - compiled, 1e-9)
        left = f"{fresh / worked:.2g} per second, {(self.total - self.done) * worked / fresh:.0f} s left"
        return left + _compiled(compiled, now - self.began)

    def worked(self, now: float) -> float:
        """Seconds since the meter was opened, without compilation."""
        return now - self.began - (_COMPILED.spent() - self.compiled)

    def at(self, now: float) -> str:
        """What is going on since the last unit, for a line in a long silence."""
        behind = f" after {self.label}" if self.label else ""
        left = left_in_all(now)
        return (
            f"{self.done}/{self.total} {self.unit}, at the next{behind}"
            + (f": {self.at_work}" if self.at_work else "")
            + (f", {left}" if left else "")
        )

    def shown(self, now: float) -> str:
        """Beside a bar: the last unit, or what is being done of the next, and the time left of the whole run."""
        left = whole_left(now)
        return (self.at_work or self.label) + (f", {left:.0f} s left in all" if left is not None else "")

    def close(self) -> None:
        if self.forecast is not None and self.done == self.total:
            self.forecast.finished(self.unit)
        if self.bar is not None:
            self.bar.close()


@contextlib.contextmanager
def of(total: int, unit: str) -> Iterator[Progress]:
    """A Progress that is closed at the end; see there."""
    meter = Progress(total, unit)
    _OPEN.append(meter)
    try:
        yield meter
    finally:
        _OPEN.remove(meter)
        meter.close()


@contextlib.contextmanager
def expect(parts: Iterable[Part]) -> Iterator[None]:
    """Tell the time left of a whole run meanwhile, and not only of the meter that is open; a run may hold others.

    parts: of the run, their keys the unit of a meter and what its labels begin with, "units base/lvs/L3/".
    """
    _FORECASTS.append(Forecast(parts))
    try:
        yield
    finally:
        _FORECASTS.pop()


def within(what: str, done: int = 0, of_all: int = 0) -> None:
    """Say what the unit at hand is at, such as within("answers", 96, 288); nothing where no meter is open."""
    if _OPEN:
        _OPEN[-1].at_work = f"{what} {done}/{of_all}" if of_all else what


def left_in_all(now: float) -> str:
    """The time left of the whole run, and what of the time behind was compilation; "" where nobody knows."""
    left = whole_left(now)
    return "" if left is None else f"{left:.0f} s left in all" + _compiled(_COMPILED.spent(), now - _COMPILED.began)


def _compiled(seconds: float, of_all: float) -> str:
    return f" ({seconds:.0f} s of {of_all:.0f} were compilation)" if seconds >= 1 else ""


def whole_left(now: float) -> float | None:
    """Seconds left of the whole run without compilation, None where nobody knows."""
    if not any(one.parts for one in _FORECASTS):
        return None
    meter = _OPEN[-1] if _OPEN else None
    inner = _FORECASTS[-1]
    spent = meter.worked(now) - meter.since if meter is not None and meter.forecast is inner else 0.0
    left = inner.seconds_left(spent)
    # What runs now inside of another run is one of its parts, whose own time is the better one.
    for outer in _FORECASTS[-2::-1]:
        left += outer.seconds_behind(inner.error_of_all())
    return left


@contextlib.contextmanager
def heartbeat(every: float = HEARTBEAT) -> Iterator[None]:
    """Watch what jax compiles, and say what is going on wherever nothing was said for `every` seconds."""
    global _COMPILED
    heard, handler, ended = _Heard(), logging.get_absl_handler(), threading.Event()
    thread = threading.Thread(target=_beat, args=(heard, every, ended), name="heartbeat", daemon=True)
    with compiling.watch() as _COMPILED:
        handler.addFilter(heard)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            handler.removeFilter(heard)


class _Heard(python_logging.Filter):
    """Lets every line pass and keeps when the last one came."""

    def __init__(self) -> None:
        super().__init__()
        self.last = time.monotonic()

    def filter(self, record: python_logging.LogRecord) -> bool:
        self.last = time.monotonic()
        return True


def _beat(heard: _Heard, every: float, ended: threading.Event) -> None:
    while not ended.wait(min(1.0, every / 4)):
        now = time.monotonic()
        meter = _OPEN[-1] if _OPEN else None
        if meter is not None and meter.bar is not None:
            meter.bar.set_postfix_str(_compiled_now(now) or meter.shown(now))
        elif now - heard.last >= every:
            logging.info("%s", said(now))


def said(now: float) -> str:
    """The line of a long silence: what the innermost meter is at, and what is being compiled."""
    meter = _OPEN[-1] if _OPEN else None
    parts = [_compiled_now(now), meter.at(now) if meter is not None else ""]
    return "; ".join(part for part in parts if part) or "at work"


def _compiled_now(now: float) -> str:
    program = _COMPILED.program
    return f"compiling {program.name}, {now - program.began:.0f} s" if program is not None else ""
