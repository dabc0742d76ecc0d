"""Reading a finished feature store."""

from __future__ import annotations

import contextlib
import difflib
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import (
    CachedFeaturesError,
    RequestError,
    StoreError,
    UnsafeFile,
    WrongStore,
    called,
    command,
    counted,
    find_near,
    listed,
    must_be_one_of,
    option,
)
from ..pooling import KINDS, check_pool, kind_of, pool_maps, pooled_shape
from ..runtime.keras_runtime import import_keras
from ..runtime.machine import memory_limit
from ..safefiles.hdf5 import DAMAGE, check_own_values
from ..safefiles.json_files import parse_json, read_json
from ..safefiles.regular_files import read_first
from ..splits import SPLITS
from .chunks import DIGEST_BYTES, DIRECT, RowReader, digest, in_threads, spans
from .index_seal import check_seal
from .part_index import Index, fault
from .provenance import Provenance
from .schema import (
    REMEDY,
    check_attributes,
    digest_values,
    get_text,
    open_layer,
    read_layer,
    read_rows,
    read_skipped,
    read_table,
)

_HDF5 = b"\x89HDF\r\n\x1a\n"  # an HDF5 file's first bytes
_LISTED = 5  # stores of a folder
_LOOKED_AT = 20  # JSON files of a folder that is given for a store: results have fewer, images of others one each


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
        Stored layer → shape of one row: (h, w, channels), (n_tokens, channels) or (channels,).
    kinds : dict of str to str
        Layer → ``map``, ``tokens`` or ``vector``.
    format_version : int
        1 to 3.
    rows : Rows
    skipped : list of Skipped
        Files that were skipped, and why.
    parts : dict of str to int
        Part file → size in bytes; empty if the store itself holds the values.

    Raises
    ------
    WrongStore
        If there is none of this name yet, or it is something else, such as a folder or a file that is no HDF5 file.
    StoreError
        If the store or one of its parts is incomplete, damaged or cannot be read.
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
            if parts_folder(self.path).exists():
                raise WrongStore(f"{path} is unfinished. Run the same extract again; what is computed is kept.")
            create = f"Create it: {command('extract', out=path, data='SOURCE')}"
            raise WrongStore(f"{path} is not there. {find_near(path, create)}")
        _check_kind(self.path)
        check_seal(self.path, parts_folder(self.path), REMEDY)
        try:
            # A finished store never changes in place, so readers need no lock and are never blocked.
            self._file = h5py.File(self.path, "r", locking=False)
        except OSError as error:
            raise self._damaged(error) from error
        try:
            self._load()
        except CachedFeaturesError:
            self._file.close()
            raise
        except DAMAGE as error:
            self._file.close()
            raise self._damaged(error) from error

    def _load(self) -> None:
        attributes = self._file.attrs
        check_attributes(self._file, self.path)
        self.format_version = int(attributes["format_version"])
        self.provenance: dict[str, Any] = parse_json(get_text(self._file, "provenance"), f"provenance of {self.path}")
        told = parse_json(get_text(self._file, "parts") if "parts" in attributes else "{}", f"parts of {self.path}")
        held = {name: (each, None) if self.format_version == 1 else (each[0], each[1]) for name, each in told.items()}
        self.parts: dict[str, int] = {name: size for name, (size, _) in held.items()}
        # Parts are checked only when read, since there may be ten thousand.
        self._index = Index(self.path, parts_folder(self.path), held)
        check_own_values(self._file, self.path, self._index.is_own, layers=True)
        self.rows = read_rows(self._file)
        self.skipped = read_skipped(self._file)
        self.layers = {name: self._file["features"][name].shape[1:] for name in self.provenance["layers"]}
        lengths = {name: len(self._file["features"][name]) for name in self.layers}
        if not attributes["complete"] or set(lengths.values()) != {len(self.rows)}:
            raise StoreError(f"{self.path} is incomplete: it has {len(self.rows)} rows, but {lengths}. {REMEDY}")
        by_rank = {name: kind_of(shape) for name, shape in self.layers.items()}  # format 1 records only the shape
        self.kinds: dict[str, str] = self.provenance.get("kinds") or by_rank
        if self.kinds.keys() != self.layers.keys() or not set(self.kinds.values()) <= set(KINDS):
            raise StoreError(f"{self.path} must give the kind of each layer; it says {self.kinds!r:.100}. {REMEDY}")
        # Chunks are located now, so that a forked process need not call HDF5; those of parts when they are opened.
        self._readers: dict[str, RowReader] = {}
        if not self.parts:
            self._readers |= {name: read_layer(self._file, name, self.path) for name in self.layers}

    def _damaged(self, error: Exception) -> StoreError:
        return fault(self.path, error, f"{self.path} cannot be read as a feature store ({error}). {REMEDY}")

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice | np.ndarray) -> tuple[np.ndarray, Any]:
        """Return (features, label) of one row, or of several: the last layer, float32, in its stored shape, and int32 labels."""
        shape = list(self.layers.values())[-1]
        if isinstance(index, slice) or np.ndim(index):
            rows = np.arange(len(self))[index]
            return self.read(rows=rows).reshape(-1, *shape), self.rows.labels[rows]
        row = range(len(self))[index]
        # Without a look at the memory: training reads one row after the other.
        return self.read(rows=np.array([row]), memory=math.inf).reshape(shape), self.rows.labels[row]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in self.layers.items())
        spec = f"{self.provenance['backbone']} at {self.provenance['image_size']} px"
        return f"<FeatureStore {self.path}: {counted(len(self), 'row')} of {counted(len(self.class_names), 'class')}, {shapes} of {spec}>"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        return self.rows.class_names

    @functools.cached_property
    def made(self) -> Provenance:
        """The provenance as a dataclass; raises UnsafeFile if it is invalid."""
        return Provenance.from_json(self.provenance, f"provenance of {self.path}")

    @functools.cached_property
    def row_digests(self) -> dict[str, np.ndarray]:
        """Layer → digest of each row's values, (n_rows, 16), uint8; empty for format 1.

        Raises
        ------
        StoreError
            If they do not match that of all values.
        """
        if self.format_version == 1:
            return {}
        try:
            held = {name: read_table(self._file, f"digests/rows/{name}") for name in self.layers}
            if any(each.shape != (len(self), DIGEST_BYTES) for each in held.values()):
                raise ValueError("each row must have one digest per layer")
            if digest_values(held, list(self.layers)) != self.provenance["values"]:
                raise ValueError("digests of rows do not match that of all values")
        except DAMAGE as error:
            raise self._damaged(error) from error
        return held

    @property
    def views(self) -> int:
        """Rows per image; consecutive rows are the views of one image."""
        return self.made.views

    def close(self) -> None:
        """Close the file; reading afterwards fails."""
        self._readers.clear()
        self._file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling: the other process opens the file itself."""
        return FeatureStore, (self.path,)

    def dataset(self, layer: str) -> h5py.Dataset:
        """Return a layer's h5py dataset.

        Use `read` or `batches` for a store in parts: HDF5 returns zeros for a part that it cannot open, for example
        because of the limit on open files.

        Raises
        ------
        RequestError
            If the layer is not stored.
        """
        if not isinstance(layer, str):
            raise RequestError(
                f"layer of {self.path} must be the name of one layer; got {layer!r}. Read each by itself, and join them: np.hstack"
            )
        if layer not in self.layers:
            backbone = self.provenance["backbone"]
            near = difflib.get_close_matches(layer, self.layers, 1, 0.8)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise RequestError(
                f"layer of {self.path} must be one of those stored: {', '.join(self.layers)}; got {layer!r}. {hint}If it is another layer "
                f"of {backbone} (the command `layers {backbone}` lists them), it was not extracted: "
                f"{command('extract', layers=layer, out='OTHER.h5')}"
            )
        self._check_open()
        return open_layer(self._file, layer, self.path.parent.resolve())

    def _check_open(self) -> None:
        if not self._file:
            raise RequestError(f"{self.path} must be open; it was closed. Open it again: features.FeatureStore(...)")

    def describe(self) -> dict[str, Any]:
        """Return a JSON-serialisable description of the store."""
        return {
            "store": str(self.path),
            "format_version": self.format_version,
            "bytes": self.path.stat().st_size + sum(self.parts.values()),
            "parts": len(self.parts),
            "layers": {
                name: {"shape": list(shape), "kind": self.kinds[name], "dtype": str(self.dataset(name).dtype)}
                for name, shape in self.layers.items()
            },
            "rows": self.rows.counts(),
            "columns": self.rows.describe_columns(),
            "skipped": len(self.skipped),
            "skipped_files": [{"path": each.path, "reason": each.reason} for each in self.skipped],
            "provenance": self.provenance,
        }

    def read(
        self,
        layer: str | None = None,
        pool: str = "flatten",
        rows: np.ndarray | None = None,
        memory: float | None = None,
        split: str | None = None,
    ) -> np.ndarray:
        """Read one layer as a matrix for heads.

        Parameters
        ----------
        layer : str, optional
            By default, the last stored layer.
        pool : {'flatten', 'avg', 'max', 'avg+max', 'cls', 'cls+avg'}
            How a map or tokens become a vector, see `pool_maps`; vectors take only ``flatten``, which leaves them unchanged.
        rows : ndarray of int, optional
            Row indices, in the order to read them; by default, all rows.
        memory : float, optional
            Bytes that the matrix may take; by default, all that this machine or its control group (cgroup) has, free or not.
        split : {'train', 'val', 'test'}, optional
            Read the rows of this split, in order; not together with `rows`.

        Returns
        -------
        X : ndarray of shape (n_rows, n_features), float32

        Raises
        ------
        StoreError
            If values fail their checksum, or the matrix would be larger than the memory.
        RequestError
            If there is no such layer, pooling, row or split.
        """
        name, reader = self._pooled(layer, pool)
        rows = self._numbers(rows, split)
        shape = (len(rows), math.prod(pooled_shape(reader.row_shape, pool)))
        if memory is not None and not (isinstance(memory, Real) and memory > 0):
            raise RequestError(
                f"{called('memory')} must be bytes above 0; got {memory!r}. Leave it out for all that this machine has."
            )
        needed, room = 4 * math.prod(shape), memory_limit() if memory is None else memory
        if needed > room:
            raise StoreError(
                f"{name} of {self.path} as a matrix, {shape[0]:,} x {shape[1]:,}, must fit into {room / 1e9:.1f} GB of "
                f"memory; it takes {needed / 1e9:.1f} GB. Pool it: {option('pool', 'avg')}, or read some of its rows"
            )
        X = np.empty(shape, np.float32)

        def fill(span: slice) -> None:
            if pool == "flatten":
                reader.read(rows[span], X[span].reshape(-1, *reader.row_shape))
            else:
                maps = np.empty((span.stop - span.start, *reader.row_shape), np.float32)
                reader.read(rows[span], maps)
                X[span] = pool_maps(maps, pool)

        self._run(name, fill, spans(len(rows), reader.row_bytes))
        return X

    def check(self, layer: str, rows: np.ndarray) -> None:
        """Read the given rows, compare them with their digests, and check that they are finite.

        Raises
        ------
        StoreError
            If a row is damaged or not finite.
        """
        reader, rows = self._reader(layer), self._numbers(rows)
        held = self.row_digests.get(layer)

        def compare(span: slice) -> None:
            values = reader.read_rows(rows[span])
            if held is not None:
                for row, each in zip(rows[span], values, strict=True):
                    if digest(each) != held[row].tobytes():
                        raise ValueError(f"row {row} does not match its digest")
            if not np.isfinite(values).all():
                raise ValueError("rows must be finite")

        self._run(layer, compare, spans(len(rows), reader.row_bytes))

    def _run(self, layer: str, read: Callable[[slice], None], some: list[slice]) -> None:
        """Read spans, in threads where HDF5 is not needed; raise StoreError if values are damaged."""
        # Threads would wait for HDF5's lock, and HDF5 has crashed when several threads read LZ4 while another wrote.
        each = in_threads if self.format_version > 1 and self.provenance.get("compression") in DIRECT else map
        try:
            for _ in each(read, some):
                pass
        except CachedFeaturesError:
            raise
        except DAMAGE as error:
            self._check_open()  # another thread may have closed it meanwhile
            reason = f"values of /features/{layer} fail their checksum ({error})"
            raise fault(self.path, error, f"{self.path} is damaged: {reason}. {REMEDY}") from error

    def _pooled(self, layer: str | None, pool: str) -> tuple[str, RowReader]:
        """Return the name and reader of a layer, by default the last, which must allow this pooling."""
        name = layer or list(self.layers)[-1]
        reader = self._reader(name)
        check_pool(pool, self.kinds[name], reader.row_shape, str(self.path))
        return name, reader

    def _reader(self, layer: str) -> RowReader:
        reader = self._readers.get(layer) if isinstance(layer, str) else None  # a list, which `dataset` refuses
        if reader is None:
            data = self.dataset(layer)
            reader = self._index.layer(data) if data.is_virtual else read_layer(self._file, layer, self.path)
            self._readers[layer] = reader
        return reader

    def _numbers(self, rows: np.ndarray | None, split: str | None = None) -> np.ndarray:
        if split is not None:
            if split not in SPLITS:
                raise must_be_one_of(called("split"), SPLITS, split)
            if rows is not None:
                raise RequestError(
                    f"{called('split')} must be given without {called('rows')}; got both. Leave one out."
                )
            return np.flatnonzero(self.rows.splits == SPLITS[split])
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        if rows.ndim != 1 or (len(rows) and rows.dtype.kind not in "iu"):
            raise RequestError(
                f"rows must be whole numbers, one per row; got {rows.dtype} of shape {rows.shape}. "
                f"Of a mask, give {option('rows')} numpy.flatnonzero(mask)."
            )
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise RequestError(
                f"rows must be between 0 and {len(self) - 1}, those of {self.path}; got {rows.min()} to {rows.max()}. "
                f"Leave {option('rows')} out for all."
            )
        return rows.astype(np.int64)  # differences of unsigned numbers would wrap around

    def batches(
        self,
        batch_size: int = 256,
        layer: str | None = None,
        pool: str = "flatten",
        rows: np.ndarray | None = None,
        split: str | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (X, labels) of `batch_size` rows at a time, for stores larger than memory; see `read`, also for errors.

        X is float32, (n, n_features); labels are int32, (n,). What is not allowed is refused at once, not at the first batch.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, Integral) or batch_size < 1:
            raise RequestError(
                f"{called('batch_size')} must be a whole number of rows, at least 1; got {batch_size!r}. Leave it out for 256."
            )
        name, _ = self._pooled(layer, pool)
        rows = self._numbers(rows, split)
        some = (rows[start : start + batch_size] for start in range(0, len(rows), int(batch_size)))
        return ((self.read(name, pool, each), self.rows.labels[each]) for each in some)

    def as_dataset(
        self,
        batch_size: int = 256,
        layer: str | None = None,
        pool: str = "flatten",
        rows: np.ndarray | None = None,
        split: str | None = None,
    ) -> Any:
        """Return a ``tf.data.Dataset`` of what `batches` yields: (X, labels), float32 and int32."""
        rows = self._numbers(rows, split)
        self.batches(batch_size, layer, pool, rows)  # refuses now what TensorFlow would report as an error of its own
        import_keras()
        import tensorflow as tf

        _, reader = self._pooled(layer, pool)
        X, y = tf.TensorSpec((None, math.prod(pooled_shape(reader.row_shape, pool)))), tf.TensorSpec((None,), tf.int32)
        make = functools.partial(self.batches, batch_size, layer, pool, rows)
        return tf.data.Dataset.from_generator(make, output_signature=(X, y))


def _check_kind(path: Path) -> None:
    """Raise WrongStore for what is commonly given instead of a store: a run, a folder of stores or of images, or a model."""
    if path.is_dir():
        made, stores = _find_named(path), sorted(map(str, path.glob("*.h5")))
        what, remedy = "a folder", f"Of images, make a store first: {command('extract', data=str(path))}"
        if made:
            what, remedy = "a folder of results", f"They were made of {option('store', made)}"
        elif path.suffix == ".parts":
            what, remedy = "the folder of a store's parts", f"Name the store: {path.with_suffix('')}"
        elif stores:
            what, remedy = "a folder that holds stores", f"Name one of these: {listed(stores, _LISTED)}"
        raise WrongStore(f"{called('store')} must be a feature store, NAME.h5; got {path}, which is {what}. {remedy}")
    head = read_first(path, len(_HDF5))
    if head not in (_HDF5, b""):
        raise WrongStore(
            f"{called('store')} must be a feature store, NAME.h5; got {path}, which is no HDF5 file. "
            f"Make a store of images: {command('extract', data='SOURCE')}"
        )


def _find_named(folder: Path) -> str | None:
    """Return the store that results name, of which a folder holds some as JSON; None if none does, as in a folder of images."""
    for path in itertools.islice(sorted(folder.glob("*.json")), _LOOKED_AT):
        with contextlib.suppress(OSError, UnsafeFile):
            named = read_json(path).get("store")
            if isinstance(named, str):
                return named
    return None


def parts_folder(path: str | Path) -> Path:
    """Return the folder of a store's parts."""
    return Path(f"{path}.parts")
