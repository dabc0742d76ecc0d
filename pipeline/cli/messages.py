"""Messages of `features.runtime.log` on standard error: one line each, with warnings and errors marked by a word."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import TextIO

from features.runtime.log import log
from features.runtime.progress import above_bars

_WORDS = {logging.WARNING: "warning", logging.ERROR: "error"}


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        word = getattr(record, "word", _WORDS.get(record.levelno, ""))
        line = f"{word:<8} {record.getMessage()}" if word else record.getMessage()
        return f"{record.relativeCreated / 1000:8.2f} s  {line}" if log.level <= logging.DEBUG else line


class _AboveBars(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        with above_bars(self.stream):
            super().emit(record)


@contextlib.contextmanager
def messages_on_stderr(level: int) -> Iterator[None]:
    """Print the program's own messages of at least this level while a command runs; restore the logger afterwards."""
    handler = _AboveBars(sys.stderr)
    handler.setFormatter(_Lines())
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(level)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]
