"""Cache of fits on one store: fits of earlier runs are loaded, new ones are computed and saved."""

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

from features.errors import RequestError, UnsafeFile
from features.runtime.atomic import written_whole
from features.runtime.log import log
from features.runtime.progress import Progress
from features.runtime.versions import own_source
from features.safefiles.json_files import parse_json
from features.safefiles.npz import read_arrays
from features.splits import SPLITS
from features.store.reader import FeatureStore
from features.store.schema import Rows

from ...data.parallel import on_cluster, spread
from ...data.store_ref import Place
from ...heads.registry import HEADS, find_head
from ..loading import find_features, is_by_products, read_features
from ..request import Request
from .fitting import fit_head, fit_stored
from .results import Result
from .time_estimate import TimeEstimate, expected_cost


class Fits:
    """Fits of heads on one store and several splits of its rows.

    A result is cached under a key of everything that determines it: the store's fingerprint and rows, the split, the head
    and its grid, the request, and the versions of code and libraries. For a classifier given by its dotted name the code
    is unknown, so it is fitted every time.

    Parameters
    ----------
    store : FeatureStore
    rows : Rows
        One per image.
    splits : sequence of ndarray of shape (n_images,)
    folder : Path
        Folder of cached results.
    fresh : bool
        Ignore cached results.

    Attributes
    ----------
    loaded : int
        Number of cached results used so far.
    """

    def __init__(
        self, store: FeatureStore, rows: Rows, splits: Sequence[np.ndarray], folder: Path, fresh: bool = False
    ):
        self._store, self._rows, self._splits, self._folder, self._fresh = store, rows, splits, folder, fresh
        self._place = Place.of(store)
        self._made: dict[str, Result | RequestError] = {}  # on a cluster, by key
        self._estimate = TimeEstimate()
        self.loaded = 0

    def fill(self, wanted: Sequence[tuple[str, Request]]) -> None:
        """Compute on the cluster, if there is one, all uncached fits of some heads on every split; `of` then returns them.

        Heads fitted from inner products are fitted here, one after the other; the cluster computes the products. Without a cluster,
        say about how long the uncached fits take.
        """
        _, first = wanted[0]
        if first.cluster is None:
            self._expect(wanted)
            return
        calls: list[tuple[Any, ...]] = []
        here: list[tuple[Any, ...]] = []
        for head, asked in wanted:
            try:
                fits = here if is_by_products(self._store, head, asked) else calls
            except RequestError:  # `of` reports why this head cannot read its features
                continue
            for split in self._splits:
                if self._kept(head, key := self._key(head, asked, split)) is None:
                    fits.append((key, self._place, head, asked.for_any_machine(), split))
        if not (calls or here):
            return
        with (
            Progress(len(calls) + len(here), "fits") as progress,
            on_cluster(first.cluster, first.skip_unfit),
        ):
            made = itertools.chain(spread(_fit, calls, ordered=False), itertools.starmap(_fit, here))
            for key, result in made:
                self._made[key] = result
                if isinstance(result, Result):
                    self._keep(key, result)
                progress.update()

    def _expect(self, wanted: Sequence[tuple[str, Request]]) -> None:
        for head, asked in wanted:
            try:
                features = find_features(self._store, head, asked)
            except RequestError:  # as above
                continue
            for split in self._splits:
                if self._fresh or head not in HEADS or not self._path(self._key(head, asked, split)).exists():
                    cost = expected_cost(head, features, self._rows.labels, split, asked.fitting)
                    self._estimate.add(head, cost)
        self._estimate.tell()

    def of(self, head: str, asked: Request, progress: Progress) -> list[Result]:
        """Return a head's result on each split.

        Raises
        ------
        RequestError
            If the head cannot be fitted on one of them.
        """
        results, read = [], None
        for split in self._splits:
            key = self._key(head, asked, split)
            result = self._made.get(key)
            if isinstance(result, RequestError):
                raise result
            if result is None and (result := self._kept(head, key)):
                self.loaded += 1
                log.debug(f"kept     {head}: {self._path(key)}")
            if result is None:
                if read is None:
                    progress.begin(head)
                read = read or read_features(self._store, head, asked)
                with self._estimate.timing(head):
                    result = of_test(fit_head(head, read, self._rows, split, asked.fitting)[0], split)
                progress.expect(self._estimate.rate())
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
        found = find_head(head, asked.settings)
        chooses = (
            found.searcher.by_epochs or "class_weight" in found.grid or any(len(v) > 1 for v in found.grid.values())
        )
        decides = {
            "store": self._place.held,
            "split": hashlib.sha256(split.tobytes()).hexdigest(),
            "head": head,
            "grid": repr(found.grid),
            "layer": asked.layer or list(self._store.layers)[-1],
            "pool": asked.pool,
            "views": asked.views or self._store.views,
            "seed": asked.seed,
            "select": asked.select,
            "metric": asked.metric if chooses else None,
            "group": asked.group,
            "class_weight": asked.settings.get("class_weight"),  # whether the grid's was asked for
            "clusters": asked.clusters,
            "corrections": asked.corrections and (asked.corrections.sha256, asked.corrections_test),
            "code": own_source(),
            "libraries": {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "keras", "tensorflow")},
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _fit(key: str, place: Place, head: str, asked: Request, split: np.ndarray) -> tuple[str, Result | RequestError]:
    """Return the key of a fit and its result, reduced to the test rows, or why the head cannot be fitted."""
    try:
        return key, of_test(fit_stored(place, head, asked, split)[0], split)
    except RequestError as error:  # returned, because raising it in a worker would end the other fits
        return key, error


def of_test(result: Result, split: np.ndarray) -> Result:
    """Return a result with only the probabilities of the test rows."""
    return replace(result, probabilities=result.probabilities[split == SPLITS["test"]])


def save_result(result: Result, path: Path) -> None:
    """Write a result atomically."""
    with written_whole(path) as new, open(new, "wb") as file:  # given a path, numpy may append an extension
        np.savez(file, probabilities=result.probabilities, result=json.dumps(result.told()))


def load_result(path: Path) -> Result | None:
    """Return a cached result, or None if it is missing or unreadable and must be recomputed."""
    try:
        kept = read_arrays(path)
        return Result(probabilities=kept["probabilities"], **parse_json(str(kept["result"]), path))
    except (OSError, KeyError, TypeError, UnsafeFile):
        return None
