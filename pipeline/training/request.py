"""The request of a training command of stage two, as one frozen record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from features.errors import RequestError, called, must_be_one_of
from features.runtime.dask_cluster import check_cluster
from features.runtime.machine import memory_limit
from features.sources.lists.corrections import Corrected, Corrections
from features.splits import NEAR_COPIES, SPLITS
from features.store.reader import FeatureStore
from features.store.schema import Rows

from ..options import METRIC, SELECT, MetricName, Select
from ..runs.checksums import check_sums
from ..runs.folders import ResultFolder

MAX_SEED = 2**32 - 1  # the largest that NumPy, scikit-learn and Keras accept


@dataclass(frozen=True)
class Fitting:
    """How a head's settings are chosen on one split, and how it is fitted.

    Attributes
    ----------
    seed : int
        Of the head's random start and of the folds.
    select : {'cv', 'val'}
        How settings are chosen: by five-fold cross-validation within train and val, or by fitting on train and evaluating
        on val. A Dense head's settings and epoch are always chosen on val.
    settings : dict of str to tuple
        See `find_head`.
    group : str, optional
        Column that names each row's group; a group shares a fold.
    metric : str
        Of `METRICS`; by which settings are chosen. By other metrics than accuracy and log loss, class weights are chosen, too.
    """

    seed: int = 0
    select: str = SELECT
    settings: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    group: str | None = None
    metric: str = METRIC


USUAL = Fitting()


@dataclass(frozen=True)
class Request:
    """Which features of which store to use, how, and where results go.

    Attributes
    ----------
    store : path-like
        A finished feature store.
    layer : str, optional
        Stored layers, separated by commas; they are pooled separately and concatenated. By default, the last layer.
    pool : str, optional
        How maps become vectors; by default, as the head prefers.
    views : int, optional
        Use only the first this many views of each image; by default, all.
    seed : int
        Seed of the head's random start, of the folds, and of the first drawn split.
    select : {'cv', 'val'}
        How settings are chosen: by cross-validation within train and val, or by evaluating on val.
    metric : str
        The metric, of `METRICS`, by which settings are chosen and heads are ranked.
    group : str, optional
        Column that names each row's group, or `NEAR_COPIES`; a group stays on one side of splits and folds. By default, the
        one that the store was extracted with.
    clusters : tuple of str, optional
        The text of each image in the column `NEAR_COPIES`, which a store does not have; see `with_groups`.
    corrections : Corrections, optional
        Labels that are changed and images that are dropped before anything else.
    corrections_test : bool
        Correct the images of test, too.
    out : path-like, optional
        Folder of the results; by default ``runs/<store>-<what>``, numbered if that exists.
    overwrite : bool
        Replace earlier results in that folder.
    fresh : bool
        Fit again what an earlier comparison already fitted.
    settings : dict of str to tuple
        Setting of a head → values to try instead of the usual ones.
    memory : float, optional
        Gigabytes that a matrix of features may take; by default, half of the machine's. Larger ones are read in parts, by
        heads that support it.
    cluster : str, optional
        Where heads are fitted: ``local:N``, N processes on this machine, or the address of a Dask scheduler.
    skip_unfit : bool
        Go on without workers whose versions differ, naming each, instead of refusing.
    joblib : bool
        Pickle a scikit-learn head, which can then be loaded only where pickles are explicitly allowed.
    """

    store: str | Path
    layer: str | None = None
    pool: str | None = None
    views: int | None = None
    seed: int = 0
    select: str = SELECT
    metric: str = METRIC
    group: str | None = None
    clusters: tuple[str, ...] | None = None
    corrections: Corrections | None = None
    corrections_test: bool = False
    out: str | Path | None = None
    overwrite: bool = False
    fresh: bool = False
    settings: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    memory: float | None = None
    cluster: str | None = None
    skip_unfit: bool = False
    joblib: bool = False

    def __post_init__(self) -> None:
        if self.select not in get_args(Select):
            raise must_be_one_of(called("select"), get_args(Select), self.select)
        if self.metric not in get_args(MetricName):
            raise must_be_one_of(called("metric"), get_args(MetricName), self.metric)
        if self.views is not None and self.views < 1:
            raise RequestError(f"{called('views')} must be at least 1; got {self.views}. Leave it out for all.")
        check_seed(self.seed)
        check_cluster(self.cluster, self.skip_unfit)
        if self.memory is not None and not self.memory > 0:
            raise RequestError(
                f"{called('memory')} must be above 0 gigabytes; got {self.memory}. Leave it out for half of the machine's."
            )

    @classmethod
    def of(cls, store: str | Path, options: Mapping[str, Any]) -> Request:
        """Return the request given by a function's options; options that are not fields here are the function's own."""
        known = {each.name for each in fields(cls)}
        given = {name: value for name, value in options.items() if name in known}
        if given.get("layer") is not None:
            given["layer"] = ",".join(given["layer"])
        if given.get("corrections") is not None:
            given["corrections"] = Corrections.read(given["corrections"])
        elif given.get("corrections_test"):
            raise RequestError(
                f"{called('corrections_test')} must go with {called('corrections')}; got it alone. Name a file."
            )
        return cls(store, **given)

    @property
    def fitting(self) -> Fitting:
        """How heads are fitted, wherever their features come from."""
        return Fitting(self.seed, self.select, self.settings, self.group, self.metric)

    @property
    def memory_bytes(self) -> float:
        """Bytes that a matrix of features may take."""
        if self.memory is not None:
            return self.memory * 1e9
        return memory_limit() / 2

    def for_any_machine(self) -> Request:
        """Return a request that leads to the same decisions on a machine with different memory."""
        return replace(self, memory=self.memory_bytes / 1e9, cluster=None, skip_unfit=False)

    def folder(self, what: str) -> ResultFolder:
        """Return the folder for results; refuse one that is in use."""
        return ResultFolder(self.out, f"{Path(self.store).stem}-{what}", self.overwrite)

    def rows(self, store: FeatureStore) -> Rows:
        """Return the rows of a store's images, corrected, with the column of near-copies if these are the groups."""
        rows, corrected = store.rows.images(), self.corrected(store)
        if corrected is not None:
            strata = corrected.strata(rows.labels, rows.strata)
            rows = replace(rows, labels=corrected.labels, strata=strata).only(corrected.kept)
        return rows if self.clusters is None else replace(rows, columns={**rows.columns, NEAR_COPIES: self.clusters})

    def corrected(self, store: FeatureStore) -> Corrected | None:
        """Return the corrected labels of a store's images; None without corrections."""
        if self.corrections is None:
            return None
        rows = store.rows.images()
        protected = (rows.splits == SPLITS["test"]) & (not self.corrections_test)
        return self.corrections.apply(rows.class_names, rows.labels, rows.sha256, protected)

    def stored(self, store: FeatureStore, views: int) -> np.ndarray:
        """Return the rows in a store of the first views of its images, without those that corrections drop."""
        chosen, corrected = store.rows.views < views, self.corrected(store)
        if corrected is not None:
            chosen = chosen & np.repeat(corrected.kept, store.views)
        return np.flatnonzero(chosen)


def corrections_of(told: Mapping[str, Any], table: Path) -> dict[str, Any]:
    """Return the options of a `Request` by which a run corrected labels; empty if it did not.

    Parameters
    ----------
    told : dict
        The content of ``compare.json`` or ``run.json``.
    table : Path
        The run's copy of the corrections.

    Raises
    ------
    UnsafeFile
        If it is not the file that was written with its run.
    """
    if not told.get("corrections"):
        return {}
    check_sums(table.parent, table.name)
    return {"corrections": Corrections.read(table), "corrections_test": bool(told["corrections"]["of_test"])}


def check_seed(seed: int) -> None:
    """Refuse a seed that some head's random generator does not accept."""
    if not 0 <= seed <= MAX_SEED:
        raise RequestError(f"{called('seed')} must be between 0 and {MAX_SEED}; got {seed}. Leave it out for 0.")
