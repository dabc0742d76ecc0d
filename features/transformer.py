"""Feature extraction as a scikit-learn transformer, from image files or arrays to features, with a cache."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from .backbones.registry import find_sha256
from .engines.registry import ENGINES, Engine, is_installed
from .errors import RequestError, SourceError, UnreadableImage, must_be_one_of
from .extraction.preparation import prepare
from .extraction.recompute import embed
from .extraction.request import FeatureOptions, check_features
from .images.bounds import MAX_PIXELS
from .images.contents import Content, Pixels, hash_files
from .images.decoding import upright
from .images.fitting import check_fit
from .images.image_spec import ImageSpec
from .options import ExtractOptions, flags_of, typed
from .pooling import POOLS, pool_maps
from .runtime.child_process import refuse_forks
from .runtime.machine import cores
from .runtime.user_cache import cache_folder, recall, remember
from .safefiles.regular_files import identify_file
from .store.content_cache import ContentCache
from .store.provenance import EARLIER, Provenance

_KEPT_AT_ONCE = 512  # images per part of the cache
_NOTE = "transformer"  # of the per-user cache
_READY_AT_ONCE = 2  # bases kept in memory
Images = str | Path | Image.Image | np.ndarray | Sequence[str | Path | Image.Image | np.ndarray]
_READY: dict[Any, tuple[Engine, Provenance]] = {}
_MAKING = threading.Lock()  # held while a base is made and `_READY` changes


class ConvFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features of images from a frozen base.

    Parameters
    ----------
    backbone : str
        A key of ``BACKBONES``, a model of timm (``timm:NAME``), or one of your own: ``FILE.onnx`` or ``FILE.keras``.
    layer : str, optional
        Name or index; by default, the base's last feature map.
    pool : {'avg', 'max', 'avg+max', 'cls', 'cls+avg', 'flatten'}
        How a feature map or tokens become a vector, see `pool_maps`.
    image_size, preprocess, resize, decode, colour, background, range, weights, weights_sha256, dtype, batch_size, engine, max_pixels
        See ``FeatureOptions``. Left out, `range` is all 16 bits, since the bits in use over a source are not known here.
    square : str, optional
        ``fit`` of ``FeatureOptions``, which is a transformer's method.
    mean, std, scale, channels : optional
        For ``FILE.onnx``, instead of `preprocess`: see ``FeatureOptions``.
    cache : path-like or None
        Folder in which features are cached by the SHA-256 of the image, in one store's parts per set of parameters that
        determine the features. By default ``features`` in the per-user cache; None disables caching. It grows without limit.

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
        resize: str | None = None,
        decode: str | None = None,
        colour: str | None = None,
        background: str | None = None,
        range: str | None = None,
        weights: str = "imagenet",
        weights_sha256: str | None = None,
        dtype: str = "float16",
        batch_size: int | None = None,
        engine: str = "auto",
        square: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        scale: float | None = None,
        channels: str | None = None,
        max_pixels: int = MAX_PIXELS,
        cache: str | Path | None = "default",
    ):
        self.backbone, self.layer, self.pool, self.image_size = backbone, layer, pool, image_size
        self.preprocess, self.resize, self.decode = preprocess, resize, decode
        self.colour, self.background, self.range = colour, background, range
        self.weights, self.weights_sha256 = weights, weights_sha256
        self.dtype, self.batch_size, self.engine = dtype, batch_size, engine
        self.square, self.mean, self.std, self.scale, self.channels = square, mean, std, scale, channels
        self.max_pixels, self.cache = max_pixels, cache

    def fit(self, X: Any, y: Any = None) -> ConvFeatures:
        """Check the parameters; there is nothing to fit."""
        self._options()
        return self

    def transform(self, X: Images) -> np.ndarray:
        """Return the features of images.

        The base is loaded only for images that are not in the cache.

        Parameters
        ----------
        X : path-like, PIL.Image.Image or ndarray of shape (height, width, 3), uint8
            Or a sequence of these, or an array of shape (n_images, height, width, 3).

        Returns
        -------
        features : ndarray of shape (n_images, n_features), float32
            Their names are ``convfeatures0`` and so on (`get_feature_names_out`, `set_output`), known once images were transformed.

        Raises
        ------
        RequestError
            If X has another type or shape, or no image.
        SourceError
            If a file is not a readable image.
        """
        options = self._options()
        keys, contents = _contents(X, options.image_spec)
        made = _recall_made(options)
        found = {} if made is None else self._read(made, contents)
        if made is None or len(found) < len(contents):
            engine, made_now = _ready(options, contents)
            if made is None or made_now.spec != made.spec:  # a library or file has changed since
                found = self._read(made_now, contents)
            made = made_now
            found |= self._compute([content for content in contents if content.sha256 not in found], engine, made)
        pool = "flatten" if made.spec.pool != "none" else self.pool
        features = pool_maps(np.stack([found[key] for key in keys]), pool)
        self._n_features_out = features.shape[1]
        return features

    def _read(self, made: Provenance, contents: Sequence[Any]) -> dict[bytes, np.ndarray]:
        """Return the cached features of contents by SHA-256."""
        return ContentCache(self._folder(), made).read(made.spec.layers[0], [content.sha256 for content in contents])

    def _compute(self, contents: Sequence[Any], engine: Engine, made: Provenance) -> dict[bytes, np.ndarray]:
        """Return features of contents by SHA-256, and cache them."""
        (name,) = made.spec.layers
        cache = ContentCache(self._folder(), made)
        found: dict[bytes, np.ndarray] = {}
        new: dict[bytes, np.ndarray] = {}
        for some in embed(contents, made, engine, 1, min(8, cores()), self.max_pixels):
            if some.reasons:
                key, reason = next(iter(some.reasons.items()))
                raise SourceError(f"every image must be readable; {_name(contents, key)}: {reason}. Leave it out.")
            new |= dict(zip(some.keys, some.features[name], strict=True))
            if len(new) >= _KEPT_AT_ONCE:
                cache.keep(name, new)
                found, new = found | new, {}
        cache.keep(name, new)
        return found | new

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that X is not a table and that there is nothing to fit."""
        tags = super().__sklearn_tags__()
        tags.requires_fit, tags.input_tags.two_d_array, tags.input_tags.string = False, False, True
        tags.no_validation = True
        return tags

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled transformer; one of a version without a setting does as it did."""
        earlier = {"square" if name == "fit" else name: value for name, value in EARLIER.items()}
        earlier |= dict.fromkeys(("mean", "std", "scale", "channels"))
        super().__setstate__({**earlier, "max_pixels": MAX_PIXELS, **state})

    def _options(self) -> FeatureOptions:
        """Return the parameters as a record, checked."""
        asked: dict[str, Any] = self.get_params(deep=False)
        del asked["cache"]
        kinds = {name: kind for name, (kind, _) in flags_of(ExtractOptions).items()}
        kinds |= {"layer": str | int | None, "pool": str, "square": kinds["fit"]}
        asked = {name: typed(name, kinds[name], value) for name, value in asked.items()}
        layer, pool = asked.pop("layer"), asked.pop("pool")
        if pool not in POOLS:
            raise must_be_one_of("pool", POOLS, pool)
        if self.square is not None:
            check_fit(self.square, "square")
        options = FeatureOptions(
            layers=None if layer is None else (str(layer),),
            fit=asked.pop("square"),
            pool="none" if pool == "flatten" else pool,
            **asked,
        )
        check_features(options)
        return options

    def _folder(self) -> Path | None:
        if self.cache is None:
            return None
        return cache_folder() / "features" if self.cache == "default" else Path(self.cache)


class _InTurns:
    """An engine that threads use one after the other."""

    def __init__(self, engine: Engine):
        self._engine, self._turn = engine, threading.Lock()

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `Engine`."""
        refuse_forks("a base")
        with self._turn:
            return self._engine.run(images)


