"""What every training command of stage two is asked, as one frozen record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

from features.errors import RequestError, called, must_be_one_of
from features.runtime.dask_cluster import check_cluster
from features.runtime.machine import memory_limit

from ..options import SELECT, Select
from ..runs.folders import run_folder
from .splitting import check_seed


@dataclass(frozen=True)
class Request:
    """Which features of which store, and where results go.

    Attributes
    ----------
    store : path-like
        A finished feature store.
    layer : str, optional
        Stored layers, separated by commas; each is pooled by itself and they are joined. The last one if left out.
    pool : str, optional
        How maps become vectors; the head's own way if left out.
    views : int, optional
        Use the first so many views of each image; all if left out.
    seed : int
        Of the head's random start, of the folds, and of the first drawn split.
    select : {'cv', 'val'}
        What settings are chosen by: cross-validation within train and val, or a look at val.
    group : str, optional
        Column whose equal texts stay on one side of splits and folds; the one that the store was extracted with if left out.
    out : path-like, optional
        Folder of the results; ``runs/<store>-<what>``, numbered where that is taken, if left out.
    overwrite : bool
        Replace earlier results that are there.
    fresh : bool
        Fit again what an earlier comparison has fitted.
    settings : dict of str to tuple
        Setting of a head → values to try instead of the usual ones.
    memory : float, optional
        Gigabytes that a matrix of features may take; half of the machine's if left out. Of larger ones a part at a time
        is read, by those heads that can do with it.
    cluster : str, optional
        ``local:N``, so many processes on this machine, or the address of a Dask scheduler: who fits.
    skip_unfit : bool
        Go on without workers that have other versions, each of which is named, instead of refusing.
    joblib : bool
        Pickle a head of scikit-learn's, which can then be loaded only where that is asked for.
    """

    store: str | Path
    layer: str | None = None
    pool: str | None = None
    views: int | None = None
    seed: int = 0
    select: str = SELECT
    group: str | None = None
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
        """Return the request that a function's options make; options that are no fields are the function's own."""
        known = {each.name for each in fields(cls)}
        return cls(store, **{name: value for name, value in options.items() if name in known})

    @property
    def memory_bytes(self) -> float:
        """Bytes that a matrix of features may take."""
        if self.memory is not None:
            return self.memory * 1e9
        return memory_limit() / 2

    def for_any_machine(self) -> Request:
        """Return a request that decides the same on another machine, whatever its memory is."""
        return replace(self, memory=self.memory_bytes / 1e9, cluster=None, skip_unfit=False)

    def folder(self, what: str) -> Path:
        """Return the folder for results, refusing one that is taken."""
        return run_folder(self.out, f"{Path(self.store).stem}-{what}", self.overwrite)
