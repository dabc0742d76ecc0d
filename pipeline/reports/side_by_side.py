"""Several runs side by side: their heads to take, on the test images that all of them have, paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import RequestError, called
from features.splits import SPLITS

from ..evaluation.held_out import HeldOut, unit_numbers
from ..evaluation.intervals import intervals_of
from ..evaluation.metrics import METRICS, Metric, value_of
from ..evaluation.significance import compare_pair, holm
from ..training.summary import recommended
from .run_results import Run

_MANY = 12  # runs on one page


@dataclass(frozen=True)
class SideBySide:
    """Runs on the same test images.

    Attributes
    ----------
    rows : list of dict
        One per run, best first: ``run``, ``head``, ``store``, ``backbone``, ``layer``, ``image_size``, ``megabytes`` of the
        features, metrics, ``interval``, ``behind`` and ``p_value``.
    metric : Metric
        By which runs are ranked: that of the first run.
    shared : int
        Test images that all runs have.
    tested : list of int
        Test images of each run, in the order of `rows`.
    test : str
        Name of the paired test.
    group : str or None
        The column whose groups intervals and tests keep whole: that of the first run that has one.
    """

    rows: list[dict[str, Any]]
    metric: Metric
    shared: int
    tested: list[int]
    test: str
    group: str | None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        told = {"runs": self.rows, "metric": self.metric.name, "test_images": self.shared}
        return {**told, "test": self.test, "group": self.group}


def compare_runs(runs: Sequence[Run]) -> SideBySide:
    """Compare the heads to take of several runs on the test images that all of them have, matched by their files' SHA-256.

    An image that several splits test counts once, by its mean probabilities.

    Raises
    ------
    RequestError
        If the runs have other classes, labels that differ, or no test image in common.
    """
    if not 2 <= len(runs) <= _MANY:
        raise RequestError(f"{called('run')} must name 2 to {_MANY} runs to be shown side by side; got {len(runs)}.")
    names = runs[0].predictions.rows.class_names
    for run in runs[1:]:
        if set(run.predictions.rows.class_names) != set(names):
            raise RequestError(
                f"{called('run')} must name runs of the same classes; {runs[0].folder} has {', '.join(names)}, and {run.folder} "
                f"{', '.join(run.predictions.rows.class_names)}. Name runs of one source."
            )
    taken = [recommended(run.heads) for run in runs]
    found = [_tested(run, head["head"], names) for run, head in zip(runs, taken, strict=True)]
    keys = [key for key in found[0] if all(key in each for each in found)]
    if not keys:
        raise RequestError(
            f"{called('run')} must name runs that test the same images; these have none in common. Extract with the same {called('seed')} and splits."
        )
    y = np.array([found[0][key][0] for key in keys])
    other = [
        run.folder
        for run, each in zip(runs, found, strict=True)
        if any(each[key][0] != label for key, label in zip(keys, y, strict=True))
    ]
    if other:
        raise RequestError(
            f"{called('run')} must name runs with the same labels; {other[0]} labels test images otherwise. Extract again."
        )
    probabilities = [np.array([each[key][1] for key in keys]) for each in found]
    return _rank(runs, taken, [len(each) for each in found], y, probabilities, *_groups(runs, keys))


def _tested(run: Run, head: str, names: Sequence[str]) -> dict[bytes, tuple[int, np.ndarray]]:
    """Return SHA-256 → label and mean probabilities of the test images, with classes in the order of `names`."""
    rows, mean = run.predictions.rows, run.predictions.mean(head)
    order = [rows.class_names.index(name) for name in names]
    label = np.argsort(order)  # of a class of this run, its place in `names`
    tested = np.flatnonzero((run.predictions.splits == SPLITS["test"]).any(axis=0))
    return {rows.sha256[row].tobytes(): (int(label[rows.labels[row]]), mean[row][order]) for row in tested}


def _groups(runs: Sequence[Run], keys: Sequence[bytes]) -> tuple[str | None, list[str] | None]:
    """Return the column of groups of the first run that has one, and the group of each test image; None if none has."""
    for run in runs:
        column, rows = run.heads[0].get("group"), run.predictions.rows
        if column is not None and column in rows.columns:
            of_key = {rows.sha256[row].tobytes(): text for row, text in enumerate(rows.columns[column])}
            return column, [of_key[key] for key in keys]
    return None, None


def _rank(
    runs: Sequence[Run],
    taken: Sequence[dict[str, Any]],
    tested: Sequence[int],
    y: np.ndarray,
    probabilities: Sequence[np.ndarray],
    group: str | None,
    groups: list[str] | None,
) -> SideBySide:
    metric = runs[0].metric
    values = [value_of(metric, y, each) for each in probabilities]
    sign = -1 if metric.greater_is_better else 1
    order = sorted(range(len(runs)), key=lambda number: sign * values[number])
    units = np.arange(len(y)) if groups is None else unit_numbers(groups)
    held, best = HeldOut(y, units, 0, groups is not None), order[0]
    pairs = {each: compare_pair(metric, [held], [probabilities[best]], [probabilities[each]]) for each in order[1:]}
    known = {each: pair.p_value for each, pair in pairs.items() if pair.p_value is not None}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    rows = []
    for number in order:
        ends = intervals_of(y, probabilities[number], units, [metric]).get(metric.name)
        pair = pairs.get(number)
        rows.append(
            {
                **_told(runs[number], taken[number]),
                **{each.name: value_of(each, y, probabilities[number]) for each in METRICS},
                "interval": None if ends is None or np.isnan(ends).any() else list(ends),
                "behind": 0.0 if pair is None else pair.behind,
                "p_value": adjusted.get(number),
            }
        )
    test = " or ".join(dict.fromkeys(pair.test for pair in pairs.values()))
    return SideBySide(rows, metric, len(y), [tested[number] for number in order], test, group)


def _told(run: Run, head: dict[str, Any]) -> dict[str, Any]:
    """Return what a run and its features are."""
    made, store = run.told["provenance"], Path(run.told["store"])
    return {
        "run": str(run.folder),
        "head": head["head"],
        "store": str(store),
        "backbone": made["backbone"],
        "layer": head["layer"],
        "pool": head["pool"],
        "image_size": made["image_size"],
        "n_features": head["n_features"],
        "megabytes": store.stat().st_size / 1e6 if store.is_file() else None,
        "fit_seconds": head["fit_seconds"],
    }
