"""Images without labels: their features as a run's head reads them, computed once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from features.extraction.recompute import decode_batches
from features.images.bounds import MAX_PIXELS
from features.images.contents import Content, distinct_contents, hash_files
from features.runtime.log import log
from features.runtime.machine import cores
from features.runtime.progress import Progress
from features.store.content_cache import ContentCache

from ..deploy.prediction import none_readable
from ..deploy.shared_engine import share_engine
from ..runs.trained_run import Trained


@dataclass(frozen=True)
class Unlabelled:
    """Images without labels, each content once.

    Attributes
    ----------
    files : list of Path
    sha256 : list of bytes
    X : ndarray of shape (n_images * views, n_features)
        As the run's head reads them.
    skipped : list of (Path, str)
        Files that cannot be used, and why.
    """

    files: list[Path]
    sha256: list[bytes]
    X: np.ndarray
    skipped: list[tuple[Path, str]]


def embed_files(
    trained: Trained, files: Sequence[Path], weights: str | Path | None, kept: Path, max_pixels: int = MAX_PIXELS
) -> Unlabelled:
    """Compute the features of image files by the base of a run, but for those that are kept from earlier calls.

    Parameters
    ----------
    trained : Trained
    files : sequence of Path
    weights : path-like, optional
        Where the base's weights lie today.
    kept : Path
        Folder of features by content; features of several views of an image are not kept.
    max_pixels : int
        Larger images are skipped.

    Raises
    ------
    SourceError
        If no file can be used.
    """
    keys = hash_files(files, cores())
    contents = distinct_contents(files, keys)
    skipped = [(file, key) for file, key in zip(files, keys, strict=True) if isinstance(key, str)]
    found = _read(trained, contents, kept)
    todo = [content for content in contents if content.sha256 not in found]
    log.info(f"images   {len(contents)}, of which the features of {len(found)} are kept in {kept}")
    reasons: dict[bytes, str] = {}
    if todo:
        computed, reasons = _compute(trained, todo, weights, kept, max_pixels)
        found |= computed
    names = {content.sha256: content.file for content in contents}
    skipped += [(names[key], reason) for key, reason in reasons.items()]
    usable = [content for content in contents if content.sha256 in found]
    if not usable:
        raise none_readable([{"path": str(file), "reason": reason} for file, reason in skipped])
    X = np.concatenate([found[content.sha256] for content in usable])
    return Unlabelled([content.file for content in usable], [content.sha256 for content in usable], X, skipped)


def _read(trained: Trained, contents: Sequence[Content], kept: Path) -> dict[bytes, np.ndarray]:
    """Return the kept features of contents, (views, n_features)."""
    if trained.reading.views > 1:
        return {}
    wanted = [content.sha256 for content in contents]
    layers = [name for name, _ in trained.reading.layers]
    held = {layer: ContentCache(kept / layer.replace("/", "_"), trained.made).read(layer, wanted) for layer in layers}
    keys = set.intersection(*(set(each) for each in held.values()))
    return {key: trained.reading.of_maps({layer: held[layer][key][None] for layer in layers}) for key in keys}


def _compute(
    trained: Trained, contents: Sequence[Content], weights: str | Path | None, kept: Path, max_pixels: int
) -> tuple[dict[bytes, np.ndarray], dict[bytes, str]]:
    found: dict[bytes, np.ndarray] = {}
    unusable: dict[bytes, str] = {}
    engine, views = share_engine(trained.made, weights), trained.reading.views
    with Progress(len(contents), "images") as progress:
        for keys, images, reasons in decode_batches(contents, trained.made, views, cores(), max_pixels):
            if keys:
                maps = engine.run(images)
                X = trained.reading.of_maps(maps)
                found |= zip(keys, X.reshape(len(keys), views, -1), strict=True)
                if views == 1:
                    for layer, _ in trained.reading.layers:
                        cache = ContentCache(kept / layer.replace("/", "_"), trained.made)
                        cache.keep(layer, dict(zip(keys, maps[layer], strict=True)))
            unusable |= reasons
            progress.update(len(keys) + len(reasons))
    return found, unusable
