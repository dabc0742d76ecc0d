"""Feature extraction as a scikit-learn transformer, from image files or arrays to features, with a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from .engines.registry import Engine
from .errors import RequestError, SourceError, must_be_one_of
from .extraction.preparation import prepare
from .extraction.recompute import embed
from .extraction.request import FeatureOptions, check_features
from .images.contents import Content, Pixels, distinct_contents, hash_files
from .options import ExtractOptions, flags_of, typed
from .pooling import POOLS, pool_maps
from .runtime.machine import cores
from .runtime.user_cache import cache_folder
from .store.content_cache import ContentCache
from .store.provenance import EARLIER, Provenance

_KEPT_AT_ONCE = 512  # images per part of the cache
_READY_AT_ONCE = 2  # bases kept in memory
_READY: dict[Any, tuple[Engine, Provenance]] = {}


class ConvFeatures(TransformerMixin, BaseEstimator):
    """Features of images from a frozen convolutional base.

    Parameters
    ----------
    backbone : str
        A key of ``BACKBONES``, or ``FILE.keras``.
    layer : str, optional
        Name or index; by default, the base's last feature map.
    pool : {'avg', 'max', 'avg+max', 'flatten'}
        How a feature map becomes a vector.
    image_size, preprocess, resize, decode, colour, background, range, weights, weights_sha256, dtype, batch_size, engine
        See ``FeatureOptions``.
    cache : path-like or None
        Folder in which features are cached by the SHA-256 of the image, in one store's parts per set of parameters that
        determine the features. By default the per-user cache; None disables caching.

    Raises
    ------
    RequestError
        In `fit`, if a parameter has a value that is not allowed; in `transform`, if the base has no such layer.
    SourceError
        In `transform`, if an image cannot be read.
    WeightsError
        In `transform`, if the weights cannot be found or differ.

    Notes
    -----
    There is nothing to fit, and labels are not used. An image that cannot be read is an error, since rows cannot be skipped.
    Augmented views are not offered, since they would give more rows than labels; use ``extract(views=...)`` and
    ``train_head`` instead.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> model = make_pipeline(ConvFeatures("vgg16"), LogisticRegression())
    >>> model.fit(["cat.jpg", "dog.jpg"], [0, 1])   # doctest: +SKIP
    """

    # The fields of FeatureOptions are separate arguments, because scikit-learn clones an estimator by its arguments and a
    # search sets each by name.
    def __init__(
        self,
        backbone: str = "vgg16",
        layer: str | None = None,
        pool: str = "avg",
        *,
        image_size: int | None = None,
        preprocess: str | None = None,
        resize: str = "bilinear",
        decode: str | None = None,
        colour: str | None = None,
        background: str | None = None,
        range: str | None = None,
        weights: str = "imagenet",
        weights_sha256: str | None = None,
        dtype: str = "float16",
        batch_size: int | None = None,
        engine: str = "auto",
        cache: str | Path | None = "default",
    ):
        self.backbone, self.layer, self.pool, self.image_size = backbone, layer, pool, image_size
        self.preprocess, self.resize, self.decode = preprocess, resize, decode
        self.colour, self.background, self.range = colour, background, range
        self.weights, self.weights_sha256 = weights, weights_sha256
        self.dtype, self.batch_size, self.engine, self.cache = dtype, batch_size, engine, cache

    def fit(self, X: Any, y: Any = None) -> ConvFeatures:
        """Check the parameters; there is nothing to fit."""
        check_features(self._options())
        return self

    def transform(self, X: Sequence[str | Path] | np.ndarray) -> np.ndarray:
        """Return the features of images.

        Parameters
        ----------
        X : sequence of path-like, or ndarray of shape (n_images, height, width, 3), uint8
            Files, or RGB images.

        Returns
        -------
        features : ndarray of shape (n_images, n_features), float32

        Raises
        ------
        RequestError
            If X has another type or shape.
        SourceError
            If a file is not a readable image.
        """
        keys, contents = _contents(X)
        options = self._options()
        engine, made = _ready(options, contents)
        (name,) = made.spec.layers
        cache = ContentCache(self._folder(), made)
        found = cache.read(name, [content.sha256 for content in contents])
        rest = [content for content in contents if content.sha256 not in found]
        new: dict[bytes, np.ndarray] = {}
        for some in embed(rest, made, engine, 1, min(8, cores())):
            if some.reasons:
                key, reason = next(iter(some.reasons.items()))
                raise SourceError(f"every image must be readable; {_name(contents, key)}: {reason}. Leave it out.")
            new |= dict(zip(some.keys, some.features[name], strict=True))
            if len(new) >= _KEPT_AT_ONCE:
                cache.keep(name, new)
                found, new = found | new, {}
        cache.keep(name, new)
        found |= new
        return pool_maps(np.stack([found[key] for key in keys]), "flatten" if made.spec.pool != "none" else self.pool)

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that X is not a table and that there is nothing to fit."""
        tags = super().__sklearn_tags__()
        tags.requires_fit, tags.input_tags.two_d_array, tags.input_tags.string = False, False, True
        tags.no_validation = True
        return tags

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled transformer; one of a version without a setting does as it did."""
        super().__setstate__({**EARLIER, **state})

    def _options(self) -> FeatureOptions:
        asked: dict[str, Any] = self.get_params(deep=False)
        del asked["cache"]
        kinds = {name: kind for name, (kind, _) in flags_of(ExtractOptions).items()}
        kinds |= {"layer": str | int | None, "pool": str}
        asked = {name: typed(name, kinds[name], value) for name, value in asked.items()}
        layer, pool = asked.pop("layer"), asked.pop("pool")
        if pool not in POOLS:
            raise must_be_one_of("pool", POOLS, pool)
        return FeatureOptions(
            layers=None if layer is None else (str(layer),),
            pool="none" if pool == "flatten" else pool,
            **asked,
        )

    def _folder(self) -> Path | None:
        if self.cache is None:
            return None
        return cache_folder() / "features" if self.cache == "default" else Path(self.cache)


def _ready(options: FeatureOptions, contents: Sequence[Any]) -> tuple[Engine, Provenance]:
    """Return the engine, checked on the first images, and its provenance; cached across the folds of a search."""
    key = options, _stamps(options)
    if key not in _READY:
        prepared = prepare(options, contents)
        while len(_READY) >= _READY_AT_ONCE:
            _READY.pop(next(iter(_READY)))
        _READY[key] = prepared.checked.engine, prepared.provenance
    return _READY[key]


def _stamps(options: FeatureOptions) -> tuple[int, ...]:
    """Return modification times of the user's own model and weights files, to detect changes."""
    return tuple(Path(name).stat().st_mtime_ns for name in (options.backbone, options.weights) if Path(name).is_file())


