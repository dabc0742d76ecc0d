"""The result of training one head: its record, and the same for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from features.errors import listed

from ...evaluation.decisions.operating_point import OperatingPoint
from ...evaluation.metrics import METRICS
from ...evaluation.significance import with_interval
from ...heads.settings import describe_settings
from .results import FittedHead


@dataclass(frozen=True, repr=False)
class TrainedHead(FittedHead):
    """The result of `train_head`: the content of ``run.json``, and where it is; a notebook displays its figures.

    Attributes
    ----------
    head, layer, pool, parts, views, n_features, settings, tried
        See `FittedHead`.
    val, test : dict of str to float or None
        Metric → value; None if undefined.
    intervals : dict of str to tuple or None
        Metric → 95 % interval of its test value.
    by_class : list of dict
        Test figures of each class; see `ClassFigures`.
    operating_point : dict or None
        From which probability on an image is predicted as the positive class; see `OperatingPoint`. `test`, `intervals` and
        `by_class` are of the likeliest class, whatever the operating point.
    sets : dict or None
        Which classes may be the true one of an image; see `ClassSets`.
    novelty : dict
        From which distance to the nearest training image on an image is unlike all of them (``threshold``), for which share of
        the training ``images`` (``rate``), and the share of test images that are (``test``), with its 95 % ``interval``.
    slices : dict or None
        The head by the values of each column of the store, with intervals and tests; see `Slices`.
    corrections : dict or None
        Which table of corrected labels was applied, to how many images, and the test figure before and after, with a paired test.
    fit_seconds, predict_seconds : float
    select : {'cv', 'val'}
    metric : str
        By which settings were chosen.
    seed : int
    group : str or None
        The column that names each row's group; a group stayed on one side.
    store, store_from_run, head_file, out : str
        The store it was trained on, the same as seen from the run's folder, the head's file, and that folder.
    class_names : list of str
    rows : dict
        Split → class → number of images.
    reading, provenance : dict
        How the head's input is made from features, and how the features were made.
    asked : dict
        The options that were given, which the next commands repeat.
    """

    val: dict[str, float | None]
    test: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    by_class: list[dict[str, Any]]
    operating_point: dict[str, Any] | None
    sets: dict[str, Any] | None
    novelty: dict[str, Any]
    slices: dict[str, Any] | None
    corrections: dict[str, Any] | None
    fit_seconds: float
    predict_seconds: float
    select: str
    metric: str
    seed: int
    group: str | None
    store: str
    store_from_run: str
    class_names: list[str]
    rows: dict[str, dict[str, int]]
    reading: dict[str, Any]
    provenance: dict[str, Any]
    asked: dict[str, Any]
    head_file: str
    out: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __repr__(self) -> str:
        return "\n".join(_lines(self))

    _repr_markdown_ = __repr__


def _lines(run: TrainedHead) -> Iterator[str]:
    """Yield the figures as Markdown tables, and what sets of classes hold."""
    chosen = describe_settings([run.settings], run.tried)
    yield f"{run.head}: {chosen}" if chosen else run.head
    known = [each for each in METRICS if each.name in run.test]
    yield from ("", "| metric | val | test [95 %] |", "|---|---|---|")
    for each in known:
        val, test = run.val.get(each.name), run.test[each.name]
        ends = run.intervals.get(each.name)
        yield f"| {each.words} | {with_interval(val, None)} | {with_interval(test, ends)} |"
    if run.operating_point is not None:
        point = OperatingPoint(**run.operating_point)
        yield from ("", f"{point}:", "", "| decided so | test [95 %] |", "|---|---|")
        for name, ends in point.test["intervals"].items():
            yield f"| {_words(name)} | {with_interval(point.test[name], ends)} |"
    if run.sets is not None:
        test = run.sets["test"]
        low, high = test["interval"]
        by_class = listed([f"{each['name']} {each['coverage']:.3f}" for each in test["by_class"]])
        yield ""
        yield (
            f"Sets hold the true class of {test['coverage']:.3f} [{low:.3f}, {high:.3f}] of test images ({by_class}), with "
            f"{test['mean_size']:.2f} classes on average."
        )
    yield from ("", f"fitted in {run.fit_seconds:.2f} s")


def _words(name: str) -> str:
    return next((each.words for each in METRICS if each.name == name), name)
