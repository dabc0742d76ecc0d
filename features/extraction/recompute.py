"""Computing features of other images with the settings in a store's provenance."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..engines.registry import Engine, current_engine
from ..errors import CachedFeaturesError, SourceError, UnsafeFile
from ..images.bounds import MAX_PIXELS
from ..images.contents import ahead
from ..images.views import check_views, make_view
from ..store.provenance import Provenance
from .forward import cast_features
from .preparation import Decodable, Prepared, prepare
from .request import FeatureOptions


@dataclass(frozen=True)
class Embedded:
    """The features of a batch of contents.

    Attributes
    ----------
    keys : list of bytes
        SHA-256 of the usable contents.
    features : dict of str to ndarray of shape (n * views, ...)
        Layer → features in the store's dtype; the views of a content are consecutive.
    reasons : dict of bytes to str
        SHA-256 of unusable contents → reason.
    """

    keys: list[bytes]
    features: dict[str, np.ndarray]
    reasons: dict[bytes, str]


def prepare_again(made: Provenance, weights: str | Path | None = None) -> Prepared[FeatureOptions]:
    """Prepare the base and engine that a provenance describes, with weights checked against their SHA-256.

    Parameters
    ----------
    made : Provenance
    weights : path-like, optional
        Current path of the weights, or of the user's own model, if it differs from the provenance.

    Raises
    ------
    RequestError, WeightsError
        If there is no such base, or its weights differ.
    UnsafeFile
        If no base can be built from the provenance.
    """
    spec, own = made.spec, made.backbone_file
    spec.image_spec.check()
    check_views(made.views, spec.augment.name)
    options = FeatureOptions(
        backbone=str(weights or own) if own else spec.backbone,
        layers=spec.layers,
        pool=spec.pool,
        image_size=spec.image_size,
        preprocess=spec.preprocess,
        resize=spec.resize,
        decode=spec.decode,
        colour=spec.colour,
        background=spec.background,
        range=spec.range,
        fit=spec.fit,
        dtype=spec.dtype,
        engine=current_engine(spec.engine.name),
        batch_size=made.batch_size,
        weights=made.weights if own else str(weights or made.weights),
        weights_sha256=spec.weights_sha256,
        views=made.views,
        augment=spec.augment.name,
        seed=made.seed,
    )
    with _described():
        return prepare(options, ())


def rebuild_engine(made: Provenance, weights: str | Path | None = None) -> Engine:
    """Return the engine that a provenance describes; see `prepare_again`."""
    return start_engine(prepare_again(made, weights))


def start_engine(prepared: Prepared[FeatureOptions]) -> Engine:
    """Return the engine of what `prepare_again` returned."""
    with _described():
        return prepared.make_engine()


@contextmanager
def _described() -> Iterator[None]:
    """Raise UnsafeFile if a provenance passed its checks but describes a base that cannot be built."""
    try:
        yield
    except CachedFeaturesError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnsafeFile(f"provenance must say how features were made; {error!r}. Make the run again.") from error


def embed(
    contents: Sequence[Decodable],
    made: Provenance,
    engine: Engine,
    views: int,
    workers: int = 4,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Embedded]:
    """Yield the features of contents, in order, a batch of contents at a time.

    Parameters
    ----------
    contents : sequence of Content
    made : Provenance
    engine : Engine
        See `rebuild_engine`.
    views : int
        Number of views of each image, starting with view 0.
    workers : int
        Threads that read and decode images.
    max_pixels : int
        See `ImageSpec`.
    """
    for keys, images, reasons in decode_batches(contents, made, views, workers, max_pixels):
        yield Embedded(keys, forward(images, engine, made) if keys else {}, reasons)


def decode_batches(
    contents: Sequence[Decodable], made: Provenance, views: int, workers: int, max_pixels: int = MAX_PIXELS
) -> Iterator[tuple[list[bytes], np.ndarray, dict[bytes, str]]]:
    """Yield decoded contents, in order and ahead of their use, a batch of contents at a time; see `embed`.

    Yields
    ------
    keys : list of bytes
        SHA-256 of the usable contents.
    images : ndarray of shape (n * views, image_size, image_size, 3), uint8
    reasons : dict of bytes to str
        SHA-256 of unusable contents → reason.
    """
    spec, size = made.spec, made.batch_size
    wanted = replace(spec.image_spec, max_pixels=max_pixels)

    def decode(content: Decodable) -> tuple[bytes, np.ndarray | str]:
        try:
            image = content.image(wanted)
        except SourceError as error:  # nothing of it is kept
            return content.sha256, str(error)
        if isinstance(image, str):
            return content.sha256, image
        copies = [make_view(image, spec.augment.name, view, content.sha256, made.seed) for view in range(views)]
        return content.sha256, np.stack(copies)

    with ThreadPoolExecutor(workers) as pool:
        decoded = ahead(pool, decode, contents, 2 * size + workers)
        while some := list(itertools.islice(decoded, size)):
            usable = [(key, images) for key, images in some if not isinstance(images, str)]
            reasons = {key: images for key, images in some if isinstance(images, str)}
            none = np.zeros((0, spec.image_size, spec.image_size, 3), np.uint8)
            yield [key for key, _ in usable], np.concatenate([none, *(images for _, images in usable)]), reasons


def forward(images: np.ndarray, engine: Engine, made: Provenance) -> dict[str, np.ndarray]:
    """Run the base on images in batches, as the pass does."""
    batches, size = [], made.batch_size
    for first in range(0, len(images), size):
        features = engine.run(images[first : first + size]).items()
        batches.append({name: cast_features(name, values, made.spec.dtype) for name, values in features})
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
