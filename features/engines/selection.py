"""Choice of an engine, and the check of its features against the reference engine's."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from ..errors import EngineError, option
from ..runtime.log import log
from ..runtime.machine import cores, processor
from ..runtime.user_cache import recall, remember
from .frozen_graph import Frozen
from .registry import ENGINES, Engine, is_installed, missing_engine, reference_of

_TIMED_SECONDS = 3.0  # after which no further rounds are timed


@dataclass(frozen=True)
class Checked:
    """An engine ready for the pass.

    Attributes
    ----------
    engine : Engine
    parity : float
        Largest relative Frobenius distance of a layer's features from the reference engine's on the first batch.
    seconds : float
        Time per batch.
    """

    engine: Engine
    parity: float
    seconds: float


def pick_engine(
    held: str | None,
    frozen: Frozen,
    key: Any,
    batch: np.ndarray,
    time_engines: Callable[[list[str], Frozen, np.ndarray], dict[str, float]] | None = None,
) -> str:
    """Return the name of the engine that ``auto`` chooses.

    Parameters
    ----------
    held : str, optional
        The engine of the store that is to be resumed or extended.
    frozen : Frozen
    key : dict
        Identifies the base, JSON-serialisable: its weights' SHA-256, preprocessing, ...
    batch : ndarray of shape (batch_size, image_size, image_size, 3), uint8
        The batch on which engines are timed.
    time_engines : callable
        Returns images per second by engine; see `images_per_second`.

    Raises
    ------
    RequestError
        If the store's engine is not installed.
    """
    if held is not None:
        if not is_installed(held):
            raise missing_engine(held, ", which created this store and must extend it,")
        return held
    reference = reference_of(frozen.base.library)
    device = ENGINES[reference].device()
    names = [
        name
        for name, kind in ENGINES.items()
        if kind.runs == frozen.base.library and device.kind in kind.auto_on and is_installed(name)
    ]
    if names == [reference]:
        return reference
    versions = {name: version(ENGINES[name].module) for name in names}
    known = {"base": key, "engines": versions, "processor": processor(), "cores": cores(), "device": str(device)}
    rates = recall("engines", known)
    if rates is None:
        rates = (time_engines or images_per_second)(names, frozen, batch)
        remember("engines", known, rates)
        told = "is the fastest here, and is remembered"
    else:
        told = "was the fastest in an earlier run"
    fastest = max(rates, key=lambda name: rates[name])
    log.info(f"timed    {', '.join(f'{name} {rate:.1f}' for name, rate in rates.items())} images/s: {fastest} {told}")
    return fastest


def images_per_second(names: list[str], frozen: Frozen, batch: np.ndarray) -> dict[str, float]:
    """Return images per second by engine, timed on one batch after a warm-up; fast engines are timed repeatedly, alternating."""
    made: dict[str, Engine] = {}
    expected: dict[str, np.ndarray] = {}
    for name in names:
        try:
            engine = ENGINES[name].make(frozen)
            found = engine.run(batch)
            expected = expected or found  # the reference comes first
            if ENGINES[name].precision != "float32":  # in float32 a difference is a bug, which `make_checked` reports
                _check_parity(name, found, expected)
        except EngineError as error:
            log.warning(f"{error} It is skipped.")
        else:
            made[name] = engine
    seconds, start = dict.fromkeys(made, float("inf")), time.perf_counter()
    for _ in range(5):
        for name, engine in made.items():
            seconds[name] = min(seconds[name], _seconds(engine, batch))
        if time.perf_counter() - start > _TIMED_SECONDS:
            break
    return {name: frozen.batch_size / each for name, each in seconds.items()}


def make_checked(name: str, frozen: Frozen, batch: np.ndarray) -> Checked:
    """Create an engine and check its features of one batch against the reference's, which for Keras is TensorFlow.

    Raises
    ------
    EngineError
        If the features differ by more than is allowed, or the engine cannot run this base.
    """
    reference = reference_of(frozen.base.library)
    if ENGINES[name].module == ENGINES[reference].module:  # one after the other, since a GPU's memory may hold only one
        engine = _make(name, frozen)
        found, parity = engine.run(batch), 0.0
        if name != reference:
            parity = _check_parity(name, found, _make(reference, frozen).run(batch))
    else:  # the reference computes while the other engine is created
        first = _make(reference, frozen)
        with ThreadPoolExecutor(1) as aside:
            expected = aside.submit(first.run, batch)
            engine = _make(name, frozen)
            parity = _check_parity(name, engine.run(batch), expected.result())
    return Checked(engine, parity, _seconds(engine, batch))


def _make(name: str, frozen: Frozen) -> Engine:
    try:
        return ENGINES[name].make(frozen)
    except EngineError as error:
        raise EngineError(f"{error} Use another: {option('engine', reference_of(frozen.base.library))}") from error


def _check_parity(name: str, found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Return the largest distance of a layer's features from the reference's; raise EngineError if it is too large."""
    distances = {layer: _distance(found[layer], expected[layer]) for layer in expected}
    worst = max(distances, key=lambda layer: distances[layer])
    parity, allowed = distances[worst], ENGINES[name].allowed
    if not parity <= allowed:  # also refuses NaN
        reference = reference_of(ENGINES[name].runs)
        raise EngineError(
            f"features of {name} must be within {allowed:.0e} (relative) of those of {reference}; those of the layer {worst} are "
            f"{parity:.1e} away. Use another: {option('engine', reference)}"
        )
    return parity


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    norm = max(float(np.linalg.norm(expected)), 1e-12)
    return float(np.linalg.norm((found - expected).ravel())) / norm


def _seconds(engine: Engine, batch: np.ndarray) -> float:
    start = time.perf_counter()
    engine.run(batch)
    return time.perf_counter() - start
