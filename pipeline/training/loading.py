"""Reading a head's features from a store: as a matrix in memory, or as one whose rows stay in the store."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from features.errors import RequestError, StoreError, called, counted, listed, option
from features.pooling import check_pool, pooled_shape, pools_of
from features.runtime.log import log
from features.store.reader import FeatureStore
from features.store.schema import Rows

from ..data.row_blocks import Matrix, Stored
from ..data.store_ref import Place
from ..data.training_data import Features, Part
from ..options import METRIC
from .request import Request

if TYPE_CHECKING:
    from ..heads.contract import Head

_SAID = 1_000_000_000  # bytes of stored features, before compression, whose reading takes seconds
MAJORITY = 0.8  # share of a class above which accuracy says little of the others


@dataclass(frozen=True)
class Reader:
    """Reads rows of a store in any process; only the store's path is sent to a worker of a cluster.

    Attributes
    ----------
    place : Place
    rows : ndarray of int
        Row indices in the store.
    layers : tuple of (str, str)
        Layers to concatenate, each with its pooling.
    """

    place: Place
    rows: np.ndarray
    layers: tuple[tuple[str, str], ...]

    def __call__(self, some: np.ndarray) -> np.ndarray:
        """Return rows given by their indices into `rows`, (n, n_features), float32."""
        return _read(self.place.open(), self.layers, self.rows[some])


def _read(store: FeatureStore, layers: tuple[tuple[str, str], ...], rows: np.ndarray) -> np.ndarray:
    parts = [store.read(name, pool, rows) for name, pool in layers]
    for (name, _), part in zip(layers, parts, strict=True):
        _check_finite(store, name, rows, part)
    return parts[0] if len(parts) == 1 else np.hstack(parts)


def _check_finite(store: FeatureStore, layer: str, rows: np.ndarray, values: np.ndarray) -> None:
    """Refuse features, (n_rows, n_features), that are not finite, since no head can learn from them."""
    if np.isfinite(
        values.sum(dtype=np.float64)
    ):  # one pass without a copy; finite float32 cannot overflow a float64 sum
        return
    bad = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
    raise StoreError(
        f"features of {layer} in {store.path} must be finite; got {values[bad][~np.isfinite(values[bad])][0]} for "
        f"{store.rows.paths[rows[bad]]}. Leave such images out and extract again; if values are above 65,504, the limit of "
        f"float16: {option('dtype', 'float32')}"
    )


def read_features(store: FeatureStore, head: str, asked: Request) -> Features:
    """Read a head's features from a store; features too large for memory stay there. See `find_features`.

    Raises
    ------
    StoreError
        If a value is not finite; for features that stay in the store, only once a head reads them.
    """
    return read_if_small(store, find_features(store, head, asked), asked)


def read_if_small(store: FeatureStore, found: Features, asked: Request) -> Features:
    """Return features of `features_of`, read into memory if they fit."""
    if not in_memory(found, asked):
        return found
    rows = asked.stored(store, found.views)
    say_reading(store, found, len(rows))
    return replace(found, X=_read(store, found.read, rows))


def request_of(store: FeatureStore, told: dict[str, Any], seed: int) -> Request:
    """Return the request that reads the features of an earlier fit; pool is None where it was the head's default."""
    parts = _parts_of(told)
    ways = {part.read if store.kinds[part.layer] != "vector" else None for part in parts if part.layer in store.layers}
    pool = ways.pop() if len(ways) == 1 else None  # vectors are read as stored
    if pool == _head(told["head"]).pool:
        pool = None
    return Request(store.path, layer=",".join(part.layer for part in parts), pool=pool, views=told["views"], seed=seed)


def _parts_of(told: dict[str, Any]) -> list[Part]:
    """Return the layers of a fit's features; runs of earlier versions have them only in human-readable form."""
    if "parts" in told:
        return [Part(*part) for part in told["parts"]]
    return [Part(layer, told["pool"], told["pool"]) for layer in told["layer"].split("+")]


def say_reading(store: FeatureStore, features: Features, rows: int) -> None:
    """Log that so many rows are read, if that takes seconds."""
    layers = [part.layer for part in features.parts]
    held = rows * sum(store.dataset(layer).dtype.itemsize * math.prod(store.layers[layer]) for layer in layers)
    if held >= _SAID:
        log.info(f"reading  {counted(rows, 'row')} of {', '.join(layers)}, {held / 1e9:.1f} GB before compression")


def is_by_products(store: FeatureStore, head: str, asked: Request) -> bool:
    """Return whether a head is fitted from inner products of rows that stay in the store."""
    return _head(head).searcher.streams == "products" and not in_memory(find_features(store, head, asked), asked)


def in_memory(features: Features, asked: Request) -> bool:
    """Return whether features fit into the memory that a request allows."""
    return 4 * math.prod(features.X.shape) <= asked.memory_bytes


