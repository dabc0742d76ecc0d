"""Comparison of many heads on the same rows, as one table."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from features.errors import RequestError, called, counted, must_be_one_of, option
from features.options import takes
from features.runtime.log import log
from features.runtime.progress import Progress
from features.store.reader import FeatureStore
from features.store.schema import Rows

from ..evaluation.metrics import find_metric
from ..heads.registry import check_heads, expand_heads
from ..options import CompareOptions
from ..runs.folders import place_of
from ..runs.frames import make_frame
from ..runs.plots import plot_comparison
from ..runs.predictions import Predictions, save_predictions, write_tested
from .comparison_table import COLUMNS, format_table, table_rows
from .fits.fit_cache import Fits
from .fits.results import Result
from .loading import describe_rows, warn_of_majority
from .relabelling import check_corrections, keep_corrections, measure_corrections
from .request import Request
from .splitting import check_repeats, draw_splits, with_groups
from .summary import (
    best_first,
    compare_with_best,
    names_of_tests,
    recommended,
    slices_of,
    summarise,
    tested_rows,
    told_options,
    warn_of_few_groups,
)


@dataclass(frozen=True, repr=False)
class Comparison:
    """The result of `compare`; a notebook displays its table.

    Attributes
    ----------
    heads : list of dict
        Test metrics of each head, best first: ``head``, ``accuracy``, ``intervals``, ``behind``, ``p_value``, ...
    take : str
        The head to take; see `recommended`.
    slices : dict or None
        The head to take by the values of each column of the store, with intervals and tests; see `Slices`.
    not_fitted : dict of str to str
        Head → why it could not be fitted; the other heads were compared without it.
    corrections : dict or None
        Which table of corrected labels was applied, and the best head's test figure before and after, with a paired test.
    store, store_from_run, out : str
        The store used, the same as seen from the folder with the results, and that folder.
    rows : dict
        Split → class → number of images.
    repeats, seed : int
    select : {'cv', 'val'}
    metric : str
        The metric by which settings were chosen and heads are ranked; ``behind`` and ``p_value`` are of it.
    test : str
        Name of the paired test.
    provenance : dict
        Of the store.
    asked : dict
        The options that were given, which the next commands repeat.
    """

    heads: list[dict[str, Any]]
    take: str
    slices: dict[str, Any] | None
    not_fitted: dict[str, str]
    corrections: dict[str, Any] | None
    store: str
    store_from_run: str
    rows: dict[str, dict[str, int]]
    repeats: int
    seed: int
    select: str
    metric: str
    test: str
    provenance: dict[str, Any]
    asked: dict[str, Any]
    out: str

    @property
    def best(self) -> dict[str, Any]:
        """The best head by the metric."""
        return self.heads[0]

    @property
    def recommended(self) -> dict[str, Any]:
        """The head to take: the simplest and quickest that the tests do not distinguish from the best."""
        return recommended(self.heads)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def to_frame(self) -> Any:
        """Return one row per head, best first, as a ``pandas.DataFrame`` with the columns of ``compare.csv``."""
        return make_frame([{name: row.get(name) for name in COLUMNS} for row in table_rows(self.to_json())])

    def __repr__(self) -> str:
        return format_table(self.to_json())

    _repr_markdown_ = __repr__


@takes(CompareOptions)
def compare(store: str | Path, heads: Sequence[str] | None = None, **options: Unpack[CompareOptions]) -> Comparison:
    """Train heads on the same rows of a store and compare them on its test rows.

    Parameters
    ----------
    store : path-like
        A finished feature store.
    heads : sequence of str, optional
        Keys of ``HEADS``, or dotted names of scikit-learn classifiers; by default, all of ``HEADS``.
    **options

    Returns
    -------
    comparison : Comparison

    Raises
    ------
    RequestError
        If a head, a layer or a setting does not exist, `out` exists already, `repeats` is below 1, or none of the heads
        can be fitted. Where at least one can, the others are listed in `not_fitted`.
    StoreError
        If the store is missing or damaged.
    ClusterError
        If the cluster cannot be reached or is lost, or a worker is unfit.

    Examples
    --------
    >>> found = pipeline.compare("cache/photos.h5", ["logistic", "rbf-svm"], repeats=5)   # doctest: +SKIP
    >>> found.best["head"], found.best["accuracy_interval"]   # doctest: +SKIP
    """
    repeats = options.get("repeats", 1)
    asked = Request.of(store, options)
    check_corrections(asked, repeats)
    check_repeats(repeats)
    names = _chosen(expand_heads(heads or ("all",)), options.get("exclude") or ())
    check_heads(names, asked.settings)
    folder = asked.folder("compare")
    kept = folder.path.parent / ".fits"
    found = _fit(names, asked, repeats, kept)
    rows, splits, fitted = found.rows, found.splits, found.results
    tested, metric = tested_rows(rows, splits, found.asked.group), find_metric(asked.metric)
    warn_of_few_groups(tested, found.asked.group)
    log.info(f"figures  intervals of {counted(len(fitted), 'head')}, and tests against the best")
    results = [summarise(each, tested) for each in fitted.values()]
    compare_with_best(results, list(fitted.values()), tested, metric)
    for each in results:  # the size of a store that holds only these features
        each["bytes_per_image"] = each["n_features"] * each["views"] * np.dtype(found.provenance["dtype"]).itemsize
    ranked = best_first(results, metric)
    best, taken = ranked[0]["head"], recommended(ranked)["head"]
    comparison: dict[str, Any] = {
        "heads": ranked,
        "take": taken,
        "slices": slices_of(taken, fitted[taken], rows, splits, metric),
        "not_fitted": found.not_fitted,
        "corrections": _measure_corrections(found, best, kept),
        **place_of(store, folder.path),
        "rows": rows.counts(),
        "repeats": repeats,
        "seed": asked.seed,
        "select": asked.select,
        "metric": asked.metric,
        "test": names_of_tests(results),
        "provenance": found.provenance,
        "asked": told_options(options, heads=heads),
    }
    with folder.written() as unfinished:
        _write(comparison, unfinished)
        keep_corrections(asked, unfinished)
        told = {name: [each.told() for each in those] for name, those in fitted.items()}
        probabilities = {name: [each.probabilities for each in those] for name, those in fitted.items()}
        save_predictions(unfinished, rows, splits, told, probabilities)
        write_tested(unfinished / "predictions.csv", Predictions(rows, np.stack(splits), told, probabilities))
    log.info(
        f"written  {folder.path}/compare.md, compare.csv, compare.json, compare.png, predictions.csv, predictions.npz"
    )
    return Comparison(**comparison, out=str(folder.path))


def _chosen(heads: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Return the heads without those that are left out."""
    for name in exclude:
        if name not in heads:
            raise must_be_one_of(called("exclude"), heads, name)
    left = [name for name in heads if name not in exclude]
    if not left:
        raise RequestError(f"{called('exclude')} must leave a head; got all of {', '.join(heads)}. Leave one in.")
    return left


