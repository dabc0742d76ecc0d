"""Accuracy by layer, to choose a layer of a store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Unpack

from features.errors import RequestError
from features.options import takes
from features.runtime.log import log
from features.runtime.progress import Progress
from features.store.reader import FeatureStore

from ...evaluation.held_out import HeldOut
from ...evaluation.metrics import find_metric
from ...evaluation.significance import with_interval
from ...heads.registry import check_heads
from ...options import ProbeOptions
from ...runs.plots import interval_of, plot_intervals
from ..comparison_table import not_fitted_line
from ..fits.fit_cache import Fits
from ..fits.results import Result
from ..loading import describe_rows
from ..request import Request
from ..splitting import draw_splits, with_groups
from ..summary import compare_with_best, rank, summarise, tested_rows

_HEAD = "logistic"


@dataclass(frozen=True, repr=False)
class LayerProbe:
    """The result of `probe`; a notebook displays its table.

    Attributes
    ----------
    layers : list of dict
        Test metrics of each layer in the order requested, then of the best two together; ``behind_interval`` is the interval
        of the difference from the best.
    not_fitted : dict of str to str
        Layer → why no head could be fitted to it.
    take : str
        The best layer.
    store, out : str
        The store used, and the folder with the results.
    repeats, seed : int
    metric : str
        The metric by which settings were chosen and layers are compared.
    provenance : dict
        Of the store.
    """

    layers: list[dict[str, Any]]
    not_fitted: dict[str, str]
    take: str
    store: str
    repeats: int
    seed: int
    metric: str
    provenance: dict[str, Any]
    out: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __repr__(self) -> str:
        return format_probe(self.to_json())

    _repr_markdown_ = __repr__


@takes(ProbeOptions)
def probe(store: str | Path, **options: Unpack[ProbeOptions]) -> LayerProbe:
    """Train a logistic regression on each layer of a store, and on the best two together, on the same rows.

    Parameters
    ----------
    store : path-like
        A finished feature store of several layers.
    **options

    Returns
    -------
    probed : LayerProbe

    Raises
    ------
    RequestError
        If a layer or a setting does not exist, `out` exists already, or no layer can be fitted. Where at least one can, the
        others are listed in `not_fitted`.
    StoreError
        If the store is missing or damaged.

    Notes
    -----
    By default, the average and the maximum of each map are concatenated.

    Examples
    --------
    >>> pipeline.probe("cache/photos-layers.h5").take   # doctest: +SKIP
    """
    repeats = options.get("repeats", 5)
    asked = Request.of(store, options)
    check_heads([_HEAD], asked.settings)
    folder, metric = asked.folder("probe"), find_metric(asked.metric)
    with FeatureStore(store) as opened:
        asked, provenance = with_groups(opened, asked, repeats), opened.provenance
        rows = asked.rows(opened)
        splits = draw_splits(rows, repeats, asked.seed, asked.group)
        log.info(f"store    {store}: {describe_rows(rows, asked.views or opened.views)}")
        names = asked.layer.split(",") if asked.layer else list(opened.layers)
        for name in names:
            opened.dataset(name)  # raises for a layer that does not exist, which no other row makes up for
        fits = Fits(opened, rows, splits, folder.path.parent / ".fits", asked.fresh)
        tested = tested_rows(rows, splits, asked.group)
        fitted, results, not_fitted = _measure(opened, names, asked, fits, tested)
    compare_with_best(results, fitted, tested, metric)
    take = min((each for each in results if each["layer"] in names), key=lambda each: rank(each, metric))["layer"]
    probed: dict[str, Any] = {
        "layers": results,
        "not_fitted": not_fitted,
        "take": take,
        "store": str(store),
        "repeats": repeats,
        "seed": asked.seed,
        "metric": asked.metric,
        "provenance": provenance,
    }
    with folder.written() as unfinished:
        (unfinished / "probe.md").write_text(format_probe(probed) + "\n", encoding="utf-8")
        (unfinished / "probe.json").write_text(json.dumps(probed, indent=2) + "\n", encoding="utf-8")
        bars = [{**result, "head": result["layer"]} for result in results]
        figure = plot_intervals(bars, f"{Path(store).stem}: logistic regression by layer", asked.metric)
        figure.savefig(unfinished / "probe.png")
    log.info(f"written  {folder.path}/probe.md, probe.json, probe.png")
    return LayerProbe(**probed, out=str(folder.path))


def _measure(
    store: FeatureStore, names: list[str], asked: Request, fits: Fits, tested: Sequence[HeldOut]
) -> tuple[list[list[Result]], list[dict[str, Any]], dict[str, str]]:
    """Return the results of each layer and of the best two together, their summaries, and why others have none.

    Raises
    ------
    RequestError
        The first layer's error, if no layer can be fitted.
    """
    metric = find_metric(asked.metric)
    fitted: list[list[Result]] = []
    failed: dict[str, RequestError] = {}

    def of_layer(layer: str) -> Request:
        is_vector = store.kinds.get(layer.split(",")[0]) == "vector"
        return replace(asked, layer=layer, pool=asked.pool if is_vector else asked.pool or "avg+max")

    fits.fill([(_HEAD, of_layer(name)) for name in names])
    with Progress((len(names) + (len(names) > 1)) * len(tested), "fits") as progress:

        def measure(number: int, layer: str) -> None:
            try:
                fitted.append(fits.of(_HEAD, of_layer(layer), progress))
            except RequestError as error:
                failed[layer] = error
                progress.update(number * len(tested) - progress.n)

        for number, name in enumerate(names, start=1):
            measure(number, name)
        if not fitted:
            raise next(iter(failed.values()))
        alone = [summarise(each, tested) for each in fitted]
        if len(alone) > 1:
            best = {each["layer"] for each in sorted(alone, key=lambda each: rank(each, metric))[:2]}
            measure(len(names) + 1, ",".join(name for name in names if name in best))
    not_fitted = {layer: str(error).removeprefix(f"{_HEAD}: ") for layer, error in failed.items()}
    for layer, why in not_fitted.items():
        log.warning(f"{layer} was not fitted: {why}")
    return fitted, alone + [summarise(each, tested) for each in fitted[len(alone) :]], not_fitted


def format_probe(probed: dict[str, Any]) -> str:
    """Return a probe as a Markdown table, with the layer to use."""
    metric = find_metric(probed["metric"])
    lines = [f"| layer | features | {metric.title} [95 %] | behind the best [95 %] | fit s |", "|---|---|---|---|---|"]
    for layer in probed["layers"]:
        behind = (
            "best" if layer["is_best"] else with_interval(layer["behind"], layer["behind_interval"], 1, metric.digits)
        )
        value = with_interval(layer[metric.name], interval_of(layer, metric.name), probed["repeats"], metric.digits)
        lines.append(
            f"| {layer['layer']} | {layer['pool']}, {layer['n_features']} | {value} | {behind} | {layer['fit_seconds']:.2f} |"
        )
    lines += [not_fitted_line([name], why, 5) for name, why in probed["not_fitted"].items()]
    return "\n".join([*lines, "", f"Take {probed['take']}: the best single layer by {metric.name}."])
