"""The pass: plan → decode → forward → append → commit."""

from __future__ import annotations

import math
import os
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from . import images
from .backbones import Base, build_base, check_request, find_backbone
from .engines import Engine, TensorFlowEngine
from .errors import RequestError, SourceError, StoreError, must_be_one_of
from .layout import COMPRESSION, Rows, Skipped
from .parts import LAYOUTS, Key, Parts, held_provenance
from .plan import Content, Plan, ahead, check_classes, make_plan
from .pooling import EXTRACT_POOLS, pooled_shape
from .progress import Progress
from .sources import Source, load_source
from .store import FeatureStore, fingerprint, parts_folder
from .views import check_views, make_view
from .writer import one_writer

DTYPES = ("float16", "float32")
PART_BYTES, PART_SECONDS = 64 << 20, 30.0  # a kill loses at most one part
_SKIPS_ALWAYS_ALLOWED = 5  # so that a small set with a broken file or two is no mostly broken set


@dataclass(frozen=True)
class ExtractOptions:
    """What to extract. Fields left None take the backbone's default.

    Attributes
    ----------
    data : str
        See `load_source`.
    out : path-like
        Name of the store; ``cache/<source>-<backbone>.h5`` if left out.
    backbone : str
    layers : tuple of str
        Names or indices.
    pool : {'none', 'avg', 'max', 'avg+max'}
        Pool before storing. Left out: what a store of this name has; else ``none``, or ``avg`` where whole maps would
        not fit into the free disk or into half of the memory.
    image_size : int
        Side in pixels.
    preprocess : {'imagenet', 'rescale', 'none'}
        See `build_base`.
    resize : str
        A key of ``images.RESIZE``.
    dtype : {'float16', 'float32'}
    batch_size : int
    weights, weights_sha256 : str
        See `load_weights`.
    limit : int
        A stratified subset of this many images.
    views : int
        Rows an image: the image itself and so many less one augmented copies.
    augment : str
        A key of ``AUGMENT``: what the copies are.
    seed : int
        Decides splits that the source does not give, and the copies of ``lecture``.
    compression : str
        A key of ``COMPRESSION``; all but ``none`` and ``gzip`` need hdf5plugin to be read by others.
    layout : {'file', 'parts'}
        One file, or parts that stay with an index over them, for stores larger than one file should be.
    retry_skipped : bool
        Try again files that could not be used before.
    max_skipped : float
        Stop once more than this fraction of the files could not be used.
    allow_missing_classes : bool
        Accept classes that have no readable image, or none in some split.
    workers : int
        Threads that read and decode.
    """

    data: str
    out: str | Path | None = None
    backbone: str = "vgg16"
    layers: tuple[str, ...] | None = None
    pool: str | None = None
    image_size: int | None = None
    preprocess: str | None = None
    resize: str = "bilinear"
    dtype: str = "float16"
    batch_size: int = 16
    weights: str = "imagenet"
    weights_sha256: str | None = None
    limit: int | None = None
    views: int = 1
    augment: str = "none"
    seed: int = 0
    compression: str = "lz4"
    layout: str = "file"
    retry_skipped: bool = False
    max_skipped: float | None = None
    allow_missing_classes: bool = False
    workers: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))

    @property
    def path(self) -> Path:
        """Where the store will be."""
        if self.out is not None:
            return Path(self.out)
        name = Path(self.data).resolve().stem if os.sep in self.data or Path(self.data).exists() else self.data
        return Path("cache") / f"{name}-{Path(self.backbone).stem}.h5"

    @property
    def side(self) -> int:
        """Side of the images in pixels."""
        return self.image_size or find_backbone(self.backbone).image_size

    @property
    def preparation(self) -> str:
        """How images are preprocessed."""
        return self.preprocess or find_backbone(self.backbone).preprocess


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
    """

    path: Path
    rows: int
    computed: int
    skipped: list[Skipped]
    seconds: dict[str, float]


def extract(data: str, *, say: Callable[[str], None] = lambda line: None, **options: Any) -> Summary:
    """Run a frozen base once over labelled images and keep its features in one store.

    Running it again goes on where it stopped, adds images that are new, and does nothing if there are none.

    Parameters
    ----------
    data : str
        A folder, a CSV manifest or the name of a set; see `load_source`.
    say : callable
        Takes each line that tells what was decided.
    **options
        Other fields of `ExtractOptions`.

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
    asked, clock = ExtractOptions(data=data, **options), _Clock()
    _check(asked)
    source = load_source(data, asked.seed, asked.limit, asked.allow_missing_classes)
    plan = make_plan(source, asked.workers)
    for line in plan.describe():
        say(line)
    if not asked.allow_missing_classes:
        check_classes(plan, asked.side, asked.resize)
    clock.lap("plan")
    base = _load(asked)
    asked = _with_pool(asked, base, plan, say)
    engine = TensorFlowEngine(base, asked.side, asked.batch_size, asked.pool or "none")
    with one_writer(parts_folder(asked.path), say):
        parts = Parts(asked.path, _provenance(asked, source, base, engine), asked.compression, asked.retry_skipped)
        todo = _todo(plan, parts, asked.views)
        _preflight(asked, base, engine, plan, sum(len(views) for _, views in todo), say)
        clock.lap("load")
        _compute(todo, len(plan.contents), engine, parts, asked)
        clock.lap("pass")
        rows, skipped = plan.rows(asked.views, parts.skipped)
        _check_rows(rows, skipped, asked)
        if todo or not _is_current(asked, rows, skipped):
            parts.commit(rows, skipped, asked.layout)
        if asked.layout == "file":
            parts.remove()  # also those of a run that was killed between its commit and this line
        clock.lap("commit")
    computed = sum(len(views) for content, views in todo if content.sha256 not in parts.skipped)
    return Summary(asked.path, len(rows), computed, skipped, clock.laps)


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now


