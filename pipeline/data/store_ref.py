"""Where a store lies: what goes to another process instead of what the store holds."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.errors import StoreError
from features.store.reader import FeatureStore
from features.store.schema import Rows


@dataclass(frozen=True)
class Place:
    """The path of a store, on a file system that all processes share, and what was seen there.

    Attributes
    ----------
    path : str
    held : str
        See `digest_rows`.
    """

    path: str
    held: str

    @classmethod
    def of(cls, store: FeatureStore) -> Place:
        """Return the place of a store that is open."""
        return cls(str(store.path.absolute()), digest_rows(store, store.rows.images()))

    def open(self) -> FeatureStore:
        """Open the store, once a process for all who do so in a row.

        Raises
        ------
        StoreError
            If it is another one.
        """
        status = Path(self.path).stat()
        store, held = _open(self.path, status.st_ino, status.st_mtime_ns)
        if held != self.held:
            raise StoreError(f"{self.path} is another store than it was, or on a worker. Share one file system.")
        return store


@functools.lru_cache(maxsize=1)
def _open(path: str, *file: int) -> tuple[FeatureStore, str]:
    store = FeatureStore(path)
    return store, digest_rows(store, store.rows.images())


def digest_rows(store: FeatureStore, rows: Rows) -> str:
    """Return a hash of all that a store brings to a fit but its values, which its fingerprint stands for."""
    held = hashlib.sha256(store.provenance["fingerprint"].encode())
    held.update("\0".join(rows.class_names).encode())
    for column in (rows.sha256, rows.labels, rows.strata):
        held.update(np.ascontiguousarray(column).tobytes())
    return held.hexdigest()
