"""Format 1 in HDF5: how rows, features and provenance are laid out, written and read.

Metadata uses HDF5's newer file format, whose headers and indices have checksums; values are in chunks with ``fletcher32``;
attribute texts, which neither covers, have their own SHA-256. So damage raises an error instead of giving wrong numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import hdf5plugin
import numpy as np

from ..splits import SPLITS, count_rows

FORMAT, FORMAT_VERSION = "cached-features", 1
SPLIT_TYPE = h5py.enum_dtype(SPLITS, basetype="u1")
# Filters that HDF5 applies to a chunk before its checksum. Reading LZ4 and Zstd needs hdf5plugin; gzip and none need only h5py.
COMPRESSION: dict[str, Any] = {
    "lz4": hdf5plugin.LZ4(),
    "zstd": hdf5plugin.Zstd(clevel=1),
    "gzip": {"compression": "gzip", "compression_opts": 1},
    "none": {},
}
# Measured on average-pooled VGG16 vectors of 1 kB: smaller chunks scan more slowly, larger ones make random rows slower. A
# whole map is larger than this, so each map is one chunk.
_CHUNK_BYTES = 32 << 10


def _stored(name: str, dtype: Any) -> dict[str, Any]:
    """Return field metadata that stores a field of `Rows` as ``/rows/<name>``; a field with default None is optional."""
    return {"name": name, "dtype": dtype}


@dataclass(frozen=True)
class Rows:
    """Metadata of a store's rows; row i belongs to row i of every layer.

    A field added here with a default of None is written, read and saved with predictions, and may be missing in older files.

    Attributes
    ----------
    class_names : tuple of str
    paths : tuple of str
        Relative to the source's root.
    labels : ndarray of shape (n_rows,), int32
    splits : ndarray of shape (n_rows,), uint8
        Values of ``SPLITS``.
    strata : ndarray of shape (n_rows,), int32
        Strata whose proportions stratified splits preserve; at least as fine as the labels.
    views : ndarray of shape (n_rows,), uint8
        0 is the image itself.
    sha256 : ndarray of shape (n_rows, 32), uint8
        SHA-256 of the image file's bytes.
    """

    class_names: tuple[str, ...]
    paths: tuple[str, ...] = field(metadata=_stored("path", str))
    labels: np.ndarray = field(metadata=_stored("label", np.int32))
    splits: np.ndarray = field(metadata=_stored("split", SPLIT_TYPE))
    strata: np.ndarray = field(metadata=_stored("stratum", np.int32))
    views: np.ndarray = field(metadata=_stored("view", np.uint8))
    sha256: np.ndarray = field(metadata=_stored("sha256", np.uint8))

    def __len__(self) -> int:
        return len(self.paths)

    def images(self) -> Rows:
        """Return the rows of the images themselves, view 0."""
        if not self.views.any():
            return self
        mask = self.views == 0
        kept = {name: _select(values, mask) for name, _, values in self.columns()}
        return Rows(self.class_names, **kept)

    def columns(self) -> Iterator[tuple[str, Any, Any]]:
        """Yield (name, storage metadata, values) of each column that these rows have."""
        for each in fields(self):
            values = getattr(self, each.name)
            if each.metadata and values is not None:
                yield each.name, each.metadata, values

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of rows per split and class: ``{split: {class name: rows}}``."""
        return count_rows(self.class_names, self.labels, self.splits)


def _select(values: Any, mask: np.ndarray) -> Any:
    if isinstance(values, np.ndarray):
        return values[mask]
    return tuple(value for value, keep in zip(values, mask, strict=True) if keep)


class Skipped(NamedTuple):
    """A file that was skipped."""

    path: str
    reason: str
    sha256: bytes = b""  # of its bytes, if it could be read


