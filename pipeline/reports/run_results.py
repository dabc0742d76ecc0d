"""The results of a run as a report reads them, of a comparison and of a trained head in one form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import UnsafeFile

from ..evaluation.metrics import METRICS, Metric, find_metric
from ..options import METRIC
from ..runs.folders import read_results
from ..runs.predictions import Predictions, load_predictions
from ..training.fits.results import Result
from ..training.relabelling import FILE as CORRECTIONS
from ..training.request import corrections_of
from ..training.summary import best_first, compare_with_best, summarise, tested_rows


@dataclass(frozen=True)
class Run:
    """A folder of results.

    Attributes
    ----------
    folder : Path
    told : dict
        The content of ``compare.json`` or ``run.json``.
    metric : Metric
        By which heads are ranked.
    heads : list of dict
        Metrics of each head, best first, as in ``compare.json``.
    predictions : Predictions
    """

    folder: Path
    told: dict[str, Any]
    metric: Metric
    heads: list[dict[str, Any]]
    predictions: Predictions

    @property
    def corrections(self) -> dict[str, Any]:
        """The options of a `Request` by which the run corrected labels; empty if it did not."""
        return corrections_of(self.told, self.folder / CORRECTIONS)


def load_run(folder: Path) -> Run:
    """Read the results of a comparison or of a trained head."""
    told, path = read_results(folder)
    predictions, metric = load_predictions(folder), metric_of(told, path)
    return Run(folder, told, metric, told.get("heads") or _summary(predictions, metric), predictions)


def metric_of(told: dict[str, Any], path: Path) -> Metric:
    """Return the metric of a run; earlier versions knew only accuracy."""
    name = told.get("metric", METRIC)
    if name not in [each.name for each in METRICS]:
        raise UnsafeFile(
            f"{path} must name a known metric; got {str(name)[:60]!r}. Run the same compare or train-head again."
        )
    return find_metric(name)


def _summary(predictions: Predictions, metric: Metric) -> list[dict[str, Any]]:
    """Return a trained head's metrics in the form of a comparison's."""
    results = [
        [
            Result(probabilities=p, **{"parts": (), **told})
            for told, p in zip(predictions.told[head], probabilities, strict=True)
        ]
        for head, probabilities in predictions.probabilities.items()
    ]
    tested = tested_rows(predictions.rows, list(predictions.splits), results[0][0].group)
    summaries = [summarise(each, tested) for each in results]
    compare_with_best(summaries, results, tested, metric)
    return best_first(summaries, metric)
