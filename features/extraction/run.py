"""Running a pass: plan → decode → forward → append → commit."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ..engines.registry import reference_of
from ..errors import RequestError, SourceError, StoreError, called, listed, option
from ..images.survey import Survey
from ..options import ExtractOptions, takes
from ..runtime.log import log
from ..runtime.machine import cores
from ..runtime.progress import Progress
from ..sources.lists.corrections import Corrections
from ..sources.load import check_splits
from ..sources.source import Source
from ..store.atomic_file import free_space
from ..store.parts import Parts, held_provenance
from ..store.provenance import Origin, Provenance
from ..store.reader import FeatureStore, parts_folder
from ..store.schema import Rows, Skipped
from ..store.writer_lock import one_writer
from .forward import USUAL_LIMITS, PassLimits, Stages, allowed_skips, compute, find_work, too_many_skipped
from .held_splits import keep_held_splits
from .plan import Plan, check_classes, check_left, correct, find_finished, is_current, make_plan
from .preparation import Prepared, prepare
from .request import ExtractRequest, check_options, with_held

_SAID = 1_000_000_000  # bytes of features, before compression, whose joining takes seconds


@dataclass(frozen=True)
class Summary:
    """The result of a pass.

    Attributes
    ----------
    path : Path
        The store.
    rows, computed : int
        Rows of the store; rows that the base computed in this run.
    skipped : list of Skipped
        Files that were skipped, and why.
    seconds : dict of str to float
        Stage → wall time in seconds: ``plan``, ``load`` (weights and graph), ``pass``, ``commit``.
    stages : Stages, optional
        Time per stage of the pass; None if nothing was computed here.
    left_out : tuple of (str, str)
        Path of every file of the source that is no row and not skipped, such as a text, and the reason.
    """

    path: Path
    rows: int
    computed: int
    skipped: list[Skipped]
    seconds: dict[str, float]
    stages: Stages | None = None
    left_out: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return {
            "store": str(self.path),
            "rows": self.rows,
            "computed": self.computed,
            "skipped": [{"path": each.path, "reason": each.reason} for each in self.skipped],
            "left_out": [{"path": path, "reason": reason} for path, reason in self.left_out],
            "seconds": self.seconds,
        }


@takes(ExtractOptions)
def extract(data: str | Path, **options: Unpack[ExtractOptions]) -> Summary:
    """Run a frozen base once over labelled images and keep its features in one store.

    Running it again resumes an interrupted pass, adds new images, and does nothing if the store is up to date.

    Parameters
    ----------
    data : str or path-like
        A folder, a CSV file or the name of a set; see `load_source`.
    **options

    Returns
    -------
    Summary

    Raises
    ------
    RequestError
        If an option has a value that is not allowed.
    SourceError
        If the images are missing, or too many of them are unreadable.
    WeightsError
        If the weights cannot be found or have another SHA-256.
    EngineError
        If the engine cannot run the base, or its features differ too much from TensorFlow's.
    StoreError
        If the store has other settings, is locked or damaged, or cannot be written. Parts that were committed before
        the error are kept.
    ClusterError
        If the cluster cannot be reached or is lost, or a worker is unfit.

    Examples
    --------
    >>> features.extract("photos", backbone="vgg16", out="cache/photos.h5")   # doctest: +SKIP
    """
    return run_pass(ExtractRequest.of(data, options))


def run_pass(
    asked: ExtractRequest,
    *,
    prepare: Callable[..., Prepared[ExtractRequest]] = prepare,
    limits: PassLimits = USUAL_LIMITS,
) -> Summary:
    """Run the requested pass; see `extract`.

    Parameters
    ----------
    asked : ExtractRequest
    prepare : callable
        See `prepare`.
    limits : PassLimits
    """
    check_options(asked)
    if asked.part_images is not None and asked.cluster is None:
        raise RequestError(
            f"{called('part_images')} needs a cluster; got none. Leave it out, or name a cluster: {option('cluster')}"
        )
    clock = _Clock()
    corrections = None if asked.corrections is None else Corrections.read(asked.corrections)
    if corrections is None and asked.corrections_test:
        raise RequestError(
            f"{called('corrections_test')} must go with {called('corrections')}; got it alone. Name a file."
        )
    held = held_provenance(asked.path)
    survey = Survey(asked.range is None and held is None, asked.max_pixels)
    plan = keep_held_splits(make_plan(asked.source(), asked.workers, survey), asked)
    if corrections is not None:
        plan = correct(plan, corrections, asked.corrections_test)
    source = plan.source
    for line in (*plan.describe(), *(f"images   {told}" for told in survey.describe())):
        log.info(line)
    for line in plan.warnings():
        log.warning(line)
    asked = _decide_images(asked, held, survey)
    finished = find_finished(asked, plan)
    if finished is not None:
        rows, skipped, made = finished
        _check_rows(rows, skipped, asked)
        log.info(f"store    {asked.path} is complete and up to date, made by {made.spec.engine}; nothing to compute")
        clock.lap("plan")
        return Summary(asked.path, len(rows), 0, skipped, clock.laps, left_out=source.left_out)
    if not asked.allow_missing_classes:
        check_splits(source, plan.keys)  # again: copies may have moved
        check_classes(plan, asked)
    check_left(plan, asked)
    clock.lap("plan")
    prepared = prepare(
        asked,
        plan.contents,
        held,
        images=len(source),
        folder=asked.path.parent,
        memory=limits.memory,
        disk=limits.disk,
        origin=_origin_of(source, asked),
        compression=_pick_compression(asked, held),
        parity=held.parity if held else None,
        parity_on=held.parity_on if held else None,
    )
    return _compute(prepared, plan, limits, clock)


def _origin_of(source: Source, asked: ExtractRequest) -> Origin:
    """Return the record of where the images came from."""
    return Origin(
        kind=source.kind,
        data=asked.data,
        root=str(source.root.resolve()),
        limit=asked.limit,
        notes=source.notes,
        group=source.group,
        added=asked.add,
        drawn=source.drawn,
        asked=asked.told,
    )


def _pick_compression(asked: ExtractRequest, held: Provenance | None) -> str:
    """Return the compression: as requested, else the store's; a store of format 1, which has no digest of values, gets gzip."""
    if asked.compression is not None:
        return asked.compression
    return "gzip" if held is None or held.values is None else held.compression


