"""Classification of new images by a trained head, with the processing that the run's provenance states."""

from __future__ import annotations

import csv
import glob
import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from features.engines.registry import Engine, describe_engine
from features.errors import CachedFeaturesError, RequestError, SourceError, command
from features.extraction.recompute import embed, rebuild_engine
from features.images.contents import Content, distinct_contents, hash_files
from features.options import takes
from features.runtime.log import log
from features.runtime.machine import cores
from features.runtime.progress import Progress
from features.sources.folder import unicode_name
from features.sources.source import EXTENSIONS
from features.store.reader import FeatureStore

from ..options import PredictOptions
from ..runs.frames import make_frame
from ..runs.trained_run import Trained, load_trained

Images = str | Path | Iterable[str | Path]  # one name is one image, and not its letters
_BLOCK = 512  # stored images read and predicted at once


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes
    ----------
    path, class_name : str
    probability, margin : float
        Probability of that class, from 0 to 1, and its lead over the next class.
    probabilities : dict of str to float
        Class name → probability.
    """

    path: str
    class_name: str
    probability: float
    margin: float
    probabilities: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return {
            "path": self.path,
            "class": self.class_name,
            "probability": self.probability,
            "margin": self.margin,
            "probabilities": self.probabilities,
        }


@dataclass(frozen=True)
class Predicted:
    """The result of `predict`.

    Attributes
    ----------
    run, head : str
    class_names : list of str
    predictions : list of Prediction
        One per usable image, in the order given.
    skipped : list of dict
        ``path`` and ``reason`` of unusable images.
    from_store, computed : int
        How many distinct images were read from the store, and how many were computed by the base.
    """

    run: str
    head: str
    class_names: list[str]
    predictions: list[Prediction]
    skipped: list[dict[str, str]]
    from_store: int
    computed: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**told, "predictions": [each.to_json() for each in self.predictions]}

    def to_frame(self) -> Any:
        """Return one row per image as a ``pandas.DataFrame``: path, class, probability, margin, p(NAME) of every class."""
        return make_frame([dict(zip(self.columns, self.row(each), strict=True)) for each in self.predictions])

    @property
    def columns(self) -> list[str]:
        """Names of the columns of a table of predictions."""
        return ["path", "class", "probability", "margin", *(f"p({name})" for name in self.class_names)]

    def row(self, of: Prediction) -> list[Any]:
        """Return one image's row of a table of predictions."""
        return [of.path, of.class_name, of.probability, of.margin, *of.probabilities.values()]


