"""Choice of an engine, and the check of its features against the reference engine's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CachedFeaturesError, EngineError, option
from ..runtime.log import log
from ..runtime.machine import cores, processor
from ..runtime.user_cache import recall, remember
from .frozen_graph import Frozen
from .ready_base import draw_probes, find_ready, keep_ready, make_ready
from .registry import ENGINES, Engine, considered, engine_version, is_installed, missing_engine, reference_of

_TIMED_SECONDS = 1.0  # of each engine
# On a CPU, the first of these that can run a base is the fastest of them: our convolutions need a half to a fifth of the
# multiplications, and OpenVINO is up to twice as fast as TensorFlow. Measured: tests/README.md, Engines and bases.
_USUALLY_FASTEST = ("numba", "openvino", "onnxruntime", "tensorflow")
# Timing makes every engine, in about half a minute. That is won back where another engine is a tenth faster and the pass takes
# five minutes, as of so many images of 224 px per core with VGG16 or ResNet50.
_WORTH_TIMING = 10_000


@dataclass(frozen=True)
class Checked:
    """An engine ready for the pass.

    Attributes
    ----------
    engine : Engine
    parity : float
        Largest relative Frobenius distance of a layer's features from the reference engine's.
    parity_on : {'probes', 'batch'}, optional
        On which images: the fixed ones of `draw_probes`, whose features the reference computed when the base was made
        ready; or the first batch, which the reference computed just now. None for the reference itself.
    """

    engine: Engine
    parity: float
    parity_on: str | None


def begin_engine(asked: str, library: str) -> None:
    """Begin what takes long, and no base of a library decides, of the engine asked for, or that ``auto`` will usually choose."""
    names = _USUALLY_FASTEST if asked == "auto" else (asked,)
    kinds = [ENGINES[name] for name in names if is_installed(name) and library in ENGINES[name].runs]
    if kinds and kinds[0].begin is not None:
        kinds[0].begin()


def pick_engine(
    held: str | None,
    frozen: Frozen,
    key: Any,
    make: Callable[[str], Checked],
    images: int | None = None,
    rate: Callable[[Engine], float] | None = None,
) -> str:
    """Return the name of the engine that ``auto`` chooses: the same for the same work, until an engine is installed or updated.

    On a CPU it is the first of `_USUALLY_FASTEST` that can run the base. Engines are timed, one after the other, where the
    pass is so long that this is won back, and on a GPU.

    Parameters
    ----------
    held : str, optional
        The engine of the store that is to be resumed or extended.
    frozen : Frozen
    key : dict
        Identifies the base, JSON-serialisable: its weights' SHA-256, preprocessing, ...
    make : callable
        Returns a checked engine; see `make_checked`.
    images : int, optional
        How many the pass is for; None if unknown.
    rate : callable
        Returns images per second of an engine; see `images_per_second`.

    Raises
    ------
    RequestError
        If the store's engine is not installed, or none that is suitable.
    """
    if held is not None:
        if not is_installed(held):
            raise missing_engine(held, ", which created this store and must extend it,")
        return held
    suitable = considered(frozen.base.library)
    if len(suitable) == 1:
        return suitable[0]
    device = ENGINES[suitable[0]].device()
    names = [name for name in suitable if is_installed(name)]
    if not names:
        raise missing_engine(suitable[0])
    timed = device.kind == "gpu" or _is_long(images, frozen.image_size)
    known = {
        "base": key,
        "engines": {name: engine_version(name) for name in names},
        "processor": [processor(), cores(), str(device)],
        "timed": timed,
    }
    chosen = recall("engines", known)
    if chosen is None:
        if timed:
            log.info(f"timing   {', '.join(names)}, once for this base and machine; this may take a minute or two")
            chosen = _fastest(names, make, rate or (lambda engine: images_per_second(engine, frozen)))
        else:
            chosen = _first_that_can(sorted(names, key=_rank), make)
        remember("engines", known, chosen)
    name, why = chosen
    log.info(f"chosen   {name}: {why}")
    fastest = min(suitable, key=_rank)
    if device.kind == "cpu" and not is_installed(fastest):
        log.info(f"         faster for most bases: {missing_engine(fastest)}")
    return str(name)


def _rank(name: str) -> int:
    return _USUALLY_FASTEST.index(name) if name in _USUALLY_FASTEST else len(_USUALLY_FASTEST)


def _is_long(images: int | None, side: int) -> bool:
    """Return whether timing would be won back, by what is the same in each run of a command."""
    return images is not None and images * (side / 224) ** 2 / cores() >= _WORTH_TIMING


def _first_that_can(names: list[str], make: Callable[[str], Checked]) -> list[str]:
    """Return the first engine that can run a base, and why it is taken."""
    refused = []
    for name in names:
        try:
            make(name)
        except EngineError as error:
            refused.append(str(error.__cause__ or error).rstrip("."))
        else:
            return [name, f"{'; '.join(refused) or 'usually the fastest on a CPU'}; only longer passes time engines"]
    raise _none_can(names, refused)


def _none_can(names: list[str], refused: list[str]) -> EngineError:
    on_gpu = any(ENGINES[name].device().kind == "gpu" for name in names)
    remedy = " On the CPU: CUDA_VISIBLE_DEVICES=-1" if on_gpu else ""
    return EngineError(f"an engine must be able to run this base; {'; '.join(refused)}.{remedy}")


def _fastest(names: list[str], make: Callable[[str], Checked], rate: Callable[[Engine], float]) -> list[str]:
    """Return the fastest engine, and what was measured; one engine is in memory at a time."""
    rates: dict[str, float] = {}
    refused = []
    for name in names:
        try:
            rates[name] = rate(make(name).engine)
            log.info(f"         {name}: {rates[name]:.1f} images/s")
        except EngineError as error:
            refused.append(str(error.__cause__ or error).rstrip("."))
            log.warning(f"{error.__cause__ or error} It is skipped.")
    if not rates:
        raise _none_can(names, refused)
    told = ", ".join(f"{name} {each:.1f}" for name, each in rates.items())
    return [max(rates, key=lambda name: rates[name]), f"the fastest when they were timed ({told} images/s)"]


def images_per_second(engine: Engine, frozen: Frozen) -> float:
    """Return images per second of an engine, from the fastest of a few batches after a warm-up."""
    images = np.random.default_rng(0).integers(0, 256, (frozen.batch_size, *[frozen.image_size] * 2, 3), np.uint8)
    engine.run(images)
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) < 5 and sum(seconds) < _TIMED_SECONDS):
        start = time.perf_counter()
        engine.run(images)
        seconds.append(time.perf_counter() - start)
    return len(images) / min(seconds)


def make_checked(name: str, frozen: Frozen, batch: Callable[[], np.ndarray]) -> Checked:
    """Create an engine and check its features against those of the reference, which is TensorFlow for Keras' bases and ONNX Runtime for ONNX models.

    Parameters
    ----------
    name : str
    frozen : Frozen
    batch : callable
        Returns images, (n, image_size, image_size, 3), uint8, on which an engine is checked that has no ready base.

    Raises
    ------
    EngineError
        If the features differ by more than is allowed, or the engine cannot run this base.
    """
    reference = reference_of(frozen.base.library)
    with _naming_another(reference), _naming(name, reference):
        if ENGINES[name].convert is not None:
            return _make_from_ready(name, frozen)
        engine = ENGINES[name].make(frozen)
    if name == reference:
        return Checked(engine, 0.0, None)
    images = batch()
    found = engine.run(images)  # one after the other, since a GPU's memory may hold only one
    expected = ENGINES[reference].make(frozen).run(images)
    with _naming_another(reference):
        return Checked(engine, _parity(name, found, expected, reference), "batch")


@contextmanager
def _naming_another(reference: str) -> Iterator[None]:
    """Let an EngineError, which then is the cause of the one that is raised, name an engine that can run the base."""
    try:
        yield
    except EngineError as error:
        if error.__cause__ is not None:
            raise
        raise EngineError(f"{error} Use another: {option('engine', reference)}") from error


@contextmanager
def _naming(name: str, reference: str) -> Iterator[None]:
    """Turn any failure of an engine to read or run a base, except the reference's own, into an EngineError.

    A graph is the user's own, and converters fail on what they do not know by whatever error comes first.
    """
    try:
        yield
    except (CachedFeaturesError, OSError, MemoryError):
        raise
    except Exception as error:
        if name == reference:
            raise
        log.debug(f"refused  {name}", exc_info=True)
        why = next(iter(str(error).splitlines()), "")[:200]
        raise EngineError(f"{name} cannot read this base ({type(error).__name__}: {why}).") from None


def _make_from_ready(name: str, frozen: Frozen) -> Checked:
    """Create an engine from its ready base, which is made, and kept once the engine was checked, if there is none."""
    held = find_ready(name, frozen)
    if held is None:
        log.info(
            f"ready    the base is prepared for {name} and compared with the reference, once; this takes up to a minute"
        )
    ready = held or make_ready(name, frozen)
    engine = ENGINES[name].make(frozen, ready.parts)
    probes, size = draw_probes(frozen.image_size), frozen.batch_size
    found = [engine.run(probes[first : first + size]) for first in range(0, len(probes), size)]
    together = {layer: np.concatenate([each[layer] for each in found]) for layer in found[0]}
    parity = _parity(name, together, ready.expected, reference_of(frozen.base.library))
    if held is None:
        keep_ready(name, frozen, ready)
    return Checked(engine, parity, "probes")


def _parity(name: str, found: dict[str, np.ndarray], expected: dict[str, np.ndarray], reference: str) -> float:
    """Return the largest distance of a layer's features from the reference's; raise EngineError if it is too large."""
    distances = {layer: _distance(found[layer], expected[layer]) for layer in expected}
    worst = max(distances, key=lambda layer: distances[layer])
    parity, allowed = distances[worst], ENGINES[name].allowed
    if not parity <= allowed:  # also refuses NaN
        raise EngineError(
            f"features of {name} must be within {allowed:.0e} (relative) of those of {reference}; those of the layer {worst} are "
            f"{parity:.1e} away."
        )
    return parity


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    norm = max(float(np.linalg.norm(expected)), 1e-12)
    return float(np.linalg.norm((found - expected).ravel())) / norm