def _ready(options: FeatureOptions, contents: Sequence[Any]) -> tuple[Engine, Provenance]:
    """Return the engine, checked on the first images, and its provenance; cached across the folds of a search, and their threads."""
    held = _READY.get((options, _identity(options)))
    return _make_ready(options, contents) if held is None else held


def _make_ready(options: FeatureOptions, contents: Sequence[Any]) -> tuple[Engine, Provenance]:
    """Return what `_ready` does; made unless another thread made it meanwhile."""
    refuse_forks("a base")
    with _MAKING:
        held = _READY.get((options, _identity(options)))
        if held is None:
            prepared = prepare(options, contents)
            while len(_READY) >= _READY_AT_ONCE:
                _READY.pop(next(iter(_READY)))
            held = _InTurns(prepared.checked.engine), prepared.provenance
            _READY[options, _identity(options)] = held  # the SHA-256 of weights is known once they have been loaded
            noted = _noted(options)
            if noted is not None:
                remember(_NOTE, noted, prepared.provenance.to_json())
    return held


def _recall_made(options: FeatureOptions) -> Provenance | None:
    """Return the provenance that these options led to before, by any process, without loading a base; None if unknown."""
    held = _READY.get((options, _identity(options)))
    if held is not None:
        return held[1]
    noted = _noted(options)
    told = None if noted is None else recall(_NOTE, noted)
    if told is None:
        return None
    made = Provenance.from_json(told, "the cache")
    return made if is_installed(made.spec.engine.name) else None


