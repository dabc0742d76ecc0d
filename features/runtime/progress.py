"""Progress of long work: a bar on a terminal and in a notebook, a plain line now and then elsewhere."""

from __future__ import annotations

import sys

from tqdm import tqdm

_LINE = "{n_fmt}/{total_fmt}{unit}, {rate_noinv_fmt}, {remaining} left"
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"


class Progress(tqdm):
    """A tqdm bar on standard error that prints whole lines where nothing can be drawn over (a log, a pipe).

    In a notebook it is drawn in text too: that needs no widgets, and is still there when the notebook is opened again.
    """

    def __init__(self, total: int, unit: str):
        in_notebook = type(sys.stderr).__module__.startswith("ipykernel.")
        self._lines = not (sys.stderr.isatty() or in_notebook)
        super().__init__(
            total=total, unit=f" {unit}", mininterval=10 if self._lines else 0.2, file=sys.stderr, disable=total == 0,
            bar_format=_LINE if self._lines else _BAR,
        )  # fmt: skip

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the bar's state."""
        if not self._lines:
            super().display(msg, pos)
        elif self.n:
            print(msg or str(self), file=sys.stderr, flush=True)
