"""Accuracy by layer, to choose a layer of a store."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Unpack

from features.options import takes
from features.runtime.log import log
from features.runtime.progress import Progress
from features.store.reader import FeatureStore

from ..heads.registry import check_heads
from ..options import ProbeOptions
from ..runs.folders import whole_folder
from ..runs.plots import plot_intervals
from .fit import Result
from .fit_cache import Fits
from .loading import describe_rows
from .request import Request
from .splitting import draw_splits, find_group
from .summary import compare_with_best, summarise, with_interval

_HEAD = "logistic"


@dataclass(frozen=True)
class LayerProbe:
    """The result of `probe`; a notebook displays its table.

    Attributes
    ----------
    layers : list of dict
        Test metrics of each layer in the order requested, then of the best two together; ``behind_interval`` is the interval
        of the difference from the best.
    take : str
        The best layer.
    store, out : str
        The store used, and the folder with the results.
    repeats, seed : int
    provenance : dict
        Of the store.
    """

    layers: list[dict[str, Any]]
    take: str
    store: str
    repeats: int
    seed: int
    provenance: dict[str, Any]
    out: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def _repr_markdown_(self) -> str:
        return format_probe(self.to_json())


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
        If a layer or a setting does not exist, or `out` exists already.
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
    folder = asked.folder("probe")
    with FeatureStore(store) as opened:
        rows, provenance = opened.rows.images(), opened.provenance
        asked = replace(asked, group=find_group(opened, asked.group, repeats))
        splits = draw_splits(rows, repeats, asked.seed, asked.group)
        log.info(f"store    {store}: {describe_rows(rows, asked.views or opened.views)}")
        names = asked.layer.split(",") if asked.layer else list(opened.layers)
        fits = Fits(opened, rows, splits, folder.parent / ".fits", asked.fresh)

        def of_layer(layer: str) -> Request:
            is_vector = opened.kinds.get(layer.split(",")[0]) == "vector"
            return replace(asked, layer=layer, pool=asked.pool if is_vector else asked.pool or "avg+max")

        if asked.cluster is not None:
            fits.fill([(_HEAD, of_layer(name)) for name in names])
        with Progress((len(names) + (len(names) > 1)) * repeats, "fits") as progress:

            def measure(layer: str) -> list[Result]:
                return fits.of(_HEAD, of_layer(layer), progress)

            fitted = [measure(name) for name in names]
            if len(names) > 1:
                order = sorted(range(len(names)), key=lambda number: -summarise(fitted[number], splits[0])["accuracy"])
                fitted.append(measure(",".join(names[number] for number in sorted(order[:2]))))
    results = [summarise(each, splits[0]) for each in fitted]
    compare_with_best(results, fitted, rows.labels, splits)
    take = max(results[: len(names)], key=lambda result: result["accuracy"])["layer"]
    probed: dict[str, Any] = {
        "layers": results,
        "take": take,
        "store": str(store),
        "repeats": repeats,
        "seed": asked.seed,
        "provenance": provenance,
    }
    with whole_folder(folder, asked.overwrite) as unfinished:
        (unfinished / "probe.md").write_text(format_probe(probed) + "\n", encoding="utf-8")
        (unfinished / "probe.json").write_text(json.dumps(probed, indent=2) + "\n", encoding="utf-8")
        bars = [{**result, "head": result["layer"]} for result in results]
        figure = plot_intervals(bars, f"{Path(store).stem}: logistic regression by layer")
        figure.savefig(unfinished / "probe.png")
    log.info(f"written  {folder}/probe.md, probe.json, probe.png")
    return LayerProbe(**probed, out=str(folder))


def format_probe(probed: dict[str, Any]) -> str:
    """Return a probe as a Markdown table, with the layer to use."""
    lines = ["| layer | features | accuracy [95 %] | behind the best [95 %] | fit s |", "|---|---|---|---|---|"]
    for layer in probed["layers"]:
        behind = "best" if layer["behind"] == 0 else f"{layer['behind']:.3f}"
        if layer["behind_interval"] and layer["behind"]:
            behind += " [{:.3f}, {:.3f}]".format(*layer["behind_interval"])
        lines.append(
            f"| {layer['layer']} | {layer['pool']}, {layer['n_features']} | {with_interval(layer['accuracy'], layer['accuracy_interval'])} "
            f"| {behind} | {layer['fit_seconds']:.2f} |"
        )
    return "\n".join([*lines, "", f"Take {probed['take']}: the best single layer."])
