"""Comparison of bases: heads on stores of the same images, on their joined features, and votes over bases."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from features.errors import RequestError, WrongStore, called, option
from features.options import takes
from features.runtime.log import log
from features.runtime.progress import Progress
from features.splits import SPLITS
from features.store.provenance import Provenance
from features.store.reader import FeatureStore
from features.store.schema import Rows

from ...data.training_data import Features
from ...evaluation.metrics import Metric, find_metric
from ...evaluation.significance import NEEDS, with_interval
from ...heads.registry import check_heads, expand_heads
from ...options import BasesOptions
from ...runs.plots import interval_of
from ..comparison_table import not_fitted_line
from ..fits.fit_cache import Fits, of_test
from ..fits.fitting import evaluate_test, fit_head
from ..fits.results import Result
from ..loading import find_features, read_features
from ..request import Request
from ..splitting import draw_splits, with_groups
from ..summary import (
    best_first,
    compare_command,
    compare_with_best,
    names_of_tests,
    standing,
    summarise,
    tested_rows,
    told_behind,
    told_cost,
    told_loss,
    told_options,
)
from .base_cost import cost_of, measure_cost

BASES = "bases.json"
JOINED, VOTE = "joined", "vote"  # of all bases: their features side by side, and the mean of their probabilities
_USUAL_HEADS = ("logistic",)
MARGIN = 0.01  # a loss that does not matter: a point of accuracy


@dataclass(frozen=True, repr=False)
class BaseComparison:
    """The result of `compare_bases`.

    Attributes
    ----------
    table : list of dict
        One row per base and head, best first, as `summarise` returns it: ``base``, ``head``, ``accuracy``, ``intervals``,
        ``behind``, ``p_value``, ``multiply_adds``, ``milliseconds``, ``stored``, ...
    stores : dict of str to str
        Base → store.
    rows : dict
        Split → class → number of images.
    repeats : int
    metric, test : str
        The metric that ranks, and the name of the paired test.
    take : str
        The base to take; see `choose_base`.
    not_fitted : list of dict
        Each ``base`` and ``head`` without a row in the table, and ``why``.
    asked : dict
        The options that were given, which the next command repeats.
    out : str
        The folder with the results.
    """

    table: list[dict[str, Any]]
    stores: dict[str, str]
    rows: dict[str, dict[str, int]]
    repeats: int
    metric: str
    test: str
    take: str
    not_fitted: list[dict[str, str]]
    asked: dict[str, Any]
    out: str

    @property
    def next_command(self) -> str | None:
        """The command that compares heads on the base to take; None if that is several bases together."""
        return compare_next(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __repr__(self) -> str:
        return format_bases(self)

    _repr_markdown_ = __repr__


@takes(BasesOptions)
def compare_bases(
    stores: Sequence[str | Path], heads: Sequence[str] | None = None, **options: Unpack[BasesOptions]
) -> BaseComparison:
    """Compare heads on several stores of the same images, on the stores' joined features, and votes over the bases.

    Parameters
    ----------
    stores : sequence of path-like
        Finished stores, at least two, whose rows have the same contents, views, classes and splits.
    heads : sequence of str, optional
        Keys of ``HEADS``, or ``all``; by default, ``logistic``.
    **options

    Returns
    -------
    BaseComparison

    Raises
    ------
    RequestError
        If a head does not exist or cannot read the features, none can be fitted, fewer than two stores are named, or `out` exists
        already. Where at least one can be fitted, the others are listed in `not_fitted`.
    StoreError
        If a store is damaged, missing, or has other rows than the first (`WrongStore`).

    Examples
    --------
    >>> pipeline.compare_bases(["cache/photos-vgg16.h5", "cache/photos-squeezenet.h5"]).take   # doctest: +SKIP
    """
    repeats, names = options.get("repeats", 1), expand_heads(heads or _USUAL_HEADS)
    if len(stores) < 2 or len({Path(store).resolve() for store in stores}) < len(stores):
        raise RequestError(
            f"{called('store')} must name at least two different stores; got {', '.join(map(str, stores))}. Name another one."
        )
    first = Request.of(stores[0], options)
    check_heads(names, first.settings)
    folder = first.folder("bases")
    with ExitStack() as opened:
        held: dict[str, FeatureStore] = {}
        for store in stores:
            each = opened.enter_context(FeatureStore(store))
            held[_free_name(each.made, held)] = each
        check_same_rows(list(held.values()))
        asked = with_groups(next(iter(held.values())), first, repeats)
        _check_features(held, names, asked)
        rows = asked.rows(next(iter(held.values())))
        splits = draw_splits(rows, repeats, asked.seed, asked.group)
        fitted, not_fitted = _fit_all(held, names, asked, rows, splits, folder.path.parent / ".fits")
        costs = {name: measure_cost(each) for name, each in held.items()}
    tested, metric = tested_rows(rows, splits, asked.group), find_metric(asked.metric)
    table = [{"base": base, **summarise(each, tested), **cost_of(base, costs)} for (base, _), each in fitted.items()]
    compare_with_best(table, list(fitted.values()), tested, metric)
    table = best_first(table, metric)
    found = BaseComparison(
        table=table,
        stores={name: str(store) for name, store in zip(held, stores, strict=True)},
        rows=rows.counts(),
        repeats=repeats,
        metric=asked.metric,
        test=names_of_tests(table),
        take=choose_base(table, metric)[0],
        not_fitted=not_fitted,
        asked=told_options(options),
        out=str(folder.path),
    )
    with folder.written() as unfinished:
        told = json.dumps(found.to_json(), indent=2, ensure_ascii=False)
        (unfinished / BASES).write_text(told + "\n", encoding="utf-8")
        (unfinished / "bases.md").write_text(format_bases(found) + "\n", encoding="utf-8")
    log.info(f"written  {folder.path}/bases.md, {BASES}")
    return found


def check_same_rows(stores: Sequence[FeatureStore]) -> None:
    """Raise WrongStore, naming the first row that differs, unless stores have the same images, views, labels and splits."""
    first = stores[0]
    for other in stores[1:]:
        one, two = first.rows, other.rows
        remedy = f"Extract both from the same source, with the same {called('limit')}, {called('seed')} and {called('views')}"
        if one.class_names != two.class_names or len(one) != len(two):
            raise WrongStore(
                f"stores must have the same classes and rows; {first.path} has {len(one)} rows of {', '.join(one.class_names)}, "
                f"{other.path} {len(two)} of {', '.join(two.class_names)}. {remedy}."
            )
        for what in ("sha256", "views", "labels", "splits"):
            differs = (getattr(one, what) != getattr(two, what)).reshape(len(one), -1).any(axis=1)
            if differs.any():
                row = int(np.flatnonzero(differs)[0])
                raise WrongStore(
                    f"stores must have the same rows in the same order; {what} differs in row {row}: {one.paths[row]} in {first.path}, "
                    f"{two.paths[row]} in {other.path}. {remedy}."
                )


def _free_name(made: Provenance, taken: dict[str, Any]) -> str:
    """Return a base's name, with its number if another has it, as where two sizes of one backbone are compared."""
    name = made.spec.backbone
    return name if name not in taken else f"{name} at {made.spec.image_size} px, {len(taken) + 1}"


