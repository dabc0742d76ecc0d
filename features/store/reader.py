"""Reading a finished feature store."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import CachedFeaturesError, StoreError, command, must_be_one_of, option
from ..pooling import check_pool, pool_maps, pooled_shape
from ..runtime.machine import memory_limit
from ..safefiles.hdf5 import check_own_values
from ..safefiles.json_files import parse_json
from .part_index import REMEDY, Index
from .provenance import Provenance
from .schema import FORMAT, FORMAT_VERSION, digest_attributes, open_layer, read_rows, read_skipped, runs

_READ_BYTES = 32 << 20  # bytes read at once when features are pooled on reading


class FeatureStore:
    """A finished feature store, opened read-only; needs no TensorFlow.

    Parameters
    ----------
    path : path-like
        A store made by ``extract``.

    Attributes
    ----------
    provenance : dict
        Everything that determined the feature values, as JSON.
    made : Provenance
        The same as a dataclass.
    layers : dict of str to tuple
        Stored layer → shape of one row: (h, w, channels), or (channels,) if pooled.
    rows : Rows
    skipped : list of Skipped
        Files that were skipped, and why.
    parts : dict of str to int
        Part file → size in bytes; empty if the store itself holds the values.

    Raises
    ------
    StoreError
        If the store or one of its parts is missing, incomplete or damaged.
    UnsafeFile
        If the file refers to other files, or claims to hold more than it does.

    Examples
    --------
    >>> with FeatureStore("cache/cells.h5") as store:   # doctest: +SKIP
    ...     X = store.read("block5_pool", pool="avg")   # (n_rows, 512), float32
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.exists():
            parts = " It is unfinished: run the same extract again." if parts_folder(self.path).exists() else ""
            raise StoreError(f"{path} is not there.{parts} Create it: {command('extract', out=path, data='SOURCE')}")
        try:
            # A finished store never changes in place, so readers need no lock and are never blocked.
            self._file = h5py.File(self.path, "r", locking=False)
        except OSError as error:
            raise self._damaged(error) from error
        try:
            self._load()
        except (KeyError, OSError, ValueError, TypeError, RuntimeError) as error:
            self._file.close()
            raise self._damaged(error) from error
        except CachedFeaturesError:
            self._file.close()
            raise

    def _load(self) -> None:
        attributes = self._file.attrs
        if attributes.get("format") != FORMAT:
            raise StoreError(
                f"{self.path} is an HDF5 file, but not a feature store. Create one: {command('extract', data='SOURCE')}"
            )
        if attributes["format_version"] != FORMAT_VERSION:
            raise StoreError(
                f"{self.path} has format version {attributes['format_version']}; this program reads {FORMAT_VERSION}. "
                f"Update it: pip install --upgrade cached-features"
            )
        if attributes["sha256"] != digest_attributes(self._file):
            raise StoreError(f"{self.path} is damaged: its attributes do not match their checksum. {REMEDY}")
        self.provenance: dict[str, Any] = parse_json(attributes["provenance"], f"provenance of {self.path}")
        self.parts: dict[str, int] = parse_json(attributes.get("parts", "{}"), f"parts of {self.path}")
        # Parts are checked only when read, since there may be ten thousand.
        self._index = Index(self.path, parts_folder(self.path), self.parts)
        check_own_values(self._file, self.path, self._index.is_own)
        self.rows = read_rows(self._file)
        self.skipped = read_skipped(self._file)
        self.layers = {name: self._file["features"][name].shape[1:] for name in self.provenance["layers"]}
        lengths = {name: len(self._file["features"][name]) for name in self.layers}
        if not attributes["complete"] or set(lengths.values()) != {len(self.rows)}:
            raise StoreError(f"{self.path} is incomplete: it has {len(self.rows)} rows, but {lengths}. {REMEDY}")

    def _damaged(self, error: Exception) -> StoreError:
        return StoreError(f"{self.path} cannot be read as a feature store ({error}). {REMEDY}")

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.rows)

    @functools.cached_property
    def made(self) -> Provenance:
        """The provenance as a dataclass; raises UnsafeFile if it is invalid."""
        return Provenance.from_json(self.provenance, f"provenance of {self.path}")

    @property
    def views(self) -> int:
        """Rows per image; consecutive rows are the views of one image."""
        return int(self.provenance["views"])

    def close(self) -> None:
        """Close the file; reading afterwards fails."""
        self._index.close()
        self._file.close()

    def dataset(self, layer: str) -> h5py.Dataset:
        """Return a layer's h5py dataset.

        Use `read`, `batches` or `blocks` for a store in parts: HDF5 returns zeros for a part that it cannot open, for example
        because of the limit on open files.

        Raises
        ------
        RequestError
            If the layer is not stored.
        """
        if layer not in self.layers:
            remedy = f"Extract it: {command('extract', layers=layer, out='OTHER.h5')}"
            raise must_be_one_of(f"layer of {self.path}", self.layers, layer, remedy)
        return open_layer(self._file, layer, self.path.parent.resolve())

    def describe(self) -> dict[str, Any]:
        """Return a JSON-serialisable description of the store."""
        return {
            "store": str(self.path),
            "bytes": self.path.stat().st_size + sum(self.parts.values()),
            "parts": len(self.parts),
            "layers": {
                name: {"shape": list(shape), "dtype": str(self.dataset(name).dtype)}
                for name, shape in self.layers.items()
            },
            "rows": self.rows.counts(),
            "skipped": len(self.skipped),
            "provenance": self.provenance,
        }

    def read(
        self,
        layer: str | None = None,
        pool: str = "flatten",
        rows: np.ndarray | None = None,
        memory: float | None = None,
    ) -> np.ndarray:
        """Read one layer as a matrix for heads.

        Parameters
        ----------
        layer : str, optional
            By default, the last stored layer.
        pool : {'flatten', 'avg', 'max', 'avg+max'}
            How a feature map becomes a vector; pooled features take only ``flatten``, which leaves them unchanged.
        rows : ndarray of int, optional
            Row indices, in the order to read them; by default, all rows.
        memory : float, optional
            Bytes that the matrix may take; by default, the memory available to this process.

        Returns
        -------
        X : ndarray of shape (n_rows, n_features), float32

        Raises
        ------
        StoreError
            If values fail their checksum, or the matrix would be larger than the memory.
        """
        data = self.dataset(layer or list(self.layers)[-1])
        check_pool(pool, data.shape[1:], str(self.path))
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        shape = (len(rows), math.prod(pooled_shape(data.shape[1:], pool)))
        needed, room = 4 * math.prod(shape), memory_limit() if memory is None else memory
        if needed > room:
            raise StoreError(
                f"{data.name} of {self.path} as a matrix, {shape[0]:,} x {shape[1]:,}, must fit into {room / 1e9:.1f} GB of "
                f"memory; it takes {needed / 1e9:.1f} GB. Pool it: {option('pool', 'avg')}, or read some of its rows"
            )
        X = np.empty(shape, np.float32)
        for start, block in self.blocks(data, rows):
            X[start : start + len(block)] = pool_maps(block, pool)
        return X

    def batches(
        self, batch_size: int = 256, layer: str | None = None, pool: str = "flatten", rows: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (X, labels) of `batch_size` rows at a time, for stores larger than memory; see `read`.

        X is float32, (n, n_features); labels are int32, (n,).
        """
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            yield self.read(layer, pool, some), self.rows.labels[some]

    def as_dataset(
        self, batch_size: int = 256, layer: str | None = None, pool: str = "flatten", rows: np.ndarray | None = None
    ) -> Any:
        """Return a ``tf.data.Dataset`` of what `batches` yields: (X, labels), float32 and int32."""
        import tensorflow as tf

        shape = self.dataset(layer or list(self.layers)[-1]).shape[1:]
        X, y = tf.TensorSpec((None, math.prod(pooled_shape(shape, pool)))), tf.TensorSpec((None,), tf.int32)
        make = functools.partial(self.batches, batch_size, layer, pool, rows)
        return tf.data.Dataset.from_generator(make, output_signature=(X, y))

    def blocks(self, data: h5py.Dataset, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (position in `rows`, values as stored) in blocks of 32 MB.

        Runs of consecutive rows are read directly into a buffer, since h5py's indexing by a list of rows reaches only a few
        dozen MB/s.
        """
        row_bytes = int(np.prod(data.shape[1:])) * data.dtype.itemsize
        step = max(1, _READ_BYTES // row_bytes)
        for start in range(0, len(rows), step):
            wanted = rows[start : start + step]
            block = np.empty((len(wanted), *data.shape[1:]), data.dtype)
            try:
                if data.is_virtual:
                    self._index.read(data, wanted, block)
                else:
                    _read_runs(data, wanted, block)
            except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
                reason = f"values of {data.name} fail their checksum ({error})"
                raise StoreError(f"{self.path} is damaged: {reason}. {REMEDY}") from error
            yield start, block


def _read_runs(data: h5py.Dataset, rows: np.ndarray, out: np.ndarray) -> None:
    """Read the given rows into an array, each run of consecutive rows at once."""
    for first, last in runs(rows):
        data.read_direct(out, np.s_[int(rows[first]) : int(rows[first]) + last - first], np.s_[first:last])


def parts_folder(path: str | Path) -> Path:
    """Return the folder of a store's parts."""
    return Path(f"{path}.parts")
