"""What runs a base: the engines that there are, one row each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Protocol

import numpy as np

from ..errors import RequestError, missing_extra
from .frozen_graph import Frozen
from .mnn_engine import MNNEngine
from .openvino_engine import OpenVINOEngine
from .tensorflow_engine import TensorFlowEngine, find_device
from .winograd import WinogradEngine


class Engine(Protocol):
    """What the pass needs of an engine; it is made from a `Frozen` base."""

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return each layer's features of one batch.

        Parameters
        ----------
        images : ndarray of shape (batch_size, image_size, image_size, 3), uint8
            RGB. The batch is always full, so that a row's values do not depend on how many others there are.

        Returns
        -------
        features : dict of str to ndarray of shape (batch_size, h, w, channels) or (batch_size, channels), float32
            New arrays each time: they are written while the next batch is computed.
        """
        ...


@dataclass(frozen=True)
class EngineKind:
    """An engine that may be installed.

    Attributes
    ----------
    make : callable
        From a `Frozen` base to the engine.
    module : str
        What is imported; its package has the same name, and so has the extra.
    allowed : float
        How far its features may be from TensorFlow's: relative, Frobenius, of the first batch, layer by layer.
    precision : str
        What it computes in.
    auto_on : tuple of str
        Where ``auto`` considers it: ``cpu``, ``gpu``.
    """

    make: Callable[[Frozen], Engine]
    module: str
    allowed: float
    precision: str = "float32"
    auto_on: tuple[str, ...] = ("cpu",)


_F16 = partial(TensorFlowEngine, precision="float16")
ENGINES = {
    "tensorflow": EngineKind(TensorFlowEngine, "tensorflow", 0.0, auto_on=("cpu", "gpu")),
    "openvino": EngineKind(OpenVINOEngine, "openvino", 1e-5),
    "mnn": EngineKind(MNNEngine, "MNN", 3e-4),  # Winograd's transforms round more
    "numba": EngineKind(WinogradEngine, "numba", 1e-4),
    # Has eight bits of precision: for those who ask for it.
    "openvino-bf16": EngineKind(partial(OpenVINOEngine, precision="bf16"), "openvino", 3e-2, "bfloat16", ()),
    "tensorflow-xla": EngineKind(partial(TensorFlowEngine, xla=True), "tensorflow", 1e-5, auto_on=("gpu",)),
    # About as far from float32 as the float16 that features are stored in.
    "tensorflow-f16": EngineKind(_F16, "tensorflow", 2e-3, "float16", ("gpu",)),
    "tensorflow-f16-xla": EngineKind(partial(_F16, xla=True), "tensorflow", 2e-3, "float16", ("gpu",)),
}
CHOICES = ("auto", *ENGINES)


def is_installed(name: str) -> bool:
    """Tell whether an engine's package is there, without importing it."""
    return name in ENGINES and importlib.util.find_spec(ENGINES[name].module) is not None


def missing_engine(name: str, why: str = "") -> RequestError:
    """Return the error for an engine that is not installed; `why` it is needed, if it was not asked for by name."""
    package = name.split("-")[0]
    return missing_extra(package, package, f"the engine {name}{why}")


def describe_engine(name: str) -> str:
    """Return engine, version, device and precision, which are part of a store's fingerprint."""
    device = find_device() if ENGINES[name].module == "tensorflow" else "cpu"
    return f"{name} {version(ENGINES[name].module)}, {device}, {ENGINES[name].precision}"
