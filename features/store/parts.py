"""Building a store from bounded parts beside its final name, each written atomically, joined at the end.

A part holds contents, not rows: the features of image files, keyed by the SHA-256 of their bytes. So a killed pass resumes
with what is missing, an extended source costs only its new images, and copies of an image are computed once.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from ..errors import CachedFeaturesError, StoreError, WrongStore, option
from ..runtime.log import log
from ..safefiles.hdf5 import DAMAGE
from ..safefiles.json_files import parse_json
from .atomic_file import sweep, whole_file
from .chunks import LayerReader, LayerWriter, stretches
from .index_seal import break_seals, is_sealed, seal_index
from .part_index import PartFiles, open_part, reading
from .provenance import Provenance, check_same
from .reader import FeatureStore, parts_folder
from .schema import (
    FORMAT_VERSION,
    Rows,
    Skipped,
    by_file,
    create,
    digest_values,
    get_text,
    is_modern,
    link,
    read_layer,
    read_table,
    set_text,
    write_attributes,
    write_digests,
    write_layer,
    write_rows,
    write_skipped,
)
from .writer_lock import one_writer

LAYOUTS = ("file", "parts")
_BLOCK_BYTES = 32 << 20  # bytes of values recompressed at once
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
        Forget which contents were skipped, so they are tried again.

    Attributes
    ----------
    places : dict of (bytes, int) to (Path, int)
        (SHA-256 of a content, view number) → file and row that hold it.
    skipped : dict of bytes to str
        SHA-256 of a skipped content → reason.

    Raises
    ------
    StoreError
        If existing parts or the store have another fingerprint (`WrongStore`) or are damaged.
    """

    def __init__(self, path: Path, provenance: Provenance, retry_skipped: bool = False):
        self.path, self.provenance = path, provenance
        self.folder = parts_folder(path)
        self.places: dict[Key, tuple[Path, int]] = {}
        self.skipped: dict[bytes, str] = {}
        self._outdated: set[Path] = set()  # parts of an earlier format or another compression
        for told in self.folder.glob("run-*"):
            told.unlink(missing_ok=True)  # stops workers of a killed client from adding parts
        sweep(self.folder)
        for part in sorted(self.folder.glob("part-*.h5")):
            self.adopt(part)
        if path.exists():
            with FeatureStore(path) as store:
                check_same(store.made.spec, provenance.spec, path)
                if store.format_version < FORMAT_VERSION:
                    log.info(
                        f"format   {path} has format {store.format_version}; it becomes format {FORMAT_VERSION} when this command ends"
                    )
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
        with reading(part), open_part(part) as file:
            held = read_provenance(file, part)
            check_same(held.spec, self.provenance.spec, self.path)
            if not is_modern(file) or held.compression != self.provenance.compression:
                self._outdated.add(part)
            self._add(part, read_table(file, "sha256"), read_table(file, "view"))
            self.skipped.update((bytes.fromhex(key), reason) for key, reason in json.loads(get_text(file, "skipped")))

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
            raise WrongStore(
                f"{self.path} is already one file; its layout cannot become parts. Use {option('out', other)}"
            )
        replaced = self._outdated & {file for file, _ in found} if layout == "parts" else set()
        if replaced:
            found = self._modern(found)
        with reading(found[0][0]), open_part(found[0][0]) as first:
            layers = {name: first["features"][name].shape[1:] for name in self.provenance.spec.layers}
        sealed = layout == "parts" or is_sealed(self.folder)  # one file must not seem to be another index than the last
        seal = functools.partial(seal_index, folder=self.folder) if sealed else None
        with whole_file(self.path, self.folder, seal) as file:
            if layout == "parts":
                link(file, layers, self.provenance, found, self.path.parent)
                digests = _gather_digests(found, list(layers))
            else:
                create(file, layers, self.provenance, len(rows))
                digests = _copy(file, found)
            for layer, each in digests.items():
                write_digests(file, layer, *each)
            write_rows(file, rows)
            write_skipped(file, skipped)
            values = digest_values({layer: each for layer, (each, *_) in digests.items()}, list(layers))
            write_attributes(file, replace(self.provenance, values=values).to_json())

        break_seals(self.folder, keep=self.path if layout == "parts" else None)
        for part in replaced:  # other parts may hold contents that an interrupted pass computed
            part.unlink(missing_ok=True)

    def _modern(self, places: Sequence[tuple[Path, int]]) -> list[tuple[Path, int]]:
        """Return places in parts of the current format and requested compression; other parts are rewritten first."""
        made: dict[Path, Path] = {}
        for path in dict.fromkeys(path for path, _ in places):
            made[path] = path
            if path in self._outdated:
                with reading(path), open_part(path) as part:
                    views = read_table(part, "view").tolist()
                    keys = [(key.tobytes(), view) for key, view in zip(read_table(part, "sha256"), views, strict=True)]
                    readers = {name: read_layer(part, name, path) for name in part["features"]}
                    layers = {name: each.read_rows(np.arange(len(each))) for name, each in readers.items()}
                made[path] = write_part(self.folder, self.provenance, layers, keys)
        return [(made[path], row) for path, row in places]

    def remove(self) -> None:
        """Remove the parts, after the store holds all their rows."""
        for part in self.folder.glob("part-*.h5"):
            part.unlink()
        sweep(self.folder)

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
        create(file, shapes, provenance, len(keys))
        digests = {layer: write_layer(file, layer, values) for layer, values in features.items()}
        file["sha256"] = np.frombuffer(b"".join(key for key, _ in keys), np.uint8).reshape(-1, 32)
        file["view"] = np.array([view for _, view in keys], np.uint8)
        set_text(file, "skipped", json.dumps(reasons))
        write_attributes(file, replace(provenance, values=digest_values(digests, list(digests))).to_json())
    return part


