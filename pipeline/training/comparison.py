"""Comparison of many heads on the same rows, as one table."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from features.errors import RequestError, called, must_be_one_of, option
from features.options import takes
from features.runtime.log import log
from features.runtime.progress import Progress
from features.store.reader import FeatureStore
from features.store.schema import Rows

from ..evaluation.metrics import METRICS, find_metric
from ..evaluation.significance import NEEDS
from ..heads.registry import HEADS, check_heads
from ..options import CompareOptions
from ..runs.folders import place_of
from ..runs.frames import make_frame
from ..runs.plots import interval_of, plot_comparison
from ..runs.predictions import Predictions, save_predictions, write_tested
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
    standing,
    summarise,
    tested_rows,
    with_interval,
)

_COLUMNS = (
    "head", "layer", "pool", "n_features", "chosen", "metric", "behind", "p_value",
    *(f"{each.name}{end}" for each in METRICS for end in (("", "_low", "_high") if each.interval else ("",))),
    "fit_seconds", "predict_seconds", "bytes_an_image", "not_fitted",
)  # fmt: skip


SORTS = ("head", *(each.name for each in METRICS), "fit_seconds", "predict_seconds")  # what a table can be sorted by


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`; a notebook displays its table.

    Attributes
    ----------
    heads : list of dict
        Test metrics of each head, best first: ``head``, ``accuracy``, ``intervals``, ``behind``, ``p_value``, ...
    slices : dict or None
        The best head by the values of each column of the store, with intervals and tests; see `Slices`.
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
    """

    heads: list[dict[str, Any]]
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
        return make_frame([{name: row.get(name) for name in _COLUMNS} for row in _table_rows(self.to_json())])

    def _repr_markdown_(self) -> str:
        return format_table(self.to_json())


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
    named = [each for name in heads or ("all",) for each in (HEADS if name == "all" else (name,))]
    names = _chosen(named, options.get("exclude") or ())
    check_heads(names, asked.settings)
    folder = asked.folder("compare")
    rows, provenance, splits, group, fitted, not_fitted = _fit(names, asked, repeats, folder.path.parent / ".fits")
    tested, metric = tested_rows(rows, splits, group), find_metric(asked.metric)
    log.info(f"figures  intervals of {len(fitted)} heads, and tests against the best")
    results = [summarise(each, tested) for each in fitted.values()]
    compare_with_best(results, list(fitted.values()), tested, metric)
    for each in results:  # the size of a store that holds only these features
        each["bytes_an_image"] = each["n_features"] * each["views"] * np.dtype(provenance["dtype"]).itemsize
    ranked = best_first(results, metric)
    best = ranked[0]["head"]
    comparison: dict[str, Any] = {
        "heads": ranked,
        "slices": slices_of(best, fitted[best], rows, splits, metric),
        "not_fitted": not_fitted,
        "corrections": _measure_corrections(asked, best, group, splits, fitted[best], folder.path.parent / ".fits"),
        **place_of(store, folder.path),
        "rows": rows.counts(),
        "repeats": repeats,
        "seed": asked.seed,
        "select": asked.select,
        "metric": asked.metric,
        "test": names_of_tests(results),
        "provenance": provenance,
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
    names = list(dict.fromkeys(heads))
    for name in exclude:
        if name not in names:
            raise must_be_one_of(called("exclude"), names, name)
    left = [name for name in names if name not in exclude]
    if not left:
        raise RequestError(f"{called('exclude')} must leave a head; got all of {', '.join(names)}. Leave one in.")
    return left


def _measure_corrections(
    asked: Request, best: str, group: str | None, splits: list[np.ndarray], results: list[Result], kept: Path
) -> dict[str, Any] | None:
    if asked.corrections is None:
        return None
    with FeatureStore(asked.store) as opened:
        grouped = with_groups(opened, replace(asked, group=group), len(splits)) if group else asked
        return measure_corrections(opened, best, grouped, splits, results, kept)


def _fit(
    names: Sequence[str],
    asked: Request,
    repeats: int,
    kept: Path,
) -> tuple[Rows, dict[str, Any], list[np.ndarray], str | None, dict[str, list[Result]], dict[str, str]]:
    """Return a store's rows, provenance, splits, group, each head's result on each split, and why other heads have none.

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
        if asked.cluster is not None:
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
            f"cached   {fits.loaded} of {len(names) * repeats} fits are from earlier runs. To refit them: {option('fresh', True)}"
        )
    return rows, provenance, splits, asked.group, fitted, not_fitted


def format_table(comparison: dict[str, Any], sort: str | None = None) -> str:
    """Return a comparison as a Markdown table; the metric by which heads are ranked comes first.

    Parameters
    ----------
    comparison : dict
        The content of ``compare.json``.
    sort : str, optional
        Order heads by this member of ``SORTS``, the best or quickest first, instead of by their rank.
    """
    metric, repeats = find_metric(comparison["metric"]), comparison["repeats"]
    others = [each for each in METRICS if each.in_table and each != metric]
    titles = ["head", "features", "chosen", f"{metric.title} [95 %]", "behind the best (p)"]
    titles += [*(each.title for each in others), "fit s", "predict s"]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for head in _sorted(comparison["heads"], sort):
        scores = " | ".join(with_interval(head[each.name], None, 1, each.digits) for each in others)
        value = with_interval(head[metric.name], interval_of(head, metric.name), repeats, metric.digits)
        lines.append(
            f"| {head['head']} | {head['layer']} {head['pool']}, {head['n_features']} | {head['chosen'] or '-'} "
            f"| {value} | {_behind(head, metric.digits)} | {scores} "
            f"| {head['fit_seconds']:.2f} | {head['predict_seconds']:.3f} |"
        )
    for name, why in comparison["not_fitted"].items():
        told = " ".join(why.split()).replace("|", r"\|")
        lines.append(f"| {name} | not fitted: {told} |{' |' * (len(titles) - 2)}")
    same = [head["head"] for head in comparison["heads"] if standing(head) == "same"]
    if same:
        best, test = comparison["heads"][0]["head"], comparison["test"]
        lines += [
            "",
            f"Not distinguishable from {best} in {metric.name} ({test}, Holm, 5 %): {', '.join(same)}.",
        ]
    return "\n".join(lines)


def _sorted(heads: Sequence[dict[str, Any]], by: str | None) -> Sequence[dict[str, Any]]:
    if by is None:
        return heads
    if by not in SORTS:
        raise must_be_one_of(called("sort"), SORTS, by)
    sign = -1 if by in [each.name for each in METRICS if each.greater_is_better] else 1
    if by == "head":
        return sorted(heads, key=lambda head: str(head["head"]))
    return sorted(heads, key=lambda head: math.inf if head[by] is None else sign * head[by])


def _behind(head: dict[str, Any], digits: int) -> str:
    if standing(head) == "best":
        return "best"
    if head["behind"] is None:
        return "-"
    if head["p_value"] is None:
        return f"{head['behind']:.{digits}f} ({NEEDS})"
    return f"{head['behind']:.{digits}f} ({'<0.001' if head['p_value'] < 0.001 else format(head['p_value'], '.3f')})"


def _write(comparison: dict[str, Any], folder: Path) -> None:
    (folder / "compare.md").write_text(format_table(comparison) + "\n", encoding="utf-8")
    (folder / "compare.json").write_text(json.dumps(comparison, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    with open(folder / "compare.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
        table.writeheader()
        table.writerows(_table_rows(comparison))
    plot_comparison(comparison).savefig(folder / "compare.png")


def _table_rows(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of ``compare.csv``: the heads, best first, then those that were not fitted."""
    rows = []
    for head in comparison["heads"]:
        ends = {name: interval or (None, None) for name, interval in head["intervals"].items()}
        lows = {f"{name}_low": low for name, (low, _) in ends.items()}
        highs = {f"{name}_high": high for name, (_, high) in ends.items()}
        rows.append({**head, **lows, **highs, "metric": comparison["metric"]})
    return rows + [{"head": name, "not_fitted": why} for name, why in comparison["not_fitted"].items()]
