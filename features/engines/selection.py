"""Which engine is taken, and whether its features are TensorFlow's."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from ..errors import EngineError
from ..runtime.log import log
from ..runtime.machine import cores, processor
from ..runtime.user_cache import recall, remember
from .frozen_graph import Frozen
from .registry import ENGINES, Engine, is_installed, missing_engine
from .tensorflow_engine import TensorFlowEngine, find_device

_TIMED_SECONDS = 3.0  # after which the engines have been timed enough


@dataclass(frozen=True)
class Checked:
    """An engine ready for the pass.

    Attributes
    ----------
    engine : Engine
    parity : float
        Relative Frobenius distance from TensorFlow's features on the first batch, of the layer where it is largest.
    seconds : float
        What a batch takes.
    """

    engine: Engine
    parity: float
    seconds: float


def pick_engine(asked: str, held: str | None, frozen: Frozen, base: Any, batch: np.ndarray) -> str:
    """Return the name of the engine to take.

    Parameters
    ----------
    asked : str
        One of ``CHOICES``.
    held : str, optional
        The engine of the store that is to be resumed or grown, as `describe_engine` gave it.
    frozen : Frozen
    base : dict
        What tells this base from others, as JSON can carry it: its weights' SHA-256, preprocessing, ...
    batch : ndarray of shape (batch_size, image_size, image_size, 3), uint8
        What engines are timed on.

    Raises
    ------
    RequestError
        If the store's engine is not installed.
    """
    if asked != "auto":
        return asked
    if held is not None:
        name = held.split()[0]
        if not is_installed(name):
            raise missing_engine(name, ", which made this store and goes on with it,")
        return name
    device = find_device()
    names = [name for name, kind in ENGINES.items() if device.split()[0] in kind.auto_on and is_installed(name)]
    if names == ["tensorflow"]:
        return "tensorflow"
    versions = {name: version(ENGINES[name].module) for name in names}
    key = {"base": base, "engines": versions, "processor": processor(), "cores": cores(), "device": device}
    rates = recall("engines", key)
    if rates is None:
        rates = _images_per_second(names, frozen, batch)
        remember("engines", key, rates)
        told = "is the fastest here, and remembered"
    else:
        told = "was the fastest when they were timed"
    fastest = max(rates, key=lambda name: rates[name])
    log.info(f"timed    {', '.join(f'{name} {rate:.1f}' for name, rate in rates.items())} images/s: {fastest} {told}")
    return fastest


def _images_per_second(names: list[str], frozen: Frozen, batch: np.ndarray) -> dict[str, float]:
    """Time a batch on each engine after one that sets it up; more than once, in turns, where that is quick."""
    made: dict[str, Engine] = {}
    expected: dict[str, np.ndarray] = {}
    for name in names:
        try:
            engine = ENGINES[name].make(frozen)
            found = engine.run(batch)
            expected = expected or found  # TensorFlow comes first
            if ENGINES[name].precision != "float32":  # of the others it would be a fault, which `make_checked` tells
                _check_parity(name, found, expected)
        except EngineError as error:
            log.warning(f"{error} It is left out.")
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
    """Make an engine and check its features of one batch against TensorFlow's.

    Raises
    ------
    EngineError
        If they differ by more than is allowed, or the engine cannot run this base.
    """
    if ENGINES[name].module == "tensorflow":  # one after the other: a GPU's memory is for one
        engine = _make(name, frozen)
        found, parity = engine.run(batch), 0.0
        if name != "tensorflow":
            parity = _check_parity(name, found, TensorFlowEngine(frozen).run(batch))
    else:  # TensorFlow computes while the other is made
        reference = TensorFlowEngine(frozen)
        with ThreadPoolExecutor(1) as aside:
            expected = aside.submit(reference.run, batch)
            engine = _make(name, frozen)
            parity = _check_parity(name, engine.run(batch), expected.result())
    return Checked(engine, parity, _seconds(engine, batch))


def _make(name: str, frozen: Frozen) -> Engine:
    try:
        return ENGINES[name].make(frozen)
    except EngineError as error:
        raise EngineError(f"{error} Use another: --engine tensorflow") from error


def _check_parity(name: str, found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Return the largest distance of a layer's features from TensorFlow's; raise EngineError if it is too large."""
    distances = {layer: _distance(found[layer], expected[layer]) for layer in expected}
    worst = max(distances, key=lambda layer: distances[layer])
    parity, allowed = distances[worst], ENGINES[name].allowed
    if not parity <= allowed:  # so that NaN is refused too
        raise EngineError(
            f"features of {name} must be within {allowed:.0e} of TensorFlow's (relative); those of {worst} are "
            f"{parity:.1e} away. Use another: --engine tensorflow"
        )
    return parity


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    norm = max(float(np.linalg.norm(expected)), 1e-12)
    return float(np.linalg.norm((found - expected).ravel())) / norm


def _seconds(engine: Engine, batch: np.ndarray) -> float:
    start = time.perf_counter()
    engine.run(batch)
    return time.perf_counter() - start
