"""Running the base on contents, which are decoded ahead, batched, and written into parts."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..engines.registry import Engine
from ..errors import SourceError, StoreError, called, option
from ..images.contents import Content, ahead
from ..images.views import make_view
from ..runtime.progress import Progress
from ..store.parts import Key, Parts
from .request import ExtractRequest

if TYPE_CHECKING:
    from .plan import Plan  # imports all sources, which predictions do without

PART_IMAGES = 512  # most images per part on a cluster: under a minute of work at ten images per second
_ROUNDS_TO_INFINITY = 65520.0  # smallest value that float16 rounds to infinity
_REASONS = 5  # told of skipped files
_SKIPS_ALWAYS_ALLOWED = 5  # so that a few broken files do not stop a small set


@dataclass(frozen=True)
class PassLimits:
    """Limits of part size, memory and disk in a pass.

    Attributes
    ----------
    part_bytes, part_seconds : int, float
        A part is committed after this many bytes of features or seconds. A kill loses at most two parts, since one is
        written while the next is computed.
    memory : float, optional
        Bytes of memory, half of which whole maps may take; by default, this machine's.
    disk : float, optional
        Free bytes for the store; by default, as reported by the file system.
    """

    part_bytes: int = 64 << 20
    part_seconds: float = 30.0
    memory: float | None = None
    disk: float | None = None


USUAL_LIMITS = PassLimits()


def rows_per_part(row_bytes: int, options: ExtractRequest) -> int:
    """Return the number of rows per part on a cluster, whole batches; it depends only on the request.

    Parameters
    ----------
    row_bytes : int
        Bytes of the features of one row.
    options : ExtractRequest
    """
    rows = min(options.part_images or PART_IMAGES, max(1, PassLimits.part_bytes // row_bytes))
    batches = max(1, rows // options.full_batch)
    return max(1, batches * options.full_batch // options.views) * options.views


def find_work(plan: Plan, parts: Parts, views: int) -> list[tuple[Content, list[int]]]:
    """Return the contents that lack views, each with the missing views."""
    found = []
    for content in plan.contents:
        lacking = [view for view in range(views) if (content.sha256, view) not in parts.places]
        if lacking and content.sha256 not in parts.skipped:
            found.append((content, lacking))
    return found


@dataclass
class Stages:
    """Seconds that a pass spent in each of its concurrent stages.

    Attributes
    ----------
    decode : float
        Reading, decoding and resizing, summed over threads.
    forward : float
        Running the engine.
    write : float
        Compressing and writing parts.
    starved, blocked : float
        Time the engine waited for images, and for the previous part to be written.
    """

    decode: float = 0.0
    forward: float = 0.0
    write: float = 0.0
    starved: float = 0.0
    blocked: float = 0.0

    @property
    def limit(self) -> str:
        """The stage that limited the speed."""
        waits = {"forward": self.forward, "decode": self.starved, "write": self.blocked}
        return max(waits, key=lambda stage: waits[stage])


class Sink(Protocol):
    """The destination of features: a store's `Parts`, or one part on a worker."""

    skipped: dict[bytes, str]

    def append(self, features: dict[str, np.ndarray], keys: list[Key], skipped: list[tuple[bytes, str]]) -> None:
        """See `Parts.append`."""
        ...


