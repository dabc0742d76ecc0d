"""Messages of `features.runtime.log` on standard error: one line each, with warnings and errors marked by a word."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from features.runtime.log import log
from features.runtime.progress import above_bars

# Control characters, which move the cursor or turn text around, and what stands for bytes that are not UTF-8: file and class names
# may hold them.
_HIDDEN = [
    *range(9),
    *range(11, 32),
    *range(127, 160),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xDC80, 0xDD00),
]
_AS_TEXT = {code: f"\\x{code & 0xFF:02x}" if code < 256 or code >= 0xDC80 else f"\\u{code:04x}" for code in _HIDDEN}
_IN_JSON = {code: f"\\u{code:04x}" for code in _HIDDEN}
_WORDS = {logging.WARNING: "warning", logging.ERROR: "error"}


def printable(text: str) -> str:
    """Return text with control characters, except tabs and newlines, and bytes that are not UTF-8 written as escapes."""
    return text.translate(_AS_TEXT)


def printable_json(value: Any) -> str:
    """Return a value as one line of JSON that any terminal prints."""
    return json.dumps(value, ensure_ascii=False).translate(_IN_JSON)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        word = getattr(record, "word", _WORDS.get(record.levelno, ""))
        line = f"{word:<8} {record.getMessage()}" if word else record.getMessage()
        return printable(f"{record.relativeCreated / 1000:8.2f} s  {line}" if log.level <= logging.DEBUG else line)


class _AboveBars(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        with above_bars(self.stream):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            raise  # nobody reads any more, which ends the command
        super().handleError(record)


@contextlib.contextmanager
def messages_on_stderr(level: int) -> Iterator[None]:
    """Print the program's own messages of at least this level while a command runs; restore the loggers afterwards.

    Of other libraries, only errors are printed, unless everything is: their warnings are about their own use.
    """
    handler = _AboveBars(sys.stderr)
    handler.setFormatter(_Lines())
    before, others = (log.level, log.propagate), logging.lastResort
    if level > logging.DEBUG:
        logging.captureWarnings(True)
        logging.lastResort = logging.StreamHandler()
        logging.lastResort.setLevel(logging.ERROR)
    log.addHandler(handler)
    log.setLevel(level)
    log.propagate = False
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logging.lastResort = others
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]
