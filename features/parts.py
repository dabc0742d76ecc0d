"""How a store comes to be: bounded parts beside its final name, each whole or not there, joined at the end.

A part holds contents, not rows: the features of image files by the SHA-256 of their bytes. So a killed pass goes on
with what it lacks, a grown source costs its new images alone, and copies of an image are computed once.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .errors import StoreError
from .store import FeatureStore, Rows, check_same, create, parts_folder, write_attributes, write_rows, write_skipped

_LIBVER = ("v110", "v110")  # object headers, indices and links with checksums; read by HDF5 1.10 and later


class Parts:
    """Contents that have been computed for a store, in its parts and in an earlier version of it.

    Parameters
    ----------
    path : Path
        The store's final name; parts lie in ``NAME.h5.parts/`` beside it.
    provenance : dict
        What is asked for. Contents computed under another fingerprint are refused.

    Attributes
    ----------
    places : dict of bytes to (Path, int)
        File and row that hold each content, by its SHA-256.
    skipped : dict of bytes to str
        Why a content gives no row.

    Raises
    ------
    StoreError
        If what lies there has another fingerprint or is damaged.
    """

    def __init__(self, path: Path, provenance: dict[str, Any]):
        self.path, self.provenance = path, provenance
        self.folder = parts_folder(path)
        self.places: dict[bytes, tuple[Path, int]] = {}
        self.skipped: dict[bytes, str] = {}
        if path.exists():
            with FeatureStore(path) as store:
                check_same(store.provenance, provenance, path)
                self._add(path, store.rows.sha256)
        for part in sorted(self.folder.glob("part-*.h5")):
            self._open_part(part)

    def append(
        self, features: dict[str, np.ndarray], sha256: Sequence[bytes], skipped: Sequence[tuple[bytes, str]] = ()
    ) -> None:
        """Commit one part; when this returns, it survives a crash.

        Parameters
        ----------
        features : dict of str to ndarray of shape (n, ...)
            By layer, in the store's dtype.
        sha256 : sequence of n bytes
            The content that each row of `features` belongs to.
        skipped : sequence of (bytes, str)
            Contents that give no row, and why.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers = [int(part.stem.removeprefix("part-")) for part in self.folder.glob("part-*.h5")]
        part = self.folder / f"part-{max(numbers, default=-1) + 1:06d}.h5"
        keys = np.frombuffer(b"".join(sha256), np.uint8).reshape(-1, 32)
        with _whole(part, self.folder) as file:
            create(
                file, {name: values.shape[1:] for name, values in features.items()}, self.provenance["dtype"], len(keys)
            )
            for name, values in features.items():
                file["features"][name][:] = values
            file["sha256"] = keys
            file.attrs["skipped"] = json.dumps([[key.hex(), reason] for key, reason in skipped])
            write_attributes(file, self.provenance)
        self._add(part, keys)
        self.skipped.update(skipped)

    def commit(self, rows: Rows, skipped: Sequence[tuple[str, str]]) -> None:
        """Join the contents of `rows` into the store, put it under its name, and remove the parts.

        Raises
        ------
        StoreError
            If the content of a row has not been computed.
        """
        keys = [row.tobytes() for row in rows.sha256]
        lacking = [path for path, key in zip(rows.paths, keys, strict=True) if key not in self.places]
        if lacking:
            raise StoreError(
                f"{self.path} lacks the features of {len(lacking)} rows, such as {lacking[0]}. Extract again."
            )
        places = [self.places[key] for key in keys]
        self.folder.mkdir(parents=True, exist_ok=True)
        with _whole(self.path, self.folder) as file:
            with h5py.File(places[0][0], "r", locking=False) as first:
                layers = {name: first["features"][name].shape[1:] for name in self.provenance["layers"]}
            create(file, layers, self.provenance["dtype"], len(rows))
            _copy(file, places)
            write_rows(file, rows)
            write_skipped(file, skipped)
            write_attributes(file, self.provenance)
        shutil.rmtree(self.folder)

    def _open_part(self, part: Path) -> None:
        try:
            with h5py.File(part, "r", locking=False) as file:
                check_same(json.loads(file.attrs["provenance"]), self.provenance, self.path)
                self._add(part, file["sha256"][:])
                self.skipped.update((bytes.fromhex(key), reason) for key, reason in json.loads(file.attrs["skipped"]))
        except (OSError, KeyError, ValueError) as error:
            raise StoreError(f"{part} is damaged ({error}). Delete it and run the same command: rm {part}") from error

    def _add(self, file: Path, keys: np.ndarray) -> None:
        for row, key in enumerate(keys):
            self.places.setdefault(key.tobytes(), (file, row))


def _copy(file: h5py.File, places: Sequence[tuple[Path, int]]) -> None:
    """Copy each row from its place; a row that is a chunk of its own is copied as it is, not unpacked."""
    by_file: dict[Path, list[tuple[int, int]]] = {}
    for target, (path, row) in enumerate(places):
        by_file.setdefault(path, []).append((row, target))
    for path, pairs in by_file.items():
        with h5py.File(path, "r", locking=False) as source:
            for name, to in file["features"].items():
                copy_rows = _copy_chunks if to.chunks[0] == source["features"][name].chunks[0] == 1 else _copy_values
                copy_rows(source["features"][name], to, pairs)


def _copy_chunks(source: h5py.Dataset, to: h5py.Dataset, pairs: Iterable[tuple[int, int]]) -> None:
    rest = (0,) * (to.ndim - 1)
    for row, target in pairs:
        mask, chunk = source.id.read_direct_chunk((row, *rest))
        to.id.write_direct_chunk((target, *rest), chunk, mask)


def _copy_values(source: h5py.Dataset, to: h5py.Dataset, pairs: Sequence[tuple[int, int]]) -> None:
    rows, targets = np.array(pairs).T
    edges = np.flatnonzero((np.diff(rows) != 1) | (np.diff(targets) != 1)) + 1
    for first, last in zip([0, *edges], [*edges, len(rows)], strict=True):
        to[targets[first] : targets[first] + last - first] = source[rows[first] : rows[first] + last - first]


@contextmanager
def _whole(path: Path, folder: Path) -> Iterator[h5py.File]:
    """Write an HDF5 file in `folder` that appears as `path` only once it is whole and on disk."""
    handle, name = tempfile.mkstemp(prefix=f"{path.stem}-", suffix=".tmp", dir=folder)
    os.close(handle)
    os.unlink(name)  # HDF5 must create it: opening an existing file with "w" may truncate one that another holds
    try:
        with h5py.File(name, "x", libver=_LIBVER) as file:
            yield file
        sync(Path(name))
        os.replace(name, path)
        sync(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