def compute(
    todo: list[tuple[Content, list[int]]],
    total: int,
    engine: Engine,
    parts: Sink,
    options: ExtractRequest,
    progress: Progress,
    limits: PassLimits | None = USUAL_LIMITS,
) -> Stages:
    """Run the base on contents in batches and commit parts; without limits, commit everything as one part.

    Parameters
    ----------
    todo : list of (Content, list of int)
        Contents with their missing views; see `find_work`.
    total : int
        Contents of the plan, to which the limit on skipped files refers.
    engine : Engine
    parts : Sink
    options : ExtractRequest
    progress : Progress
    limits : PassLimits or None

    Returns
    -------
    Stages

    Raises
    ------
    SourceError
        If too many contents cannot be used.
    StoreError
        If a part cannot be written, or the store's dtype cannot hold the features.
    """
    stages, allowed, skipped = Stages(), allowed_skips(total, options), list(parts.skipped.values())

    def decode(work: tuple[Content, list[int]]) -> tuple[bytes, dict[int, np.ndarray] | str, float]:
        start, (content, views) = time.perf_counter(), work
        image = content.image(options.image_spec)
        if isinstance(image, str):
            return content.sha256, image, time.perf_counter() - start
        made = {view: make_view(image, options.augment, view, content.sha256, options.seed) for view in views}
        return content.sha256, made, time.perf_counter() - start

    depth = 2 * options.full_batch // options.views + options.workers
    with ThreadPoolExecutor(options.workers) as pool, ThreadPoolExecutor(1) as runner, ThreadPoolExecutor(1) as writer:
        buffer = Buffer(parts, engine, options, runner, writer, stages, limits)
        try:
            for sha256, views, seconds in ahead(pool, decode, todo, depth):
                stages.decode += seconds
                if isinstance(views, str):
                    buffer.skipped.append((sha256, views))
                    progress.update(options.views)
                    skipped.append(views)
                else:
                    for view, image in views.items():
                        buffer.add((sha256, view), image)
                        progress.update()
                if len(skipped) > allowed:
                    raise too_many_skipped(skipped, total, allowed)
            buffer.flush()
        except KeyboardInterrupt:
            if limits is not None:
                buffer.keep()
            raise
    return stages


class Buffer:
    """Collects images into batches and features into parts.

    A batch is collected while the one before is computed, and a part is written while the next one is computed.
    """

    def __init__(
        self,
        parts: Sink,
        engine: Engine,
        options: ExtractRequest,
        runner: ThreadPoolExecutor,
        writer: ThreadPoolExecutor,
        stages: Stages,
        limits: PassLimits | None,
    ):
        self.parts, self.engine, self.dtype, self.stages, self._limits = parts, engine, options.dtype, stages, limits
        self.batch, self._other = np.zeros((2, options.full_batch, options.side, options.side, 3), np.uint8)
        self.waiting: list[Key] = []  # keys of the images in the batch
        self._runner = runner
        self._running: tuple[Future[dict[str, np.ndarray]], list[Key]] | None = None  # a batch, and its keys
        self._idle_since, self._blocked = time.perf_counter(), 0.0
        self._writer, self._written = writer, writer.submit(float)
        self._empty()

    def _empty(self) -> None:
        self.keys: list[Key] = []
        self.features: list[Future[dict[str, np.ndarray]]] = []  # of each batch
        self.held = 0  # their bytes in the store's dtype
        self.skipped: list[tuple[bytes, str]] = []
        self.since = time.monotonic()

    def add(self, key: Key, image: np.ndarray) -> None:
        """Add one image."""
        self.batch[len(self.waiting)] = image
        self.waiting.append(key)
        if len(self.waiting) == len(self.batch):
            self._forward()

    def _is_full(self) -> bool:
        limits = self._limits
        return (
            limits is not None
            and bool(self.keys)
            and (self.held >= limits.part_bytes or time.monotonic() - self.since >= limits.part_seconds)
        )

    def flush(self) -> None:
        """Compute and commit the rest."""
        if self.waiting:
            self._forward()
        self._collect()
        if self.keys or self.skipped:
            self._append()
        self._wait()
        self.stages.blocked += self._blocked

    def keep(self) -> None:
        """Commit what is computed, after an interruption at any line; at most a batch is lost."""
        rows = [len(next(iter(each.result().values()))) for each in self.features]
        if sum(rows) > len(self.keys):  # interrupted before the keys of the last batch were added
            self.features.pop()
        self._collect()
        if self.keys:
            self._append()
        self._wait()

    def _forward(self) -> None:
        """Begin to compute the batch, once the one before is done; commit a part if it is time to."""
        self._collect()
        self._running = self._runner.submit(self._run, self.batch[: len(self.waiting)], self._blocked), self.waiting
        self.batch, self._other, self.waiting, self._blocked = self._other, self.batch, [], 0.0
        if self._is_full():
            self._append()

    def _run(self, images: np.ndarray, blocked: float) -> dict[str, np.ndarray]:
        start = time.perf_counter()
        idle = start - self._idle_since
        self.stages.blocked += min(idle, blocked)
        self.stages.starved += max(idle - blocked, 0.0)
        rows = self.engine.run(images)
        self._idle_since = time.perf_counter()
        self.stages.forward += self._idle_since - start
        return rows

    def _collect(self) -> None:
        """Take the features of the batch that is being computed, if there is one."""
        if self._running is None:
            return
        rows, keys = self._running[0].result(), self._running[1]
        self._running = None
        # The writer thread casts while the next batch is computed.
        self.features.append(self._writer.submit(_cast_all, rows, self.dtype))
        self.held += sum(values.size for values in rows.values()) * np.dtype(self.dtype).itemsize
        self.keys += keys

    def _append(self) -> None:
        self._wait()  # so that at most one part is being written
        self._written = self._writer.submit(self._write, self.features, self.keys, self.skipped)
        self._empty()

    def _write(
        self, cast: list[Future[dict[str, np.ndarray]]], keys: list[Key], skipped: list[tuple[bytes, str]]
    ) -> float:
        start = time.perf_counter()
        batches = [each.result() for each in cast]  # all done: this same thread ran them earlier
        names = batches[0] if batches else ()
        features = {name: np.concatenate([batch[name] for batch in batches]) for name in names}
        self.parts.append(features, keys, skipped)
        return time.perf_counter() - start

    def _wait(self) -> None:
        """Wait until the previous part is written; raise any error from writing it."""
        start = time.perf_counter()
        self.stages.write += self._written.result()
        self._blocked += time.perf_counter() - start


