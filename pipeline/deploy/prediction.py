"""Predictions for images, as records, JSON and CSV, and the images that names refer to."""

from __future__ import annotations

import csv
import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from features.errors import RequestError, SourceError, command, counted, shell
from features.images.formats import why_no_image
from features.safefiles.csv_cells import path_cell, text_cell
from features.sources.file_names import unicode_name

from ..runs.frames import make_frame
from ..runs.trained_run import Trained

Given = Path | Image.Image | np.ndarray  # a file, or an image in memory
Images = str | Given | Iterable[str | Given]  # one name is one image, and not its letters


SEPARATOR = " | "  # between the classes of a set in a table
_SHOWN = 10  # predictions in a notebook


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Attributes
    ----------
    path, class_name : str
    probability, margin : float
        Probability of that class, from 0 to 1, and its lead over the next class, which is negative if the run's operating point
        decides against the likelier of two classes.
    probabilities : dict of str to float
        Class name → probability.
    classes : tuple of str or None
        The set of classes that holds the true one with the probability that the run was trained for (``conformal``); it may be empty.
    novelty : float or None
        Distance to the nearest training image in units of the run's threshold: above 1, the image is unlike all of them.
        None for runs of earlier versions.
    """

    path: str
    class_name: str
    probability: float
    margin: float
    probabilities: dict[str, float]
    classes: tuple[str, ...] | None = None
    novelty: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        told = {
            "path": self.path,
            "class": self.class_name,
            "probability": self.probability,
            "margin": self.margin,
            "probabilities": self.probabilities,
        }
        further = {"set": None if self.classes is None else list(self.classes), "novelty": self.novelty}
        return told | {name: value for name, value in further.items() if value is not None}


@dataclass(frozen=True, repr=False)
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
    level : float or None
        Probability with which each set holds the true class, if the run has sets.
    unlike : int or None
        How many of the predictions are of images unlike all training images.
    drift : float or None
        The p-value for all images together being of the kind of the training images (see `Drift.p_value`); of a run with groups, each of
        several folders is one group. None for fewer than 20 new images, and for runs of earlier versions.
    """

    run: str
    head: str
    class_names: list[str]
    predictions: list[Prediction]
    skipped: list[dict[str, str]]
    from_store: int
    computed: int
    level: float | None = None
    unlike: int | None = None
    drift: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**told, "predictions": [each.to_json() for each in self.predictions]}

    def __repr__(self) -> str:
        first = format_predictions(replace(self, predictions=self.predictions[:_SHOWN]))
        count = counted(len(self.predictions), "image")
        return f"{count} predicted by {self.head} of {self.run}, {len(self.skipped)} skipped\n{first}" + (
            "\n..." if len(self.predictions) > _SHOWN else ""
        )

    def to_frame(self) -> Any:
        """Return one row per image as a ``pandas.DataFrame``: path, class, probability, margin, p(NAME) of every class."""
        return make_frame([dict(zip(self.columns, self.row(each), strict=True)) for each in self.predictions])

    @property
    def columns(self) -> list[str]:
        """Names of the columns of a table of predictions."""
        further = ["set"] * (self.level is not None) + ["novelty"] * (self.unlike is not None)
        return ["path", "class", "probability", "margin", *further, *(f"p({name})" for name in self.class_names)]

    def row(self, of: Prediction) -> list[Any]:
        """Return one image's row of a table of predictions."""
        further = [None if of.classes is None else SEPARATOR.join(of.classes), of.novelty]
        told = [each for each in further if each is not None]
        return [of.path, of.class_name, of.probability, of.margin, *told, *of.probabilities.values()]