def upgrade_store(path: str | Path) -> bool:
    """Rewrite a store of an earlier format in the current one, with the same values; nothing is computed.

    Returns
    -------
    upgraded : bool
        False if the store already has the current format; it is left as it is.

    Raises
    ------
    StoreError
        If it does not exist, is damaged or being written, or the disk is full or fails.
    RequestError, UnsafeFile
        See `FeatureStore`.
    """
    path = Path(path)
    with one_writer(parts_folder(path)), FeatureStore(path) as store:
        if store.format_version == FORMAT_VERSION:
            return False
        compression = store.made.compression if store.format_version > 1 else "gzip"
        made = replace(store.made, kinds=store.kinds, compression=compression)
        Parts(path, made).commit(store.rows, store.skipped, "parts" if store.parts else "file")
    return True


def held_provenance(path: Path) -> Provenance | None:
    """Return the provenance of a store, or of the first of its parts; None if neither exists."""
    if path.exists():
        with FeatureStore(path) as store:
            return store.made
    for part in sorted(parts_folder(path).glob("part-*.h5")):
        try:
            with open_part(part) as file:
                return read_provenance(file, part)
        except (CachedFeaturesError, *DAMAGE):
            return None  # opening the parts will report the error
    return None


def read_provenance(part: h5py.File, path: Path) -> Provenance:
    """Return a part's provenance; raise UnsafeFile if it is invalid."""
    where = f"provenance of {path}"
    return Provenance.from_json(parse_json(get_text(part, "provenance"), where), where)


Digests = dict[str, tuple[np.ndarray, ...]]  # layer → digests of its rows, and of its chunks if they are in the file


def _copy(file: h5py.File, places: Sequence[tuple[Path, int]]) -> Digests:
    """Copy each row from its place; rows that are whole chunks, compressed the same way, are copied without decompression."""
    paths, of, rows = by_file(places)
    writers = {layer: LayerWriter(data) for layer, data in file["features"].items()}
    _copy_maps({layer: writer for layer, writer in writers.items() if writer.step == 1}, paths, of, rows)
    for layer, writer in writers.items():
        if writer.step > 1:
            _copy_values(layer, writer, paths, of, rows)
    return {layer: (writer.rows, writer.chunks) for layer, writer in writers.items()}


def _copy_maps(writers: Mapping[str, LayerWriter], paths: Sequence[Path], of: np.ndarray, rows: np.ndarray) -> None:
    """Copy the layers whose rows are whole chunks, one file after the other: row ``rows[i]`` of ``paths[of[i]]`` becomes row i."""
    order = np.argsort(of, kind="stable")
    for targets in np.split(order, np.flatnonzero(np.diff(of[order])) + 1) if writers else ():
        path = paths[of[targets[0]]]
        with reading(path), open_part(path) as part:
            for layer, writer in writers.items():
                source = read_layer(part, layer, path)
                if source.is_packed_as(writer.data):
                    held = read_table(part, f"digests/rows/{layer}")
                    for target, row in zip(targets.tolist(), rows[targets].tolist(), strict=True):
                        writer.put(target, source.packed(row), held[row])
                else:
                    _rewrite(writer, source, targets, rows[targets])


def _rewrite(writer: LayerWriter, source: LayerReader, targets: np.ndarray, rows: np.ndarray) -> None:
    """Write rows that are packed another way, row ``rows[i]`` of the source as row ``targets[i]``: in blocks, which threads compress."""
    most = max(1, _BLOCK_BYTES // source.row_bytes)
    for first, last in stretches(targets):
        for start in range(first, last, most):
            some = slice(start, min(start + most, last))
            writer.write(int(targets[start]), source.read_rows(rows[some]))


def _copy_values(layer: str, writer: LayerWriter, paths: Sequence[Path], of: np.ndarray, rows: np.ndarray) -> None:
    """Copy a layer with several rows per chunk: gather and compress each chunk."""
    files, data = PartFiles(open_part, reading), writer.data
    step = max(1, _BLOCK_BYTES // (math.prod(data.chunks) * data.dtype.itemsize)) * writer.step
    for first in range(0, len(of), step):
        some = slice(first, first + step)
        values = np.empty((len(of[some]), *data.shape[1:]), data.dtype)
        files.read(layer, paths, of[some], rows[some], values)
        writer.write(first, values)


def _gather_digests(places: Sequence[tuple[Path, int]], layers: Sequence[str]) -> Digests:
    """Return the digests of rows that stay in their parts."""
    paths = dict.fromkeys(path for path, _ in places)
    held = {(path, layer): _row_digests(path, layer) for path in paths for layer in layers}
    return {layer: (np.stack([held[path, layer][row] for path, row in places]),) for layer in layers}


def _row_digests(path: Path, layer: str) -> np.ndarray:
    with reading(path), open_part(path) as part:
        return read_table(part, f"digests/rows/{layer}")
