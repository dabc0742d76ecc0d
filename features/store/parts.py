"""Building a store from bounded parts beside its final name, each written atomically, joined at the end.

A part holds contents, not rows: the features of image files, keyed by the SHA-256 of their bytes. So a killed pass resumes
with what is missing, an extended source costs only its new images, and copies of an image are computed once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Container, Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np

from ..errors import StoreError, option
from ..runtime.log import log
from ..safefiles.hdf5 import check_own_values
from ..safefiles.json_files import parse_json
from .atomic_file import UNFINISHED, whole_file
from .provenance import Provenance, check_same
from .reader import FeatureStore, parts_folder
from .schema import Rows, Skipped, create, link, runs, write_attributes, write_rows, write_skipped

LAYOUTS = ("file", "parts")
Key = tuple[bytes, int]  # SHA-256 of an image file's bytes, number of a view


class Parts:
    """Contents that have been computed for a store, in its parts and in an earlier version of it.

    The caller must hold the store's writer lock, since files left unfinished by a killed writer are removed.

    Parameters
    ----------
    path : Path
        The store's final name; parts are in ``NAME.h5.parts/`` beside it.
    provenance : Provenance
        The requested provenance, including compression. Contents with another fingerprint are refused.
    retry_skipped : bool
        Forget which contents were skipped.

    Attributes
    ----------
    places : dict of (bytes, int) to (Path, int)
        (SHA-256 of a content, view number) → file and row that hold it.
    skipped : dict of bytes to str
        SHA-256 of a skipped content → reason.

    Raises
    ------
    StoreError
        If existing parts or the store have another fingerprint or are damaged.
    """

    def __init__(self, path: Path, provenance: Provenance, retry_skipped: bool = False):
        self.path, self.provenance = path, provenance
        self.folder = parts_folder(path)
        self.places: dict[Key, tuple[Path, int]] = {}
        self.skipped: dict[bytes, str] = {}
        self._compressions = {provenance.compression}
        for told in self.folder.glob("run-*"):
            told.unlink(missing_ok=True)  # stops workers of a killed client from adding parts
        self._sweep()
        for part in sorted(self.folder.glob("part-*.h5")):
            self.adopt(part)
        if path.exists():
            with FeatureStore(path) as store:
                check_same(store.made.spec, provenance.spec, path)
                if not store.parts:
                    self._add(path, store.rows.sha256, store.rows.views)
                self.skipped |= {each.sha256: each.reason for each in store.skipped if each.sha256}
        done = {key for key, _ in self.places}
        self.skipped = {} if retry_skipped else {key: why for key, why in self.skipped.items() if key not in done}

    def forget(self, keep: Container[object]) -> None:
        """Forget skipped contents that are not in `keep`, the contents of the current source."""
        self.skipped = {key: why for key, why in self.skipped.items() if key in keep}

    def append(
        self, features: dict[str, np.ndarray], keys: Sequence[Key], skipped: Sequence[tuple[bytes, str]] = ()
    ) -> None:
        """Commit one part, which is crash-safe when this returns.

        Parameters
        ----------
        features : dict of str to ndarray of shape (n, ...)
            Layer → features, in the store's dtype.
        keys : sequence of n (bytes, int)
            Content and view of each row of `features`.
        skipped : sequence of (bytes, str)
            Contents that are skipped, with the reason.

        Raises
        ------
        StoreError
            If the disk is full or fails.
        """
        part = write_part(self.folder, self.provenance, features, keys, skipped)
        log.debug(f"part     {part}: {len(keys)} rows, {part.stat().st_size / 1e6:.1f} MB")
        self.adopt(part)

    def adopt(self, part: Path) -> None:
        """Add a part that exists in the folder, whichever process wrote it.

        Raises
        ------
        StoreError
            If the part has another fingerprint or is damaged.
        """
        try:
            with h5py.File(part, "r", locking=False) as file:
                check_own_values(file, part)
                held = read_provenance(file, part)
                check_same(held.spec, self.provenance.spec, self.path)
                self._compressions.add(held.compression)
                self._add(part, file["sha256"][:], file["view"][:])
                self.skipped.update((bytes.fromhex(key), reason) for key, reason in json.loads(file.attrs["skipped"]))
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise StoreError(f"{part} is damaged ({error}). Delete it and run the same command: rm {part}") from error

    def commit(self, rows: Rows, skipped: Sequence[Skipped], layout: str = "file") -> None:
        """Write the store of `rows` atomically under its final name.

        Parameters
        ----------
        rows : Rows
        skipped : sequence of Skipped
        layout : {'file', 'parts'}
            ``file``: the parts' chunks are copied unchanged into one file. ``parts``: the file is an index of virtual
            datasets over the parts.

        Raises
        ------
        StoreError
            If the content of a row has not been computed, or the disk is full or fails.
        """
        places = [
            self.places.get((key.tobytes(), int(view))) for key, view in zip(rows.sha256, rows.views, strict=True)
        ]
        lacking = [path for path, place in zip(rows.paths, places, strict=True) if place is None]
        if lacking:
            raise StoreError(
                f"{self.path} lacks the features of {len(lacking)} rows, such as {lacking[0]}. Extract again."
            )
        found = [place for place in places if place is not None]
        if layout == "parts" and any(file == self.path for file, _ in found):
            other = self.path.with_name(f"{self.path.stem}-parts.h5")
            raise StoreError(
                f"{self.path} is already one file; its layout cannot become parts. Use {option('out', other)}"
            )
        if layout == "parts" and len(self._compressions) > 1:
            other = self.path.with_name(f"{self.path.stem}-2.h5")
            raise StoreError(
                f"parts of {self.path} must have one compression; got {', '.join(sorted(self._compressions))}. Use {option('out', other)}"
            )
        spec = self.provenance.spec
        with h5py.File(found[0][0], "r", locking=False) as first:
            layers = {name: first["features"][name].shape[1:] for name in spec.layers}
        with whole_file(self.path, self.folder) as file:
            if layout == "parts":
                link(file, layers, spec.dtype, found, self.path.parent)
            else:
                create(file, layers, spec.dtype, len(rows), self.provenance.compression)
                _copy(file, found)
            write_rows(file, rows)
            write_skipped(file, skipped)
            write_attributes(file, self.provenance.to_json())

    def remove(self) -> None:
        """Remove the parts, after the store holds all their rows."""
        for part in self.folder.glob("part-*.h5"):
            part.unlink()
        self._sweep()

    def _sweep(self) -> None:
        """Remove files that a killed writer left unfinished; a worker presumed dead may still write there, without effect."""
        for unfinished in self.folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def _add(self, file: Path, sha256: np.ndarray, views: np.ndarray) -> None:
        for row, (key, view) in enumerate(zip(sha256, views, strict=True)):
            self.places.setdefault((key.tobytes(), int(view)), (file, row))


def write_part(
    folder: Path,
    provenance: Provenance,
    features: dict[str, np.ndarray],
    keys: Sequence[Key],
    skipped: Sequence[tuple[bytes, str]] = (),
) -> Path:
    """Write one part of a store atomically and return its path; see `Parts.append`.

    Its name is a hash of its contents. So another process that computes the same contents, such as a worker presumed dead
    or one of an earlier run, writes the same bytes under the same name.
    """
    told, reasons = json.dumps(provenance.to_json(), sort_keys=True), [[key.hex(), reason] for key, reason in skipped]
    name = hashlib.sha256(json.dumps([told, [[key.hex(), view] for key, view in keys], reasons]).encode())
    part = folder / f"part-{name.hexdigest()[:24]}.h5"
    with whole_file(part, folder) as file:
        shapes = {layer: values.shape[1:] for layer, values in features.items()}
        create(file, shapes, provenance.spec.dtype, len(keys), provenance.compression)
        for layer, values in features.items():
            file["features"][layer][:] = values
        file["sha256"] = np.frombuffer(b"".join(key for key, _ in keys), np.uint8).reshape(-1, 32)
        file["view"] = np.array([view for _, view in keys], np.uint8)
        file.attrs["skipped"] = json.dumps(reasons)
        write_attributes(file, provenance.to_json())
    return part


def held_provenance(path: Path) -> Provenance | None:
    """Return the provenance of a store, or of the first of its parts; None if neither exists."""
    if path.exists():
        with FeatureStore(path) as store:
            return store.made
    for part in sorted(parts_folder(path).glob("part-*.h5")):
        try:
            with h5py.File(part, "r", locking=False) as file:
                return read_provenance(file, part)
        except (OSError, KeyError, ValueError):
            return None  # opening the parts will report the error
    return None


def read_provenance(part: h5py.File, path: Path) -> Provenance:
    """Return a part's provenance; raise UnsafeFile if it is invalid."""
    where = f"provenance of {path}"
    return Provenance.from_json(parse_json(part.attrs["provenance"], where), where)


