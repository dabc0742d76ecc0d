"""Rows for heads: from a matrix in memory, or read from the store block by block, shuffled or in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_SPAN = 64  # consecutive rows read together: few enough to shuffle well, enough to read at full disk speed


@dataclass(frozen=True)
class Stored:
    """A matrix that is too large for memory; rows are read on demand.

    Attributes
    ----------
    shape : tuple of int
        (n_rows, n_features).
    read : callable
        ``read(rows)`` returns those rows, (n, n_features), float32. It is sent to a cluster's workers.
    block_rows : int
        Maximum number of rows in memory at once.
    """

    shape: tuple[int, int]
    read: Callable[[np.ndarray], np.ndarray]
    block_rows: int

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        return self.read(np.flatnonzero(rows) if rows.dtype == bool else rows)

    def only(self, rows: np.ndarray) -> Stored:
        """Return a lazy selection of rows, given by their indices."""
        return replace(self, shape=(len(rows), self.shape[1]), read=lambda some: self.read(rows[some]))


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Return an uninitialised float32 array aligned to a cache line, so that TensorFlow can use its memory directly."""
    size = int(np.prod(shape)) * 4
    place = np.empty(size + 64, np.uint8)
    first = -place.ctypes.data % 64
    return place[first : first + size].view(np.float32).reshape(shape)


def align(X: Matrix) -> Matrix:
    """Return a matrix in memory aligned to a cache line, copied if necessary."""
    if isinstance(X, Stored) or X.ctypes.data % 64 == 0:
        return X
    copy = aligned(X.shape)
    copy[:] = X
    return copy


Matrix = np.ndarray | Stored
Block = tuple[np.ndarray, np.ndarray, np.ndarray]  # values; their rows in the matrix; the order in which to use them


def shuffled_blocks(X: Matrix, rows: np.ndarray, batch_size: int, random: np.random.Generator) -> Iterator[Block]:
    """Yield the given rows once each in random order: a matrix in memory as one block, a stored one block by block.

    For a stored matrix, spans of consecutive rows are drawn, and rows are shuffled within a block.
    """
    if isinstance(X, np.ndarray):
        yield X, np.arange(len(X)), random.permutation(rows)
        return
    rows = np.sort(rows)
    spans = [rows[start : start + _SPAN] for start in range(0, len(rows), _SPAN)]
    drawn = np.concatenate([spans[number] for number in random.permutation(len(spans))])
    step = max(batch_size, X.block_rows - X.block_rows % batch_size)  # whole batches, except the last
    for start in range(0, len(drawn), step):
        taken = np.sort(drawn[start : start + step])
        yield X[taken], taken, random.permutation(len(taken))


def blocks(X: Matrix, rows: np.ndarray) -> Iterator[Block]:
    """Yield the given rows once each, in order."""
    if isinstance(X, np.ndarray):
        yield X, np.arange(len(X)), rows
        return
    for start in range(0, len(rows), X.block_rows):
        taken = rows[start : start + X.block_rows]
        yield X[taken], taken, np.arange(len(taken))


def each_block(function: Callable[..., Any], X: Matrix, *arguments: Any) -> Iterator[Any]:
    """Yield ``function(block, rows, *arguments)`` for each block of consecutive rows in order; `rows` is a slice.

    A matrix in memory is one block. Blocks of a stored matrix are read where `spread` runs the function.
    """
    if isinstance(X, np.ndarray):
        yield function(X, slice(0, len(X)), *arguments)
        return
    from .parallel import spread  # joblib takes a tenth of a second to import, which predict does without

    firsts = range(0, len(X), X.block_rows)
    yield from spread(_on_block, ((function, X, first, *arguments) for first in firsts))


def _on_block(function: Callable[..., Any], X: Stored, first: int, *arguments: Any) -> Any:
    rows = slice(first, min(first + X.block_rows, len(X)))
    return function(X[np.arange(rows.start, rows.stop)], rows, *arguments)


def columns(X: np.ndarray, count: int) -> list[slice]:
    """Return slices of `count` columns that cover a matrix; each is converted to float64 separately."""
    return [slice(first, first + count) for first in range(0, X.shape[1], count)]


def whole_blocks(X: Matrix) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield slices of consecutive rows and their values: a matrix in memory at once, a stored one block by block."""
    step = len(X) if isinstance(X, np.ndarray) else X.block_rows
    for first in range(0, len(X), max(1, step)):
        rows = slice(first, first + step)
        yield rows, X[rows] if isinstance(X, np.ndarray) else X[np.arange(len(X))[rows]]


def select(X: Matrix, rows: np.ndarray) -> Matrix:
    """Return rows given by their indices; a stored matrix is selected lazily."""
    return X.only(rows) if isinstance(X, Stored) else X[rows]


def divided(X: Matrix, scale: np.ndarray) -> Matrix:
    """Return a matrix with its columns divided by a scale; a stored matrix is divided on reading."""
    if isinstance(X, np.ndarray):
        return X / scale
    return replace(X, read=lambda rows: X.read(rows) / scale)
