"""A reference to a store, sent to another process instead of the store's contents."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.errors import StoreError
from features.store.reader import FeatureStore
from features.store.schema import Rows


@dataclass(frozen=True)
class Place:
    """The path of a store on a file system that all processes share, and a digest of the store found there.

    Attributes
    ----------
    path : str
    held : str
        Digest; see `digest_rows`.
    """

    path: str
    held: str

    @classmethod
    def of(cls, store: FeatureStore) -> Place:
        """Return the place of an open store."""
        return cls(str(store.path.absolute()), digest_rows(store, store.rows.images()))

    def open(self) -> FeatureStore:
        """Open the store; a process keeps the last store open for the next call.

        Raises
        ------
        StoreError
            If the store at this path is a different one.
        """
        status = Path(self.path).stat()
        store, held = _open(self.path, status.st_ino, status.st_mtime_ns)
        if held != self.held:
            raise StoreError(
                f"{self.path} must be the same store in all processes and must not change during a run; it differs. "
                "Share one file system, and run the command again."
            )
        return store


@functools.lru_cache(maxsize=1)
def _open(path: str, *file: int) -> tuple[FeatureStore, str]:
    store = FeatureStore(path)
    return store, digest_rows(store, store.rows.images())


def digest_rows(store: FeatureStore, rows: Rows) -> str:
    """Return a hash of everything in a store that affects a fit: how features were made, their values, and rows.

    A store of format 1 has no digest of its values; there the fingerprint alone stands for them.
    """
    held = hashlib.sha256(store.provenance["fingerprint"].encode())
    held.update(str(store.provenance.get("values")).encode())
    held.update("\0".join(rows.class_names).encode())
    for column in (rows.sha256, rows.labels, rows.strata):
        held.update(np.ascontiguousarray(column).tobytes())
    held.update(json.dumps(sorted(rows.columns.items())).encode())  # any may be the group
    return held.hexdigest()
