"""Which images to label next: a queue of unlabelled images, as a table and as a page on which they are labelled by a key."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from features.errors import RequestError, called, command, counted
from features.extraction.request import extract_again
from features.images.bounds import MAX_PIXELS
from features.images.image_spec import ImageSpec
from features.options import takes
from features.runtime.log import log
from features.safefiles.csv_cells import text_cell
from features.sources.file_names import absolute_name

from ..deploy.prediction import Images, find_images
from ..options import NextOptions
from ..runs.folders import ResultFolder
from ..runs.trained_run import load_trained
from .labelling_page import render_page
from .queue import doubt, order_queue, typicality
from .unlabelled import Unlabelled, embed_files

COUNT = 50
_COLUMNS = ("rank", "path", "sha256", "predicted", "probability", "margin", "novelty", "typicality")


@dataclass(frozen=True)
class Queued:
    """An image to label.

    Attributes
    ----------
    path, sha256 : str
    predicted : str
        The likeliest class, by the run.
    probability, margin : float
        Of that class, and its lead over the next.
    novelty : float
        Distance to the nearest labelled image in units of the run's threshold.
    typicality : float
        Mean cosine with the most similar of the other images.
    """

    path: str
    sha256: str
    predicted: str
    probability: float
    margin: float
    novelty: float
    typicality: float


@dataclass(frozen=True, repr=False)
class LabelQueue:
    """The result of `label_next`.

    Attributes
    ----------
    run, out : str
        The run used, and the folder with ``queue.csv``, ``queue.json`` and ``queue.html``.
    class_names : list of str
    images : int
        How many images there were to choose from.
    queue : list of Queued
        The first to be labelled first.
    skipped : list of (str, str)
        Files that cannot be used, and why.
    labels : str
        Name of the file that the page saves, other than those that the run's store has already.
    add : str, optional
        The command that adds the labelled images to the run's store; None if its source is unknown.
    """

    run: str
    class_names: list[str]
    images: int
    queue: list[Queued]
    skipped: list[tuple[str, str]]
    out: str
    labels: str
    add: str | None

    @property
    def adding(self) -> str:
        """The same command, of any source if that is unknown."""
        return self.add or command("extract", data="SOURCE", add=[self.labels])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return asdict(self)

    def __repr__(self) -> str:
        return f"{self.out}/queue.html: {len(self.queue)} of {counted(self.images, 'image')}\n{format_queue(self.to_json())}"


@takes(NextOptions)
def label_next(run: str | Path, images: Images, n: int = COUNT, **options: Unpack[NextOptions]) -> LabelQueue:
    """Choose the images that are most worth labelling, and write a page on which to label them.

    Parameters
    ----------
    run : path-like
        The folder of a trained head.
    images : path-like, or iterable of these
        Files, folders (all images below them) and patterns.
    n : int
        How many images to choose.
    **options

    Returns
    -------
    queue : LabelQueue

    Raises
    ------
    RequestError, SourceError
        If there is no such run, or none that knows its training images, `out` exists already, or no image can be used.

    Examples
    --------
    >>> queue = pipeline.label_next("runs/photos-vgg16-logistic", "unlabelled", n=50)   # doctest: +SKIP
    >>> queue.queue[0].path   # doctest: +SKIP
    """
    if n < 1:
        raise RequestError(f"{called('n')} must be at least 1; got {n}. Leave it out for {COUNT}.")
    trained = load_trained(run, options.get("joblib", False))
    images_as = replace(trained.made.spec.image_spec, max_pixels=options.get("max_pixels", MAX_PIXELS))
    images_as.check()
    if trained.novelty is None:
        raise RequestError(
            f"{run} must know its training images, as runs of this version do. Train it again: "
            f"{command('train-head', store=trained.store, head=trained.name)}"
        )
    folder = ResultFolder(options.get("out"), f"{Path(run).name}-next", options.get("overwrite", False))
    files = [each for each in find_images(images).values() if isinstance(each, Path)]
    if not files:
        raise RequestError(
            "images must be files, so that they can be labelled; got images in memory. Name their paths."
        )
    found = embed_files(trained, files, options.get("weights"), folder.path.parent / ".features", images_as.max_pixels)
    chances, novelty = trained.probabilities(found.X), trained.unlike(found.X)
    assert novelty is not None
    unit = trained.novelty.unit_of(trained.reading.averaged(found.X))
    order = order_queue(chances, unit, trained.novelty.unit, n)
    held = () if trained.made.origin is None else trained.made.origin.added
    labels = _free_name({Path(each).name for each in held})
    told = LabelQueue(
        run=str(run),
        class_names=list(trained.class_names),
        images=len(found.files),
        queue=_queued(found, order, chances, novelty, typicality(unit), trained.class_names),
        skipped=[(str(file), reason) for file, reason in found.skipped],
        out=str(folder.path),
        labels=labels,
        add=extract_again(trained.made, trained.store, add=[labels]),
    )
    with folder.written() as unfinished:
        _write(told, unfinished, images_as, None if trained.made.origin is None else trained.made.origin.group)
    log.info(f"written  {folder.path}/queue.csv, queue.json, queue.html")
    return told


def _free_name(taken: Collection[str]) -> str:
    """Return the first name of a table of labels that is not taken."""
    names = itertools.chain(["labels.csv"], (f"labels-{number}.csv" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _queued(
    found: Unlabelled,
    order: np.ndarray,
    chances: np.ndarray,
    novelty: np.ndarray,
    alike: np.ndarray,
    names: Sequence[str],
) -> list[Queued]:
    margins = 1 - doubt(chances)
    return [
        Queued(
            path=absolute_name(found.files[row]),
            sha256=found.sha256[row].hex(),
            predicted=names[int(chances[row].argmax())],
            probability=float(chances[row].max()),
            margin=float(margins[row]),
            novelty=float(novelty[row]),
            typicality=float(alike[row]),
        )
        for row in order.tolist()
    ]


def _write(told: LabelQueue, folder: Path, spec: ImageSpec, group: str | None) -> None:
    (folder / "queue.json").write_text(
        json.dumps(told.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    with open(folder / "queue.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        for rank, each in enumerate(told.queue, start=1):
            numbers = (f"{value:.6f}" for value in (each.probability, each.margin, each.novelty, each.typicality))
            table.writerow([rank, each.path, each.sha256, text_cell(each.predicted), *numbers])
    page = render_page(told.to_json()["queue"], told.class_names, spec, told.labels, told.adding, group)
    (folder / "queue.html").write_text(page, encoding="utf-8")


def format_queue(told: dict[str, Any]) -> str:
    """Return a queue as lines of text: the image, the likeliest class, and how doubtful and how new it is."""
    return "\n".join(
        f"{rank:>3} {each['path']}: {each['predicted']} {each['probability']:.2f}, novelty {each['novelty']:.2f}"
        for rank, each in enumerate(told["queue"], start=1)
    )
