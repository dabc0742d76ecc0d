"""Progress of long tasks: a bar on a terminal and in a notebook, occasional plain lines elsewhere."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

from .log import log

_LINE = "{desc}{n:.0f}/{total_fmt}{unit}, {rate_noinv_fmt}, {remaining} left"
_BAR = "{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"
_FIRST, _BETWEEN = 2.0, 10.0  # seconds before the first line, and between lines
_SHARE_LINE = "{percentage:.0f} % of {total_fmt}{unit}, {remaining} left"
_SHARE_BAR = "{l_bar}{bar}| of {total_fmt}{unit} [{elapsed}<{remaining}]"

# Called with the share of one piece of work that was done since; all shares sum up to 1.
Tell = Callable[[float], object]
T = TypeVar("T")


def untold(share: float) -> None:
    """Tell nobody."""


class Progress(tqdm):
    """A tqdm bar on standard error that prints whole lines where it cannot be redrawn (a log, a pipe).

    In a notebook it is also drawn as text, which needs no widgets and is still there when the notebook is opened again.
    Nothing is shown if the logger `cached_features` was set to a level above INFO.

    Parameters
    ----------
    total : int
    unit : str
        What is counted, in the plural.
    delay : float
        Seconds before which nothing is shown, for work that is usually short and inside other work; its bar disappears.
    """

    _form = _LINE, _BAR

    def __init__(self, total: int, unit: str, delay: float = 0.0):
        in_notebook = type(sys.stderr).__module__.startswith("ipykernel.")
        self._lines, self._told = not (sys.stderr.isatty() or in_notebook), 0
        # The logger's own level, not an inherited one: until it is set, messages are hidden but bars are shown.
        hidden = total == 0 or log.level > logging.INFO
        self._expected: float | None = None
        super().__init__(
            total=total, unit=f" {unit}", mininterval=_FIRST if self._lines else 0.2, disable=hidden,
            file=io.StringIO() if self._lines else sys.stderr,  # where tqdm ends the bar by a line of nothing
            bar_format=self._form[not self._lines], delay=delay, leave=self._lines or not delay,
        )  # fmt: skip

    def begin(self, what: str) -> None:
        """Say what is being worked at: before the bar, or in a line of its own."""
        if not self.disable:
            self.set_description(what, refresh=not self._lines)
            if self._lines:
                self._told = self.n
                print(f"{self.desc}{self.n}/{self.total}{self.unit}", file=sys.stderr, flush=True)

    def expect(self, rate: float | None) -> None:
        """Reckon with so many per second of those to come, where a rate of those that are done says little; None: with that rate."""
        form, self._expected = self._form[not self._lines], rate
        self.bar_format = form if rate is None else form.replace(", {rate_noinv_fmt}", "")

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the bar tells, by name."""
        told: dict[str, Any] = super().format_dict
        return told if self._expected is None else {**told, "rate": self._expected}

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the bar's state."""
        if not self._lines:
            super().display(msg, pos)
        elif self.n != self._told:
            self._told, self.mininterval = self.n, _BETWEEN
            print(msg or str(self), file=sys.stderr, flush=True)


class Shares(Progress):
    """Progress of a few long pieces of work, of which each tells by shares how far it is."""

    _form = _SHARE_LINE, _SHARE_BAR

    def each(self, pieces: Sequence[T]) -> Iterator[tuple[T, Tell]]:
        """Yield each piece, and what it tells its shares; it is done when the next one is asked for."""
        for number, piece in enumerate(pieces, start=1):
            yield piece, untold if self.disable else partial(self._tell, number)
            self._tell(number, 1)

    def _tell(self, number: int, share: float) -> None:
        if number - self.n > 1e-9:  # shares sum up to 1 except for rounding
            self.update(min(share, number - self.n))


def between(least: float, most: float) -> str:
    """Return a range of times in words, with their unit once if it is the same."""
    (low, unit), (high, same) = duration(least).split(), duration(most).split()
    return f"{low} to {high} {unit}" if unit == same else f"{low} {unit} to {high} {same}"


def duration(seconds: float) -> str:
    """Return a time in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def above_bars(stream: TextIO) -> contextlib.AbstractContextManager[None]:
    """Return a context in which lines written to a terminal do not run into a bar drawn there."""
    return Progress.external_write_mode(stream) if stream.isatty() else contextlib.nullcontext()