def _check(options: ExtractOptions) -> None:
    """Refuse what can be refused before any file is read."""
    check_request(options.backbone, options.side, options.preparation)
    images.check_resize(options.resize)
    if options.dtype not in DTYPES:
        raise must_be_one_of("dtype", DTYPES, options.dtype)
    if options.pool is not None and options.pool not in EXTRACT_POOLS:
        raise must_be_one_of("pool", EXTRACT_POOLS, options.pool)
    if options.compression not in COMPRESSION:
        raise must_be_one_of("compression", COMPRESSION, options.compression)
    if options.layout not in LAYOUTS:
        raise must_be_one_of("layout", LAYOUTS, options.layout)
    if options.path.suffix != ".h5":
        raise RequestError(f"out must end in .h5; got {options.path}. Use --out {options.path.with_suffix('.h5')}")
    check_views(options.views, options.augment)
    if options.batch_size < 1:
        raise RequestError(f"batch-size must be at least 1; got {options.batch_size}. Leave it out for 16.")
    if options.max_skipped is not None and not 0 <= options.max_skipped <= 1:
        raise RequestError(f"max-skipped must be between 0 and 1; got {options.max_skipped}. Leave it out for 0.05.")


def _load(options: ExtractOptions) -> Base:
    layers = options.layers or (find_backbone(options.backbone).layer,)
    return build_base(
        options.backbone, layers, options.side, options.preparation, options.weights, options.weights_sha256
    )


def _with_pool(options: ExtractOptions, base: Base, plan: Plan, say: Callable[[str], None]) -> ExtractOptions:
    """Fill in how maps are pooled, where the request leaves it out."""
    if options.pool is not None:
        return options
    held = held_provenance(options.path)
    if held is not None:
        return replace(options, pool=held["pool"])
    values = sum(math.prod(shape) for shape in base.layers.values()) * len(plan.contents) * options.views
    options.path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(options.path.parent).free
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    on_disk, in_memory = 2 * values * np.dtype(options.dtype).itemsize, 4 * values
    if on_disk <= free and in_memory <= memory / 2:
        return replace(options, pool="none")
    say(
        f"pool     avg: whole maps would take {on_disk / 1e9:.1f} GB on disk while they are made ({free / 1e9:.1f} GB free) and "
        f"{in_memory / 1e9:.1f} GB of memory as a matrix ({memory / 1e9:.1f} GB in all). To store them anyway: --pool none"
    )
    return replace(options, pool="avg")


