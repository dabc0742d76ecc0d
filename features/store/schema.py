"""The store's format in HDF5: how rows, features and provenance are laid out, written and read.

Metadata uses HDF5's newer file format, whose headers and indices have checksums. Each chunk of features has a digest in
``/digests/chunks/<layer>``, every other dataset has one in the attribute ``digests``, and all attributes are covered by a
SHA-256. So damage raises an error instead of giving wrong numbers. ``/digests/rows/<layer>`` has a digest of each row's values,
independent of compression, and the provenance's ``values`` is a digest of all of them.

Earlier formats are still read. Format 2 has attributes of variable length, which HDF5 keeps in a heap without a checksum: damage
there was seen to hang it. Format 1 has ``fletcher32`` on features and rows, too, and the SHA-256 over the attributes only.
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
import numpy as np

from ..errors import StoreError, WrongStore, command
from ..safefiles.hdf5 import little_memory
from ..splits import SPLITS, count_rows
from .chunks import LayerReader, LayerWriter, digest, filter_options, stretches
from .provenance import Provenance

FORMAT, FORMAT_VERSION = "cached-features", 3
_VERSIONS = (1, 2, 3)  # readable versions
_FIXED_SINCE = 3  # texts have fixed lengths
REMEDY = "Delete it and extract it again, or restore a copy."
SPLIT_TYPE = h5py.enum_dtype(SPLITS, basetype="u1")
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
    columns : mapping of str to tuple of str
        Further columns of the source, such as the patient: name → one text per row.
    learnt : ndarray of shape (n_rows,), uint8, optional
        1 where an image stays in train when splits are drawn, unless a copy or its group is elsewhere; None if none does.
    """

    class_names: tuple[str, ...]
    paths: tuple[str, ...] = field(metadata=_stored("path", str))
    labels: np.ndarray = field(metadata=_stored("label", np.int32))
    splits: np.ndarray = field(metadata=_stored("split", SPLIT_TYPE))
    strata: np.ndarray = field(metadata=_stored("stratum", np.int32))
    views: np.ndarray = field(metadata=_stored("view", np.uint8))
    sha256: np.ndarray = field(metadata=_stored("sha256", np.uint8))
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    learnt: np.ndarray | None = field(default=None, metadata=_stored("learnt", np.uint8))

    def __len__(self) -> int:
        return len(self.paths)

    def images(self) -> Rows:
        """Return the rows of the images themselves, view 0."""
        return self if not self.views.any() else self.only(self.views == 0)

    def only(self, mask: np.ndarray) -> Rows:
        """Return the rows given by a mask."""
        kept = {name: _select(values, mask) for name, _, values in self.stored()}
        columns = {name: _select(values, mask) for name, values in self.columns.items()}
        return Rows(self.class_names, **kept, columns=columns)

    def stored(self) -> Iterator[tuple[str, Any, Any]]:
        """Yield (name, storage metadata, values) of each field that these rows have, except `columns`."""
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
    """A file that was skipped."""

    path: str
    reason: str
    sha256: bytes = b""  # of its bytes, if it could be read


