"""Fits as tasks of a Dask cluster, by joblib's backend: workers open the store by its path, and return what they found."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel_config

from features.connection import open_client, scheduler_there
from features.errors import StoreError
from features.layout import Rows
from features.splits import SPLITS
from features.store import FeatureStore

from .dense import DenseSearch
from .heads import find_head
from .matrix import read_features
from .request import Request
from .sample import Features
from .train import Result, fit_head


@dataclass(frozen=True)
class Fit:
    """One head on one split of a store's rows: a few bytes and the split's, one a row.

    Attributes
    ----------
    key : str
        What the result is kept under.
    store : str
        Its path, on a file system that client and workers share.
    held : str
        See `digest_rows`: a worker that finds another store there is an error.
    head : str
    asked : Request
    split : bytes
    """

    key: str
    store: str
    held: str
    head: str
    asked: Request
    split: bytes


def fit_all(fits: Sequence[Fit], cluster: str, say: Callable[[str], None]) -> Iterator[tuple[str, Result]]:
    """Yield the key and the result of each fit, as a cluster makes them.

    Raises
    ------
    ClusterError
        If it cannot be reached, is lost, or a worker has other versions.
    """
    with open_client(cluster, say) as client, scheduler_there(client), parallel_config("dask", client=client):
        yield from Parallel(return_as="generator_unordered")(delayed(fit_stored)(fit) for fit in fits)


def fit_stored(fit: Fit) -> tuple[str, Result]:
    """Fit a head on a store that is opened by its path; return the fit's key and what came of it."""
    rows, features = _read(fit)
    split = np.frombuffer(fit.split, np.uint8)
    with parallel_config("threading"):  # what a head does side by side stays in this process
        result, _ = fit_head(fit.head, features, rows, split, fit.asked.seed, fit.asked.select, fit.asked.settings)
    return fit.key, of_test(result, split)


def of_test(result: Result, split: np.ndarray) -> Result:
    """Return a result with the probabilities of the test rows alone."""
    return replace(result, probabilities=result.probabilities[split == SPLITS["test"]])


def digest_rows(store: FeatureStore, rows: Rows) -> str:
    """Return a hash of all that a store brings to a fit but its values, which its fingerprint stands for."""
    held = hashlib.sha256(store.provenance["fingerprint"].encode())
    held.update("\0".join(rows.class_names).encode())
    for column in (rows.sha256, rows.labels, rows.strata):
        held.update(np.ascontiguousarray(column).tobytes())
    return held.hexdigest()


def _read(fit: Fit) -> tuple[Rows, Features]:
    """Read what a fit wants, once for all fits in a row that want the same of the same file."""
    global _last
    asked, head, status = fit.asked, find_head(fit.head), Path(fit.store).stat()
    streams = head.search is DenseSearch
    wanted = (fit.held, status.st_ino, status.st_mtime_ns, asked.layer, asked.pool or head.pool, asked.views, streams)
    if _last is None or _last[0] != wanted:
        _last = None  # before the next matrix is read
        opened = FeatureStore(fit.store)
        rows = opened.rows.images()
        if digest_rows(opened, rows) != fit.held:
            raise StoreError(f"{fit.store} is another store on a worker than here. Use a file system that both share.")
        _last = wanted, rows, read_features(opened, fit.head, asked)
    return _last[1], _last[2]


_last: tuple[Any, Rows, Features] | None = None
