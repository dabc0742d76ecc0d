"""The pass as a scikit-learn transformer: from image files or arrays to features, kept for the next time."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin

from .engines.registry import Engine, describe_engine
from .engines.selection import make_checked, pick_engine
from .errors import RequestError, SourceError, StoreError, must_be_one_of
from .extraction.forward import first_batch
from .extraction.options import ExtractRequest, check_options
from .extraction.provenance import make_provenance
from .extraction.recompute import embed
from .extraction.run import load_base, settle_batch, tell_apart
from .images.contents import Content, distinct_contents, hash_files
from .images.decode import RESIZE
from .pooling import POOLS, pool_maps
from .runtime.machine import cores
from .runtime.user_cache import cache_folder
from .safefiles.hdf5 import check_own_values
from .safefiles.json_files import parse_json
from .sources.source import Source
from .store.parts import Key, Parts
from .store.reader import parts_folder
from .store.writer_lock import one_writer

_KEPT_AT_ONCE = 512  # images whose features become one part of the cache
_READY_AT_ONCE = 2  # bases in memory
_READY: dict[Any, tuple[Engine, dict[str, Any]]] = {}


class ConvFeatures(TransformerMixin, BaseEstimator):
    """Features of images by a frozen convolutional base.

    Parameters
    ----------
    backbone : str
        A key of ``BACKBONES``, or ``FILE.keras``.
    layer : str, optional
        By name or index; the base's last feature map if left out.
    pool : {'avg', 'max', 'avg+max', 'flatten'}
        How a map becomes a vector.
    image_size, preprocess, resize, weights, weights_sha256, dtype, batch_size, engine
        See ``ExtractRequest``.
    cache : path-like or None
        Folder in which features are kept by the SHA-256 of what they were computed from, in the parts of a store, one for
        each set of parameters that decides them; the per-user cache if left out. None keeps nothing.

    Raises
    ------
    RequestError
        As it is fitted, if a parameter is none that there is; as it transforms, if the base has no such layer.
    WeightsError
        As it transforms, if the weights cannot be had or are others.

    Notes
    -----
    There is nothing to fit, and no label is looked at. An image that cannot be read is an error: a row cannot be left out.
    Nor are there augmented views, which would be more rows than labels: for these, ``extract(views=...)`` and ``train_head``.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> model = make_pipeline(ConvFeatures("vgg16"), LogisticRegression())
    >>> model.fit(["cat.jpg", "dog.jpg"], [0, 1])   # doctest: +SKIP
    """

    # Fields of ExtractRequest one by one, and not the record: scikit-learn clones an estimator by its arguments, and a
    # search sets each by its name.
    def __init__(
        self,
        backbone: str = "vgg16",
        layer: str | None = None,
        pool: str = "avg",
        *,
        image_size: int | None = None,
        preprocess: str | None = None,
        resize: str = "bilinear",
        weights: str = "imagenet",
        weights_sha256: str | None = None,
        dtype: str = "float16",
        batch_size: int | None = None,
        engine: str = "auto",
        cache: str | Path | None = "default",
    ):
        self.backbone, self.layer, self.pool, self.image_size = backbone, layer, pool, image_size
        self.preprocess, self.resize, self.weights, self.weights_sha256 = preprocess, resize, weights, weights_sha256
        self.dtype, self.batch_size, self.engine, self.cache = dtype, batch_size, engine, cache

    def fit(self, X: Any, y: Any = None) -> ConvFeatures:
        """Check the parameters; nothing is learnt."""
        check_options(self._options())
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
            If X is something else.
        SourceError
            If a file is no image.
        """
        keys, contents = _contents(X)
        options = self._options()
        engine, held = _ready(options, contents)
        (name,) = held["layers"]
        cache = _Cache(self._folder(), held)
        found = cache.read(name, [content.sha256 for content in contents])
        rest = [content for content in contents if content.sha256 not in found]
        made: dict[bytes, np.ndarray] = {}
        for some in embed(rest, held, engine, 1, options.workers):
            if some.reasons:
                key, reason = next(iter(some.reasons.items()))
                raise SourceError(f"every image must be readable; {_name(contents, key)}: {reason}. Leave it out.")
            made |= dict(zip(some.keys, some.features[name], strict=True))
            if len(made) >= _KEPT_AT_ONCE:
                cache.keep(name, made)
                found, made = found | made, {}
        cache.keep(name, made)
        found |= made
        return pool_maps(np.stack([found[key] for key in keys]), "flatten" if held["pool"] != "none" else self.pool)

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that X is no table and that there is nothing to fit."""
        tags = super().__sklearn_tags__()
        tags.requires_fit, tags.input_tags.two_d_array, tags.input_tags.string = False, False, True
        tags.no_validation = True
        return tags

    def _options(self) -> ExtractRequest:
        asked: dict[str, Any] = self.get_params(deep=False)
        del asked["cache"]
        layer, pool = asked.pop("layer"), asked.pop("pool")
        if pool not in POOLS:
            raise must_be_one_of("pool", POOLS, pool)
        return ExtractRequest(
            data="arrays",
            out="features.h5",
            layers=None if layer is None else (str(layer),),
            pool="none" if pool == "flatten" else pool,
            **asked,
        )

    def _folder(self) -> Path | None:
        if self.cache is None:
            return None
        return cache_folder() / "features" if self.cache == "default" else Path(self.cache)


def _ready(options: ExtractRequest, contents: Sequence[Any]) -> tuple[Engine, dict[str, Any]]:
    """Return the engine, checked on the first images, and its provenance: made once for all folds of a search."""
    key = options, _stamps(options)
    if key not in _READY:
        base = load_base(options)
        options, frozen = settle_batch(options, None, base)
        batch = first_batch(contents, options)
        name = pick_engine(options.engine, None, frozen, tell_apart(options, base), batch)
        while len(_READY) >= _READY_AT_ONCE:
            _READY.pop(next(iter(_READY)))
        engine = make_checked(name, frozen, batch).engine
        _READY[key] = engine, make_provenance(options, _NOWHERE, base, describe_engine(name))
    return _READY[key]


def _stamps(options: ExtractRequest) -> tuple[int, ...]:
    """Return what tells that a file of one's own has changed."""
    return tuple(Path(name).stat().st_mtime_ns for name in (options.backbone, options.weights) if Path(name).is_file())


