"""Thumbnails: image files of rows as small JPEGs in data URIs."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from features.errors import UnreadableImage
from features.images.decoding import decode, read_bytes
from features.images.image_spec import ImageSpec
from features.runtime.progress import Progress
from features.sources.file_names import named_file
from features.store.schema import Rows


class Thumbnails:
    """Thumbnails of the images of a run.

    Parameters
    ----------
    root : Path
        The folder that paths are relative to.
    rows : Rows
    spec : ImageSpec
        How files became the pixels that the base saw, but for their number.

    Attributes
    ----------
    root : Path
    missing : dict of str to str
        Path → why it has no thumbnail: its file is missing or unreadable, or has changed since extraction.
    """

    def __init__(self, root: Path, rows: Rows, spec: ImageSpec):
        self.root, self._rows = root, rows
        self._spec = replace(spec, resize="bilinear", decode="scaled")
        self.missing: dict[str, str] = {}

    def of(self, row: int, side: int) -> str | None:
        """Return a row's image as a JPEG data URI, resized to a square as the base saw it; None if unavailable."""
        pixels = self._decoded(row, side)
        if pixels is None:
            return None
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=75 if side < 200 else 82, optimize=True)
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()

    def pixels(self, rows: Sequence[int], side: int) -> list[np.ndarray | None]:
        """Return the images of rows, (side, side, 3), uint8, decoded in parallel; None if unavailable."""
        found = []
        with ThreadPoolExecutor(4) as pool, Progress(len(rows), "thumbnails") as progress:
            for pixels in pool.map(lambda row: self._decoded(int(row), side), rows):
                found.append(pixels)
                progress.update()
        return found

    def _decoded(self, row: int, side: int) -> np.ndarray | None:
        path = self._rows.paths[row]
        try:
            data = read_bytes(named_file(self.root, path))
            if hashlib.sha256(data).digest() != self._rows.sha256[row].tobytes():
                raise UnreadableImage("has changed since its features were extracted")
            return decode(data, replace(self._spec, size=side))
        except UnreadableImage as error:
            self.missing[path] = str(error)
            return None
