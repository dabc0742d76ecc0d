"""Many heads on the same rows → one table."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import RequestError
from features.layout import Rows
from features.progress import Progress
from features.splits import SPLITS, stratified_split
from features.store import FeatureStore

from .choice import describe_settings
from .evaluate import accuracy_interval
from .heads import HEADS, find_head
from .plots import plot_comparison
from .request import Request
from .runs import whole_folder
from .train import Features, Fitted, describe_rows, fit_head, read_features

_COLUMNS = (
    "head", "layer", "pool", "n_features", "chosen", "accuracy", "accuracy_low", "accuracy_high",
    "macro_f1", "roc_auc", "fit_seconds", "predict_seconds",
)  # fmt: skip


def compare(
    store: str | Path,
    heads: Sequence[str] | None = None,
    *,
    repeats: int = 1,
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> dict[str, Any]:
    """Train heads on the same rows of a store and compare them on its test rows.

    Parameters
    ----------
    store : path-like
        A finished feature store.
    heads : sequence of str, optional
        Keys of ``HEADS``, or dotted names of scikit-learn classifiers; all of ``HEADS`` if left out.
    repeats : int
        1: the store's own split. More: so many splits drawn anew, stratified, of the same sizes; figures are means.
    say : callable
        Takes each line that tells what was decided.
    **options
        Other fields of `Request`.

    Returns
    -------
    comparison : dict
        ``heads``: a list, best first, with test figures. Also ``store``, ``rows``, ``repeats`` and ``provenance``.
    """
    asked = Request(store, **options)
    names = list(dict.fromkeys(heads or HEADS))
    for name in names:
        find_head(name)
    if repeats < 1:
        raise RequestError(f"repeats must be at least 1; got {repeats}. Leave it out for the store's own split.")
    folder = asked.folder("compare")
    with FeatureStore(store) as opened:
        rows, provenance = opened.rows.images(), opened.provenance
        splits = draw_splits(rows, repeats, asked.seed)
        say(f"store    {store}: {describe_rows(rows, asked.views or opened.views)}")
        say(
            "splits   the store's own"
            if repeats == 1
            else f"splits   {repeats} drawn anew, stratified, seeds from {asked.seed}"
        )
        results = []
        with Progress(len(names) * repeats, "fits") as progress:
            for name in names:
                features = read_features(opened, name, asked)
                fitted = []
                for split in splits:
                    fitted.append(fit_head(name, features, rows, split, asked.seed, asked.select))
                    progress.update()
                results.append(summarise(name, features, fitted, splits[0]))
    results.sort(key=lambda result: (-result["accuracy"], result["fit_seconds"]))
    comparison = {
        "heads": results,
        "store": str(store),
        "rows": rows.counts(),
        "repeats": repeats,
        "seed": asked.seed,
        "provenance": provenance,
    }
    with whole_folder(folder, asked.overwrite) as unfinished:
        _write(comparison, unfinished)
    say(f"written  {folder}/compare.md, compare.csv, compare.json, compare.png")
    return {**comparison, "out": str(folder)}


def draw_splits(rows: Rows, repeats: int, seed: int) -> list[np.ndarray]:
    """Return the store's own split, or so many stratified ones of the same sizes; copies of an image stay together."""
    if repeats == 1:
        return [rows.splits]
    keys = [key.tobytes() for key in rows.sha256]
    test = float(np.mean(rows.splits == SPLITS["test"]))
    val = float(np.mean(rows.splits == SPLITS["val"])) / (1 - test)
    drawn = []
    for number in range(seed, seed + repeats):
        splits = np.full(len(rows), SPLITS["train"], np.uint8)
        splits[stratified_split(rows.strata, keys, test, number)] = SPLITS["test"]
        rest = np.flatnonzero(splits == SPLITS["train"])
        chosen = stratified_split(rows.strata[rest], [keys[row] for row in rest], val, number)
        splits[rest[chosen]] = SPLITS["val"]
        drawn.append(splits)
    return drawn


def format_table(comparison: dict[str, Any]) -> str:
    """Return a comparison as a Markdown table."""
    lines = [
        "| head | features | chosen | accuracy [95 %] | macro F1 | ROC AUC | fit s | predict s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for head in comparison["heads"]:
        low, high = head["accuracy_interval"]
        auc = "-" if head["roc_auc"] is None else f"{head['roc_auc']:.3f}"
        lines.append(
            f"| {head['head']} | {head['layer']} {head['pool']}, {head['n_features']} | {head['chosen'] or '-'} "
            f"| {head['accuracy']:.3f} [{low:.3f}, {high:.3f}] | {head['macro_f1']:.3f} | {auc} "
            f"| {head['fit_seconds']:.2f} | {head['predict_seconds']:.3f} |"
        )
    return "\n".join(lines)


def summarise(name: str, features: Features, fitted: list[Fitted], splits: np.ndarray) -> dict[str, Any]:
    """Return a head's test figures, means over the splits that it was fitted on."""

    def mean(scores: list[float]) -> float | None:
        value = float(np.mean(scores))
        return None if math.isnan(value) else value

    accuracies = [each.test["accuracy"] for each in fitted]
    n_test = int(np.sum(splits == SPLITS["test"]))
    return {
        "head": name,
        "layer": features.layer,
        "pool": features.pool,
        "views": features.views,
        "n_features": features.X.shape[1],
        "chosen": describe_settings([each.choice.settings for each in fitted]),
        "accuracy": float(np.mean(accuracies)),
        "accuracy_interval": list(accuracy_interval(accuracies, len(splits) - n_test, n_test)),
        "accuracies": accuracies,
        "macro_f1": mean([each.test["macro_f1"] for each in fitted]),
        "roc_auc": mean([each.test["roc_auc"] for each in fitted]),
        "fit_seconds": mean([each.fit_seconds for each in fitted]),
        "predict_seconds": mean([each.predict_seconds for each in fitted]),
    }


def _write(comparison: dict[str, Any], folder: Path) -> None:
    heads = comparison["heads"]
    (folder / "compare.md").write_text(format_table(comparison) + "\n", encoding="utf-8")
    (folder / "compare.json").write_text(json.dumps(comparison, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    with open(folder / "compare.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
        table.writeheader()
        for head in heads:
            low, high = head["accuracy_interval"]
            table.writerow({**head, "accuracy_low": low, "accuracy_high": high})
    rows = comparison["rows"]
    title = (
        f"{Path(comparison['store']).stem}: {sum(rows['test'].values())} test rows, {comparison['repeats']} split(s)"
    )
    plot_comparison(heads, title, folder / "compare.png")
