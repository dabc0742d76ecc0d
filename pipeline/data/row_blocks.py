"""Rows for heads: of a matrix in memory, or read from the store block by block, shuffled or in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .parallel import spread

_SPAN = 64  # rows that are read together: few enough to shuffle well, enough to read at the disk's pace


@dataclass(frozen=True)
class Stored:
    """A matrix that is too large for memory: its rows are read when they are asked for.

    Attributes
    ----------
    shape : tuple of int
        (n_rows, n_features).
    read : callable
        ``read(rows)`` returns those rows, (n, n_features), float32. A cluster's workers are sent it.
    block_rows : int
        So many rows may be in memory at once.
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
        """Return some rows, given by their numbers, left where they are."""
        return replace(self, shape=(len(rows), self.shape[1]), read=lambda some: self.read(rows[some]))


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Return an empty float32 array that begins on a cache line, so that TensorFlow can use its memory as it is."""
    size = int(np.prod(shape)) * 4
    place = np.empty(size + 64, np.uint8)
    first = -place.ctypes.data % 64
    return place[first : first + size].view(np.float32).reshape(shape)


def align(X: Matrix) -> Matrix:
    """Return a matrix in memory as one that begins on a cache line; a copy if need be."""
    if isinstance(X, Stored) or X.ctypes.data % 64 == 0:
        return X
    copy = aligned(X.shape)
    copy[:] = X
    return copy


Matrix = np.ndarray | Stored
Block = tuple[np.ndarray, np.ndarray, np.ndarray]  # values; the row of the matrix that each is; places in their order


def shuffled_blocks(X: Matrix, rows: np.ndarray, batch_size: int, random: np.random.Generator) -> Iterator[Block]:
    """Yield some rows once each in random order: a matrix in memory as it is, a stored one block by block.

    Of a stored matrix spans of consecutive rows are drawn, and a block's rows are shuffled among themselves.
    """
    if isinstance(X, np.ndarray):
        yield X, np.arange(len(X)), random.permutation(rows)
        return
    rows = np.sort(rows)
    spans = [rows[start : start + _SPAN] for start in range(0, len(rows), _SPAN)]
    drawn = np.concatenate([spans[number] for number in random.permutation(len(spans))])
    step = max(batch_size, X.block_rows - X.block_rows % batch_size)  # whole batches but for the last
    for start in range(0, len(drawn), step):
        taken = np.sort(drawn[start : start + step])
        yield X[taken], taken, random.permutation(len(taken))


def blocks(X: Matrix, rows: np.ndarray) -> Iterator[Block]:
    """Yield some rows once each in their own order."""
    if isinstance(X, np.ndarray):
        yield X, np.arange(len(X)), rows
        return
    for start in range(0, len(rows), X.block_rows):
        taken = rows[start : start + X.block_rows]
        yield X[taken], taken, np.arange(len(taken))


def each_block(function: Callable[..., Any], X: Matrix, *arguments: Any) -> Iterator[Any]:
    """Yield ``function(block, rows, *arguments)`` of consecutive rows, a slice each, in their order.

    A matrix in memory is one block. Those of a stored one are read where `spread` has the function run.
    """
    if isinstance(X, np.ndarray):
        yield function(X, slice(0, len(X)), *arguments)
        return
    firsts = range(0, len(X), X.block_rows)
    yield from spread(_on_block, ((function, X, first, *arguments) for first in firsts))


def _on_block(function: Callable[..., Any], X: Stored, first: int, *arguments: Any) -> Any:
    rows = slice(first, min(first + X.block_rows, len(X)))
    return function(X[np.arange(rows.start, rows.stop)], rows, *arguments)


def columns(X: np.ndarray, count: int) -> list[slice]:
    """Return so many columns of a matrix after the others: what is taken to float64 at once."""
    return [slice(first, first + count) for first in range(0, X.shape[1], count)]


def whole_blocks(X: Matrix) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield consecutive rows, and what they are: a matrix in memory at once, a stored one block by block."""
    step = len(X) if isinstance(X, np.ndarray) else X.block_rows
    for first in range(0, len(X), max(1, step)):
        rows = slice(first, first + step)
        yield rows, X[rows] if isinstance(X, np.ndarray) else X[np.arange(len(X))[rows]]


def select(X: Matrix, rows: np.ndarray) -> Matrix:
    """Return some rows, given by their numbers; those of a stored matrix stay where they are."""
    return X.only(rows) if isinstance(X, Stored) else X[rows]


def divided(X: Matrix, scale: np.ndarray) -> Matrix:
    """Return a matrix whose columns are divided by a scale, a stored one when it is read."""
    if isinstance(X, np.ndarray):
        return X / scale
    return replace(X, read=lambda rows: X.read(rows) / scale)
