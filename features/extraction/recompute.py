"""Features of further images, computed as a store's provenance says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backbones.keras_base import Base, build_base
from ..engines.frozen_graph import Frozen
from ..engines.registry import ENGINES, Engine, is_installed, missing_engine
from ..errors import CachedFeaturesError, UnsafeFile, must_be_one_of
from ..images.contents import Content, ahead
from ..images.decode import check_resize
from ..images.views import check_views, make_view
from ..pooling import EXTRACT_POOLS
from .forward import cast_features
from .options import DTYPES

_MAX_SIDE, _MAX_BATCH = 4096, 4096


@dataclass(frozen=True)
class Embedded:
    """A batch of contents.

    Attributes
    ----------
    keys : list of bytes
        SHA-256 of those that could be used.
    features : dict of str to ndarray of shape (n * views, ...)
        By layer, in the store's dtype; the views of a content one after the other.
    reasons : dict of bytes to str
        Why others could not be used.
    """

    keys: list[bytes]
    features: dict[str, np.ndarray]
    reasons: dict[bytes, str]


def rebuild_base(held: dict[str, Any], weights: str | None = None) -> Base:
    """Return the base that a provenance describes, its weights checked against their SHA-256.

    Parameters
    ----------
    held : dict
        Provenance of a store.
    weights : str, optional
        Where the weights, or the model of one's own, lie today, if not where the provenance says.

    Raises
    ------
    UnsafeFile
        If the provenance does not describe one.
    RequestError, WeightsError
    """
    with _described():
        check_resize(held["resize"])
        check_views(held["views"], _augment(held))
        for name, known in (("dtype", DTYPES), ("pool", EXTRACT_POOLS)):
            if held[name] not in known:
                raise must_be_one_of(name, known, str(held[name]))
        if not (0 < held["image_size"] <= _MAX_SIDE and 0 < held["batch_size"] <= _MAX_BATCH):
            raise ValueError(f"images of {held['image_size']} px in batches of {held['batch_size']}")
        own = held["backbone_file"]
        return build_base(
            (weights or own) if own else held["backbone"],
            held["layers"],
            held["image_size"],
            held["preprocess"],
            held["weights"] if own else weights or held["weights"],
            held["weights_sha256"],
        )


def rebuild_engine(held: dict[str, Any], weights: str | None = None) -> Engine:
    """Return the engine that a provenance describes; see `rebuild_base`."""
    base = rebuild_base(held, weights)
    with _described():
        name = held["engine"].split()[0]
        if name not in ENGINES:
            raise must_be_one_of("engine", ENGINES, name)
        if not is_installed(name):
            raise missing_engine(name)
        return ENGINES[name].make(Frozen(base, held["image_size"], held["batch_size"], held["pool"]))


@contextmanager
def _described() -> Iterator[None]:
    try:
        yield
    except CachedFeaturesError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnsafeFile(f"provenance must say how features were made; {error!r}. Make the run again.") from error


def embed(
    contents: Sequence[Content], held: dict[str, Any], engine: Engine, views: int, workers: int = 4
) -> Iterator[Embedded]:
    """Yield the features of contents, in order, a batch of contents at a time.

    Parameters
    ----------
    contents : sequence of Content
    held : dict
        Provenance of a store.
    engine : Engine
        See `rebuild_engine`.
    views : int
        The first so many views of each image.
    workers : int
        Threads that read and decode.
    """

    def decode(content: Content) -> tuple[bytes, np.ndarray | str]:
        image = content.image(held["image_size"], held["resize"])
        if isinstance(image, str):
            return content.sha256, image
        made = [make_view(image, _augment(held), view, content.sha256, held["seed"]) for view in range(views)]
        return content.sha256, np.stack(made)

    with ThreadPoolExecutor(workers) as pool:
        decoded = ahead(pool, decode, contents, 2 * held["batch_size"] + workers)
        while some := list(itertools.islice(decoded, held["batch_size"])):
            usable = [(key, images) for key, images in some if not isinstance(images, str)]
            reasons = {key: images for key, images in some if isinstance(images, str)}
            features = _forward(np.concatenate([images for _, images in usable]), engine, held) if usable else {}
            yield Embedded([key for key, _ in usable], features, reasons)


def _forward(images: np.ndarray, engine: Engine, held: dict[str, Any]) -> dict[str, np.ndarray]:
    """Send images through the base in full batches, as the pass does."""
    batches = []
    for first in range(0, len(images), held["batch_size"]):
        some = images[first : first + held["batch_size"]]
        batch = np.zeros((held["batch_size"], *images.shape[1:]), np.uint8)
        batch[: len(some)] = some
        features = engine.run(batch).items()
        batches.append({name: cast_features(name, values[: len(some)], held["dtype"]) for name, values in features})
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _augment(held: dict[str, Any]) -> str:
    return held["augment"].split(",")[0]  # of `lecture` the seed is told too
