"""Is a store what it says? Checksums, files of the source, and some rows computed again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..engines.registry import ENGINES, Engine, is_installed, missing_engine
from ..errors import CachedFeaturesError, RequestError, StoreError, UnreadableImage, called, counted, option
from ..images.bounds import MAX_PIXELS, check_max_pixels
from ..images.contents import hash_files
from ..images.decoding import decode, read_bytes
from ..images.views import make_view
from ..runtime.log import log
from ..runtime.progress import Progress
from ..safefiles.regular_files import is_out_of_reach
from ..sources.file_names import named_file
from ..store.reader import FeatureStore
from .recompute import rebuild_engine

# Relative, Frobenius. Rounding to float16 takes up to 5e-4 of it. That another resize rule, preprocessing or order of
# rows passes it by far is what tests/features/extraction/test_survival.py shows.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it held (None: could not be made), and what was seen."""

    name: str
    held: bool | None
    seen: str


def verify(path: str | Path, rows: int = 16, seed: int = 0, max_pixels: int = MAX_PIXELS) -> list[Check]:
    """Check a store.

    Every chunk is read against its checksum; files of the source are hashed and compared with their rows, where they
    can be reached; and some rows are computed again in today's environment, which shows swapped rows, other
    preprocessing and other weights.

    Parameters
    ----------
    path : path-like
        A finished store.
    rows : int
        How many random rows to compute again; 0 leaves it out, and needs no TensorFlow.
    seed : int
        Of the choice of rows.
    max_pixels : int
        Rows of larger images are not computed again.

    Returns
    -------
    checks : list of Check

    Raises
    ------
    StoreError
        If the store cannot be opened. Checks that fail raise nothing.
    """
    if rows < 0:
        raise RequestError(f"{called('rows')} must be at least 0; got {rows}. Leave it out for 16.")
    if seed < 0:
        raise RequestError(f"{called('seed')} must be at least 0; got {seed}. Leave it out for 0.")
    check_max_pixels(max_pixels)
    checks = []
    with FeatureStore(path) as store:
        for make in (_check_values, _check_source, lambda each: _check_computed(each, rows, seed, max_pixels)):
            checks.append(make(store))
            mark = {True: "ok", False: "FAILED", None: "not checked"}[checks[-1].held]
            log.info(f"{checks[-1].name:<8} {mark}: {checks[-1].seen}")
    return checks


def _check_values(store: FeatureStore) -> Check:
    """Read everything; rows and attributes were read, against their checksums, when the store was opened."""
    damaged: list[str] = []
    try:
        with Progress(len(store) * len(store.layers), "rows") as progress:
            for layer in store.layers:
                for start in range(0, len(store), 256):
                    some = np.arange(start, min(start + 256, len(store)))
                    damaged += [f"{layer} {row}" for row in _damaged_rows(store, layer, some)]
                    progress.update(len(some))
    except StoreError as error:
        return Check("values", False, str(error))
    if damaged:
        return Check(
            "values",
            False,
            f"{counted(len(damaged), 'row')} without the right checksum or finite values, such as {damaged[0]}. Extract them again",
        )
    return Check("values", True, f"{len(store)} rows of {', '.join(store.layers)} match their checksums and are finite")


def _damaged_rows(store: FeatureStore, layer: str, rows: np.ndarray) -> list[int]:
    try:
        store.check(layer, rows)
    except StoreError as error:
        if is_out_of_reach(error.__cause__):
            raise
        if len(rows) == 1:
            return [int(rows[0])]
        half = len(rows) // 2
        return _damaged_rows(store, layer, rows[:half]) + _damaged_rows(store, layer, rows[half:])
    return []


def _check_source(store: FeatureStore) -> Check:
    try:
        root = _root(store)
    except CachedFeaturesError as error:
        return Check("source", None, str(error))
    if not root.is_dir():
        return Check("source", None, f"{root} cannot be reached")
    rows = store.rows.images()  # a file has a row per view
    files = [named_file(root, path) for path in rows.paths]
    with Progress(len(files), "files") as progress:
        found = hash_files(files, workers=4, done=progress.update)
    changed = [path for path, key, held in zip(rows.paths, found, rows.sha256, strict=True) if key != held.tobytes()]
    if changed:
        seen = f"{len(changed)} of {len(files)} files changed or are gone, such as {changed[0]}. Run the same extract again"
        return Check("source", False, seen)
    return Check("source", True, f"{len(files)} files below {root} have the hashes of their rows")


def _check_computed(store: FeatureStore, rows: int, seed: int, max_pixels: int) -> Check:
    chosen = np.sort(np.random.default_rng(seed).permutation(len(store))[:rows])
    decoded, unread = dict[int, np.ndarray](), list[str]()
    try:
        for row in chosen.tolist():
            try:
                decoded[row] = _image(store, row, max_pixels)
            except UnreadableImage as error:
                unread.append(f"{store.rows.paths[row]} ({error})")
        left = (
            f"{counted(len(unread), 'row')} without a readable image, such as {unread[0]}"
            if unread
            else "no rows asked for"
        )
        if not decoded:
            return Check("computed", None, left)
        name = store.made.spec.engine.name
        if name in ENGINES and not is_installed(name):
            return Check("computed", None, str(missing_engine(name)))
        distances = _distances(store, rebuild_engine(store.made), decoded)
    except CachedFeaturesError as error:
        return Check("computed", False, f"cannot be computed again: {error}")
    worst = max(distances, key=lambda row: distances[row])
    seen = f"{counted(len(distances), 'row')} computed again, which differ by at most {distances[worst]:.1e} (relative; allowed {TOLERANCE:.0e})"
    if unread:
        seen += f"; {left}"
    if distances[worst] > TOLERANCE:
        wrong = sum(distance > TOLERANCE for distance in distances.values())
        seen += f"; {wrong} by more, the worst {store.rows.paths[worst]}. Extract to another file: {option('out')}"
    return Check("computed", distances[worst] <= TOLERANCE, seen)


def _root(store: FeatureStore) -> Path:
    origin = store.made.origin
    if origin is None:
        raise StoreError(f"{store.path} does not say where its images came from; they cannot be compared.")
    return Path(origin.root)


def _image(store: FeatureStore, row: int, max_pixels: int) -> np.ndarray:
    """Return the view of an image that went through the base."""
    made, rows = store.made, store.rows
    spec, data = made.spec, read_bytes(named_file(_root(store), rows.paths[row]))
    image = decode(data, replace(spec.image_spec, max_pixels=max_pixels))
    return make_view(image, made.spec.augment.name, int(rows.views[row]), rows.sha256[row].tobytes(), made.seed)


def _distances(store: FeatureStore, engine: Engine, decoded: dict[int, np.ndarray]) -> dict[int, float]:
    """Return for each row the largest relative distance, over layers, of what is stored and what is computed."""
    rows, distances = list(decoded), dict.fromkeys(decoded, 0.0)
    size = store.made.batch_size
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        for layer, values in engine.run(np.stack([decoded[row] for row in some])).items():
            stored = store.read(layer, rows=np.array(some))
            computed = values.astype(store.dataset(layer).dtype).reshape(len(some), -1).astype(np.float32)
            for row, have, want in zip(some, stored, computed, strict=True):
                norm = max(float(np.linalg.norm(want)), 1e-12)
                distances[row] = max(distances[row], float(np.linalg.norm(have - want)) / norm)
    return distances