def create(file: h5py.File, layers: Mapping[str, Sequence[int]], made: Provenance, n_rows: int) -> None:
    """Create empty feature datasets.

    Parameters
    ----------
    file : h5py.File
    layers : dict of str to tuple
        Layer → shape of one row.
    made : Provenance
        Gives the number type, the compression and the kind of each layer.
    n_rows : int
    """
    for name, shape in layers.items():
        row_bytes = int(np.prod(shape)) * np.dtype(made.spec.dtype).itemsize
        chunk = max(1, min(n_rows, _CHUNK_BYTES // row_bytes))
        packed = {"chunks": (chunk, *shape), **filter_options(made.compression)} if n_rows else {}
        data = file.create_dataset(f"features/{name}", (n_rows, *shape), dtype=made.spec.dtype, **packed)
        _write_kind(data, made)


def _write_kind(data: h5py.Dataset, made: Provenance) -> None:
    """Record the kind of a layer for other programs; a string of fixed length, so that HDF5's own checksum covers it."""
    data.attrs["kind"] = np.bytes_(made.kinds[data.name.removeprefix("/features/")])


def write_digests(file: h5py.File, layer: str, rows: np.ndarray, chunks: np.ndarray | None = None) -> None:
    """Write the digests of a layer's rows, and of its chunks if they are in this file."""
    file[f"digests/rows/{layer}"] = rows
    if chunks is not None:
        file[f"digests/chunks/{layer}"] = chunks


def write_layer(file: h5py.File, layer: str, values: np.ndarray) -> np.ndarray:
    """Write all values of a layer that `create` made; return the digests of its rows, (n_rows, 16), uint8."""
    writer = LayerWriter(file["features"][layer])
    writer.write(0, values)
    write_digests(file, layer, writer.rows, writer.chunks)
    return writer.rows


def digest_values(rows: Mapping[str, np.ndarray], layers: Sequence[str]) -> str:
    """Return the digest of all values of a store, hexadecimal, from layer → digests of its rows, (n_rows, 16), uint8."""
    return digest(b"".join(rows[layer].tobytes() for layer in layers)).hex()


def read_layer(file: h5py.File, layer: str, path: Path) -> LayerReader:
    """Return a reader of a layer of this file; raise ValueError or StoreError if it is damaged."""
    digests = read_table(file, f"digests/chunks/{layer}") if is_modern(file) else None
    return LayerReader(file["features"][layer], path, digests)


def link(
    file: h5py.File,
    layers: Mapping[str, Sequence[int]],
    made: Provenance,
    places: Sequence[tuple[Path, int]],
    folder: Path,
) -> None:
    """Create virtual feature datasets over rows of other files; `places` has file and row of each.

    Files are named relative to `folder`, the folder of the index. Their sizes and the SHA-256 of their attributes are recorded,
    so that a reader can check that all exist and are the same.
    """
    files, of, rows = by_file(places)
    lengths, held = {}, {}
    for path in files:
        with h5py.File(path, "r", locking=False) as part:
            lengths[path] = len(part["sha256"])
            held[str(path.relative_to(folder))] = [path.stat().st_size, get_text(part, "sha256")]
    for name, shape in layers.items():
        layout = h5py.VirtualLayout((len(places), *shape), made.spec.dtype)
        for first, last in stretches(rows + (of << 40)):
            path = files[of[first]]
            part = str(path.relative_to(folder)).replace("%", "%%")  # HDF5 reads a single % as a pattern
            source = h5py.VirtualSource(part, f"features/{name}", (lengths[path], *shape))
            layout[first:last] = source[rows[first] : rows[first] + last - first]
        _write_kind(file.create_virtual_dataset(f"features/{name}", layout), made)
    set_text(file, "parts", json.dumps(held))


def by_file(places: Sequence[tuple[Path, int]]) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """Return the files that `places` names, and for each place the index of its file and its row there."""
    files = list(dict.fromkeys(path for path, _ in places))
    numbers = {path: number for number, path in enumerate(files)}
    of, rows = np.array([(numbers[path], row) for path, row in places]).T
    return files, of, rows


def open_layer(file: h5py.File, layer: str, folder: Path) -> h5py.Dataset:
    """Return a layer's dataset; the parts of a virtual one are searched only below `folder`."""
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_virtual_prefix(os.fsencode(folder))
    return h5py.Dataset(h5py.h5d.open(file["features"].id, layer.encode(), access))


def write_rows(file: h5py.File, rows: Rows) -> None:
    """Write ``/rows``."""
    group = file.create_group("rows")
    group.attrs["class_names"] = _fixed(rows.class_names)
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
        each.name: (_texts if stored["dtype"] is str else read_table)(file, f"rows/{stored['name']}")
        for each in fields(Rows)
        if (stored := each.metadata) and (stored["name"] in group or each.default is not None)
    }
    columns = {name: _texts(file, f"rows/columns/{name}") for name in group.get("columns", {})}
    if any(len(texts) != len(held["paths"]) for texts in columns.values()):
        raise ValueError("columns must have one text per row")
    rows = Rows(class_names=_class_names(file), **held, columns=columns)
    _check_numbers(rows)
    return rows


def _check_numbers(rows: Rows) -> None:
    """Raise ValueError unless every row has all its numbers, and they denote a class and a split."""
    for name, stored, values in rows.stored():
        shape = (len(rows), 32) if name == "sha256" else (len(rows),)
        if stored["dtype"] is not str and (values.shape != shape or values.dtype.kind not in "iu"):
            raise ValueError(f"rows/{stored['name']} must be whole numbers of shape {shape}")
    for name, values, known in (("label", rows.labels, rows.class_names), ("split", rows.splits, SPLITS)):
        if len(rows) and not 0 <= values.min() <= values.max() < len(known):
            raise ValueError(f"rows/{name} must be from 0 to {len(known) - 1}; it is {values.min()} to {values.max()}")


def write_skipped(file: h5py.File, skipped: Sequence[Skipped]) -> None:
    """Write ``/skipped``: each skipped file and the reason. A missing hash is written as 32 zero bytes."""
    group = file.create_group("skipped")
    _write(group, "path", _fixed([each.path for each in skipped]))
    _write(group, "reason", _fixed([each.reason for each in skipped]))
    keys = b"".join(each.sha256 or bytes(32) for each in skipped)
    _write(group, "sha256", np.frombuffer(keys, np.uint8).reshape(-1, 32))


def read_skipped(file: h5py.File) -> list[Skipped]:
    """Read ``/skipped``."""
    keys = [key.tobytes() if key.any() else b"" for key in read_table(file, "skipped/sha256")]
    paths, reasons = _texts(file, "skipped/path"), _texts(file, "skipped/reason")
    return [Skipped(*each) for each in zip(paths, reasons, keys, strict=True)]


def write_attributes(file: h5py.File, provenance: Mapping[str, Any]) -> None:
    """Write the root's attributes, which cover everything else; must be the last write before a file is closed."""
    tables: list[str] = []
    file.visititems(lambda name, node: tables.append(name) if isinstance(node, h5py.Dataset) else None)
    digests = {name: digest(_bytes(file[name][()])).hex() for name in tables if not name.startswith("features/")}
    set_text(file, "digests", json.dumps(digests))
    set_text(file, "format", FORMAT)
    file.attrs["format_version"] = FORMAT_VERSION
    set_text(file, "provenance", json.dumps(provenance, ensure_ascii=False, sort_keys=True))
    file.attrs["complete"] = True
    set_text(file, "sha256", digest_attributes(file))


def check_attributes(file: h5py.File, path: Path, remedy: str = REMEDY) -> None:
    """Raise StoreError unless a file is a store or a part of one, in a supported format, with intact attributes."""
    attributes = file.attrs
    if "format" not in attributes or get_text(file, "format") != FORMAT:
        raise WrongStore(
            f"{path} is an HDF5 file, but not a feature store. Create one: {command('extract', data='SOURCE')}"
        )
    if attributes["format_version"] not in _VERSIONS:
        raise StoreError(
            f"{path} has format version {attributes['format_version']}; this program reads "
            f"{_VERSIONS[0]} to {_VERSIONS[-1]}. Update this program: git pull"
        )
    if attributes["format_version"] < _FIXED_SINCE:
        with little_memory(path):  # which also limits other threads, so only where sizes are not known before
            found = digest_attributes(file)
    elif _has_heap_texts(file):
        raise StoreError(f"{path} is damaged: its texts must have fixed lengths. {remedy}")
    else:
        found = digest_attributes(file)
    if get_text(file, "sha256") != found:
        raise StoreError(f"{path} is damaged: its attributes do not match their checksum. {remedy}")


def digest_attributes(file: h5py.File) -> str:
    """Return the SHA-256 over attributes, since HDF5's own checksums do not cover their texts."""
    kept = {name: str(_decoded(value)) for name, value in file.attrs.items() if name != "sha256"}
    own = isinstance(file.get("rows", getlink=True), h5py.HardLink)  # a link to another file is not followed
    names = list(_class_names(file)) if own else []
    return hashlib.sha256(json.dumps([kept, names], sort_keys=True).encode()).hexdigest()


def _has_heap_texts(file: h5py.File) -> bool:
    """Return whether an attribute has a variable length, so that its size is told only by reading it."""
    own = isinstance(file.get("rows", getlink=True), h5py.HardLink)
    kinds = [
        held.get_id(name).dtype for held in ([file.attrs, file["rows"].attrs] if own else [file.attrs]) for name in held
    ]
    return any(
        h5py.check_vlen_dtype(each) or getattr(h5py.check_string_dtype(each), "length", 0) is None for each in kinds
    )


def set_text(node: h5py.Group, name: str, text: str) -> None:
    """Write an attribute as UTF-8 of fixed length, which HDF5's own checksum covers."""
    node.attrs[name] = _fixed([text])[0]


def get_text(node: h5py.Group, name: str) -> str:
    """Read an attribute that is a text, of fixed length or, in earlier formats, of variable length."""
    return str(_decoded(node.attrs[name]))


def _decoded(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _class_names(file: h5py.File) -> tuple[str, ...]:
    return tuple(str(_decoded(name)) for name in file["rows"].attrs["class_names"])


def read_table(file: h5py.File, name: str) -> np.ndarray:
    """Return all values of a dataset other than features; raise ValueError if they do not match their digest."""
    values: np.ndarray = file[name][()]
    if is_modern(file) and json.loads(get_text(file, "digests")).get(name) != digest(_bytes(values)).hex():
        raise ValueError(f"{name} does not match its digest")
    return values


def is_modern(file: h5py.File) -> bool:
    """Return whether a file has digests, as all files have since format 2."""
    return bool(file.attrs["format_version"] > 1)


def _bytes(values: np.ndarray) -> bytes:
    return f"{values.dtype.str} {values.shape} ".encode() + values.tobytes()


def _write(group: h5py.Group, name: str, values: np.ndarray, dtype: np.dtype | None = None) -> None:
    # An empty dataset cannot have chunks and hence no checksum, and needs none.
    checked = {"chunks": True, "fletcher32": True, "shuffle": True, "compression": "gzip"} if len(values) else {}
    group.create_dataset(name, data=values, dtype=dtype or values.dtype, **checked)


def _fixed(texts: Sequence[str]) -> np.ndarray:
    """Return fixed-length UTF-8, since HDF5 stores variable-length strings outside its checksummed chunks."""
    encoded = [text.encode() for text in texts]
    return np.array(encoded, h5py.string_dtype("utf-8", max(map(len, encoded), default=0) or 1))


def _texts(file: h5py.File, name: str) -> tuple[str, ...]:
    return tuple(text.decode() for text in read_table(file, name))
