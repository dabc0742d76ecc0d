"""Contents through the base: decoded ahead, in full batches, into parts."""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..engines.registry import Engine
from ..errors import SourceError, StoreError, called, option
from ..images.contents import Content, ahead
from ..images.views import make_view
from ..runtime.progress import Progress
from ..store.parts import Key, Parts
from .plan import Plan
from .request import ExtractRequest

PART_IMAGES = 512  # most images per part on a cluster: under a minute of work at ten images per second
_ROUNDS_TO_INFINITY = 65520.0  # in float16, and all above
_SKIPS_ALWAYS_ALLOWED = 5  # so that a small set with a broken file or two is no mostly broken set


@dataclass(frozen=True)
class PassLimits:
    """How much a pass holds at once.

    Attributes
    ----------
    part_bytes, part_seconds : int, float
        Of features after which a part is committed. A kill loses at most two parts: one is written while the next fills.
    memory : float, optional
        Bytes of memory, half of which whole maps may take; this machine's if left out.
    disk : float, optional
        Bytes that are free for the store; what the file system reports if left out.
    """

    part_bytes: int = 64 << 20
    part_seconds: float = 30.0
    memory: float | None = None
    disk: float | None = None


USUAL_LIMITS = PassLimits()


def rows_a_part(row_bytes: int, options: ExtractRequest) -> int:
    """Return how many rows a part on a cluster has: whole batches; it depends on what is asked for alone.

    Parameters
    ----------
    row_bytes : int
        Of the features of one row.
    options : ExtractRequest
    """
    rows = min(options.part_images or PART_IMAGES, max(1, PassLimits.part_bytes // row_bytes))
    batches = max(1, rows // options.full_batch)
    return max(1, batches * options.full_batch // options.views) * options.views


def find_work(plan: Plan, parts: Parts, views: int) -> list[tuple[Content, list[int]]]:
    """Return the contents that lack views, and which."""
    found = []
    for content in plan.contents:
        lacking = [view for view in range(views) if (content.sha256, view) not in parts.places]
        if lacking and content.sha256 not in parts.skipped:
            found.append((content, lacking))
    return found


@dataclass
class Stages:
    """Seconds that a pass spent in each of its stages, which run at the same time.

    Attributes
    ----------
    decode : float
        Reading, decoding and resizing, all threads together.
    forward : float
        In the engine.
    write : float
        Compressing and writing parts.
    starved, blocked : float
        How long the engine waited for images, and for the part before to be written.
    """

    decode: float = 0.0
    forward: float = 0.0
    write: float = 0.0
    starved: float = 0.0
    blocked: float = 0.0

    @property
    def limit(self) -> str:
        """The stage that set the pace."""
        waits = {"forward": self.forward, "decode": self.starved, "write": self.blocked}
        return max(waits, key=lambda stage: waits[stage])


class Sink(Protocol):
    """What features go to: the store's `Parts`, or one part of a worker's."""

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
    """Send contents through the base in full batches and commit a part now and then, or without limits one of the whole.

    Returns what took how long.
    """
    stages, allowed, skipped = Stages(), allowed_skips(total, options), len(parts.skipped)

    def decode(work: tuple[Content, list[int]]) -> tuple[bytes, dict[int, np.ndarray] | str, float]:
        start, (content, views) = time.perf_counter(), work
        image = content.image(options.side, options.resize)
        if isinstance(image, str):
            return content.sha256, image, time.perf_counter() - start
        made = {view: make_view(image, options.augment, view, content.sha256, options.seed) for view in views}
        return content.sha256, made, time.perf_counter() - start

    asked = time.perf_counter()
    depth = 2 * options.full_batch // options.views + options.workers
    with ThreadPoolExecutor(options.workers) as pool, ThreadPoolExecutor(1) as writer:
        buffer = Buffer(parts, engine, options, writer, stages, limits)
        for sha256, views, seconds in ahead(pool, decode, todo, depth):
            stages.starved += time.perf_counter() - asked
            stages.decode += seconds
            if isinstance(views, str):
                buffer.skipped.append((sha256, views))
                progress.update(options.views)
                skipped += 1
            else:
                for view, image in views.items():
                    buffer.add((sha256, view), image)
                    progress.update()
            if skipped > allowed:
                raise too_many_skipped(skipped, total, allowed)
            asked = time.perf_counter()
        buffer.flush()
    return stages


class Buffer:
    """Images on their way into a batch, and features on their way into a part, which is written while more come."""

    def __init__(
        self,
        parts: Sink,
        engine: Engine,
        options: ExtractRequest,
        writer: ThreadPoolExecutor,
        stages: Stages,
        limits: PassLimits | None,
    ):
        self.parts, self.engine, self.dtype, self.stages, self._limits = parts, engine, options.dtype, stages, limits
        self.batch = np.zeros((options.full_batch, options.side, options.side, 3), np.uint8)
        self.waiting: list[Key] = []  # keys of the images in the batch
        self._writer, self._written = writer, writer.submit(float)
        self._empty()

    def _empty(self) -> None:
        self.keys: list[Key] = []
        self.features: list[Future[dict[str, np.ndarray]]] = []  # of each batch
        self.held = 0  # bytes that they take, or will
        self.skipped: list[tuple[bytes, str]] = []
        self.since = time.monotonic()

    def add(self, key: Key, image: np.ndarray) -> None:
        """Take one image."""
        self.batch[len(self.waiting)] = image
        self.waiting.append(key)
        if len(self.waiting) == len(self.batch):
            self._forward()
            if self._is_full():
                self._append()

    def _is_full(self) -> bool:
        limits = self._limits
        return limits is not None and (
            self.held >= limits.part_bytes or time.monotonic() - self.since >= limits.part_seconds
        )

    def flush(self) -> None:
        """Compute and commit what is left."""
        if self.waiting:
            self._forward()
        if self.keys or self.skipped:
            self._append()
        self._wait()

    def _forward(self) -> None:
        start = time.perf_counter()
        self.batch[len(self.waiting) :] = 0  # the last batch is padded, so that each has the same shape
        rows = {name: values[: len(self.waiting)] for name, values in self.engine.run(self.batch).items()}
        # Cast by the thread that writes, while the next batch is computed.
        self.features.append(self._writer.submit(_cast_all, rows, self.dtype))
        self.held += sum(values.size for values in rows.values()) * np.dtype(self.dtype).itemsize
        self.keys += self.waiting
        self.waiting = []
        self.stages.forward += time.perf_counter() - start

    def _append(self) -> None:
        self._wait()  # so that at most one part is on its way
        self._written = self._writer.submit(self._write, self.features, self.keys, self.skipped)
        self._empty()

    def _write(
        self, cast: list[Future[dict[str, np.ndarray]]], keys: list[Key], skipped: list[tuple[bytes, str]]
    ) -> float:
        start, batches = time.perf_counter(), [each.result() for each in cast]  # done: this thread came to them before
        names = batches[0] if batches else ()
        features = {name: np.concatenate([batch[name] for batch in batches]) for name in names}
        self.parts.append(features, keys, skipped)
        return time.perf_counter() - start

    def _wait(self) -> None:
        """Wait until the part before is written; what went wrong there is raised here."""
        start = time.perf_counter()
        self.stages.write += self._written.result()
        self.stages.blocked += time.perf_counter() - start


def _cast_all(features: dict[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    return {name: cast_features(name, values, dtype) for name, values in features.items()}


def cast_features(layer: str, values: np.ndarray, dtype: str) -> np.ndarray:
    """Return features in the store's dtype.

    Raises
    ------
    StoreError
        If it cannot hold them.
    """
    largest = max(float(values.max()), -float(values.min()))
    if not np.isfinite(largest):
        raise StoreError(
            f"the base gives values of {layer} that are not finite. Check its weights and {called('preprocess')}."
        )
    if dtype == "float16" and largest >= _ROUNDS_TO_INFINITY:
        raise StoreError(
            f"values of {layer} reach {largest:.0f}; float16 ends at 65504. Use {option('dtype', 'float32')}"
        )
    if dtype == "float16" and "tensorflow" in sys.modules:  # as with a real base; it takes seconds to import
        import tensorflow as tf

        with tf.device("cpu"):  # the same bits as NumPy's, in a seventh of the time
            return tf.cast(values, tf.float16).numpy()
    return values.astype(dtype)


def allowed_skips(total: int, options: ExtractRequest) -> int:
    """Return how many of `total` files may be unusable before a run stops."""
    if options.max_skipped is not None:
        return int(options.max_skipped * total)
    return max(int(0.05 * total), _SKIPS_ALWAYS_ALLOWED)


def too_many_skipped(skipped: int, total: int, allowed: int) -> SourceError:
    """Return the error for a set that is mostly broken."""
    return SourceError(
        f"skipped files must be at most {allowed} of {total}; got {skipped} so far. Check the data, "
        f"or accept more: {option('max_skipped', min(1.0, round(2 * skipped / total + 0.05, 1)))}"
    )
