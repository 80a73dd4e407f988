"""What jax compiles in this process: how long it has taken so far, and what is being compiled now.

Read from the records that jax logs of every program, whether or not it shows them (JAX_LOG_COMPILES). Of another jax
that words them otherwise nothing is read, and compilation counts as work.
"""

import contextlib
import logging
import re
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

# Loggers of jax that say when a program's compilation begins and how long its three parts took.
_BEGINS, _ENDS = "jax._src.interpreters.pxla", "jax._src.dispatch"
_BEGIN = re.compile(r"Compiling (?:jit\()?([\w<>.]+)\)? with")
_END = re.compile(r"Finished (?:tracing|jaxpr to MLIR module conversion|XLA compilation of) .* in ([\d.e-]+) sec")
_FINISHED = "Finished XLA compilation"


class Program(NamedTuple):
    """A program that is being compiled: its function's name and when that began, of time.monotonic()."""

    name: str
    began: float


class Watch(logging.Handler):
    """Sums the seconds in which anything was compiled since `began`; `program` is what is compiled now, or None.

    passes: logger -> the level from which on its records go on to where they went before.
    """

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.began, self.seconds = time.monotonic(), 0.0
        # (begin, end) of what was compiled, apart from each other and in order.
        self.spans: list[tuple[float, float]] = []
        self.program: Program | None = None
        self.passes: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        parent = logging.getLogger(record.name).parent
        if parent is not None and record.levelno >= self.passes.get(record.name, sys.maxsize):
            parent.handle(record)
        text = record.getMessage()
        if begin := _BEGIN.match(text):
            self.program = Program(begin[1], time.monotonic())
        elif end := _END.match(text):
            self._add(time.monotonic(), float(end[1]))
            if text.startswith(_FINISHED):
                self.program = None

    def _add(self, end: float, seconds: float) -> None:
        # Threads compile at the same time, which is counted once.
        begin = end - seconds
        while self.spans and self.spans[-1][1] >= begin:
            last = self.spans.pop()
            self.seconds -= last[1] - last[0]
            begin = min(begin, last[0])
        self.spans.append((begin, end))
        self.seconds += end - begin

    def spent(self) -> float:
        """Seconds so far, those of the program that is being compiled included."""
        program = self.program
        if program is None:
            return self.seconds
        ended = self.spans[-1][1] if self.spans else program.began
        return self.seconds + max(0.0, time.monotonic() - max(program.began, ended))


@contextlib.contextmanager
def watch() -> Iterator[Watch]:
    """A Watch of everything that is compiled meanwhile, in every thread; jax's loggers are as before at the end."""
    found = Watch()
    loggers = [logging.getLogger(name) for name in (_BEGINS, _ENDS)]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        if not logger.isEnabledFor(logging.DEBUG):
            # Below their level they would say nothing; what they say now goes to the watch, and on only from there.
            found.passes[logger.name] = logger.getEffectiveLevel()
            logger.setLevel(logging.DEBUG)
            logger.propagate = False
        logger.addHandler(found)
    try:
        yield found
    finally:
        for logger, (level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(found)
            logger.setLevel(level)
            logger.propagate = propagate