def find_images(images: Images) -> dict[str, Given]:
    """Return what is to be classified, by name and without duplicates, in the order given.

    Parameters
    ----------
    images : path-like, PIL.Image.Image, ndarray, or iterable of these
        Paths are files, folders, patterns, and ``-`` for a list of paths on standard input. Images in memory are named by
        their place, such as ``images[0]``.

    Raises
    ------
    RequestError
        If a folder holds no images, nothing matches a pattern, or something is not an image.
    """
    alone = isinstance(images, str | os.PathLike | Image.Image) or not isinstance(images, Iterable)
    alone = alone or (isinstance(images, np.ndarray) and images.ndim in (0, 2, 3))
    several = cast(Iterable[Any], [images] if alone else images)
    found: dict[str, Given] = {}
    for number, each in enumerate(several):
        name = f"images[{number}]"
        if isinstance(each, str | os.PathLike) and each != "":  # which would be the current folder
            found |= {str(file): file for line in _lines(os.fsdecode(each)) for file in _files(line)}
        elif isinstance(each, Image.Image):
            found[name] = each
        elif isinstance(each, np.ndarray):
            if each.dtype != np.uint8 or each.ndim not in (2, 3) or each.shape[2:] not in ((), (3,)) or not each.size:
                raise RequestError(
                    f"{name} must be uint8, (height, width, 3) or (height, width); got {each.dtype}, {each.shape}. "
                    "Convert it to values from 0 to 255."
                )
            found[name] = each
        else:
            raise RequestError(
                f"{name} must be a path, a PIL.Image.Image or a uint8 array; got {repr(each) if isinstance(each, str) else type(each).__name__}. "
                "Convert it."
            )
    if not found:
        raise RequestError(f"images must be named; got none. For example: {command('predict', 'RUN', 'photos/')}")
    return found


def none_readable(skipped: Sequence[dict[str, str]]) -> SourceError:
    """Return the error for images none of which can be used, by their ``path`` and ``reason``."""
    first = skipped[0]
    return SourceError(
        f"images must be readable; none of {len(skipped)} is. The first is {first['path']}: {first['reason']}. Check the files."
    )


def _lines(name: str) -> Iterable[str]:
    return (line.rstrip("\r\n") for line in sys.stdin if line.strip()) if name == "-" else [name]


def _files(name: str) -> Iterable[Path]:
    path = Path(name)
    if os.path.isdir(path):  # noqa: PTH112 — False for a name that is too long, too
        below = sorted(images_below(path))
    elif glob.has_magic(name) and not os.path.lexists(path):
        below = [Path(each) for each in sorted(glob.glob(name, recursive=True)) if not Path(each).is_dir()]
    else:
        below = [path]
    if not below:
        look = f"ls {name}" if glob.has_magic(name) and not path.exists() else shell("ls", name)
        raise RequestError(
            f"images must be files, or folders or patterns that contain images; there is none in {name}. Check: {look}"
        )
    return below


def images_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder that are images by their endings or contents; hidden files and folders are left out."""
    for place, folders, names in os.walk(folder):  # which passes over what goes away meanwhile
        folders[:] = [each for each in folders if not each.startswith(".")]
        for name in names:
            path = Path(place, name)
            if not name.startswith(".") and why_no_image(path) is None:
                yield path


def make_prediction(name: str, chances: np.ndarray, trained: Trained, novelty: float | None = None) -> Prediction:
    """Return the prediction for an image from its probabilities, (n_classes,), and its novelty."""
    sets, names = trained.sets, trained.class_names
    chosen = int(trained.decide(chances[None])[0])
    return Prediction(
        path=unicode_name(name),
        class_name=names[chosen],
        probability=float(chances[chosen]),
        margin=float(chances[chosen] - np.delete(chances, chosen).max()),
        probabilities=dict(zip(names, map(float, chances), strict=True)),
        classes=None if sets is None else tuple(names[each] for each in np.flatnonzero(sets.hold(chances[None])[0])),
        novelty=novelty,
    )


def format_predictions(predicted: Predicted, header: bool = True) -> str:
    """Return predictions as CSV: path, class, probability, margin, set and novelty if known, and each class's probability."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    if header:
        table.writerow(predicted.columns)
    for path, *cells in map(predicted.row, predicted.predictions):
        table.writerow([path_cell(path), *(text_cell(c) if isinstance(c, str) else f"{c:.6f}" for c in cells)])
    return text.getvalue().rstrip("\n")
