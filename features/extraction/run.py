"""The pass: plan → decode → forward → append → commit."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ..backbones.keras_base import Base, build_base
from ..engines.batch_size import pick_batch_size
from ..engines.frozen_graph import Frozen
from ..engines.registry import Engine, describe_engine
from ..engines.selection import make_checked, pick_engine
from ..errors import RequestError, SourceError, StoreError
from ..options import ExtractOptions, takes
from ..pooling import pooled_shape
from ..runtime.log import log
from ..runtime.machine import memory_limit, peak_memory
from ..runtime.progress import Progress
from ..sources.load import load_source
from ..sources.source import Source
from ..store.atomic_file import free_space
from ..store.parts import Parts, held_provenance
from ..store.reader import FeatureStore, parts_folder
from ..store.schema import Rows, Skipped
from ..store.writer_lock import one_writer
from .forward import PART_BYTES, Stages, allowed_skips, compute, find_work, first_batch, too_many_skipped
from .options import ExtractRequest, check_options
from .plan import Plan, check_classes, make_plan
from .provenance import find_finished, is_current, make_provenance


@dataclass(frozen=True)
class Summary:
    """What a pass did.

    Attributes
    ----------
    path : Path
    rows, computed : int
        Rows of the store; images, views counted, that went through the base in this run.
    skipped : list of Skipped
        Files that are not rows, and why.
    seconds : dict of str to float
        Stage → wall seconds: ``plan``, ``load`` (weights and graph), ``pass``, ``commit``.
    stages : Stages, optional
        What the pass was busy with, where there was one.
    """

    path: Path
    rows: int
    computed: int
    skipped: list[Skipped]
    seconds: dict[str, float]
    stages: Stages | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON can carry it."""
        return {
            "store": str(self.path),
            "rows": self.rows,
            "computed": self.computed,
            "skipped": [{"path": each.path, "reason": each.reason} for each in self.skipped],
            "seconds": self.seconds,
        }


@takes(ExtractOptions)
def extract(data: str, **options: Unpack[ExtractOptions]) -> Summary:
    """Run a frozen base once over labelled images and keep its features in one store.

    Running it again goes on where it stopped, adds images that are new, and does nothing if there are none.

    Parameters
    ----------
    data : str
        A folder, a CSV manifest or the name of a set; see `load_source`.
    **options

    Returns
    -------
    Summary

    Raises
    ------
    RequestError, SourceError, WeightsError, StoreError
        Parts that were committed before the error are kept.

    Examples
    --------
    >>> features.extract("photos", backbone="vgg16", out="cache/photos.h5")   # doctest: +SKIP
    """
    asked, clock = ExtractRequest(data=data, **options), _Clock()
    check_options(asked)
    if asked.part_images is not None and asked.cluster is None:
        raise RequestError("part-images must go with --cluster; got it without. Leave it out.")
    source = load_source(data, asked.seed, asked.limit, asked.allow_missing_classes)
    plan = make_plan(source, asked.workers)
    for line in plan.describe():
        log.info(line)
    finished = find_finished(asked, plan)
    if finished is not None:
        rows, skipped, held = finished
        _check_rows(rows, skipped, asked)
        log.info(f"store    {asked.path} is whole and up to date, made by {held['engine']}; nothing to compute")
        clock.lap("plan")
        return Summary(asked.path, len(rows), 0, skipped, clock.laps)
    if not asked.allow_missing_classes:
        check_classes(plan, asked.side, asked.resize)
    clock.lap("plan")
    return _compute(asked, source, plan, clock)


def _compute(asked: ExtractRequest, source: Source, plan: Plan, clock: _Clock) -> Summary:
    """Compute what a store lacks and commit it."""
    held = held_provenance(asked.path)
    base = load_base(asked)
    asked = _with_pool(asked, held, base, plan)
    asked, frozen = settle_batch(asked, held, base)
    batch = first_batch(plan.contents, asked)
    name = pick_engine(asked.engine, held["engine"] if held else None, frozen, tell_apart(asked, base), batch)
    provenance = make_provenance(asked, source, base, describe_engine(name))
    with one_writer(parts_folder(asked.path)):
        parts = Parts(asked.path, provenance | {"parity": held.get("parity") if held else None}, asked.retry_skipped)
        parts.forget(set(plan.keys))
        todo = find_work(plan, parts, asked.views)
        count = sum(len(views) for _, views in todo)
        _preflight(asked, base, plan, count)
        stages = None
        if todo:
            engine, parts.provenance["parity"] = _start_engine(name, frozen, batch, count, asked)
            if asked.cluster is None:
                clock.lap("load")
                with Progress(count, "images") as progress:
                    stages = compute(todo, len(plan.contents), engine, parts, asked, progress)
            else:
                from .distributed.run import cut, pass_on_cluster  # Dask is optional

                works = cut(todo, row_bytes_of(asked, base), asked)
                with pass_on_cluster(parts, batch, plan.contents, asked) as run:
                    clock.lap("load")
                    run(works, len(plan.contents))
            clock.lap("pass")
        rows, skipped = plan.rows(asked.views, parts.skipped)
        _check_rows(rows, skipped, asked)
        if todo or not _is_current(asked, rows, skipped):
            parts.commit(rows, skipped, asked.layout)
        if asked.layout == "file":
            parts.remove()  # also those of a run that was killed between its commit and this line
        clock.lap("commit")
    computed = sum(len(views) for content, views in todo if content.sha256 not in parts.skipped)
    return Summary(asked.path, len(rows), computed, skipped, clock.laps, stages)