@dataclass(frozen=True)
class _Fitted:
    """Heads fitted on each split of a store's rows.

    Attributes
    ----------
    rows : Rows
    splits : list of ndarray
    asked : Request
        With groups.
    results : dict of str to list of Result
        Head → its result on each split.
    not_fitted : dict of str to str
        Head → why it has none.
    provenance : dict
        Of the store.
    """

    rows: Rows
    splits: list[np.ndarray]
    asked: Request
    results: dict[str, list[Result]]
    not_fitted: dict[str, str]
    provenance: dict[str, Any]


def _measure_corrections(found: _Fitted, best: str, kept: Path) -> dict[str, Any] | None:
    if found.asked.corrections is None:
        return None
    with FeatureStore(found.asked.store) as opened:
        return measure_corrections(opened, best, found.asked, found.splits, found.results[best], kept)


def _fit(names: Sequence[str], asked: Request, repeats: int, kept: Path) -> _Fitted:
    """Fit heads on each split of a store, or take their fits from those that are kept.

    Raises
    ------
    RequestError
        The first head's error, if no head can be fitted.
    """
    fitted: dict[str, list[Result]] = {}
    failed: dict[str, RequestError] = {}
    with FeatureStore(asked.store) as opened:
        log.info(f"store    {asked.store}: {describe_rows(asked.rows(opened), asked.views or opened.views)}")
        asked, provenance = with_groups(opened, asked, repeats), opened.provenance
        rows = asked.rows(opened)
        splits = draw_splits(rows, repeats, asked.seed, asked.group)
        warn_of_majority(rows, asked.metric)
        log.info(
            "splits   the store's own"
            if repeats == 1
            else f"splits   {repeats} random stratified splits, seeds from {asked.seed}, instead of the store's own"
        )
        fits = Fits(opened, rows, splits, kept, asked.fresh)
        fits.fill([(name, asked) for name in names])
        with Progress(len(names) * repeats, "fits") as progress:
            for number, name in enumerate(names, start=1):
                try:
                    fitted[name] = fits.of(name, asked, progress)
                except RequestError as error:
                    failed[name] = error
                    progress.update(number * repeats - progress.n)
    if not fitted:
        raise next(iter(failed.values()))
    not_fitted = {name: str(error).removeprefix(f"{name}: ") for name, error in failed.items()}
    for name, why in not_fitted.items():
        log.warning(f"{name} was not fitted: {why}")
    if fits.loaded:
        log.info(
            f"cached   {fits.loaded} of {counted(len(names) * repeats, 'fit')} are from earlier runs. To refit them: {option('fresh', True)}"
        )
    return _Fitted(rows, splits, asked, fitted, not_fitted, provenance)


def _write(comparison: dict[str, Any], folder: Path) -> None:
    (folder / "compare.md").write_text(format_table(comparison) + "\n", encoding="utf-8")
    (folder / "compare.json").write_text(json.dumps(comparison, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    with open(folder / "compare.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        table.writeheader()
        table.writerows(table_rows(comparison))
    plot_comparison(comparison).savefig(folder / "compare.png")