def _decide_images(asked: ExtractRequest, held: Provenance | None, survey: Survey) -> ExtractRequest:
    """Return the request with what it leaves open about images: as for the features that exist, or the defaults."""
    if held is None:
        return replace(asked, range=asked.range or survey.range)
    usual, asked = asked.image_spec, with_held(asked, held.spec)
    other = {
        name: getattr(usual, name)
        for name in ("decode", "colour", "background")
        if getattr(usual, name) != getattr(asked.image_spec, name)
    }
    if other:
        kept = ", ".join(f"{name} {getattr(asked.image_spec, name)}" for name in other)
        log.info(
            f"images   {kept}, as {asked.path} was made so far. New stores have other defaults: "
            f"{' '.join(option(name, value) for name, value in other.items())} with another {called('out')}"
        )
    return asked


def _compute(prepared: Prepared[ExtractRequest], plan: Plan, limits: PassLimits, clock: _Clock) -> Summary:
    """Compute the missing rows of a store and commit it."""
    asked, provenance = prepared.options, prepared.provenance
    with one_writer(parts_folder(asked.path)):
        parts = Parts(asked.path, provenance, asked.retries)
        parts.forget(set(plan.keys))
        todo = find_work(plan, parts, asked.views)
        count = sum(len(views) for _, views in todo)
        _preflight(prepared, plan, count, limits)
        stages = None
        if todo:
            _start_engine(prepared)
            checked = prepared.checked
            parts.provenance = replace(provenance, parity=checked.parity, parity_on=checked.parity_on)
            if asked.cluster is None:
                clock.lap("load")
                with Progress(count, "images") as progress:
                    stages = compute(todo, len(plan.contents), checked.engine, parts, asked, progress, limits)
            else:
                from .distributed.run import cut, pass_on_cluster  # Dask is optional

                works = cut(todo, prepared.row_bytes, asked)
                with pass_on_cluster(parts, checked.engine, prepared.batch, plan.contents, asked) as run:
                    clock.lap("load")
                    run(works, len(plan.contents))
            clock.lap("pass")
        else:
            clock.lap("load")
        rows, skipped = plan.rows(asked.views, parts.skipped)
        _check_rows(rows, skipped, asked)
        if todo or not _is_current(asked, rows, skipped):
            if prepared.row_bytes * len(rows) >= _SAID:
                log.info(f"joining  parts as {asked.path}")
            parts.commit(rows, skipped, asked.layout)
        if asked.layout == "file":
            parts.remove()  # also parts left by a run that was killed between its commit and this line
        clock.lap("commit")
    if todo:
        _warn_of_equal_features(asked.path)
    computed = sum(len(views) for content, views in todo if content.sha256 not in parts.skipped)
    return Summary(asked.path, len(rows), computed, skipped, clock.laps, stages, plan.source.left_out)