@takes(PredictOptions)
def predict(run: str | Path, images: Images, **options: Unpack[PredictOptions]) -> Predicted:
    """Predict the classes of images.

    Parameters
    ----------
    run : path-like
        The folder of a trained head.
    images : path-like, or iterable of path-like
        Files, folders (all images below them), patterns with ``*``, or ``-`` for a list of paths on standard input.
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
    trained = load_trained(run, options.get("joblib", False))
    return predict_by(trained, images, lambda: rebuild_engine(trained.made, options.get("weights")))


def predict_by(trained: Trained, images: Images, make_engine: Callable[[], Engine]) -> Predicted:
    """Predict the classes of images; `make_engine` is called only if an image must be computed. See `predict`."""
    files, predictor = find_images(images), _Predictor(trained, make_engine)
    log.info(f"head     {trained.name} of {trained.folder}, classes {', '.join(trained.class_names)}")
    keys = hash_files(files, cores())
    found = predictor.of(distinct_contents(files, keys))
    reasons = [
        (file, key if isinstance(key, str) else predictor.reasons.get(key))
        for file, key in zip(files, keys, strict=True)
    ]
    skipped = [{"path": unicode_name(str(file)), "reason": reason} for file, reason in reasons if reason]
    if len(skipped) == len(files):
        raise SourceError(
            f"images must be readable; none of {len(files)} is. The first is {skipped[0]['path']}: {skipped[0]['reason']}. "
            "Check the files."
        )
    names = trained.class_names
    return Predicted(
        run=str(trained.folder),
        head=trained.name,
        class_names=list(names),
        predictions=[_tell(file, found[key], names) for file, key in zip(files, keys, strict=True) if key in found],
        skipped=skipped,
        from_store=predictor.from_store,
        computed=predictor.computed,
    )


class _Predictor:
    """Computes one head's probabilities of images; the base is built only if an image is not in the store."""

    def __init__(self, trained: Trained, make_engine: Callable[[], Engine]):
        self._trained, self._make_engine = trained, make_engine
        self.reasons: dict[bytes, str] = {}
        self.from_store = self.computed = 0

    def of(self, contents: Sequence[Content]) -> dict[bytes, np.ndarray]:
        """Return SHA-256 → probabilities, (n_classes,); unusable images are in `reasons`."""
        found = self._stored([content.sha256 for content in contents])
        self.from_store = len(found)
        log.info(f"images   {len(contents)}, of which {len(found)} are in {self._trained.store}")
        rest = [content for content in contents if content.sha256 not in found]
        if not rest:
            return found
        reading, made = self._trained.reading, self._trained.made
        engine = self._make_engine()
        then, now = made.spec.engine, describe_engine(made.spec.engine.name)
        differs = "" if now == then else f"; the store was computed by {then}, so the last digits can differ"
        log.info(f"engine   {now}{differs}")
        with Progress(len(rest), "images") as progress:
            for batch in embed(rest, made, engine, reading.views, cores()):
                if batch.keys:
                    found |= dict(
                        zip(batch.keys, self._trained.probabilities(reading.of_maps(batch.features)), strict=True)
                    )
                self.reasons |= batch.reasons
                self.computed += len(batch.keys)
                progress.update(len(batch.keys) + len(batch.reasons))
        return found

    def _stored(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the probabilities of images that the run's store holds, if the store still exists unchanged."""
        path = self._trained.store
        found: dict[bytes, np.ndarray] = {}
        if not path.exists():
            log.info(f"store    {path} does not exist; the base computes all images")
            return {}
        try:
            with FeatureStore(path) as store:
                if store.made.spec != self._trained.made.spec:
                    log.info(f"store    {path} has been rebuilt with other settings; the base computes all images")
                    return {}
                first = {store.rows.sha256[row].tobytes(): row for row in np.flatnonzero(store.rows.views == 0)}
                held = [key for key in keys if key in first]
                for start in range(0, len(held), _BLOCK):
                    some = held[start : start + _BLOCK]
                    X = self._trained.reading.of_store(store, np.array([first[key] for key in some]))
                    found |= dict(zip(some, self._trained.probabilities(X), strict=True))
        except CachedFeaturesError as error:
            log.info(f"store    {error} The base computes all images")
            return {}
        return found


def find_images(images: Images) -> list[Path]:
    """Return the files that names, folders, patterns and ``-`` refer to, without duplicates, in the order given.

    Raises
    ------
    RequestError
        If a folder holds no images, or nothing matches a pattern.
    """
    found: list[Path] = []
    for name in _names(images):
        path = Path(name)
        if path.is_dir():
            below = sorted(each for each in path.rglob("*") if _is_image(each.relative_to(path)))
        elif glob.has_magic(name) and not path.exists():
            below = [Path(each) for each in sorted(glob.glob(name, recursive=True)) if not Path(each).is_dir()]
        else:
            below = [path]
        if not below:
            raise RequestError(
                f"images must be files, or folders or patterns that contain images; there is none in {name}. Check: ls {name}"
            )
        found += below
    if not found:
        raise RequestError(f"images must be named; got none. For example: {command('predict', 'photos/', run='RUN')}")
    return list(dict.fromkeys(found))


def _names(images: Images) -> Iterator[str]:
    for name in map(str, [images] if isinstance(images, str | Path) else images):
        if name == "-":
            yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())
        else:
            yield name


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in path.parts)


def _tell(file: Path, chances: np.ndarray, names: Sequence[str]) -> Prediction:
    second, first = np.sort(chances)[-2:]
    return Prediction(
        path=unicode_name(str(file)),
        class_name=names[int(chances.argmax())],
        probability=float(first),
        margin=float(first - second),
        probabilities=dict(zip(names, map(float, chances), strict=True)),
    )


def format_predictions(predicted: Predicted) -> str:
    """Return predictions as CSV: path, class, probability, margin, and each class's probability."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(predicted.columns)
    for path, name, *numbers in map(predicted.row, predicted.predictions):
        table.writerow([path, name, *(f"{number:.6f}" for number in numbers)])
    return text.getvalue().rstrip("\n")
