"""The audit of a store's split: near-copies across it, a head's figures without them, series, and how optimistic it is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from features.errors import RequestError, called, command
from features.options import takes
from features.runtime.log import log
from features.runtime.progress import Progress
from features.splits import NEAR_COPIES, groups_of
from features.store.reader import FeatureStore
from features.store.schema import Rows

from ..data.near_copies import THRESHOLD
from ..heads.registry import check_heads
from ..options import AuditOptions
from ..runs.folders import read_results
from ..runs.predictions import Predictions, load_predictions
from ..training.fits.fit_cache import Fits
from ..training.loading import describe_rows, find_features
from ..training.relabelling import FILE as CORRECTIONS
from ..training.request import Request, corrections_of
from ..training.splitting import names_of, near_copies_of, units_among, warn_of_series
from .audit_text import format_audit
from .exposure import count_clusters, with_and_without, write_clusters
from .optimism import measure_optimism


@dataclass(frozen=True, repr=False)
class Audit:
    """The result of `audit`; a notebook displays its text.

    Attributes
    ----------
    counts : dict of str to int
        ``images``; ``clusters`` of near-copies, ``images_in_clusters``, the ``largest``; clusters ``with_byte_copies``,
        ``across_splits`` and ``across_labels``; ``test_images``, and how many of them have a near-copy in train or val,
        ``test_images_exposed``.
    threshold : float
        The likeness from which images count as near-copies; see `pipeline.data.near_copies.Likeness`.
    figures : dict
        Head → its test metrics on ``all`` test images, on those ``without`` a near-copy in training, and on the ``exposed``
        others; see `with_and_without`.
    optimism : dict or None
        How much better the head looks in folds drawn image by image than in folds that keep groups whole; see
        `measure_optimism`. None if there is no group and no cluster, or `repeats` is 0.
    series : dict or None
        How many images stand by their nearest neighbour in the list, and how many would by chance; see `Series`. None if the
        store has groups or one was asked for.
    group : str or None
        What to keep on one side of splits: the column that was asked for or that the store was extracted with, else `NEAR_COPIES`
        if clusters are in several splits.
    layer, pool, head, metric, store, out : str
        The head of `optimism`, its features, and the metric of the text; the store, and the folder with the results.
    views, seed : int
    provenance : dict
        Of the store.
    """

    counts: dict[str, int]
    threshold: float
    figures: dict[str, dict[str, Any]]
    optimism: dict[str, Any] | None
    series: dict[str, float] | None
    group: str | None
    layer: str
    pool: str
    views: int
    head: str
    metric: str
    store: str
    seed: int
    provenance: dict[str, Any]
    out: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __repr__(self) -> str:
        return format_audit(self.to_json())

    _repr_markdown_ = __repr__


@takes(AuditOptions)
def audit(store: str | Path, **options: Unpack[AuditOptions]) -> Audit:
    """Find near-copies in a store, and measure how far its test figures can be trusted.

    Parameters
    ----------
    store : path-like
        A finished feature store.
    **options

    Returns
    -------
    audited : Audit

    Raises
    ------
    RequestError
        If a head, layer, setting or column does not exist, `out` exists already, `run` is not a run of this store, or the head
        cannot be fitted.
    StoreError
        If the store is missing or damaged.

    Examples
    --------
    >>> found = pipeline.audit("cache/photos.h5")   # doctest: +SKIP
    >>> found.counts["test_images_exposed"], found.optimism["accuracy"]["interval"]   # doctest: +SKIP
    """
    asked, head, repeats = Request.of(store, options), options.get("head", "logistic"), options.get("repeats", 1)
    check_heads([head], asked.settings)
    if repeats < 0:
        raise RequestError(f"{called('repeats')} must be at least 0; got {repeats}. Leave it out for 1.")
    folder, run = asked.folder("audit"), options.get("run")
    if run is not None:
        asked = replace(asked, **corrections_of(read_results(Path(run))[0], Path(run) / CORRECTIONS))
    with FeatureStore(store) as opened:
        rows, provenance, features = asked.rows(opened), opened.provenance, find_features(opened, head, asked)
        predictions = None if run is None else _predictions_of(Path(run), rows, store)
        log.info(f"store    {store}: {describe_rows(rows, features.views)}")
        own = None if opened.made.origin is None else opened.made.origin.group
        group = asked.group or own
        if group not in (None, NEAR_COPIES):
            groups_of(rows.columns, group)
        series = warn_of_series(opened, asked) if group is None else None
        found = near_copies_of(opened, asked)
        counts = count_clusters(found, rows, rows.splits)
        kept = folder.path.parent / ".fits"
        if predictions is None:
            predictions = _fit_on_own_split(opened, rows, head, replace(asked, group=own), kept)
        units = found.clusters if group == NEAR_COPIES else units_among(rows, np.ones(len(rows), bool), group)
        optimism = None
        if repeats and (group or counts["clusters"]):
            asked = replace(asked, group=group or NEAR_COPIES, clusters=names_of(found, rows))
            optimism = measure_optimism(opened, asked.rows(opened), head, asked, repeats, kept)
    audited: dict[str, Any] = {
        "counts": counts,
        "threshold": THRESHOLD,
        "figures": {
            name: with_and_without(rows.labels, list(predictions.splits), each, found, units)
            for name, each in predictions.probabilities.items()
        },
        "optimism": optimism,
        "series": None if series is None else asdict(series),
        "group": group or (NEAR_COPIES if counts["across_splits"] else None),
        "layer": features.layer,
        "pool": features.pool,
        "views": features.views,
        "head": head,
        "metric": asked.metric,
        "store": str(store),
        "seed": asked.seed,
        "provenance": provenance,
    }
    with folder.written() as unfinished:
        text = json.dumps(audited, indent=2, ensure_ascii=False)
        (unfinished / "audit.json").write_text(text + "\n", encoding="utf-8")
        (unfinished / "audit.md").write_text(format_audit(audited) + "\n", encoding="utf-8")
        write_clusters(unfinished, rows, found)
    log.info(f"written  {folder.path}/audit.md, audit.json, clusters.csv, pairs.csv, groups.csv")
    return Audit(**audited, out=str(folder.path))


def _predictions_of(run: Path, rows: Rows, store: str | Path) -> Predictions:
    """Return the predictions of a run, which must be of the same images and labels.

    Raises
    ------
    RequestError
        If they are of others.
    """
    predictions = load_predictions(run)
    held = predictions.rows
    same = held.paths == rows.paths and np.array_equal(held.sha256, rows.sha256)
    if not same or held.class_names != rows.class_names or not np.array_equal(held.labels, rows.labels):
        other = "other labels of its images" if same else f"{len(held)} other images"
        raise RequestError(
            f"{called('run')} must be a run of this store as it is; {run} has predictions of {other}. "
            f"Run it again: {command('compare', store=store)}"
        )
    return predictions


def _fit_on_own_split(store: FeatureStore, rows: Rows, head: str, asked: Request, kept: Path) -> Predictions:
    """Fit a head on the store's own split, and return its predictions of the test images."""
    fits = Fits(store, rows, [rows.splits], kept, asked.fresh)
    fits.fill([(head, asked)])
    with Progress(1, "fits") as progress:
        result = fits.of(head, asked, progress)[0]
    return Predictions(rows, rows.splits[None], {head: [result.told()]}, {head: [result.probabilities]})