def _warn_of_equal_features(path: Path) -> None:
    """Warn of different files with the same features, such as images whose content is lost in decoding."""
    with FeatureStore(path) as store:
        rows = np.flatnonzero(store.rows.views == 0)
        digests = np.hstack([store.row_digests[layer][rows] for layer in store.layers if layer in store.row_digests])
        alike: dict[bytes, dict[bytes, str]] = {}
        for row, digest in zip(rows.tolist(), digests, strict=True):
            files = alike.setdefault(digest.tobytes(), {})
            files.setdefault(store.rows.sha256[row].tobytes(), store.rows.paths[row])
    groups = sorted((list(files.values()) for files in alike.values() if len(files) > 1), key=len, reverse=True)
    if groups:
        log.warning(
            f"{sum(map(len, groups))} different files have the features of another, as if they were the same image, such as "
            f"{', '.join(groups[0][:3])}. Look at them; what is lost may need {option('background')} or {option('range')}"
        )


def _is_current(options: ExtractRequest, rows: Rows, skipped: list[Skipped]) -> bool:
    if not options.path.exists():
        return False
    with FeatureStore(options.path) as store:
        return is_current(store, options, rows, skipped)


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now


def _check_rows(rows: Rows, skipped: list[Skipped], options: ExtractRequest) -> None:
    total = len(rows) // options.views + len(skipped)
    allowed = allowed_skips(total, options)
    if len(skipped) > allowed:
        raise too_many_skipped((each.reason for each in skipped), total, allowed)
    if not len(rows):
        raise SourceError(
            f"{options.data} has no readable image. The first is {skipped[0].path}: {skipped[0].reason}. Check the files."
        )
    for split, classes in rows.counts().items():
        empty = [name for name, count in classes.items() if not count]
        if empty and not options.allow_missing_classes:
            raise SourceError(
                f"every class must have a readable image in every split; {split} has none of {listed(empty)}. "
                f"Repair the skipped files, or accept it: {option('allow_missing_classes', True)}"
            )


def _preflight(prepared: Prepared[ExtractRequest], plan: Plan, todo: int, limits: PassLimits) -> None:
    """Log what will be done; raise StoreError if the disk cannot hold it."""
    options, weights, row_bytes = prepared.options, prepared.base.weights, prepared.row_bytes
    images, kept = options.image_spec, options.layout == "parts"
    whole, parts = 0 if kept else row_bytes * len(plan.source) * options.views, row_bytes * todo
    free = free_space(parts_folder(options.path)) if limits.disk is None else limits.disk
    room = f"{free / 1e9:.1f} GB free" if free < math.inf else "this drive does not report its free space"
    layers = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in prepared.graph.layers.items())
    log.info(
        f"base     {options.backbone} at {images.size} px, {images.resize}, decode {images.decode}, colour {images.colour}, background {images.background}, fit {images.fit}, preprocess {options.preparation}: {layers}"
    )
    log.info(f"weights  {options.weights} from {weights.origin}, SHA-256 {weights.sha256[:12]}...")
    log.info(
        f"store    {options.path}: {todo} of {len(plan.contents) * options.views} images to compute, {options.dtype}, {prepared.provenance.compression}"
    )
    needed = "in parts" if kept else f"as one file, and {parts / 1e6:.0f} MB more while parts are joined"
    log.info(f"disk     at most {(whole or parts) / 1e6:.0f} MB {needed}; {room}")
    # Sizes are without compression, whose effect is known only afterwards.
    if todo and whole + parts > free:
        fits = not kept and parts <= free and not options.path.exists()  # one file cannot become parts
        keep = f"keep it in parts: {option('layout', 'parts')}, " if fits else ""
        raise StoreError(
            f"{options.path.parent} has {free / 1e6:.0f} MB free; the store and its parts need up to "
            f"{(whole + parts) / 1e6:.0f} MB. Free some, use {called('out')} on another disk, {keep}or store less: {option('pool', 'avg')}"
        )


def _start_engine(prepared: Prepared[ExtractRequest]) -> None:
    """Create and check the engine, and log it."""
    options, engine, checked = prepared.options, prepared.engine, prepared.checked
    reference = reference_of(prepared.base.library)
    away = (
        "" if engine.name == reference else f"; features {checked.parity:.1e} away from those of {reference} (relative)"
    )
    log.info(f"engine   {engine}, batches of {options.full_batch}{away}")
    if options.cluster is None:
        log.debug(f"threads  {options.workers} that decode; the engine has {cores()} cores")


def format_skipped(skipped: Sequence[Skipped]) -> list[str]:
    """Return lines that count skipped files by reason, the most frequent first."""
    return [f"{count:>6}  {reason}" for reason, count in Counter(each.reason for each in skipped).most_common()]
