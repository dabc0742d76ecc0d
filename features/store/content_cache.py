"""Features kept by the content of single images, without a source or an order of rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import StoreError
from ..runtime.log import log
from .part_index import open_part
from .parts import Key, Parts, read_provenance
from .provenance import Provenance
from .reader import parts_folder
from .schema import read_layer, read_table
from .writer_lock import one_writer


class ContentCache:
    """Features of contents, kept in the parts of a store that is named by their fingerprint.

    Parameters
    ----------
    folder : Path or None
        Where the parts lie; None keeps nothing.
    made : Provenance
        How features are made; those of another spec are never given.
    """

    def __init__(self, folder: Path | None, made: Provenance):
        self._made = made
        self._path = None if folder is None else folder / f"{made.spec.backbone}-{made.spec.fingerprint[:16]}.h5"

    def read(self, layer: str, keys: Iterable[bytes]) -> dict[bytes, np.ndarray]:
        """Return what is kept of some contents, by their SHA-256.

        Raises
        ------
        StoreError
            If a part was made with other settings.
        """
        found: dict[bytes, np.ndarray] = {}
        wanted = set(keys)
        parts = [] if self._path is None else sorted(parts_folder(self._path).glob("part-*.h5"))
        for path in parts:
            with open_part(path) as part:
                if read_provenance(part, path).spec != self._made.spec:
                    raise StoreError(f"{path} was made with other settings. Delete it: rm {path}")
                held = [key.tobytes() for key in read_table(part, "sha256")]
                rows = [row for row, key in enumerate(held) if key in wanted]
                reader = read_layer(part, layer, path)
            values = np.empty((len(rows), *reader.row_shape), reader.dtype)
            reader.read(np.array(rows, int), values)
            found |= zip((held[row] for row in rows), values, strict=True)
        if self._path is not None:
            log.debug(f"cache    {len(found)} of {len(wanted)} images are in {parts_folder(self._path)}")
        return found

    def keep(self, layer: str, made: dict[bytes, np.ndarray]) -> None:
        """Add features; where another process is about it, they are left to that."""
        if self._path is None or not made:
            return
        keys: list[Key] = [(key, 0) for key in made]
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(one_writer(parts_folder(self._path)))
            except StoreError:
                return
            Parts(self._path, self._made).append({layer: np.stack(list(made.values()))}, keys)
