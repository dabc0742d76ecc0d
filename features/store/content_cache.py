"""A cache of features by image content, independent of a source and of the order of rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import StoreError
from ..runtime.log import log
from .part_index import open_part, reading
from .parts import Key, Parts, read_provenance
from .provenance import Provenance
from .reader import parts_folder
from .schema import read_layer, read_table
from .writer_lock import one_writer


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

        Raises
        ------
        StoreError
            If a part was made with other settings or is damaged.
        """
        found: dict[bytes, np.ndarray] = {}
        wanted = set(keys)
        parts = [] if self._path is None else sorted(parts_folder(self._path).glob("part-*.h5"))
        for path in parts:
            with reading(path), open_part(path) as part:
                if read_provenance(part, path).spec != self._made.spec:
                    raise StoreError(f"{path} was made with other settings. Delete it: rm {path}")
                held = [key.tobytes() for key in read_table(part, "sha256")]
                rows = [row for row, key in enumerate(held) if key in wanted]
                values = read_layer(part, layer, path).read_rows(np.array(rows, int))
            found |= zip((held[row] for row in rows), values, strict=True)
        if self._path is not None:
            log.debug(f"cache    {len(found)} of {len(wanted)} images are in {parts_folder(self._path)}")
        return found

    def keep(self, layer: str, made: dict[bytes, np.ndarray]) -> None:
        """Add features, unless another process is writing to the cache."""
        if self._path is None or not made:
            return
        keys: list[Key] = [(key, 0) for key in made]
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(one_writer(parts_folder(self._path)))
            except StoreError:
                return
            Parts(self._path, self._made).append({layer: np.stack(list(made.values()))}, keys)