def _cast_all(features: dict[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    return {name: cast_features(name, values, dtype) for name, values in features.items()}


def cast_features(layer: str, values: np.ndarray, dtype: str) -> np.ndarray:
    """Return features in the store's dtype.

    Raises
    ------
    StoreError
        If values are not finite, or the dtype cannot hold them.
    """
    largest = max(float(values.max()), -float(values.min()))
    if not np.isfinite(largest):
        raise StoreError(
            f"values of {layer} must be finite; the base gives NaN or infinity. Check its weights and {called('preprocess')}."
        )
    if dtype == "float16" and largest >= _ROUNDS_TO_INFINITY:
        raise StoreError(
            f"values of {layer} must be at most 65504 in float16; got {largest:.0f}. Use {option('dtype', 'float32')}"
        )
    if dtype == "float16" and sys.modules.get(
        "tensorflow"
    ):  # already imported if the base is real; importing takes seconds
        import tensorflow as tf

        with tf.device("cpu"):  # the same bits as NumPy, seven times as fast
            return tf.cast(values, tf.float16).numpy()
    return values.astype(dtype)


def allowed_skips(total: int, options: ExtractRequest) -> int:
    """Return how many of `total` files may be skipped before a run stops."""
    if options.max_skipped is not None:
        return int(options.max_skipped * total)
    return max(int(0.05 * total), _SKIPS_ALWAYS_ALLOWED)


def too_many_skipped(reasons: Iterable[str], total: int, allowed: int) -> SourceError:
    """Return the error for too many skipped files, given the reason of each."""
    counts = Counter(reasons)
    skipped = counts.total()
    told = "; ".join(f"{count} {reason}" for reason, count in counts.most_common(_REASONS))
    more = f"; {len(counts) - _REASONS} other reasons" if len(counts) > _REASONS else ""
    return SourceError(
        f"skipped files must be at most {allowed} of {total}; got {skipped} so far: {told}{more}. Check the data, "
        f"or accept more: {option('max_skipped', min(1.0, round(2 * skipped / total + 0.05, 1)))}"
    )