def _check_features(held: dict[str, FeatureStore], names: Sequence[str], asked: Request) -> None:
    """Raise RequestError, before anything is fitted, if a head cannot read a base's features or all of them joined."""
    for head in names:
        found = [find_features(store, head, replace(asked, store=store.path)) for store in held.values()]
        needed = 4 * sum(math.prod(each.X.shape) for each in found)
        if needed > asked.memory_bytes:
            raise RequestError(
                f"joined features must fit into {asked.memory_bytes / 1e9:.2g} GB; they need {needed / 1e9:.2g} GB. Pool them: "
                f"{option('pool', 'avg')}, or allow more: {option('memory')}"
            )


def _fit_all(
    held: dict[str, FeatureStore],
    names: Sequence[str],
    asked: Request,
    rows: Rows,
    splits: Sequence[np.ndarray],
    kept: Path,
) -> tuple[dict[tuple[str, str], list[Result]], list[dict[str, str]]]:
    """Return (base, head) → its result on each split: of each base, of all joined, and of the vote over bases; and what has none.

    Raises
    ------
    RequestError
        The first error, if nothing can be fitted.
    """
    fitted: dict[tuple[str, str], list[Result]] = {}
    fits_of = {base: Fits(store, rows, splits, kept, asked.fresh) for base, store in held.items()}
    requests = {base: replace(asked, store=store.path) for base, store in held.items()}
    for base, fits in fits_of.items():
        fits.fill([(head, requests[base]) for head in names])
    if asked.cluster is not None:
        log.info("fits     of the bases on the cluster; of their joined features, which no store holds, here")
    failed: dict[tuple[str, str], RequestError] = {}

    def keep(base: str, head: str, fit: Callable[[], list[Result]]) -> None:
        try:
            fitted[base, head] = fit()
        except RequestError as error:
            failed[base, head] = error
            progress.update((len(fitted) + len(failed)) * len(splits) - progress.n)

    with Progress((len(held) + 1) * len(names) * len(splits), "fits") as progress:
        for base, fits in fits_of.items():
            for head in names:
                keep(base, head, partial(fits.of, head, requests[base], progress))
        for head in names:
            keep(JOINED, head, partial(_fit_joined, head, held, asked, rows, splits, progress))
    if not fitted:
        raise next(iter(failed.values()))
    for head in names:
        missing = [base for base in held if (base, head) in failed]
        if missing:
            failed[VOTE, head] = RequestError(
                f"it needs the head on every base; there is none on {', '.join(missing)}."
            )
            continue
        of_bases = [fitted[base, head] for base in held]
        fitted[VOTE, head] = [
            _vote(rows, split, asked, [each[number] for each in of_bases]) for number, split in enumerate(splits)
        ]
    not_fitted = [
        {"base": base, "head": head, "why": str(error).removeprefix(f"{head}: ")}
        for (base, head), error in failed.items()
    ]
    for each in not_fitted:
        log.warning(f"{each['head']} on {each['base']} was not fitted: {each['why']}")
    return fitted, not_fitted