def _contents(X: Any) -> tuple[list[bytes], list[Any]]:
    """Return the key of each image, and the distinct images."""
    if isinstance(X, np.ndarray) and X.ndim == 4:
        if X.dtype != np.uint8 or X.shape[3] != 3:
            raise RequestError(
                f"images must be uint8 RGB, (n, height, width, 3); got {X.dtype}, {X.shape}. Convert them."
            )
        given = [Pixels.of(each) for each in X]
        return [each.sha256 for each in given], list({each.sha256: each for each in given}.values())
    if isinstance(X, str | bytes | Path) or not all(isinstance(each, str | Path) for each in X):
        raise RequestError(
            f"images must be a list of paths or a uint8 array of shape (n, height, width, 3); got {type(X).__name__}. "
            "Pass one image as [path]."
        )
    files = [Path(each) for each in X]
    hashed = hash_files(files, cores())
    for file, key in zip(files, hashed, strict=True):
        if isinstance(key, str):
            raise SourceError(f"every image must be readable; {file}: {key}. Leave it out.")
    return [key for key in hashed if isinstance(key, bytes)], distinct_contents(files, hashed)


def _name(contents: Sequence[Any], key: bytes) -> str:
    return next(str(each.file) for each in contents if isinstance(each, Content) and each.sha256 == key)
