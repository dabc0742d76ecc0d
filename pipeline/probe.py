"""Accuracy layer by layer: which layer of a store to take."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from features.progress import Progress
from features.store import FeatureStore

from .compare import draw_splits, summarise
from .evaluate import difference_interval
from .plots import plot_comparison
from .runs import run_folder, whole_folder
from .train import describe_rows, fit_head, read_features


def probe(
    store: str | Path,
    *,
    pool: str | None = None,
    views: int | None = None,
    repeats: int = 5,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a logistic regression on each layer of a store, and on the best two together, on the same rows.

    Parameters
    ----------
    store : path-like
        A finished feature store of several layers.
    pool : str, optional
        How maps become vectors; average and maximum side by side if left out.
    views : int, optional
        Use the first so many views of each image; all if left out.
    repeats : int
        So many stratified splits are drawn; 1 takes the store's own.
    seed : int
        Of the first drawn split.
    out : path-like, optional
        Folder of the probe; ``runs/<store>-probe``, numbered where that is taken, if left out.
    overwrite : bool
        Replace a probe that is there.
    say : callable
        Takes each line that tells what was decided.

    Returns
    -------
    probed : dict
        ``layers``: a list in the store's order, then the best two together, with test figures and the difference to
        the best, ``behind_interval``; ``take``: the best layer.
    """
    folder = run_folder(out, f"{Path(store).stem}-probe", overwrite)
    with FeatureStore(store) as opened:
        rows, provenance = opened.rows.images(), opened.provenance
        splits = draw_splits(rows, repeats, seed)
        say(f"store    {store}: {describe_rows(rows, views or opened.views)}")
        names, results = list(opened.layers), []
        with Progress((len(names) + (len(names) > 1)) * repeats, "fits") as progress:

            def measure(layer: str) -> dict[str, Any]:
                is_map = len(opened.dataset(layer.split(",")[0]).shape) == 4
                features = read_features(opened, "logistic", layer, (pool or "avg+max") if is_map else None, views)
                fitted = []
                for split in splits:
                    fitted.append(fit_head("logistic", features, rows.labels, split, len(rows.class_names), seed))
                    progress.update()
                return summarise("logistic", features, fitted, splits[0])

            results = [measure(name) for name in names]
            if len(names) > 1:
                best_two = sorted(range(len(names)), key=lambda number: -results[number]["accuracy"])[:2]
                results.append(measure(",".join(names[number] for number in sorted(best_two))))
    _compare_with_best(results, splits[0])
    take = max(results[: len(names)], key=lambda result: result["accuracy"])["layer"]
    probed = {
        "layers": results,
        "take": take,
        "store": str(store),
        "repeats": repeats,
        "seed": seed,
        "provenance": provenance,
    }
    with whole_folder(folder, overwrite) as unfinished:
        (unfinished / "probe.md").write_text(format_probe(probed) + "\n", encoding="utf-8")
        (unfinished / "probe.json").write_text(json.dumps(probed, indent=2) + "\n", encoding="utf-8")
        bars = [{**result, "head": result["layer"]} for result in results]
        plot_comparison(bars, f"{Path(store).stem}: logistic regression by layer", unfinished / "probe.png")
    say(f"written  {folder}/probe.md, probe.json, probe.png")
    return {**probed, "out": str(folder)}


def format_probe(probed: dict[str, Any]) -> str:
    """Return a probe as a Markdown table and the layer to take."""
    lines = ["| layer | features | accuracy [95 %] | behind the best [95 %] | fit s |", "|---|---|---|---|---|"]
    for layer in probed["layers"]:
        low, high = layer["accuracy_interval"]
        behind = "best" if layer["behind"] == 0 else f"{layer['behind']:.3f}"
        if layer["behind_interval"] and layer["behind"]:
            behind += " [{:.3f}, {:.3f}]".format(*layer["behind_interval"])
        lines.append(
            f"| {layer['layer']} | {layer['pool']}, {layer['n_features']} | {layer['accuracy']:.3f} [{low:.3f}, {high:.3f}] "
            f"| {behind} | {layer['fit_seconds']:.2f} |"
        )
    return "\n".join([*lines, "", f"Take {probed['take']}: the best single layer."])


def _compare_with_best(results: list[dict[str, Any]], splits: np.ndarray) -> None:
    """Add to each result how far it is behind the best, on the same splits."""
    best = max(results, key=lambda result: result["accuracy"])
    for result in results:
        differences = np.subtract(best["accuracies"], result["accuracies"])
        result["behind"] = float(differences.mean())
        result["behind_interval"] = difference_interval(differences, splits) if len(differences) > 1 else None
