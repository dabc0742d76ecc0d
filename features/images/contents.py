"""Contents of image files by their SHA-256, hashed and decoded by threads in bounded memory."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from ..errors import SourceError, UnreadableImage, UnreadableNow
from .decoding import RESIZE, decode, read_bytes
from .fitting import resize_to_square
from .image_spec import ImageSpec

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Content:
    """The content of one or more identical image files: the SHA-256 of the bytes, and one of the files."""

    sha256: bytes
    file: Path

    def image(self, spec: ImageSpec) -> np.ndarray | str:
        """Return the decoded image, (size, size, 3), uint8, or the reason why this content cannot be used.

        Raises
        ------
        SourceError
            If the file no longer has this content, or cannot be read or decoded now.
        """
        try:
            data = read_bytes(self.file)
            if hashlib.sha256(data).digest() != self.sha256:
                raise SourceError(f"{self.file} changed during the pass. Run the same command again; nothing is lost.")
            return decode(data, spec)
        except UnreadableNow as error:
            raise SourceError(f"{self.file}: {error}. Run the same command again; nothing is lost.") from error
        except UnreadableImage as error:
            return str(error)


@dataclass(frozen=True)
class Pixels:
    """An image in memory; see `Content`.

    Attributes
    ----------
    sha256 : bytes
        Of its size and pixels.
    pixels : ndarray of shape (height, width, 3), uint8
        Upright RGB.
    """

    sha256: bytes
    pixels: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray) -> Pixels:
        """Return an image with its key."""
        return cls(hashlib.sha256(b"%d:%d:" % pixels.shape[:2] + pixels.tobytes()).digest(), pixels)

    def image(self, spec: ImageSpec) -> np.ndarray:
        """Return the image resized, (size, size, 3), uint8; there is nothing to decode."""
        return np.asarray(resize_to_square(Image.fromarray(self.pixels), spec.size, RESIZE[spec.resize], spec.fit))


def distinct_contents(files: Sequence[Path], keys: Sequence[bytes | str]) -> list[Content]:
    """Return the distinct contents of files, given their keys from `hash_files`, in the order of their first files."""
    first: dict[bytes, Content] = {}
    for file, key in zip(files, keys, strict=True):
        if isinstance(key, bytes) and key not in first:
            first[key] = Content(key, file)
    return list(first.values())


def hash_files(
    files: Sequence[Path],
    workers: int,
    look: Callable[[bytes], None] | None = None,
    done: Callable[[], object] = lambda: None,
) -> list[bytes | str]:
    """Return the SHA-256 of each file's bytes, or the reason why it cannot be read.

    Threads call `look` with the bytes of a file; `done` is called after each file.
    """

    def key(file: Path) -> bytes | str:
        try:
            data = read_bytes(file)
            if look is not None:
                look(data)
            return hashlib.sha256(data).digest()
        except UnreadableImage as error:
            return str(error)

    with ThreadPoolExecutor(workers) as pool:
        keys = []
        for each in ahead(pool, key, files, 4 * workers):
            keys.append(each)
            done()
        return keys


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], depth: int
) -> Iterator[Result]:
    """Yield ``work(item)`` in order, computed by the pool at most `depth` items ahead to bound memory."""
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