class _Cache:
    """Features of contents in the parts of a store that is named by their fingerprint."""

    def __init__(self, folder: Path | None, held: dict[str, Any]):
        self._held = held
        self._path = None if folder is None else folder / f"{held['backbone']}-{held['fingerprint'][:16]}.h5"

    def read(self, layer: str, keys: Iterable[bytes]) -> dict[bytes, np.ndarray]:
        """Return what is kept of some contents."""
        found: dict[bytes, np.ndarray] = {}
        wanted = set(keys)
        parts = [] if self._path is None else sorted(parts_folder(self._path).glob("part-*.h5"))
        for path in parts:
            with h5py.File(path, "r", locking=False) as part:
                check_own_values(part, path)
                if parse_json(part.attrs["provenance"], path)["fingerprint"] != self._held["fingerprint"]:
                    raise StoreError(f"{path} was made with other settings. Delete it: rm {path}")
                held = [key.tobytes() for key in part["sha256"][:]]
                if wanted & set(held):
                    found |= {
                        key: row for key, row in zip(held, part["features"][layer][:], strict=True) if key in wanted
                    }
        return found

    def keep(self, layer: str, made: dict[bytes, np.ndarray]) -> None:
        """Add features; where another process is about it, they are left to that."""
        if self._path is None or not made:
            return
        keys: list[Key] = [(key, 0) for key in made]
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(one_writer(parts_folder(self._path)))
            except StoreError:
                return
            Parts(self._path, self._held).append({layer: np.stack(list(made.values()))}, keys)


@dataclass(frozen=True)
class _Pixels:
    """An image that is in memory; see `Content`."""

    sha256: bytes
    pixels: np.ndarray

    def image(self, size: int, resize: str) -> np.ndarray:
        return np.asarray(Image.fromarray(self.pixels).resize((size, size), RESIZE[resize]))


def _contents(X: Any) -> tuple[list[bytes], list[Any]]:
    """Return the key of each image, and the distinct images."""
    if isinstance(X, np.ndarray) and X.ndim == 4:
        if X.dtype != np.uint8 or X.shape[3] != 3:
            raise RequestError(
                f"images must be uint8 RGB, (n, height, width, 3); got {X.dtype}, {X.shape}. Convert them."
            )
        keys = [hashlib.sha256(b"%d:%d:" % each.shape[:2] + each.tobytes()).digest() for each in X]
        return keys, list({key: _Pixels(key, each) for key, each in zip(keys, X, strict=True)}.values())
    if isinstance(X, str | bytes | Path) or not all(isinstance(each, str | Path) for each in X):
        raise RequestError("images must be a list of paths or an array of pixels, (n, height, width, 3). Give one.")
    files = [Path(each) for each in X]
    hashed = hash_files(files, cores())
    for file, key in zip(files, hashed, strict=True):
        if isinstance(key, str):
            raise SourceError(f"every image must be readable; {file}: {key}. Leave it out.")
    return [key for key in hashed if isinstance(key, bytes)], distinct_contents(files, hashed)


def _name(contents: Sequence[Any], key: bytes) -> str:
    return next(str(each.file) for each in contents if isinstance(each, Content) and each.sha256 == key)


_NONE = np.empty(0, np.int32)
_NOWHERE = Source("arrays", Path(), (), (), _NONE, _NONE.astype(np.uint8), _NONE)
