"""What a head wants of a store: a matrix in memory, or one whose rows stay in the store."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from features.errors import RequestError
from features.layout import Rows
from features.pooling import check_pool, pooled_shape
from features.store import FeatureStore

from .dense import DenseSearch
from .heads import find_head
from .request import Request
from .sample import Features
from .stream import Matrix, Stored


def read_features(store: FeatureStore, head: str, asked: Request) -> Features:
    """Read what a head wants of a store: layers are pooled each by itself and joined side by side."""
    views = asked.views or store.views
    if not 1 <= views <= store.views or asked.views == 0:
        raise RequestError(
            f"views must be between 1 and {store.views}, those of {store.path}; got {asked.views}. Leave it out for all."
        )
    rows = None if views == store.views else np.flatnonzero(store.rows.views < views)
    names = asked.layer.split(",") if asked.layer else [list(store.layers)[-1]]
    ways, pools, widths = [], [], []
    for name in names:
        shape = store.dataset(name).shape[1:]
        is_map = len(shape) == 3
        ways.append(asked.pool or (find_head(head).pool if is_map else "flatten"))
        check_pool(ways[-1], shape, str(store.path))
        pools.append(ways[-1] if is_map else store.provenance["pool"])
        times = pools[-1].count("+") + 1  # average and maximum have each a scale of their own
        widths += [math.prod(pooled_shape(shape, ways[-1])) // times] * times

    def read(some: np.ndarray | None) -> np.ndarray:
        parts = [store.read(name, pool, some) for name, pool in zip(names, ways, strict=True)]
        return parts[0] if len(parts) == 1 else np.hstack(parts)

    return Features(
        X=_in_memory_or_stored(store, head, asked, rows, sum(widths), read),
        widths=tuple(widths),
        views=views,
        layer="+".join(names),
        pool=", ".join(dict.fromkeys(pools)),
        parts=tuple(zip(names, ways, strict=True)),
    )


def _in_memory_or_stored(
    store: FeatureStore,
    head: str,
    asked: Request,
    rows: np.ndarray | None,
    n_features: int,
    read: Callable[[np.ndarray | None], np.ndarray],
) -> Matrix:
    """Return a matrix that is read, or one that stays in the store where it is too large and the head can stream it."""
    chosen = np.arange(len(store)) if rows is None else rows
    row_bytes = 4 * n_features
    if row_bytes * len(chosen) <= asked.memory_bytes:
        return read(rows)
    if find_head(head).search is not DenseSearch:
        raise RequestError(
            f"features must fit into {asked.memory_bytes / 1e9:.2g} GB; {head} needs {row_bytes * len(chosen) / 1e9:.2g} GB "
            f"for {len(chosen)} rows of {n_features}. Pool them: --pool avg, use --head dense, or allow more: --memory GB"
        )
    # A block is there twice, as it is read and as TensorFlow has it, while its rows are being pooled.
    block_rows = int(asked.memory_bytes / 4 / row_bytes)
    if block_rows < 1:
        raise RequestError(
            f"memory must hold four rows of {row_bytes} bytes at least; got {asked.memory} GB. Raise it."
        )
    return Stored((len(chosen), n_features), lambda some: read(chosen[some]), block_rows)


def describe_rows(rows: Rows, views: int) -> str:
    """Return a line about the images of a store."""
    times = f", {views} views each" if views > 1 else ""
    return f"{len(rows)} images{times}, classes {', '.join(rows.class_names)}"
