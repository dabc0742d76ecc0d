"""Classification of new images by a trained head, with the processing that the run's provenance states."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from PIL import Image

from features.errors import CachedFeaturesError, UnreadableImage
from features.extraction.recompute import decode_batches
from features.images.bounds import MAX_PIXELS
from features.images.contents import Content, Pixels, hash_files
from features.images.decoding import decode, upright
from features.images.image_spec import ImageSpec
from features.images.views import make_view
from features.options import takes, typed
from features.runtime.child_process import refuse_forks
from features.runtime.log import log
from features.runtime.machine import cores
from features.runtime.progress import Progress
from features.sources.file_names import unicode_name
from features.store.reader import FeatureStore

from ..options import PredictOptions
from ..runs.trained_run import load_trained
from .prediction import Given, Images, Predicted, Prediction, find_images, make_prediction, none_readable
from .rated_images import Classified, Folder, Rated, tell_of_head
from .shared_engine import SharedEngine, keep_engine, release_engine, share_engine

_BLOCK = 512  # stored images read and predicted at once


@dataclass(frozen=True)
class Examined:
    """A prediction with what it was made of.

    Attributes
    ----------
    prediction : Prediction
    maps : dict of str to ndarray of shape (n_views, ...)
        The base's output for each layer.
    X : ndarray of shape (n_views, n_features)
        What the head read.
    """

    prediction: Prediction
    maps: dict[str, np.ndarray]
    X: np.ndarray


class Predictor:
    """A trained head and its base, loaded once, which classify images any number of times.

    It may be used by many threads at once. Images that they ask for while the base is busy are then computed together.
    Predictors whose stores have the same settings share one base. The base is loaded when an image first needs it, or by
    `load`; `close`, or the end of a ``with`` block, frees it. It can be pickled, for other processes, each of which loads its
    own; a process that is forked after images were classified cannot classify any.

    Parameters
    ----------
    run : path-like
        The folder of a trained head.
    weights : path-like, optional
        Where the base's weights, or ``FILE.keras``, lie today; by default where the run says.
    joblib : bool
        Load a pickled head, which can run any code: your own.
    max_pixels : int
        Larger images are skipped.

    Attributes
    ----------
    trained : Trained
    class_names : tuple of str
    image_spec : ImageSpec
        How image files are read.
    engine : SharedEngine or None
        What runs the base, once it is loaded.

    Raises
    ------
    RequestError
        If there is no such run, or `max_pixels` is not allowed.
    UnsafeFile
        If the run is damaged.

    Examples
    --------
    >>> with pipeline.Predictor("runs/photos-vgg16-logistic") as predictor:   # doctest: +SKIP
    ...     predictor.predict("new.jpg").predictions[0].class_name
    """

    def __init__(
        self,
        run: str | Path,
        weights: str | Path | None = None,
        joblib: bool = False,
        max_pixels: int = MAX_PIXELS,
    ):
        self._given = typed("run", str | Path, run), weights, joblib, max_pixels
        self.trained = load_trained(run, typed("joblib", bool, joblib))
        self.class_names = self.trained.class_names
        self.image_spec = replace(self.trained.made.spec.image_spec, max_pixels=typed("max_pixels", int, max_pixels))
        self.image_spec.check()
        self._weights = typed("weights", str | Path | None, weights)
        self.engine: SharedEngine | None = None
        self._lock = threading.Lock()  # held while the store is read and while the head computes
        self._is_open = False
        self._store: FeatureStore | None = None
        self._rows: dict[bytes, int] = {}  # first row of each stored content

    def __reduce__(self) -> tuple[type[Predictor], tuple[Any, ...]]:
        """Pickle what the predictor was made of; it loads its run again."""
        return Predictor, self._given

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def load(self) -> None:
        """Load the base now, and run it once on a black image, so that the first photo need not wait for either.

        Raises
        ------
        RequestError, WeightsError, UnsafeFile
            If there is no such base, or its weights are missing or different.
        """
        side = self.trained.made.spec.image_size
        self._loaded().run(np.zeros((1, side, side, 3), np.uint8))

    def _loaded(self) -> SharedEngine:
        refuse_forks("a base")
        engine = self.engine
        if engine is None:
            engine = self.engine = share_engine(self.trained.made, self._weights)
        return engine

    def close(self) -> None:
        """Free the base, unless another predictor uses it, and close the store. A later `predict` loads them again."""
        with self._lock:
            self._close_store()
            self._is_open = False
        engine, self.engine = self.engine, None
        if engine is not None:
            release_engine(engine)

    def predict(self, images: Images) -> Predicted:
        """Predict the classes of images.

        Parameters
        ----------
        images : path-like, PIL.Image.Image, or ndarray of shape (height, width, 3), (height, width) or (n, height, width, 3), uint8
            Or an iterable of these. Paths are files, folders (all images below them), patterns with ``*``, or ``-`` for a
            list of paths on standard input. An image in memory is turned upright by its EXIF orientation, if it has one, and
            appears in the result as ``images[0]``, by its place.

        Returns
        -------
        predicted : Predicted

        Raises
        ------
        RequestError, SourceError
            If there are no images, or none of them can be used.
        WeightsError
            If the base's weights are missing or different.
        """
        found, folder = self.classify(find_images(images), logging.INFO), Folder(self.trained)
        if not found.predicted.predictions:
            raise none_readable(found.predicted.skipped)
        folder.add(found)
        return replace(found.predicted, drift=folder.tell())

    def classify(self, given: Mapping[str, Given], level: int = logging.DEBUG, bar: bool = True) -> Classified:
        """Predict the classes of images by name, all of which may be unusable; messages have this level. See `predict`.

        They are not looked at as a whole: that is for a `Folder`, to which several calls can add.
        """
        refuse_forks("a base")
        keys, contents = _contents(given, self.image_spec)
        found = self._stored(list(contents))
        log.log(level, f"images   {len(contents)}, of which {len(found)} are in {self.trained.store}")
        rest = [content for key, content in contents.items() if key not in found]
        computed, reasons = self._computed(rest, bar)
        of_name = {name: key if isinstance(key, str) else reasons.get(key) for name, key in keys.items()}
        rated = found | computed
        predictions = [
            make_prediction(unicode_name(name), rated[key].chances, self.trained, rated[key].novelty)
            for name, key in keys.items()
            if isinstance(key, bytes) and key in rated
        ]
        sets, known = self.trained.sets, self.trained.novelty
        predicted = Predicted(
            run=str(self.trained.folder),
            head=self.trained.name,
            class_names=list(self.class_names),
            predictions=predictions,
            skipped=[{"path": unicode_name(name), "reason": reason} for name, reason in of_name.items() if reason],
            from_store=len(found),
            computed=len(computed),
            level=None if sets is None else sets.level,
            unlike=None if known is None else sum((each.novelty or 0) > 1 for each in predictions),
        )
        names = {key: name for name, key in reversed(keys.items()) if isinstance(key, bytes) and key in rated}
        return Classified(predicted, rated, names)

    def examine(self, data: bytes, name: str = "image") -> Examined:
        """Predict the class of one image file in memory, and keep what the base made of it.

        Parameters
        ----------
        data : bytes
            Of the file.
        name : str

        Raises
        ------
        UnreadableImage
            If it is no image that `predict` could use.
        """
        made, reading = self.trained.made, self.trained.reading
        image = decode(data, self.image_spec)
        sha256 = hashlib.sha256(data).digest()
        views = [make_view(image, made.spec.augment.name, view, sha256, made.seed) for view in range(reading.views)]
        maps = self._loaded().run(np.stack(views))
        X = reading.of_maps(maps)
        with self._lock:
            (rated,) = self._rate(X)
        return Examined(make_prediction(name, rated.chances, self.trained, rated.novelty), maps, X)

    def find_stored(self, contents: Sequence[bytes]) -> dict[bytes, tuple[Path, str]]:
        """Return the file and the label of images of the run's store, by SHA-256; of those that it holds."""
        with self._lock:
            if not self._is_open:
                self._open()
                self._is_open = True
            store, held = self._store, [key for key in contents if key in self._rows]
            if store is None:
                return {}
            root, rows = Path((store.provenance.get("source") or {}).get("root", ".")), store.rows
            places = [self._rows[key] for key in held]
        return {
            key: (root / rows.paths[place], rows.class_names[rows.labels[place]])
            for key, place in zip(held, places, strict=True)
        }

    def _rate(self, X: np.ndarray) -> Iterator[Rated]:
        """Return what is told of images by their features, (n_images * views, n_features)."""
        chances, novelty = self.trained.probabilities(X), self.trained.unlike(X)
        places = self.trained.places(X, chances.argmax(axis=1))
        for number, each in enumerate(chances):
            yield Rated(
                each,
                None if novelty is None else float(novelty[number]),
                None if places is None else places[number],
            )

    def _computed(self, contents: Sequence[Content | Pixels], bar: bool) -> tuple[dict[bytes, Rated], dict[bytes, str]]:
        """Return SHA-256 → what is told of an image, by the base, and SHA-256 → reason of unusable images."""
        found: dict[bytes, Rated] = {}
        unusable: dict[bytes, str] = {}
        if not contents:
            return found, unusable
        made, reading, engine = self.trained.made, self.trained.reading, self._loaded()
        shown = len(contents) if bar and len(contents) > made.batch_size else 0  # no bar for a moment's work
        with Progress(shown, "images") as progress:
            for keys, images, reasons in decode_batches(
                contents, made, reading.views, cores(), self.image_spec.max_pixels
            ):
                if keys:
                    X = reading.of_maps(engine.run(images))
                    with self._lock:
                        found |= zip(keys, self._rate(X), strict=True)
                unusable |= reasons
                progress.update(len(keys) + len(reasons))
        return found, unusable

    def _stored(self, keys: Sequence[bytes]) -> dict[bytes, Rated]:
        """Return what is told of images that the run's store holds, if the store still exists unchanged."""
        found: dict[bytes, Rated] = {}
        with self._lock:
            try:
                if not self._is_open:
                    self._open()
                    self._is_open = True
                held = [key for key in keys if key in self._rows]
                for start in range(0, len(held), _BLOCK):
                    some = held[start : start + _BLOCK]
                    assert self._store is not None  # it has rows
                    X = self.trained.reading.of_store(self._store, np.array([self._rows[key] for key in some]))
                    found |= zip(some, self._rate(X), strict=True)
            except CachedFeaturesError as error:
                log.info(f"store    {error} The base computes all images")
                self._close_store()
                self._is_open, found = True, {}
        return found

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store, self._rows = None, {}

    def _open(self) -> None:
        """Open the run's store, if it is what the head was trained on."""
        path = self.trained.store
        if not path.exists():
            log.info(f"store    {path} does not exist; the base computes all images")
            return
        store = FeatureStore(path)
        if store.made.spec != self.trained.made.spec:
            log.info(f"store    {path} has been rebuilt with other settings; the base computes all images")
            store.close()
            return
        rows = store.rows
        self._store, self._rows = (
            store,
            {rows.sha256[row].tobytes(): row for row in np.flatnonzero(rows.views == 0).tolist()},
        )