def find_features(store: FeatureStore, head: str, asked: Request) -> Features:
    """Return a head's features without reading them; layers are pooled separately and concatenated.

    Raises
    ------
    RequestError
        If the layer, pooling or number of views does not exist, or if the head needs more memory than is allowed.
    """
    found = features_of(store, _head(head).pool, asked)
    if not in_memory(found, asked):
        _check_streamed(found.X, head, asked)
    return found


def features_of(store: FeatureStore, pool: str, asked: Request) -> Features:
    """Return the features that a request names without reading them, maps pooled by `pool` unless it says how.

    Raises
    ------
    RequestError
        If the layer, pooling or number of views does not exist.
    """
    views = asked.views or store.views
    if views > store.views:
        raise RequestError(
            f"{called('views')} must be between 1 and {store.views}, the number in {store.path}; got {asked.views}. Leave it out for all."
        )
    names = asked.layer.split(",") if asked.layer else [list(store.layers)[-1]]
    parts, widths = [], []
    for name in names:
        shape, kind = store.dataset(name).shape[1:], store.kinds[name]
        way = asked.pool or ("flatten" if kind == "vector" else pool)
        check_pool(way, kind, shape, str(store.path))
        parts.append(Part(name, store.provenance["pool"] if kind == "vector" else way, way))
        times = len(pools_of(parts[-1].pool))  # average and maximum count as two, since they are scaled separately
        widths += [math.prod(pooled_shape(shape, way)) // times] * times
    rows = asked.stored(store, views)
    # While rows are being pooled, a block is in memory twice: as read, and as a TensorFlow tensor.
    block_rows = int(min(asked.memory_bytes / 4 / (4 * sum(widths)), len(rows)))
    read = Reader(Place.of(store), rows, tuple((part.layer, part.read) for part in parts))
    return Features(
        X=Stored((len(rows), sum(widths)), read, block_rows),
        widths=tuple(widths),
        views=views,
        parts=tuple(parts),
    )


def _check_streamed(X: Matrix, head: str, asked: Request) -> None:
    """Refuse a head that cannot be fitted to features that stay in the store."""
    streams, (rows, n_features) = _head(head).searcher.streams, X.shape
    needed = (
        f"features must fit into {asked.memory_bytes / 1e9:.2g} GB; {head} needs {4 * rows * n_features / 1e9:.2g} GB "
        f"for {counted(rows, 'row')} of {n_features}"
    )
    if streams == "no":
        from ..heads.registry import HEADS

        able = ", ".join(name for name, each in HEADS.items() if each.searcher.streams != "no")
        raise RequestError(
            f"{needed}. Pool them: {option('pool', 'avg')}, use {able}, or allow more: {option('memory')}"
        )
    if streams == "products" and rows >= n_features:
        raise RequestError(
            f"{needed}, and more for products of rows. Use {option('head', 'dense')}, or allow more: {option('memory')}"
        )
    if 16 * n_features > asked.memory_bytes:
        raise RequestError(
            f"{called('memory')} must hold at least four rows of {4 * n_features} bytes; got {asked.memory} GB. Raise it."
        )


def read_once(place: Place, head: str, asked: Request) -> tuple[Rows, Features]:
    """Read a head's features from a store; consecutive calls for the same features share one matrix in this process."""
    global _last
    store = place.open()
    wanted = (
        store,
        asked.corrections_test,
        asked.layer,
        asked.pool or _head(head).pool,
        asked.views,
        is_by_products(store, head, asked),
        asked.corrections,
    )
    if _last is None or _last[0] != wanted:
        _last = None  # freed before the next matrix is read
        _last = wanted, read_features(store, head, asked)
    return asked.rows(store), _last[1]


_last: tuple[Any, Features] | None = None


def _head(name: str) -> Head:
    """Return a head; the registry imports scikit-learn, which takes seconds, and is not needed to look at features alone."""
    from ..heads.registry import find_head

    return find_head(name)


def describe_rows(rows: Rows, views: int) -> str:
    """Return a line that describes the images of a store."""
    times = f", {views} views each" if views > 1 else ""
    return f"{counted(len(rows), 'image')}{times}, classes {listed(rows.class_names)}"


def warn_of_majority(rows: Rows, metric: str) -> None:
    """Say what accuracy hides where one class is above `MAJORITY` of all images."""
    shares = np.bincount(rows.labels) / len(rows)
    most = int(shares.argmax())
    if metric == METRIC and shares[most] > MAJORITY:
        log.warning(
            f"{rows.class_names[most]} is {shares[most]:.1%} of the images, which is the accuracy of always predicting it. For a "
            f"metric that counts all classes alike: {option('metric', 'balanced_accuracy')}"
        )


def describe_features(features: Features, asked: Request) -> str:
    """Return a line that describes the result of `find_features`."""
    told = f"{features.layer}, {features.pool}: {features.X.shape[1]} features"
    if in_memory(features, asked) or isinstance(features.X, np.ndarray):
        return told
    return f"{told}, {features.X.block_rows} rows at a time from the store"