def create(file: h5py.File, layers: Mapping[str, Sequence[int]], dtype: str, n_rows: int, compression: str) -> None:
    """Create empty feature datasets.

    Parameters
    ----------
    file : h5py.File
    layers : dict of str to tuple
        Layer → shape of one row.
    dtype : str
    n_rows : int
    compression : str
        A key of ``COMPRESSION``.
    """
    for name, shape in layers.items():
        row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        chunk = max(1, min(n_rows, _CHUNK_BYTES // row_bytes))
        checked = {"chunks": (chunk, *shape), "fletcher32": True, **COMPRESSION[compression]} if n_rows else {}
        file.create_dataset(f"features/{name}", (n_rows, *shape), dtype=dtype, **checked)


def link(
    file: h5py.File, layers: Mapping[str, Sequence[int]], dtype: str, places: Sequence[tuple[Path, int]], folder: Path
) -> None:
    """Create virtual feature datasets over rows of other files; `places` has file and row of each.

    Files are named relative to `folder`, the folder of the index, and their sizes are recorded, so that a reader can check
    that all exist.
    """
    files = list(dict.fromkeys(path for path, _ in places))
    numbers = {path: number for number, path in enumerate(files)}
    of, rows = np.array([(numbers[path], row) for path, row in places]).T
    stretches = list(runs(rows + (of << 40), np.arange(len(rows))))
    lengths = {}
    for path in files:
        with h5py.File(path, "r", locking=False) as part:
            lengths[path] = len(part["sha256"])
    for name, shape in layers.items():
        layout = h5py.VirtualLayout((len(places), *shape), dtype)
        for first, last in stretches:
            path = files[of[first]]
            source = h5py.VirtualSource(str(path.relative_to(folder)), f"features/{name}", (lengths[path], *shape))
            layout[first:last] = source[rows[first] : rows[first] + last - first]
        file.create_virtual_dataset(f"features/{name}", layout)
    file.attrs["parts"] = json.dumps({str(path.relative_to(folder)): path.stat().st_size for path in files})


def runs(*numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of each run in which all arrays, of equal length, increase by one; `end` is exclusive."""
    breaks = np.logical_or.reduce([np.diff(each) != 1 for each in numbers])
    edges = np.flatnonzero(breaks) + 1
    yield from zip([0, *edges.tolist()], [*edges.tolist(), len(numbers[0])], strict=True)


def open_layer(file: h5py.File, layer: str, folder: Path) -> h5py.Dataset:
    """Return a layer's dataset; the parts of a virtual one are searched only below `folder`."""
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_virtual_prefix(os.fsencode(folder))
    return h5py.Dataset(h5py.h5d.open(file["features"].id, layer.encode(), access))


def write_rows(file: h5py.File, rows: Rows) -> None:
    """Write ``/rows``."""
    group = file.create_group("rows")
    group.attrs["class_names"] = list(rows.class_names)
    for _, stored, values in rows.columns():
        dtype = stored["dtype"]
        if dtype is str:
            _write(group, stored["name"], _fixed(values))
        else:
            _write(group, stored["name"], values.astype(np.dtype(dtype)), dtype)


def read_rows(file: h5py.File) -> Rows:
    """Read ``/rows``."""
    group = file["rows"]
    held: dict[str, Any] = {
        each.name: tuple(_texts(group[stored["name"]])) if stored["dtype"] is str else group[stored["name"]][:]
        for each in fields(Rows)
        if (stored := each.metadata) and (stored["name"] in group or each.default is not None)
    }
    return Rows(class_names=tuple(str(name) for name in group.attrs["class_names"]), **held)


def write_skipped(file: h5py.File, skipped: Sequence[Skipped]) -> None:
    """Write ``/skipped``: each skipped file and the reason. A missing hash is written as 32 zero bytes."""
    group = file.create_group("skipped")
    _write(group, "path", _fixed([each.path for each in skipped]))
    _write(group, "reason", _fixed([each.reason for each in skipped]))
    keys = b"".join(each.sha256 or bytes(32) for each in skipped)
    _write(group, "sha256", np.frombuffer(keys, np.uint8).reshape(-1, 32))


def read_skipped(file: h5py.File) -> list[Skipped]:
    """Read ``/skipped``."""
    group = file["skipped"]
    keys = [key.tobytes() if key.any() else b"" for key in group["sha256"][:]]
    return [Skipped(*each) for each in zip(_texts(group["path"]), _texts(group["reason"]), keys, strict=True)]


def write_attributes(file: h5py.File, provenance: dict[str, Any]) -> None:
    """Write the root's attributes; must be the last write before a file is closed."""
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["provenance"] = json.dumps(provenance, ensure_ascii=False, sort_keys=True)
    file.attrs["complete"] = True
    file.attrs["sha256"] = digest_attributes(file)


def digest_attributes(file: h5py.File) -> str:
    """Return the SHA-256 over attributes, since HDF5's own checksums do not cover their texts."""
    kept = {name: str(value) for name, value in file.attrs.items() if name != "sha256"}
    names = [str(name) for name in file["rows"].attrs["class_names"]] if "rows" in file else []
    return hashlib.sha256(json.dumps([kept, names], sort_keys=True).encode()).hexdigest()


def _write(group: h5py.Group, name: str, values: np.ndarray, dtype: np.dtype | None = None) -> None:
    # An empty dataset cannot have chunks and hence no checksum, and needs none.
    checked = {"chunks": True, "fletcher32": True, "shuffle": True, "compression": "gzip"} if len(values) else {}
    group.create_dataset(name, data=values, dtype=dtype or values.dtype, **checked)


def _fixed(texts: Sequence[str]) -> np.ndarray:
    """Return fixed-length UTF-8, since HDF5 stores variable-length strings outside its checksummed chunks."""
    encoded = [text.encode() for text in texts]
    return np.array(encoded, h5py.string_dtype("utf-8", max(map(len, encoded), default=0) or 1))


def _texts(data: h5py.Dataset) -> list[str]:
    return [text.decode() for text in data[:]]
