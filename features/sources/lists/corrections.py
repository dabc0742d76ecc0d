"""Corrected labels: a table of what was judged of images, each named by the SHA-256 of its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

import numpy as np

from ...errors import RequestError, called, find_near
from ...safefiles.csv_cells import plain_text
from ...safefiles.regular_files import hash_file
from .table import read_table

Verdict = Literal["keep", "change", "drop"]
VERDICTS = get_args(Verdict)
COLUMNS = ("sha256", "old", "verdict", "new")  # of the table, beside any others


class Correction(NamedTuple):
    """What was judged of one image: its old label is kept, changed to the new one, or the image is dropped."""

    old: str
    verdict: Verdict
    new: str


@dataclass(frozen=True)
class Corrections:
    """Judged labels by the content of the image's file.

    Attributes
    ----------
    path : str
        Of the table.
    sha256 : str
        Of the table's bytes, in hexadecimal.
    of : tuple of (bytes, Correction)
        SHA-256 of each image → what was judged.
    """

    path: str
    sha256: str
    of: tuple[tuple[bytes, Correction], ...]

    @classmethod
    def read(cls, path: str | Path) -> Corrections:
        """Read a CSV file with the columns sha256, old, verdict (keep, change or drop) and new; it may have others.

        Raises
        ------
        RequestError, SourceError
            If there is no such file, a line is not complete, or an image is judged in two ways.
        """
        if not Path(path).is_file():
            remedy = find_near(path, "Judge labels on a report's page, which saves them so.")
            raise RequestError(f"{called('corrections')} must be a CSV file that is there; got {path}. {remedy}")
        table = read_table(Path(path))
        missing = [name for name in COLUMNS if name not in table.headers]
        if missing:
            raise RequestError(
                f"{path} must have the columns {', '.join(COLUMNS)}; {', '.join(missing)} is missing. Judge labels on a "
                "report's page, which saves them so."
            )
        found: dict[bytes, Correction] = {}
        places = [table.headers.index(name) for name in COLUMNS]
        for line, fields in table.lines:
            key, one = _read_line(f"{path}:{line}", *(fields[place] for place in places))
            if found.setdefault(key, one) != one:
                raise RequestError(
                    f"{path}:{line} must judge an image once; got a second verdict on {key.hex()}. Keep one."
                )
        return cls(str(path), hash_file(path), tuple(found.items()))

    def apply(
        self, class_names: Sequence[str], labels: np.ndarray, sha256: np.ndarray, protected: np.ndarray
    ) -> Corrected:
        """Return corrected labels.

        Parameters
        ----------
        class_names : sequence of str
        labels : ndarray of shape (n_images,), int
        sha256 : ndarray of shape (n_images, 32), uint8
        protected : ndarray of shape (n_images,), bool
            Images that stay as they are, such as those of test.

        Raises
        ------
        RequestError
            If a new label is no class, or an image has another label than the one that was judged.
        """
        numbers = {name: number for number, name in enumerate(class_names)}
        of, judged = dict(self.of), labels.copy()
        kept, spared, seen = np.ones(len(labels), bool), 0, set()
        for row, key in enumerate(each.tobytes() for each in sha256):
            one = of.get(key)
            if one is None:
                continue
            seen.add(key)
            if one.verdict == "change" and one.new not in numbers:
                raise RequestError(
                    f"{self.path} must change labels to classes there are ({', '.join(class_names)}); got {one.new!r}. Correct it."
                )
            if class_names[labels[row]] not in (one.old, one.new):
                raise RequestError(
                    f"{self.path} must judge the labels that images have; {key.hex()} was {one.old!r}, and is "
                    f"{class_names[labels[row]]!r}. Judge labels of this store."
                )
            if one.verdict == "keep":
                continue
            if protected[row]:
                spared += 1
            elif one.verdict == "drop":
                kept[row] = False
            else:
                judged[row] = numbers[one.new]
        changed = int(np.sum((judged != labels) & kept))
        return Corrected(judged, kept, changed, spared, len(of) - len(seen))


class Corrected(NamedTuple):
    """Labels after correction.

    Attributes
    ----------
    labels : ndarray of shape (n_images,), int
    kept : ndarray of shape (n_images,), bool
        Images that were not dropped.
    changed, spared, unknown : int
        How many labels are others; how many protected images stay as they are; how many judged images are not among these.
    """

    labels: np.ndarray
    kept: np.ndarray
    changed: int
    spared: int
    unknown: int

    def strata(self, labels: np.ndarray, strata: np.ndarray) -> np.ndarray:
        """Return the strata of the images, which had these labels and strata; a changed one gets the usual stratum of its class."""
        usual = np.zeros(int(max(labels.max(), self.labels.max())) + 1, strata.dtype)
        for label in np.unique(labels):
            usual[label] = np.bincount(strata[labels == label]).argmax()
        return np.where(self.labels == labels, strata, usual[self.labels])


def _read_line(where: str, key: str, old: str, verdict: str, new: str) -> tuple[bytes, Correction]:
    old, verdict, new = plain_text(old), verdict.strip(), plain_text(new)
    try:
        content = bytes.fromhex(key)
    except ValueError:
        content = b""
    if len(content) != 32:
        raise RequestError(
            f"{where} must name an image by the SHA-256 of its file; got {key[:80]!r}. Correct the line."
        )
    if verdict not in VERDICTS:
        raise RequestError(f"{where} must say {', '.join(VERDICTS)}; got {verdict[:80]!r}. Correct the line.")
    if verdict == "change" and not new:
        raise RequestError(f"{where} must say to which class the label is changed; got none. Correct the line.")
    return content, Correction(old, cast(Verdict, verdict), new)
