"""Rows for heads that train by batches: of a matrix in memory, or read from the store in shuffled blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

_SPAN = 64  # rows that are read together: few enough to shuffle well, enough to read at the disk's pace


@dataclass(frozen=True)
class Stored:
    """A matrix that is too large for memory: its rows are read when they are asked for.

    Attributes
    ----------
    shape : tuple of int
        (n_rows, n_features).
    read : callable
        ``read(rows)`` returns those rows, (n, n_features), float32.
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
