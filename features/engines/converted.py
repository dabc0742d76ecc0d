"""Models converted for an engine, kept in the per-user cache so that each is converted once."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..runtime.user_cache import cache_folder

_KEPT = 16  # models; the least recently used go


def converted(graph: bytes, engine: str, convert: Callable[[bytes, Path], None]) -> Path:
    """Return the file of a converted graph, from the cache or made now.

    A file is named by the graph it is made from (the SHA-256 of all that decides it: weights, layers, size, batch,
    preprocessing, pooling), by the engine, and by its own SHA-256, which is looked at each time: one that is damaged is made
    again.

    Parameters
    ----------
    graph : bytes
        Of `Frozen.graph`.
    engine : str
        Name and version of the engine.
    convert : callable
        Writes the graph, converted, to a path.
    """
    folder, name = cache_folder() / "converted", f"{engine}-{hashlib.sha256(graph).hexdigest()[:32]}"
    for path in folder.glob(f"{name}-*"):
        if path.name == f"{name}-{_digest(path)}":
            os.utime(path)
            return path
        path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        new = Path(place) / "model"
        convert(graph, new)
        path = folder / f"{name}-{_digest(new)}"
        os.replace(new, path)
    _forget(folder)
    return path


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _forget(folder: Path) -> None:
    """Remove the models that were not used for longest."""
    by_age = sorted((path for path in folder.iterdir() if path.is_file()), key=lambda path: path.stat().st_mtime)
    for path in by_age[:-_KEPT]:
        path.unlink(missing_ok=True)
