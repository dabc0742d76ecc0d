"""The engines: what can run a base, one row each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Protocol

import numpy as np

from ..errors import RequestError, missing_extra
from ..store.provenance import CPU, Device, EngineSpec
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
    module, extra : str
        What is imported; and the package that has it, which is the name of this project's extra too.
    allowed : float
        How far its features may be from those of the reference: relative, Frobenius, of the first batch, layer by layer.
    precision : str
        What it computes in.
    auto_on : tuple of str
        Kinds of device on which ``auto`` considers it: ``cpu``, ``gpu``.
    device : callable
        Returns what it computes on.
    runs : str
        The library of the bases that it runs; see `Base`. The first engine of a library is the reference of the others.
    """

    make: Callable[[Frozen], Engine]
    module: str
    extra: str
    allowed: float
    precision: str = "float32"
    auto_on: tuple[str, ...] = ("cpu",)
    device: Callable[[], Device] = lambda: CPU
    runs: str = "keras"


_TF, _GPU = partial(EngineKind, module="tensorflow", extra="tensorflow", device=find_device), ("gpu",)
_F16 = partial(TensorFlowEngine, precision="float16")
ENGINES = {
    "tensorflow": _TF(TensorFlowEngine, allowed=0.0, auto_on=("cpu", "gpu")),
    "openvino": EngineKind(OpenVINOEngine, "openvino", "openvino", 1e-5),
    "mnn": EngineKind(MNNEngine, "MNN", "mnn", 3e-4),  # Winograd's transforms round more
    "numba": EngineKind(WinogradEngine, "numba", "numba", 1e-4),
    # Has eight bits of precision: for those who ask for it.
    "openvino-bf16": EngineKind(
        partial(OpenVINOEngine, precision="bf16"), "openvino", "openvino", 3e-2, "bfloat16", auto_on=()
    ),
    "tensorflow-xla": _TF(partial(TensorFlowEngine, xla=True), allowed=1e-5, auto_on=_GPU),
    # About as far from float32 as the float16 that features are stored in.
    "tensorflow-f16": _TF(_F16, allowed=2e-3, precision="float16", auto_on=_GPU),
    "tensorflow-f16-xla": _TF(partial(_F16, xla=True), allowed=2e-3, precision="float16", auto_on=_GPU),
}
CHOICES = ("auto", *ENGINES)


def is_installed(name: str) -> bool:
    """Tell whether an engine's package is there, without importing it."""
    return name in ENGINES and importlib.util.find_spec(ENGINES[name].module) is not None


def reference_of(library: str) -> str:
    """Return the engine that others which run bases of a library are compared with: the first one."""
    return next(name for name, kind in ENGINES.items() if kind.runs == library)


def missing_engine(name: str, why: str = "") -> RequestError:
    """Return the error for an engine that is not installed; `why` it is needed, if it was not asked for by name."""
    package = ENGINES[name].extra
    return missing_extra(package, package, f"the engine {name}{why}")


def describe_engine(name: str) -> EngineSpec:
    """Return what an engine is here, which is part of a store's fingerprint."""
    kind = ENGINES[name]
    return EngineSpec(name, version(kind.module), kind.device(), kind.precision)