def _provenance(options: ExtractOptions, source: Source, base: Base, engine: Engine) -> dict[str, Any]:
    provenance = {
        "source": {
            "kind": source.kind,
            "data": options.data,
            "root": str(source.root.resolve()),
            "limit": options.limit,
        },
        "splits": list(source.notes),
        "seed": options.seed,
        "backbone": Path(options.backbone).name,
        "backbone_file": str(Path(options.backbone).resolve()) if options.backbone.endswith(".keras") else None,
        "layers": list(base.layers),
        "weights": options.weights if options.weights == "imagenet" else str(Path(options.weights).resolve()),
        "weights_origin": base.weights.origin,
        "weights_sha256": base.weights.sha256,
        "image_size": options.side,
        "resize": options.resize,
        "preprocess": options.preparation,
        "pool": options.pool,
        "views": options.views,
        "augment": f"lecture, seed {options.seed}" if options.augment == "lecture" else options.augment,
        "dtype": options.dtype,
        "engine": engine.name,
        "batch_size": engine.batch_size,
        "versions": {name: version(name) for name in ("numpy", "h5py", "pillow", "keras", "tensorflow")},
    }
    return {**provenance, "fingerprint": fingerprint(provenance)}


def _todo(plan: Plan, parts: Parts, views: int) -> list[tuple[Content, list[int]]]:
    """Return the contents that lack views, and which."""
    found = []
    for content in plan.contents:
        lacking = [view for view in range(views) if (content.sha256, view) not in parts.places]
        if lacking and content.sha256 not in parts.skipped:
            found.append((content, lacking))
    return found


def _compute(
    todo: list[tuple[Content, list[int]]], total: int, engine: Engine, parts: Parts, options: ExtractOptions
) -> None:
    """Send contents through the base in full batches and commit a part now and then."""
    buffer = _Buffer(parts, engine, options)
    allowed = _allowed_skips(total, options)

    def decode(work: tuple[Content, list[int]]) -> tuple[bytes, dict[int, np.ndarray] | str]:
        content, views = work
        image = content.image(options.side, options.resize)
        if isinstance(image, str):
            return content.sha256, image
        return content.sha256, {
            view: make_view(image, options.augment, view, content.sha256, options.seed) for view in views
        }

    count = sum(len(views) for _, views in todo)
    with ThreadPoolExecutor(options.workers) as pool, Progress(count, "images") as progress:
        depth = 2 * engine.batch_size // options.views + options.workers
        for sha256, views in ahead(pool, decode, todo, depth):
            if isinstance(views, str):
                buffer.skipped.append((sha256, views))
                progress.update(options.views)
            else:
                for view, image in views.items():
                    buffer.add((sha256, view), image)
                    progress.update()
            if len(parts.skipped) + len(buffer.skipped) > allowed:
                raise _too_many_skipped(len(parts.skipped) + len(buffer.skipped), total, allowed)
        buffer.flush()


