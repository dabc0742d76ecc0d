"""The predictions of a run's heads for its test rows, saved so that a report needs no refit."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from features.errors import RequestError, UnsafeFile, called, find_near, option
from features.safefiles.csv_cells import path_cell, text_cell
from features.safefiles.json_files import parse_json
from features.safefiles.npz import read_arrays, save_arrays
from features.splits import SPLITS
from features.store.schema import Rows

from .checksums import check_sums

FILE = "predictions.npz"
_UNPACKED = 256 << 20  # bytes of a file of an earlier version, which is compressed
# What the head that predicted a row knew of it: rows of test by the head of the run, others by heads fitted to the other folds.
OF_TEST = "the head of the run, which never saw this row"
OF_LEARN = "a head fitted to the other folds, whose settings this row helped to choose"
OF_NONE = "no head: the other folds are too few to fit it"


@dataclass(frozen=True)
class Predictions:
    """Probabilities of test rows, of one or more heads on one or more splits of the same images.

    Attributes
    ----------
    rows : Rows
        One per image.
    splits : ndarray of shape (n_splits, n_images), uint8
        Values of ``SPLITS``.
    told : dict of str to list of dict
        Head → description of the fit on each split, such as ``settings``.
    probabilities : dict of str to list of ndarray of shape (n_test, n_classes)
        Head → probabilities of the test rows of each split.
    """

    rows: Rows
    splits: np.ndarray
    told: dict[str, list[dict[str, Any]]]
    probabilities: dict[str, list[np.ndarray]]

    @property
    def group(self) -> str | None:
        """The column that names each row's group; runs of earlier versions, and those without groups, have none."""
        return next((each.get("group") for (each, *_) in self.told.values()), None)

    def pairs(self, head: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (labels, probabilities) of the test rows of each split."""
        tests = self.splits == SPLITS["test"]
        return [(self.rows.labels[test], p) for test, p in zip(tests, self.probabilities[head], strict=True)]

    def mean(self, head: str) -> np.ndarray:
        """Return mean probabilities over the splits that test an image, (n_images, n_classes); nan if none does."""
        tests = self.splits == SPLITS["test"]
        total = np.zeros((len(self.rows), len(self.rows.class_names)))
        for test, probabilities in zip(tests, self.probabilities[head], strict=True):
            total[test] += probabilities
        times = tests.sum(axis=0)
        return np.where(times[:, None] > 0, total / np.maximum(times, 1)[:, None], np.nan)


def save_predictions(
    folder: Path,
    rows: Rows,
    splits: Sequence[np.ndarray],
    told: Mapping[str, Sequence[dict[str, Any]]],
    probabilities: Mapping[str, Sequence[np.ndarray]],
) -> None:
    """Write ``predictions.npz``; see `Predictions`."""
    arrays = {f"rows/{name}": np.asarray(values) for name, _, values in rows.stored()}
    arrays["rows/class_names"] = np.asarray(rows.class_names)
    arrays["splits"] = np.stack(splits)
    for number, head in enumerate(told):
        arrays |= {f"probabilities/{number}/{split}": each for split, each in enumerate(probabilities[head])}
    # Without HDF5's type metadata, such as the names of enum values.
    plain: dict[str, Any] = {name: each.astype(each.dtype.str) for name, each in arrays.items()}
    texts = {"told": np.array(json.dumps(told)), "columns": np.array(json.dumps(rows.columns))}
    save_arrays(folder / FILE, texts | plain)


def load_predictions(folder: Path) -> Predictions:
    """Read ``predictions.npz`` of a run's folder.

    Raises
    ------
    RequestError
        If the file is missing or cannot be read.
    UnsafeFile
        If it is not the file that was written with its run.
    """
    if not folder.is_dir():
        raise RequestError(f"{called('run')} must be the folder of a run; {folder} is not there. {find_near(folder)}")
    check_sums(folder, FILE)
    try:
        file = read_arrays(folder / FILE, _UNPACKED)
        held: dict[str, Any] = {
            each.name: file[f"rows/{each.name}"]
            for each in fields(Rows)
            if each.name != "columns" and (f"rows/{each.name}" in file or each.default is not None)
        }
        for name in ("class_names", "paths"):
            held[name] = tuple(str(each) for each in held[name])
        columns = parse_json(str(file["columns"]), folder / FILE) if "columns" in file else {}
        held["columns"] = {name: tuple(texts) for name, texts in columns.items()}
        splits, told = file["splits"], parse_json(str(file["told"]), folder / FILE)
        probabilities = {
            head: [file[f"probabilities/{number}/{split}"] for split in range(len(splits))]
            for number, head in enumerate(told)
        }
    except FileNotFoundError:
        raise RequestError(
            f"{folder} must contain {FILE}; it does not. Run the same compare or train-head again, with {option('overwrite', True)}"
        ) from None
    except (ValueError, KeyError, TypeError, UnsafeFile) as error:
        raise RequestError(
            f"{folder / FILE} cannot be read ({error}). Run the same compare or train-head again, with {option('overwrite', True)}"
        ) from error
    return Predictions(Rows(**held), splits, told, probabilities)


def write_tested(path: Path, predictions: Predictions) -> None:
    """Write a CSV table of the test images with each head's prediction, by the mean over the splits that test an image."""
    rows, names = predictions.rows, predictions.rows.class_names
    times = (predictions.splits == SPLITS["test"]).sum(axis=0)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "head", "predicted", "tested_in_splits", *(f"p({name})" for name in names)])
        for head in predictions.probabilities:
            mean = predictions.mean(head)
            for row in np.flatnonzero(times):
                told = [path_cell(rows.paths[row]), text_cell(names[rows.labels[row]]), head]
                predicted = text_cell(names[mean[row].argmax()])
                table.writerow([*told, predicted, times[row], *(f"{chance:.6f}" for chance in mean[row])])


def write_predictions(
    path: Path,
    rows: Rows,
    tested: np.ndarray,
    out_of_fold: np.ndarray,
    decide: Callable[[np.ndarray], np.ndarray] | None = None,
) -> None:
    """Write a CSV table of all images: label, prediction, and probabilities. No row is predicted by a head fitted to it.

    Parameters
    ----------
    path : Path
    rows : Rows
    tested : ndarray of shape (n_test, n_classes)
        Probabilities of the test rows.
    out_of_fold : ndarray of shape (n_learn, n_classes)
        Of all other rows; nan where no head could be fitted without them: their prediction and probabilities are left empty.
        The column ``predicted_by`` says so.
    decide : callable, optional
        Returns the predicted class of each row of probabilities; by default, the likeliest.
    """
    names, splits = rows.class_names, {code: split for split, code in SPLITS.items()}
    test = rows.splits == SPLITS["test"]
    probabilities = np.empty((len(rows), len(names)))
    probabilities[test], probabilities[~test] = tested, out_of_fold
    predicted = probabilities.argmax(axis=1) if decide is None else decide(probabilities)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "split", "label", "predicted", "predicted_by", *(f"p({name})" for name in names)])
        for row, chances in enumerate(probabilities):
            told = [path_cell(rows.paths[row]), splits[int(rows.splits[row])], text_cell(names[rows.labels[row]])]
            if np.isnan(chances[0]):
                table.writerow([*told, "", OF_NONE, *("" for _ in names)])
                continue
            by = OF_TEST if test[row] else OF_LEARN
            table.writerow([*told, text_cell(names[predicted[row]]), by, *(f"{chance:.6f}" for chance in chances)])