def _noted(options: FeatureOptions) -> list[Any] | None:
    """Return the key under which `_ready` notes a provenance; None if that needs weights that were never loaded."""
    sha256 = find_sha256(options.backbone, options.weights)
    if sha256 is None or options.weights_sha256 not in (None, sha256):
        return None
    libraries = {name: version(kind.module) for name, kind in ENGINES.items() if is_installed(name)}
    return [asdict(replace(options, max_pixels=MAX_PIXELS)), sha256, version("keras"), libraries]


def _identity(options: FeatureOptions) -> tuple[Any, ...]:
    """Return what tells the user's own model and weights from others that were under the same names."""
    files = [tuple(identify_file(name)) for name in (options.backbone, options.weights) if Path(name).is_file()]
    return (find_sha256(options.backbone, options.weights), *files)


def _contents(X: Any, spec: ImageSpec) -> tuple[list[bytes], list[Any]]:
    """Return the key of each image, and the distinct images."""
    alone = isinstance(X, str | Path | Image.Image) or (isinstance(X, np.ndarray) and X.ndim == 3)
    given = [X] if alone else X
    try:
        listed = list(given)
    except TypeError:
        listed = [given]
    if not listed:
        raise RequestError("X must have at least 1 image; got none. Transform only where there are images.")
    files = [Path(each) for each in listed if isinstance(each, str | Path)]
    hashed = dict(zip(files, hash_files(files, cores()), strict=True))
    keys: list[bytes] = []
    contents: dict[bytes, Any] = {}
    for each in listed:
        if isinstance(each, str | Path):
            key = hashed[Path(each)]
            if isinstance(key, str):
                raise SourceError(f"every image must be readable; {each}: {key}. Leave it out.")
            contents.setdefault(key, Content(key, Path(each)))
        else:
            pixels = Pixels.of(_pixels(each, X, spec))
            key = pixels.sha256
            contents.setdefault(key, pixels)
        keys.append(key)
    return keys, list(contents.values())


def _pixels(image: Any, given: Any, spec: ImageSpec) -> np.ndarray:
    """Return an image in memory as RGB, (height, width, 3), uint8; `given` is all that was given, for the message."""
    if isinstance(image, Image.Image):
        try:
            return upright(image, spec)
        except UnreadableImage as error:
            raise SourceError(f"every image must be readable; {image}: {error}. Leave it out.") from error
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
        or not image.size
    ):
        shape = f"{given.dtype}, {given.shape}" if isinstance(given, np.ndarray) else type(image).__name__
        raise RequestError(
            f"images must be paths, PIL.Image.Image or uint8 RGB arrays of shape (height, width, 3); got {shape}. Convert them."
        )
    return image


def _name(contents: Sequence[Any], key: bytes) -> str:
    """Return the file, or the shape in memory, of the image with a key."""
    (found,) = (each for each in contents if each.sha256 == key)
    return str(found.file) if isinstance(found, Content) else f"an array of shape {found.pixels.shape}"
