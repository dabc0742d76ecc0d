"""A cache of features by image content, independent of a source and of the order of rows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Container, Iterable
from pathlib import Path

import numpy as np

from ..errors import StoreError, UnsafeFile
from ..runtime.log import log
from ..safefiles.regular_files import is_out_of_reach
from .atomic_file import sweep
from .part_index import open_part, reading
from .parts import Key, read_provenance, write_part
from .provenance import Provenance
from .reader import parts_folder
from .schema import read_layer, read_table
from .writer_lock import one_writer

_MERGED = 4  # parts of about one size that become one
_LARGE = 64 << 20  # bytes of a part that is left as it is


class ContentCache:
    """Features by content, in the parts of a store that is named by the spec's fingerprint.

    Parameters
    ----------
    folder : Path or None
        Folder of the cache; None disables it.
    made : Provenance
        Provenance of the features; features of another spec are never returned.
    """

    def __init__(self, folder: Path | None, made: Provenance):
        self._made = made
        self._path = None if folder is None else folder / f"{made.spec.backbone}-{made.spec.fingerprint[:16]}.h5"

    def read(self, layer: str, keys: Iterable[bytes]) -> dict[bytes, np.ndarray]:
        """Return the cached features of contents: SHA-256 → features of one row, in the stored dtype.

        A damaged part is said and removed, one that the system cannot read is said; their features are computed again.
        """
        found: dict[bytes, np.ndarray] = {}
        wanted = set(keys)
        for path in self._parts():
            try:
                found |= self._held(path, layer, wanted)
            except (StoreError, UnsafeFile) as error:
                log.warning(f"{error} What this part of the cache holds is computed again.")
        if self._path is not None:
            log.debug(f"cache    {len(found)} of {len(wanted)} images are in {parts_folder(self._path)}")
        return found

    def keep(self, layer: str, made: dict[bytes, np.ndarray]) -> None:
        """Add features, unless another process is writing to the cache."""
        if self._path is None or not made:
            return
        folder = parts_folder(self._path)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(one_writer(folder))
            except StoreError:
                return
            sweep(folder)
            self._write(folder, layer, made)
            while few := self._alike():
                merged: dict[bytes, np.ndarray] = {}
                try:
                    for path in few:
                        merged |= self._held(path, layer)
                except (StoreError, UnsafeFile):
                    return  # another time
                new = self._write(folder, layer, merged) if merged else None
                for path in few:
                    if path != new:
                        path.unlink(missing_ok=True)

    def _parts(self) -> list[Path]:
        return [] if self._path is None else sorted(parts_folder(self._path).glob("part-*.h5"))

    def _alike(self) -> list[Path]:
        """Return parts that are to become one: as many as `_MERGED`, of about one size; none if there are not so many.

        Of n images that came one by one, there are then a few parts for each power of `_MERGED` up to n, and each image was rewritten
        once for each.
        """
        of_size: dict[int, list[Path]] = {}
        for path in self._parts():
            size = path.stat().st_size
            if size < _LARGE:
                of_size.setdefault(int(math.log(max(size, 1), _MERGED)), []).append(path)
        return next((paths for paths in of_size.values() if len(paths) >= _MERGED), [])

    def _held(self, path: Path, layer: str, wanted: Container[bytes] | None = None) -> dict[bytes, np.ndarray]:
        """Return the features in a part, of all contents or of those that are wanted; a damaged part holds none.

        Raises
        ------
        StoreError
            If the system cannot read it.
        """
        try:
            with reading(path), open_part(path) as part:
                if read_provenance(part, path).spec != self._made.spec:
                    raise StoreError(f"{path} was made with other settings.")
                held = [key.tobytes() for key in read_table(part, "sha256")]
                rows = [row for row, key in enumerate(held) if wanted is None or key in wanted]
                values = read_layer(part, layer, path).read_rows(np.array(rows, int))
        except (StoreError, UnsafeFile) as error:
            if is_out_of_reach(error.__cause__):
                raise
            if path.exists():  # another process may have merged it
                log.warning(f"{error} This part of the cache is removed, and computed again.")
                path.unlink(missing_ok=True)
            return {}
        return dict(zip((held[row] for row in rows), values, strict=True))

    def _write(self, folder: Path, layer: str, made: dict[bytes, np.ndarray]) -> Path:
        keys: list[Key] = [(key, 0) for key in made]
        return write_part(folder, self._made, {layer: np.stack(list(made.values()))}, keys)
