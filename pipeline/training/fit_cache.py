"""Fits of heads on one store: those of earlier runs are loaded, new ones are made and kept."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import UnsafeFile
from features.runtime.atomic import written_whole
from features.runtime.log import log
from features.runtime.progress import Progress
from features.runtime.versions import own_source
from features.safefiles.json_files import parse_json
from features.safefiles.npz import read_arrays
from features.splits import SPLITS
from features.store.reader import FeatureStore
from features.store.schema import Rows

from ..data.parallel import on_cluster, spread
from ..data.store_ref import Place
from ..heads.registry import HEADS, find_head
from .fit import Result, fit_head, fit_stored
from .loading import is_by_products, read_features
from .request import Request


class Fits:
    """Heads on one store and on some splits of its rows.

    A result is kept under a key of all that decides it: the store's fingerprint and rows, the split, the head with its
    grid, the request, and the code and the libraries that computed it. Of a classifier given by its dotted name that is
    not known, so that it is fitted every time.

    Parameters
    ----------
    store : FeatureStore
    rows : Rows
        One per image.
    splits : sequence of ndarray of shape (n_images,)
    folder : Path
        Where results are kept.
    fresh : bool
        Fit again what is kept.

    Attributes
    ----------
    loaded : int
        Results of earlier runs so far.
    """

    def __init__(
        self, store: FeatureStore, rows: Rows, splits: Sequence[np.ndarray], folder: Path, fresh: bool = False
    ):
        self._store, self._rows, self._splits, self._folder, self._fresh = store, rows, splits, folder, fresh
        self._place = Place.of(store)
        self._made: dict[str, Result] = {}  # on a cluster, by key
        self.loaded = 0

    def fill(self, wanted: Sequence[tuple[str, Request]]) -> None:
        """Let their cluster make what is not kept of some heads, each on every split; `of` finds it then.

        Those by inner products of rows are made here, one after the other, and their products on the cluster.
        """
        calls: list[tuple[Any, ...]] = []
        here: list[tuple[Any, ...]] = []
        for head, asked in wanted:
            fits = here if is_by_products(self._store, head, asked) else calls
            for split in self._splits:
                if self._kept(head, key := self._key(head, asked, split)) is None:
                    fits.append((key, self._place, head, asked.for_any_machine(), split))
        if not (calls or here):
            return
        _, asked = wanted[0]
        with (
            Progress(len(calls) + len(here), "fits") as progress,
            on_cluster(asked.cluster, asked.skip_unfit),
        ):
            made = itertools.chain(spread(_fit, calls, ordered=False), itertools.starmap(_fit, here))
            for key, result in made:
                self._made[key] = result
                self._keep(key, result)
                progress.update()

    def of(self, head: str, asked: Request, progress: Progress) -> list[Result]:
        """Return a head's result on each split."""
        results, read = [], None
        for split in self._splits:
            key = self._key(head, asked, split)
            result = self._made.get(key)
            if result is None and (result := self._kept(head, key)):
                self.loaded += 1
                log.debug(f"kept     {head}: {self._path(key)}")
            if result is None:
                read = read or read_features(self._store, head, asked)
                result, _ = fit_head(head, read, self._rows, split, asked.seed, asked.select, asked.settings)
                result = _of_test(result, split)
                self._keep(key, result)
            results.append(result)
            progress.update()
        return results

    def _kept(self, head: str, key: str) -> Result | None:
        return None if self._fresh or head not in HEADS else load_result(self._path(key))

    def _keep(self, key: str, result: Result) -> None:
        log.debug(f"fitted   {result.head} in {result.fit_seconds:.2f} s: {self._path(key)}")
        save_result(result, self._path(key))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.npz"

    def _key(self, head: str, asked: Request, split: np.ndarray) -> str:
        decides = {
            "store": self._place.held,
            "split": hashlib.sha256(split.tobytes()).hexdigest(),
            "head": head,
            "grid": repr(find_head(head, asked.settings).grid),
            "layer": asked.layer or list(self._store.layers)[-1],
            "pool": asked.pool,
            "views": asked.views or self._store.views,
            "seed": asked.seed,
            "select": asked.select,
            "code": own_source(),
            "libraries": {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "keras", "tensorflow")},
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _fit(key: str, place: Place, head: str, asked: Request, split: np.ndarray) -> tuple[str, Result]:
    """Return the key of a fit and what came of it, without what only the head's own run wants."""
    return key, _of_test(fit_stored(place, head, asked, split)[0], split)


def _of_test(result: Result, split: np.ndarray) -> Result:
    """Return a result with the probabilities of the test rows alone."""
    return replace(result, probabilities=result.probabilities[split == SPLITS["test"]])


def save_result(result: Result, path: Path) -> None:
    """Write a result so that it is there whole or not at all."""
    with written_whole(path) as new, open(new, "wb") as file:  # given a name, numpy may change its ending
        np.savez(file, probabilities=result.probabilities, result=json.dumps(result.told()))


def load_result(path: Path) -> Result | None:
    """Return a kept result, or None if it is missing or cannot be read; it is then computed again."""
    try:
        kept = read_arrays(path)
        return Result(probabilities=kept["probabilities"], **parse_json(str(kept["result"]), path))
    except (OSError, KeyError, TypeError, UnsafeFile):
        return None
