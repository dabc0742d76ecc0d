"""The one owner of the HDF5 layout: open and read a feature store, and the rules by which two stores may be mixed.

The layout is format 1; the README lists it. Metadata is written in HDF5's newer file format, whose headers and indices
carry checksums, and values in chunks with ``fletcher32``, so damage shows as an error and not as other numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .errors import StoreError, must_be_one_of
from .pooling import check_pool, n_features, pool_maps
from .splits import SPLITS, count_rows

FORMAT, FORMAT_VERSION = "cached-features", 1
SPLIT_TYPE = h5py.enum_dtype(SPLITS, basetype="u1")
# The provenance that decides feature values; the rest (source, library versions, ...) is told but not compared.
DECIDING = (
    "backbone",
    "layers",
    "weights_sha256",
    "image_size",
    "resize",
    "preprocess",
    "pool",
    "views",
    "dtype",
    "engine",
)
_READ_BYTES = 32 << 20  # what is read at once when features are pooled on the way


@dataclass(frozen=True)
class Rows:
    """What a store knows of its rows: row i belongs to row i of every layer.

    Attributes
    ----------
    class_names : tuple of str
    paths : tuple of str
        Below the source's root.
    labels : ndarray of shape (n_rows,), int32
    splits : ndarray of shape (n_rows,), uint8
        Values of ``SPLITS``.
    strata : ndarray of shape (n_rows,), int32
        What a stratified split keeps in proportion; at least the label.
    views : ndarray of shape (n_rows,), uint8
        0 is the image itself.
    sha256 : ndarray of shape (n_rows, 32), uint8
        Hash of the image file's bytes.
    """

    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    splits: np.ndarray
    strata: np.ndarray
    views: np.ndarray
    sha256: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return rows a split and class: ``{split: {class name: rows}}``."""
        return count_rows(self.class_names, self.labels, self.splits)


