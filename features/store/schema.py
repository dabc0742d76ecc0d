"""Format 1 in HDF5: how rows, features and provenance are laid out, written and read back.

Metadata is written in HDF5's newer file format, whose headers and indices carry checksums; values in chunks with
``fletcher32``; what neither covers, the texts of attributes, under a SHA-256 of our own. So damage shows as an error and
not as other numbers.
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
# What HDF5 does to a chunk before its checksum. LZ4 and Zstd need hdf5plugin to be read; gzip and none h5py alone.
COMPRESSION: dict[str, Any] = {
    "lz4": hdf5plugin.LZ4(),
    "zstd": hdf5plugin.Zstd(clevel=1),
    "gzip": {"compression": "gzip", "compression_opts": 1},
    "none": {},
}
# Measured on averaged VGG16 vectors of 1 kB: smaller chunks scan slower, larger ones make a random row dearer. A whole
# map is larger than this, so that it has a chunk of its own.
_CHUNK_BYTES = 32 << 10


def _stored(name: str, dtype: Any) -> dict[str, Any]:
    """Return what makes a field of `Rows` the dataset ``/rows/<name>``; one with a default of None may be absent."""
    return {"name": name, "dtype": dtype}


@dataclass(frozen=True)
class Rows:
    """What a store knows of its rows: row i belongs to row i of every layer.

    A field that is added here with a default of None is written, read, kept with predictions, and absent from older files.

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
    columns : mapping of str to tuple of str
        Every further column of the source, such as the patient: name → one text per row.
    """

    class_names: tuple[str, ...]
    paths: tuple[str, ...] = field(metadata=_stored("path", str))
    labels: np.ndarray = field(metadata=_stored("label", np.int32))
    splits: np.ndarray = field(metadata=_stored("split", SPLIT_TYPE))
    strata: np.ndarray = field(metadata=_stored("stratum", np.int32))
    views: np.ndarray = field(metadata=_stored("view", np.uint8))
    sha256: np.ndarray = field(metadata=_stored("sha256", np.uint8))
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    def images(self) -> Rows:
        """Return the rows of the images themselves, view 0."""
        if not self.views.any():
            return self
        mask = self.views == 0
        kept = {name: _select(values, mask) for name, _, values in self.stored()}
        columns = {name: _select(values, mask) for name, values in self.columns.items()}
        return Rows(self.class_names, **kept, columns=columns)

    def stored(self) -> Iterator[tuple[str, Any, Any]]:
        """Yield (name, how it is stored, values) of each field that these rows have, `columns` apart."""
        for each in fields(self):
            values = getattr(self, each.name)
            if each.metadata and values is not None:
                yield each.name, each.metadata, values

    def describe_columns(self) -> dict[str, dict[str, Any]]:
        """Return for each column how many different ``values`` it has, and the first three as ``examples``."""
        different = {name: sorted(set(texts)) for name, texts in self.columns.items()}
        return {name: {"values": len(texts), "examples": texts[:3]} for name, texts in different.items()}

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of rows per split and class: ``{split: {class name: rows}}``."""
        return count_rows(self.class_names, self.labels, self.splits)


def _select(values: Any, mask: np.ndarray) -> Any:
    if isinstance(values, np.ndarray):
        return values[mask]
    return tuple(value for value, keep in zip(values, mask, strict=True) if keep)


class Skipped(NamedTuple):
    """A file that is not a row."""

    path: str
    reason: str
    sha256: bytes = b""  # of its bytes, where it could be read


def create(file: h5py.File, layers: Mapping[str, Sequence[int]], dtype: str, n_rows: int, compression: str) -> None:
    """Create empty feature datasets.

    Parameters
    ----------
    file : h5py.File
    layers : dict of str to tuple
        Name of each layer and the shape of one row.
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
    """Create virtual feature datasets over rows of other files: `places` gives file and row of each.

    Files are named relative to `folder`, where the index will lie, and their sizes kept, so that a reader can tell
    whether they are all there.
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
    """Yield (first, last) of each stretch in which all arrays, of equal length, count up by one."""
    breaks = np.logical_or.reduce([np.diff(each) != 1 for each in numbers])
    edges = np.flatnonzero(breaks) + 1
    yield from zip([0, *edges.tolist()], [*edges.tolist(), len(numbers[0])], strict=True)


def open_layer(file: h5py.File, layer: str, folder: Path) -> h5py.Dataset:
    """Return a layer's dataset; parts of a virtual one are looked for below `folder` only."""
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_virtual_prefix(os.fsencode(folder))
    return h5py.Dataset(h5py.h5d.open(file["features"].id, layer.encode(), access))


def write_rows(file: h5py.File, rows: Rows) -> None:
    """Write ``/rows``."""
    group = file.create_group("rows")
    group.attrs["class_names"] = list(rows.class_names)
    for _, stored, values in rows.stored():
        dtype = stored["dtype"]
        if dtype is str:
            _write(group, stored["name"], _fixed(values))
        else:
            _write(group, stored["name"], values.astype(np.dtype(dtype)), dtype)
    columns = group.create_group("columns")
    for name, values in rows.columns.items():
        _write(columns, name, _fixed(values))


def read_rows(file: h5py.File) -> Rows:
    """Read ``/rows``."""
    group = file["rows"]
    held: dict[str, Any] = {
        each.name: tuple(_texts(group[stored["name"]])) if stored["dtype"] is str else group[stored["name"]][:]
        for each in fields(Rows)
        if (stored := each.metadata) and (stored["name"] in group or each.default is not None)
    }
    columns = {name: tuple(_texts(texts)) for name, texts in group.get("columns", {}).items()}
    if any(len(texts) != len(held["paths"]) for texts in columns.values()):
        raise ValueError("columns must have one text per row")
    return Rows(class_names=tuple(str(name) for name in group.attrs["class_names"]), **held, columns=columns)


def write_skipped(file: h5py.File, skipped: Sequence[Skipped]) -> None:
    """Write ``/skipped``: each file that is not a row, and why. No hash is 32 zeros."""
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
    """Write the root's attributes; the last thing before a file is closed."""
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["provenance"] = json.dumps(provenance, ensure_ascii=False, sort_keys=True)
    file.attrs["complete"] = True
    file.attrs["sha256"] = digest_attributes(file)


def digest_attributes(file: h5py.File) -> str:
    """Return the SHA-256 over attributes, whose texts HDF5 keeps outside its own checksums."""
    kept = {name: str(value) for name, value in file.attrs.items() if name != "sha256"}
    names = [str(name) for name in file["rows"].attrs["class_names"]] if "rows" in file else []
    return hashlib.sha256(json.dumps([kept, names], sort_keys=True).encode()).hexdigest()


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