def _contents(
    given: Mapping[str, Given], spec: ImageSpec
) -> tuple[dict[str, bytes | str], dict[bytes, Content | Pixels]]:
    """Return the key of each image, or the reason why it cannot be read, and the distinct contents."""
    files = {name: each for name, each in given.items() if isinstance(each, Path)}
    hashed = dict(zip(files, hash_files(list(files.values()), cores()), strict=True))
    keys: dict[str, bytes | str] = {}
    contents: dict[bytes, Content | Pixels] = {}
    for name, each in given.items():
        if isinstance(each, Path):
            keys[name] = key = hashed[name]
            if isinstance(key, bytes):
                contents.setdefault(key, Content(key, each))
        else:
            try:
                pixels = Pixels.of(upright(Image.fromarray(each) if isinstance(each, np.ndarray) else each, spec))
            except UnreadableImage as error:
                keys[name] = str(error)
            else:
                keys[name] = pixels.sha256
                contents.setdefault(pixels.sha256, pixels)
    return keys, contents


@takes(PredictOptions)
def predict(run: str | Path, images: Images, **options: Unpack[PredictOptions]) -> Predicted:
    """Predict the classes of images.

    Each call loads the run; the base of the last one stays loaded for the next. To classify often, use `Predictor`.

    Parameters
    ----------
    run : path-like
        The folder of a trained head.
    images : path-like, PIL.Image.Image, ndarray, or iterable of these
        See `Predictor.predict`.
    **options

    Returns
    -------
    predicted : Predicted

    Raises
    ------
    RequestError, SourceError
        If there is no run, there are no images, or none of them can be used.
    UnsafeFile, WeightsError
        If the run is damaged, or its weights are missing or different.

    Examples
    --------
    >>> predicted = pipeline.predict("runs/photos-vgg16-logistic", ["new", "more/*.jpg"])   # doctest: +SKIP
    >>> predicted.predictions[0].class_name   # doctest: +SKIP
    """
    with Predictor(run, **options) as predictor:
        tell_of_head(predictor.trained)
        predicted, engine = predictor.predict(images), predictor.engine
    if engine is not None:
        keep_engine(engine)
    return predicted