class FeatureStore:
    """A finished feature store, open for reading. Needs h5py alone; nothing is ever written to it.

    Parameters
    ----------
    path : path-like
        A store made by ``extract``.

    Attributes
    ----------
    provenance : dict
        Everything that decided the numbers.
    layers : dict of str to tuple
        Name of each stored layer and the shape of one row: (h, w, channels), or (channels,) where pooled.
    rows : Rows
    skipped : list of (str, str)
        Path and reason of files that are not rows.

    Raises
    ------
    StoreError
        If the file is not there, not a whole store, or damaged.

    Examples
    --------
    >>> with FeatureStore("cache/cells.h5") as store:   # doctest: +SKIP
    ...     X = store.read("block5_pool", pool="avg")   # (n_rows, 512), float32
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.exists():
            parts = " It has not been finished: run the same extract again." if parts_folder(self.path).exists() else ""
            raise StoreError(
                f"{path} is not there.{parts} Make it: python -m pipeline extract --out {path} --data SOURCE"
            )
        try:
            # A finished store never changes under its name, so no lock is needed and no reader is ever blocked.
            self._file = h5py.File(self.path, "r", locking=False)
        except OSError as error:
            raise self._damaged(error) from error
        try:
            self._load()
        except (KeyError, OSError, ValueError, TypeError, RuntimeError) as error:
            self._file.close()
            raise self._damaged(error) from error
        except StoreError:
            self._file.close()
            raise

    def _load(self) -> None:
        attributes = self._file.attrs
        if attributes.get("format") != FORMAT:
            raise StoreError(
                f"{self.path} is an HDF5 file, but no feature store. Make one: python -m pipeline extract --help"
            )
        if attributes["format_version"] != FORMAT_VERSION:
            raise StoreError(
                f"{self.path} has format version {attributes['format_version']}; this program reads {FORMAT_VERSION}. "
                f"Update it: pip install --upgrade cached-features"
            )
        self.provenance: dict[str, Any] = json.loads(attributes["provenance"])
        self.rows = _read_rows(self._file)
        self.layers = {name: self._file["features"][name].shape[1:] for name in self.provenance["layers"]}
        lengths = {name: len(self._file["features"][name]) for name in self.layers}
        if not attributes.get("complete") or set(lengths.values()) != {len(self.rows)}:
            raise StoreError(f"{self.path} is not whole: {len(self.rows)} rows, but {lengths}. Extract it again.")
        if self.provenance["fingerprint"] != fingerprint(self.provenance):
            raise StoreError(
                f"{self.path} is damaged: its fingerprint does not match its provenance. Extract it again."
            )
        skipped = self._file["skipped"]
        self.skipped = list(zip(_texts(skipped["path"]), _texts(skipped["reason"]), strict=True))

    def _damaged(self, error: Exception) -> StoreError:
        return StoreError(
            f"{self.path} cannot be read as a feature store ({error}). Extract it again, or restore a copy."
        )

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.rows)

    def close(self) -> None:
        """Close the file; reading afterwards fails."""
        self._file.close()

    def dataset(self, layer: str) -> h5py.Dataset:
        """Return a layer's dataset as h5py gives it.

        Raises
        ------
        RequestError
            If the layer is not stored.
        """
        if layer not in self.layers:
            remedy = f"Extract it: python -m pipeline extract --layers {layer} --out OTHER.h5"
            raise must_be_one_of(f"layer of {self.path}", self.layers, layer, remedy)
        return self._file["features"][layer]

    def describe(self) -> dict[str, Any]:
        """Return what the store holds, as JSON can carry it."""
        return {
            "store": str(self.path),
            "bytes": self.path.stat().st_size,
            "layers": {
                name: {"shape": list(shape), "dtype": str(self.dataset(name).dtype)}
                for name, shape in self.layers.items()
            },
            "rows": self.rows.counts(),
            "skipped": len(self.skipped),
            "provenance": self.provenance,
        }

    def read(self, layer: str | None = None, pool: str = "flatten", rows: np.ndarray | None = None) -> np.ndarray:
        """Read one layer as a matrix for heads.

        Parameters
        ----------
        layer : str, optional
            The last stored one if left out.
        pool : {'flatten', 'avg', 'max', 'avg+max'}
            How a map of h x w becomes a vector; pooled features stay as they are under ``flatten``.
        rows : ndarray of int, optional
            Which rows, in which order; all if left out.

        Returns
        -------
        X : ndarray of shape (n_rows, n_features), float32
        """
        data = self.dataset(layer or list(self.layers)[-1])
        check_pool(pool, data.shape[1:], str(self.path))
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        X = np.empty((len(rows), n_features(data.shape[1:], pool)), np.float32)
        try:
            for start, block in _blocks(data, rows):
                X[start : start + len(block)] = pool_maps(block, pool)
        except OSError as error:
            raise StoreError(
                f"{self.path} is damaged: values of {data.name} fail their checksum ({error}). Extract it again."
            ) from error
        return X


def parts_folder(path: str | Path) -> Path:
    """Return the folder in which a store's parts lie until it is whole."""
    return Path(f"{path}.parts")


def fingerprint(provenance: dict[str, Any]) -> str:
    """Return the SHA-256 over the fields that decide feature values, as hexadecimal."""
    deciding = {name: provenance[name] for name in DECIDING}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def check_same(held: dict[str, Any], asked: dict[str, Any], path: Path) -> None:
    """Raise StoreError, naming the fields that differ, unless two provenances have one fingerprint."""
    fields = [name for name in DECIDING if held.get(name) != asked[name]]
    if fields:
        table = "; ".join(f"{name}: holds {_brief(held.get(name))}, asked for {_brief(asked[name])}" for name in fields)
        other = path.with_name(f"{path.stem}-2{path.suffix}")
        raise StoreError(f"{path} was made with other settings. {table}. Extract to another file: --out {other}")