def _fit_joined(
    head: str,
    held: dict[str, FeatureStore],
    asked: Request,
    rows: Rows,
    splits: Sequence[np.ndarray],
    progress: Progress,
) -> list[Result]:
    """Return a head's results on the features of all bases side by side; each layer is scaled on its own."""
    each = [read_features(store, head, replace(asked, store=store.path)) for store in held.values()]
    parts = tuple(
        part._replace(layer=f"{base}:{part.layer}") for base, one in zip(held, each, strict=True) for part in one.parts
    )
    features = Features(
        X=np.hstack([one.matrix for one in each]),
        widths=tuple(width for one in each for width in one.widths),
        views=each[0].views,
        parts=parts,
    )
    results = []
    for split in splits:
        results.append(of_test(fit_head(head, features, rows, split, asked.fitting)[0], split))
        progress.update()
    return results


def _vote(rows: Rows, split: np.ndarray, asked: Request, of_bases: Sequence[Result]) -> Result:
    """Return the mean of the bases' probabilities as a result, with what its parts took together."""
    mean = np.mean([each.probabilities for each in of_bases], axis=0)
    first = of_bases[0]
    return replace(
        first,
        layer="+".join(each.layer for each in of_bases),
        n_features=sum(each.n_features for each in of_bases),
        settings={},
        tried=[],
        val={},
        fit_seconds=sum(each.fit_seconds for each in of_bases),
        predict_seconds=sum(each.predict_seconds for each in of_bases),
        probabilities=mean,
        history=None,
        **evaluate_test(rows, split == SPLITS["test"], mean, asked.group),
    )


def compare_next(told: Mapping[str, Any]) -> str | None:
    """Return the command that compares heads on the base to take of ``bases.json``; None if that is several bases together."""
    if told["take"] not in told["stores"]:
        return None
    return compare_command({**told, "store": told["stores"][told["take"]]})


def choose_base(table: Sequence[dict[str, Any]], metric: Metric) -> tuple[str, str]:
    """Return the base to take, and why, in words.

    Not distinguishable is not equal: with few test images, hardly anything is distinguishable. So a cheaper base than the best
    is taken only if it is not distinguishable and the interval of its loss lies below `MARGIN`, too.

    Parameters
    ----------
    table : sequence of dict
        Rows of a comparison of bases, best first.
    metric : Metric
    """
    best, same = table[0], [each for each in table if standing(each) == "same"]
    sure = [each for each in same if each.get("behind_interval") and each["behind_interval"][1] <= MARGIN]
    taken, tempting = _cheapest([best, *sure]), _cheapest([best, *same])
    if taken is not best:
        return taken["base"], (
            f"the cheapest that is not distinguishable from {_called(best)}, the best, and costs at most "
            f"{told_loss(MARGIN, metric)}: {told_cost(taken, metric)}"
        )
    if tempting is not best:
        cost = told_cost(tempting, metric) or "what it may cost is not known"
        return best["base"], (
            f"the best. {_called(tempting)} is cheaper and not distinguishable from it, but the test images are too few to tell "
            f"whether it costs at most {told_loss(MARGIN, metric)}: {cost}"
        )
    if any(standing(each) == "untested" and each["behind"] is not None for each in table):
        return best["base"], f"the best; to tell whether a cheaper one is as good {NEEDS}"
    return best["base"], "the best; none that is cheaper is as good"


def _cheapest(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the first of the cheapest rows, by time, then by bytes."""
    timed = all(each["milliseconds"] is not None for each in rows)
    return min(rows, key=lambda each: (each["milliseconds"] if timed else 0.0, each["stored"]))


def _called(row: dict[str, Any]) -> str:
    return f"{row['base']} with {row['head']}"


def format_bases(found: BaseComparison) -> str:
    """Return the comparison as a Markdown table, best first, with the base to take."""
    metric = find_metric(found.metric)
    lines = [
        f"| base | head | {metric.title} [95 %] | behind the best (p) | GMAC per image | ms per image | bytes per image |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found.table:
        value = with_interval(row[metric.name], interval_of(row, metric.name), found.repeats, metric.digits)
        work = "-" if row["multiply_adds"] is None else f"{row['multiply_adds'] / 1e9:.2f}"
        time = "-" if row["milliseconds"] is None else f"{row['milliseconds']:.1f}"
        costs = f"{work} | {time} | {row['stored']:,}"
        lines.append(f"| {row['base']} | {row['head']} | {value} | {told_behind(row, metric.digits)} | {costs} |")
    lines += [not_fitted_line([each["base"], each["head"]], each["why"], 7) for each in found.not_fitted]
    test = f" (Tests: {found.test}, Holm, 5 %.)" if found.test else ""
    take, why = choose_base(found.table, metric)
    return "\n".join([*lines, "", f"Take {take}: {why}.{test}"])
