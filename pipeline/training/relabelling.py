"""What corrected labels change: a head's test figure before and after, on the same test images, with a paired test."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import RequestError, called, counted, option
from features.runtime.log import log
from features.runtime.progress import Progress
from features.splits import SPLITS
from features.store.reader import FeatureStore
from features.store.schema import Rows

from ..evaluation.held_out import HeldOut
from ..evaluation.intervals import interval_of_mean, intervals_of
from ..evaluation.metrics import Metric, find_metric, value_of
from ..evaluation.significance import compare_pair, told_p
from .fits.fit_cache import Fits
from .fits.results import Result
from .request import Request
from .splitting import LEFT_OUT, names_of, near_copies_of
from .summary import tested_rows

FILE = "corrections.csv"  # in the folder of a run: the table as it was given


def check_corrections(asked: Request, repeats: int) -> None:
    """Refuse corrections on drawn splits that leave test alone, since every image is tested in some of these."""
    if asked.corrections is not None and repeats > 1 and not asked.corrections_test:
        raise RequestError(
            f"{called('corrections')} must be used on one split, or also for test images: drawn splits test every image. "
            f"Leave out {called('repeats')}, or add {option('corrections_test', True)}"
        )


def measure_corrections(
    store: FeatureStore, head: str, asked: Request, splits: Sequence[np.ndarray], after: Sequence[Result], kept: Path
) -> dict[str, Any] | None:
    """Fit a head to the labels as they were, and compare it with one fitted to the corrected ones; None without corrections.

    Both are tested on the same images with the labels that these have now.

    Parameters
    ----------
    store : FeatureStore
    head : str
    asked : Request
        With corrections and groups.
    splits : sequence of ndarray of shape (n_images,)
        Of the corrected rows.
    after : sequence of Result
        Of the head on each split, with the probabilities of the test rows.
    kept : Path
        Folder of cached fits.
    """
    corrected = asked.corrected(store)
    if corrected is None or asked.corrections is None:
        return None
    plain = replace(asked, corrections=None, corrections_test=False, clusters=None)
    if asked.clusters is not None:
        plain = replace(plain, clusters=names_of(near_copies_of(store, plain), plain.rows(store)))
    earlier, rows = plain.rows(store), asked.rows(store)
    fits = Fits(
        store, earlier, [_of_all(each, earlier, corrected.kept, len(splits)) for each in splits], kept, asked.fresh
    )
    before = fits.of(head, plain, Progress(0, "fits"))
    told = {
        "file": asked.corrections.path,
        "sha256": asked.corrections.sha256,
        "changed": corrected.changed,
        "dropped": int(np.sum(~corrected.kept)),
        "spared": corrected.spared,
        "unknown": corrected.unknown,
        "of_test": asked.corrections_test,
        "head": head,
        **_compared(asked, rows, splits, before, after),
    }
    log.info(describe_corrections(told))
    return told


def _of_all(split: np.ndarray, earlier: Rows, kept: np.ndarray, repeats: int) -> np.ndarray:
    """Return a split of the corrected rows as one of all rows; images of test that were dropped are left out."""
    found = earlier.splits.copy() if repeats == 1 else np.full(len(earlier), SPLITS["train"], np.uint8)
    found[found == SPLITS["test"]] = LEFT_OUT
    found[kept] = split
    return found


def _compared(
    asked: Request, rows: Rows, splits: Sequence[np.ndarray], before: Sequence[Result], after: Sequence[Result]
) -> dict[str, Any]:
    metric, tested = find_metric(asked.metric), tested_rows(rows, splits, asked.group)
    sides = [[each.probabilities for each in results] for results in (before, after)]
    pair = compare_pair(metric, tested, *sides)

    def figure(probabilities: Sequence[np.ndarray]) -> dict[str, Any]:
        values = [value_of(metric, each.y, p) for each, p in zip(tested, probabilities, strict=True)]
        ends = [_ends(metric, each, p) for each, p in zip(tested, probabilities, strict=True)]
        value = float(np.mean(values))
        return {
            "value": None if math.isnan(value) else value,
            "interval": interval_of_mean(metric, values, ends, tested, probabilities),
        }

    gain = None if math.isnan(pair.behind) else -pair.behind
    return {
        "metric": metric.name,
        "before": figure(sides[0]),
        "after": figure(sides[1]),
        "gain": gain,
        "p_value": pair.p_value,
        "test": pair.test,
    }


def _ends(metric: Metric, tested: HeldOut, probabilities: np.ndarray) -> tuple[float, float]:
    return intervals_of(tested.y, probabilities, tested.units, [metric])[metric.name]


def describe_corrections(told: dict[str, Any]) -> str:
    """Return what corrections changed, as a line."""
    before, after = (told[side]["value"] for side in ("before", "after"))
    digits = find_metric(told["metric"]).digits
    figures = (
        "undefined" if before is None or after is None else f"{before:.{digits}f} before, {after:.{digits}f} after"
    )
    tested = "" if told["p_value"] is None else f" (p {told_p(told['p_value'])}, {told['test']})"
    spared = f", {told['spared']} of test left as they are" if told["spared"] else ""
    unknown = f", {told['unknown']} not in the store" if told["unknown"] else ""
    return (
        f"labels   {told['changed']} changed, {counted(told['dropped'], 'image')} dropped{spared}{unknown}: {told['metric']} of "
        f"{told['head']} {figures}{tested}"
    )


def keep_corrections(asked: Request, folder: Path) -> None:
    """Copy the table of corrections into the folder of a run."""
    if asked.corrections is not None:
        shutil.copyfile(asked.corrections.path, folder / FILE)
