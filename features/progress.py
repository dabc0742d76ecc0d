"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys

from tqdm import tqdm


class Progress(tqdm):
    """A tqdm bar on standard error that prints whole lines where that is no terminal (a log, a pipe)."""

    def __init__(self, total: int, unit: str):
        self._lines = not sys.stderr.isatty()
        super().__init__(
            total=total, unit=f" {unit}", mininterval=10 if self._lines else 0.2, file=sys.stderr, disable=total == 0,
            bar_format="{n_fmt}/{total_fmt}{unit}, {rate_fmt}, {remaining} left" if self._lines else None,
        )  # fmt: skip

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the bar's state."""
        if not self._lines:
            super().display(msg, pos)
        elif self.n:
            print(msg or str(self), file=sys.stderr, flush=True)