def create(file: h5py.File, layers: dict[str, Sequence[int]], dtype: str, n_rows: int) -> None:
    """Create empty feature datasets: `layers` maps each name to the shape of one row."""
    for name, shape in layers.items():
        # One row a chunk where a row is large, so that a random row costs one read; small rows share chunks of 64 kB.
        row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        chunk = max(1, min(n_rows, (64 << 10) // row_bytes))
        checked = {"chunks": (chunk, *shape), "fletcher32": True} if n_rows else {}
        file.create_dataset(f"features/{name}", (n_rows, *shape), dtype=dtype, **checked)


def write_rows(file: h5py.File, rows: Rows) -> None:
    """Write ``/rows``."""
    group = file.create_group("rows")
    group.attrs["class_names"] = list(rows.class_names)
    _write(group, "path", _fixed(rows.paths))
    _write(group, "label", rows.labels.astype(np.int32))
    _write(group, "split", rows.splits.astype(np.uint8), SPLIT_TYPE)
    _write(group, "stratum", rows.strata.astype(np.int32))
    _write(group, "view", rows.views.astype(np.uint8))
    _write(group, "sha256", rows.sha256.astype(np.uint8))


def write_skipped(file: h5py.File, skipped: Sequence[tuple[str, str]]) -> None:
    """Write ``/skipped``: path and reason of each file that is not a row."""
    group = file.create_group("skipped")
    _write(group, "path", _fixed([path for path, _ in skipped]))
    _write(group, "reason", _fixed([reason for _, reason in skipped]))


def write_attributes(file: h5py.File, provenance: dict[str, Any]) -> None:
    """Write the root's attributes; the last thing before a file is closed."""
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["provenance"] = json.dumps(provenance, ensure_ascii=False, sort_keys=True)
    file.attrs["complete"] = True


def _read_rows(file: h5py.File) -> Rows:
    group = file["rows"]
    return Rows(
        class_names=tuple(str(name) for name in group.attrs["class_names"]),
        paths=tuple(_texts(group["path"])),
        labels=group["label"][:],
        splits=group["split"][:],
        strata=group["stratum"][:],
        views=group["view"][:],
        sha256=group["sha256"][:],
    )


def _write(group: h5py.Group, name: str, values: np.ndarray, dtype: np.dtype | None = None) -> None:
    # An empty dataset can have no chunks, hence no checksum; there is nothing in it to protect.
    checked = {"chunks": True, "fletcher32": True, "shuffle": True, "compression": "gzip"} if len(values) else {}
    group.create_dataset(name, data=values, dtype=dtype or values.dtype, **checked)


def _fixed(texts: Sequence[str]) -> np.ndarray:
    """Return UTF-8 of one length: HDF5 keeps strings of varying length outside its checksummed chunks."""
    encoded = [text.encode() for text in texts]
    return np.array(encoded, h5py.string_dtype("utf-8", max(map(len, encoded), default=0) or 1))


def _texts(data: h5py.Dataset) -> list[str]:
    return [text.decode() for text in data[:]]


def _blocks(data: h5py.Dataset, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first place in `rows`, block of values); runs of consecutive rows are read at once, straight into a buffer.

    h5py's own indexing by a list of rows reads a few dozen MB/s.
    """
    row_bytes = int(np.prod(data.shape[1:])) * data.dtype.itemsize
    step = max(1, _READ_BYTES // row_bytes)
    for start in range(0, len(rows), step):
        wanted = rows[start : start + step]
        block = np.empty((len(wanted), *data.shape[1:]), data.dtype)
        edges = np.flatnonzero(np.diff(wanted) != 1) + 1
        for first, last in zip([0, *edges], [*edges, len(wanted)], strict=True):
            source = np.s_[int(wanted[first]) : int(wanted[first]) + last - first]
            data.read_direct(block, source, np.s_[first:last])
        yield start, block


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