def _copy(file: h5py.File, places: Sequence[tuple[Path, int]]) -> None:
    """Copy each row from its place; rows that are whole chunks are copied without decompression."""
    by_file: dict[Path, list[tuple[int, int]]] = {}
    for target, (path, row) in enumerate(places):
        by_file.setdefault(path, []).append((row, target))
    for path, pairs in by_file.items():
        with h5py.File(path, "r", locking=False) as source:
            for name, to in file["features"].items():
                of = source["features"][name]
                if to.chunks[0] == of.chunks[0] == 1 and of._filters == to._filters:
                    _copy_chunks(of, to, pairs)
                else:
                    _copy_values(of, to, pairs)


def _copy_chunks(source: h5py.Dataset, to: h5py.Dataset, pairs: Iterable[tuple[int, int]]) -> None:
    rest = (0,) * (to.ndim - 1)
    for row, target in pairs:
        mask, chunk = source.id.read_direct_chunk((row, *rest))
        to.id.write_direct_chunk((target, *rest), chunk, mask)


def _copy_values(source: h5py.Dataset, to: h5py.Dataset, pairs: Sequence[tuple[int, int]]) -> None:
    rows, targets = np.array(pairs).T
    for first, last in runs(rows, targets):
        to[targets[first] : targets[first] + last - first] = source[rows[first] : rows[first] + last - first]