class _Buffer:
    """Images on their way into a batch, and features on their way into a part."""

    def __init__(self, parts: Parts, engine: Engine, options: ExtractOptions):
        self.parts, self.engine, self.dtype = parts, engine, options.dtype
        self.batch = np.zeros((engine.batch_size, options.side, options.side, 3), np.uint8)
        self.waiting: list[Key] = []  # keys of the images in the batch
        self._empty()

    def _empty(self) -> None:
        self.keys: list[Key] = []
        self.features: list[dict[str, np.ndarray]] = []
        self.skipped: list[tuple[bytes, str]] = []
        self.since = time.monotonic()

    def add(self, key: Key, image: np.ndarray) -> None:
        """Take one image."""
        self.batch[len(self.waiting)] = image
        self.waiting.append(key)
        if len(self.waiting) == len(self.batch):
            self._forward()
            held = sum(values.nbytes for features in self.features for values in features.values())
            if held >= PART_BYTES or time.monotonic() - self.since >= PART_SECONDS:
                self._append()

    def flush(self) -> None:
        """Compute and commit what is left."""
        if self.waiting:
            self._forward()
        if self.keys or self.skipped:
            self._append()

    def _forward(self) -> None:
        self.batch[len(self.waiting) :] = 0  # the last batch is padded, so that each has the same shape
        features = self.engine.run(self.batch)
        self.features.append({name: self._cast(name, values[: len(self.waiting)]) for name, values in features.items()})
        self.keys += self.waiting
        self.waiting = []

    def _cast(self, layer: str, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            cast = values.astype(self.dtype)
        if not np.isfinite(cast).all():
            if np.isfinite(values).all():
                raise StoreError(
                    f"values of {layer} reach {np.abs(values).max():.0f}; float16 ends at 65504. Use --dtype float32"
                )
            raise StoreError(
                f"the base gives values of {layer} that are not finite. Check its weights and --preprocess."
            )
        return cast

    def _append(self) -> None:
        names = self.features[0] if self.features else ()
        features = {name: np.concatenate([batch[name] for batch in self.features]) for name in names}
        self.parts.append(features, self.keys, self.skipped)
        self._empty()


def _check_rows(rows: Rows, skipped: list[Skipped], options: ExtractOptions) -> None:
    total = len(rows) + len(skipped)
    allowed = _allowed_skips(total, options)
    if len(skipped) > allowed:
        raise _too_many_skipped(len(skipped), total, allowed)
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


def _allowed_skips(total: int, options: ExtractOptions) -> int:
    if options.max_skipped is not None:
        return int(options.max_skipped * total)
    return max(int(0.05 * total), _SKIPS_ALWAYS_ALLOWED)


def _too_many_skipped(skipped: int, total: int, allowed: int) -> SourceError:
    return SourceError(
        f"skipped files must be at most {allowed} of {total}; got {skipped} so far. Check the data, "
        f"or accept more: --max-skipped {min(1.0, round(2 * skipped / total + 0.05, 1))}"
    )


def _is_current(options: ExtractOptions, rows: Rows, skipped: list[Skipped]) -> bool:
    if not options.path.exists():
        return False
    with FeatureStore(options.path) as store:
        same = all(np.array_equal(getattr(store.rows, each.name), getattr(rows, each.name)) for each in fields(Rows))
        return same and store.skipped == skipped and bool(store.parts) == (options.layout == "parts")


def _preflight(
    options: ExtractOptions, base: Base, engine: Engine, plan: Plan, todo: int, say: Callable[[str], None]
) -> None:
    """Say what will be done, how long it takes and what it needs; refuse it where the disk cannot hold it."""
    shapes = {name: pooled_shape(shape, options.pool or "none") for name, shape in base.layers.items()}
    row_bytes = sum(int(np.prod(shape)) for shape in shapes.values()) * np.dtype(options.dtype).itemsize
    whole, parts = row_bytes * len(plan.contents) * options.views, row_bytes * todo
    free = shutil.disk_usage(parts_folder(options.path)).free
    layers = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
    say(
        f"base     {options.backbone} at {options.side} px, {options.resize}, preprocess {options.preparation}: {layers}"
    )
    say(f"weights  {options.weights} from {base.weights.origin}, SHA-256 {base.weights.sha256[:12]}...")
    say(f"engine   {engine.name}, batches of {engine.batch_size}")
    say(
        f"store    {options.path}: {todo} of {len(plan.contents) * options.views} images to compute, {options.dtype}, {options.compression}"
    )
    say(
        f"disk     at most {whole / 1e6:.0f} MB, and {parts / 1e6:.0f} MB more until it is whole; {free / 1e9:.1f} GB free"
    )
    # Compression is not counted on: what a store needs is known only once it is there.
    if todo and whole + parts > free:
        raise StoreError(
            f"{options.path.parent} has {free / 1e6:.0f} MB free; the store and its parts need up to "
            f"{(whole + parts) / 1e6:.0f} MB. Free some, use --out on another disk, or store less: --pool avg"
        )
    if todo > engine.batch_size:
        seconds = _seconds_a_batch(engine, options) * todo / engine.batch_size
        waiting = (2 * engine.batch_size + options.workers) * options.side**2 * 3 + 2 * PART_BYTES
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + waiting
        say(f"predict  {_duration(seconds)} for the pass, {memory / 1e9:.1f} GB of memory at its peak")


def _seconds_a_batch(engine: Engine, options: ExtractOptions) -> float:
    """Time the second of two batches: the first one also sets the engine up."""
    batch = np.zeros((engine.batch_size, options.side, options.side, 3), np.uint8)
    engine.run(batch)
    start = time.perf_counter()
    engine.run(batch)
    return time.perf_counter() - start


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def format_skipped(skipped: Sequence[Skipped]) -> list[str]:
    """Return lines that count skipped files by reason, the most frequent first."""
    return [f"{count:>6}  {reason}" for reason, count in Counter(each.reason for each in skipped).most_common()]