def settle_batch(options: ExtractRequest, held: dict[str, Any] | None, base: Base) -> tuple[ExtractRequest, Frozen]:
    """Fill in how many images a batch has, where the request leaves it out, and freeze the base for as many."""
    frozen = Frozen(base, options.side, options.full_batch, options.pool or "none")
    if options.batch_size is not None:
        return options, frozen
    if held is not None:
        size = held["batch_size"]
    else:
        size = pick_batch_size(options.engine, frozen, tell_apart(options, base))
    return replace(options, batch_size=size), frozen if size == options.full_batch else frozen.of_batch(size)


def tell_apart(options: ExtractRequest, base: Base) -> dict[str, Any]:
    """Return what decides how fast each engine runs a base."""
    return {
        "weights_sha256": base.weights.sha256,
        "layers": list(base.layers),
        "image_size": options.side,
        "batch_size": options.full_batch,
        "preprocess": options.preparation,
        "pool": options.pool,
    }


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


def load_base(options: ExtractRequest) -> Base:
    """Return the base that is asked for, with its weights."""
    return build_base(
        options.backbone,
        options.asked_layers,
        options.side,
        options.preparation,
        options.weights,
        options.weights_sha256,
    )


def _with_pool(options: ExtractRequest, held: dict[str, Any] | None, base: Base, plan: Plan) -> ExtractRequest:
    """Fill in how maps are pooled, where the request leaves it out."""
    if options.pool is not None:
        return options
    if held is not None:
        return replace(options, pool=held["pool"])
    values = sum(math.prod(shape) for shape in base.layers.values()) * len(plan.contents) * options.views
    options.path.parent.mkdir(parents=True, exist_ok=True)
    free = free_space(options.path.parent)
    room = memory_limit()
    on_disk, in_memory = 2 * values * np.dtype(options.dtype).itemsize, 4 * values
    if on_disk <= free and in_memory <= room / 2:
        return replace(options, pool="none")
    log.info(
        f"pool     avg: whole maps would take {on_disk / 1e9:.1f} GB on disk while they are made ({free / 1e9:.1f} GB free) and "
        f"{in_memory / 1e9:.1f} GB of memory as a matrix ({room / 1e9:.1f} GB in all). To store them anyway: --pool none"
    )
    return replace(options, pool="avg")


def _check_rows(rows: Rows, skipped: list[Skipped], options: ExtractRequest) -> None:
    total = len(rows) + len(skipped)
    allowed = allowed_skips(total, options)
    if len(skipped) > allowed:
        raise too_many_skipped(len(skipped), total, allowed)
    if not len(rows):
        raise SourceError(
            f"{options.data} has no readable image. First reason: {skipped[0].path}: {skipped[0].reason}. Check the files."
        )
    for split, classes in rows.counts().items():
        empty = [name for name, count in classes.items() if not count]
        if empty and not options.allow_missing_classes:
            raise SourceError(
                f"every class must have a readable image in every split; {split} has none of {', '.join(empty)}. "
                f"Repair the skipped files, or accept it: --allow-missing-classes"
            )


def row_bytes_of(options: ExtractRequest, base: Base) -> int:
    """Return what the features of one image take, before they are compressed."""
    values = sum(math.prod(pooled_shape(shape, options.pool or "none")) for shape in base.layers.values())
    return values * np.dtype(options.dtype).itemsize


def _preflight(options: ExtractRequest, base: Base, plan: Plan, todo: int) -> None:
    """Say what will be done; refuse it where the disk cannot hold it."""
    shapes = {name: pooled_shape(shape, options.pool or "none") for name, shape in base.layers.items()}
    row_bytes = row_bytes_of(options, base)
    whole, parts = row_bytes * len(plan.contents) * options.views, row_bytes * todo
    free = free_space(parts_folder(options.path))
    room = f"{free / 1e9:.1f} GB free" if free < math.inf else "this drive does not tell what is free"
    layers = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
    log.info(
        f"base     {options.backbone} at {options.side} px, {options.resize}, preprocess {options.preparation}: {layers}"
    )
    log.info(f"weights  {options.weights} from {base.weights.origin}, SHA-256 {base.weights.sha256[:12]}...")
    log.info(
        f"store    {options.path}: {todo} of {len(plan.contents) * options.views} images to compute, {options.dtype}, {options.compression}"
    )
    log.info(f"disk     at most {whole / 1e6:.0f} MB, and {parts / 1e6:.0f} MB more until it is whole; {room}")
    # Compression is not counted on: what a store needs is known only once it is there.
    if todo and whole + parts > free:
        raise StoreError(
            f"{options.path.parent} has {free / 1e6:.0f} MB free; the store and its parts need up to "
            f"{(whole + parts) / 1e6:.0f} MB. Free some, use --out on another disk, or store less: --pool avg"
        )


def _start_engine(
    name: str, frozen: Frozen, batch: np.ndarray, todo: int, options: ExtractRequest
) -> tuple[Engine, float]:
    """Make and check the engine, and say how long the pass takes and what it needs."""
    checked = make_checked(name, frozen, batch)
    away = "" if name == "tensorflow" else f"; {checked.parity:.1e} away from TensorFlow's features (relative)"
    log.info(f"engine   {describe_engine(name)}, batches of {options.full_batch}{away}")
    if todo > options.full_batch and options.cluster is None:
        seconds = checked.seconds * todo / options.full_batch
        waiting = (2 * options.full_batch + options.workers) * options.side**2 * 3 + 3 * PART_BYTES
        used = peak_memory()
        room = "" if used is None else f", {(used + waiting) / 1e9:.1f} GB of memory at its peak"
        log.info(f"predict  {_duration(seconds)} for the pass{room}")
    return checked.engine, checked.parity


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def format_skipped(skipped: Sequence[Skipped]) -> list[str]:
    """Return lines that count skipped files by reason, the most frequent first."""
    return [f"{count:>6}  {reason}" for reason, count in Counter(each.reason for each in skipped).most_common()]
