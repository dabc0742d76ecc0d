"""Images as data URIs: small JPEGs of the files that rows were made of."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from features.errors import UnreadableImage
from features.images.decoding import decode, read_bytes
from features.store.schema import Rows


class Thumbnails:
    """Thumbnails of the images of a run.

    Parameters
    ----------
    root : Path
        The folder that paths are relative to.
    rows : Rows

    Attributes
    ----------
    missing : dict of str to str
        Path → why there is no thumbnail of it: its file is gone, or is no longer the one that the row was made of.
    """

    def __init__(self, root: Path, rows: Rows):
        self._root, self._rows = root, rows
        self.missing: dict[str, str] = {}

    def of(self, row: int, side: int) -> str | None:
        """Return a row's image, a square as the base saw it, as a data URI of a JPEG; None if it cannot be had."""
        path = self._rows.paths[row]
        try:
            data = read_bytes(self._root / path)
            if hashlib.sha256(data).digest() != self._rows.sha256[row].tobytes():
                raise UnreadableImage("has changed since its features were extracted")
            pixels = decode(data, side)
        except UnreadableImage as error:
            self.missing[path] = str(error)
            return None
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=75 if side < 200 else 82, optimize=True)
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()

    def many(self, rows: Iterable[int], side: int) -> list[str | None]:
        """Return thumbnails of rows, several decoded at a time."""
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda row: self.of(int(row), side), rows))
