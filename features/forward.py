"""Contents through the base: decoded ahead, in full batches, into parts."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .engines import Engine
from .errors import SourceError, StoreError
from .options import ExtractOptions
from .parts import Key, Parts
from .plan import Content, Plan, ahead
from .progress import Progress
from .views import make_view

PART_BYTES, PART_SECONDS = 64 << 20, 30.0  # a kill loses at most one part
_SKIPS_ALWAYS_ALLOWED = 5  # so that a small set with a broken file or two is no mostly broken set


def find_work(plan: Plan, parts: Parts, views: int) -> list[tuple[Content, list[int]]]:
    """Return the contents that lack views, and which."""
    found = []
    for content in plan.contents:
        lacking = [view for view in range(views) if (content.sha256, view) not in parts.places]
        if lacking and content.sha256 not in parts.skipped:
            found.append((content, lacking))
    return found


def first_batch(plan: Plan, options: ExtractOptions) -> np.ndarray:
    """Return the source's first images, as many as a batch has; where there are fewer, zeros follow."""
    batch = np.zeros((options.batch_size, options.side, options.side, 3), np.uint8)
    decoded = (content.image(options.side, options.resize) for content in plan.contents)
    readable = (image for image in decoded if not isinstance(image, str))
    for place, image in zip(batch, readable, strict=False):
        place[:] = image
    return batch


def compute(
    todo: list[tuple[Content, list[int]]], total: int, engine: Engine, parts: Parts, options: ExtractOptions
) -> None:
    """Send contents through the base in full batches and commit a part now and then."""
    buffer = Buffer(parts, engine, options)
    allowed = allowed_skips(total, options)

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
        depth = 2 * options.batch_size // options.views + options.workers
        for sha256, views in ahead(pool, decode, todo, depth):
            if isinstance(views, str):
                buffer.skipped.append((sha256, views))
                progress.update(options.views)
            else:
                for view, image in views.items():
                    buffer.add((sha256, view), image)
                    progress.update()
            if len(parts.skipped) + len(buffer.skipped) > allowed:
                raise too_many_skipped(len(parts.skipped) + len(buffer.skipped), total, allowed)
        buffer.flush()


class Buffer:
    """Images on their way into a batch, and features on their way into a part."""

    def __init__(self, parts: Parts, engine: Engine, options: ExtractOptions):
        self.parts, self.engine, self.dtype = parts, engine, options.dtype
        self.batch = np.zeros((options.batch_size, options.side, options.side, 3), np.uint8)
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
        self.features.append(
            {name: cast_features(name, values[: len(self.waiting)], self.dtype) for name, values in features.items()}
        )
        self.keys += self.waiting
        self.waiting = []

    def _append(self) -> None:
        names = self.features[0] if self.features else ()
        features = {name: np.concatenate([batch[name] for batch in self.features]) for name in names}
        self.parts.append(features, self.keys, self.skipped)
        self._empty()


def cast_features(layer: str, values: np.ndarray, dtype: str) -> np.ndarray:
    """Return features in the store's dtype.

    Raises
    ------
    StoreError
        If it cannot hold them.
    """
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    if not np.isfinite(cast).all():
        if np.isfinite(values).all():
            raise StoreError(
                f"values of {layer} reach {np.abs(values).max():.0f}; float16 ends at 65504. Use --dtype float32"
            )
        raise StoreError(f"the base gives values of {layer} that are not finite. Check its weights and --preprocess.")
    return cast


def allowed_skips(total: int, options: ExtractOptions) -> int:
    """Return how many of `total` files may be unusable before a run stops."""
    if options.max_skipped is not None:
        return int(options.max_skipped * total)
    return max(int(0.05 * total), _SKIPS_ALWAYS_ALLOWED)


def too_many_skipped(skipped: int, total: int, allowed: int) -> SourceError:
    """Return the error for a set that is mostly broken."""
    return SourceError(
        f"skipped files must be at most {allowed} of {total}; got {skipped} so far. Check the data, "
        f"or accept more: --max-skipped {min(1.0, round(2 * skipped / total + 0.05, 1))}"
    )
