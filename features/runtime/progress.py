"""Progress of long work: a bar on a terminal and in a notebook, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TextIO

from tqdm import tqdm

from .log import log

_LINE = "{n_fmt}/{total_fmt}{unit}, {rate_noinv_fmt}, {remaining} left"
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"


class Progress(tqdm):
    """A tqdm bar on standard error that prints whole lines where nothing can be drawn over (a log, a pipe).

    In a notebook it is drawn in text too: that needs no widgets, and is still there when the notebook is opened again.
    Nothing is shown where the logger `cached_features` was set to a level above INFO.
    """

    def __init__(self, total: int, unit: str):
        in_notebook = type(sys.stderr).__module__.startswith("ipykernel.")
        self._lines = not (sys.stderr.isatty() or in_notebook)
        # The logger's own level, not one that it takes from others: until it is set, messages are hidden and bars shown.
        hidden = total == 0 or log.level > logging.INFO
        super().__init__(
            total=total, unit=f" {unit}", mininterval=10 if self._lines else 0.2, file=sys.stderr, disable=hidden,
            bar_format=_LINE if self._lines else _BAR,
        )  # fmt: skip

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the bar's state."""
        if not self._lines:
            super().display(msg, pos)
        elif self.n:
            print(msg or str(self), file=sys.stderr, flush=True)


def above_bars(stream: TextIO) -> contextlib.AbstractContextManager[None]:
    """Return a context in which a line that is written to a terminal does not run into a bar that is drawn there."""
    return Progress.external_write_mode(stream) if stream.isatty() else contextlib.nullcontext()
