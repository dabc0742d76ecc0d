"""Predictions of many images as a CSV file, written as they are computed, so that a kill loses little of them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from features.errors import RequestError, called, counted
from features.runtime.atomic import errors_named, flock, make_folder, sync_path
from features.runtime.log import log
from features.runtime.progress import Progress
from features.safefiles.csv_cells import path_cell
from features.safefiles.regular_files import hash_file, read_whole
from features.sources.file_names import unicode_name

from .prediction import Given, Images, find_images, format_predictions, none_readable
from .predictor import Predictor
from .rated_images import Folder

_BLOCK = 64  # the fewest images after which rows are written


@dataclass(frozen=True)
class PredictionFile:
    """The result of `predict_to`.

    Attributes
    ----------
    path : str
    predicted, resumed : int
        Rows of the file, and how many of them an earlier, interrupted call had written.
    skipped : list of dict
        ``path`` and ``reason`` of unusable images.
    unlike : int or None
        How many of the rows are of images unlike all training images.
    drift : float or None
        See `Predicted`; of the images that this call predicted, since rows do not hold what it is told by.
    """

    path: str
    predicted: int
    resumed: int
    skipped: list[dict[str, str]]
    unlike: int | None
    drift: float | None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-serialisable dict."""
        return asdict(self)


def predict_to(out: str | Path, images: Images, predictor: Predictor) -> PredictionFile:
    """Predict the classes of images into a CSV file, which appears under its name once all images are done.

    Until then its rows are in a hidden file beside it, which the same call completes. That file is of one run: another run, or
    an image file that has changed since, starts anew.

    Parameters
    ----------
    out : path-like
        A new file, ``NAME.csv``.
    images
        See `Predictor.predict`.
    predictor : Predictor

    Raises
    ------
    RequestError, SourceError
        If `out` exists or is no ``.csv``, there are no images, or none of them can be used.
    """
    path, given = Path(out), find_images(images)
    if path.suffix.lower() != ".csv" or path.exists():
        got = f"{path}, which exists" if path.exists() else str(path)
        raise RequestError(f"{called('out')} must be a new file that ends in .csv; got {got}. Choose another name.")
    run = hash_file(predictor.trained.folder / "run.json")
    unfinished = path.with_name(f".{path.name}-{run[:16]}.part")
    make_folder(path.parent)
    with errors_named(path), open(unfinished, "ab") as file:
        _lock(file, path)
        done, folder = _done(unfinished, given), Folder(predictor.trained)
        folder.resume(list(done.values()))
        rest = {name: each for name, each in given.items() if _cell(name) not in done}
        if done:
            log.info(f"resumed  {len(done)} of {counted(len(given), 'image')} were predicted before; {len(rest)} to go")
        skipped = _write(file, rest, folder, predictor)
        if not folder.images:
            unfinished.unlink()
            raise none_readable(skipped)
        if path.exists():
            raise RequestError(
                f"{path} must not appear meanwhile; it has. Move it away and run the same command again."
            )
        os.fsync(file.fileno())  # it may have been cut to whole lines, after which only unusable images were left
        os.replace(unfinished, path)
    sync_path(path.parent)
    drift = folder.tell()
    return PredictionFile(str(path), folder.images, len(done), skipped, folder.unlike, drift)


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep other commands from the file until it is closed, where the file system has locks."""
    try:
        flock(file.fileno())
    except BlockingIOError:
        raise RequestError(
            f"{path} must not be in use; another command is writing it. Wait for it, or choose another {called('out')}"
        ) from None
    except OSError:
        pass


def _write(file: BinaryIO, given: dict[str, Given], folder: Folder, predictor: Predictor) -> list[dict[str, str]]:
    """Append the rows of images, and add these to a folder; return the unusable images."""
    skipped = list[dict[str, str]]()
    with Progress(folder.images + len(given), "images") as progress:
        progress.update(folder.images)
        for block in in_blocks(given, predictor.trained.made.batch_size):
            found = predictor.classify(block, bar=False)
            if found.predicted.predictions:
                _append(file, format_predictions(found.predicted, header=not folder.images))
            folder.add(found)
            skipped += found.predicted.skipped
            progress.update(len(block))
    return skipped


def _append(file: BinaryIO, text: str) -> None:
    """Write whole lines to disk."""
    file.write(f"{text}\n".encode())
    file.flush()
    os.fsync(file.fileno())


def _done(unfinished: Path, given: dict[str, Given]) -> dict[str, dict[str, str]]:
    """Return image, as the file names it → its row in an unfinished file, without a last line that was cut short.

    A file without rows that can be gone on with is emptied.
    """
    held, written = read_whole(unfinished), unfinished.stat().st_mtime_ns
    whole = held[: held.rfind(b"\n") + 1]
    rows = csv.DictReader(io.StringIO(whole.decode("utf-8", "replace"), newline=""))
    done = {row.get("path", ""): row for row in rows}
    cells = {_cell(name): each for name, each in given.items()}
    if not done or not done.keys() <= cells.keys() or any(_is_newer(cells[each], written) for each in done):
        os.truncate(unfinished, 0)
        return {}
    os.truncate(unfinished, len(whole))
    return done


def _is_newer(given: Given, written: int) -> bool:
    """Return whether an image is not the file that it was when the rows were written; images in memory cannot be told."""
    return not isinstance(given, Path) or not given.exists() or given.stat().st_mtime_ns > written


def _cell(name: str) -> str:
    return str(path_cell(unicode_name(name)))


def in_blocks(given: dict[str, Given], batch_size: int) -> Iterator[dict[str, Given]]:
    """Yield images in blocks of some batches, after each of which results are told."""
    names, size = list(given), max(_BLOCK, 4 * batch_size)
    for first in range(0, len(names), size):
        yield {name: given[name] for name in names[first : first + size]}
