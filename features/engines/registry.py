"""The registry of engines, one row each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

import numpy as np

from ..errors import RequestError, called, missing_extra, must_be_one_of, option
from ..store.provenance import CPU, Device, EngineSpec
from .frozen_graph import Frozen
from .runtimes.onnxruntime_engine import ONNXRuntimeEngine, find_onnx_device
from .runtimes.openvino_engine import OpenVINOEngine
from .runtimes.tensorflow_engine import TensorFlowEngine, find_device
from .runtimes.torch_engine import TorchEngine, find_torch_device
from .winograd import WinogradEngine


class Engine(Protocol):
    """The interface of an engine, which is created from a `Frozen` base."""

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return each layer's features of some images.

        Parameters
        ----------
        images : ndarray of shape (n, image_size, image_size, 3), uint8
            RGB; n is at least 1 and at most the batch size. An image's values do not depend on the others: an engine
            that computes only so many images at once pads them.

        Returns
        -------
        features : dict of str to ndarray of shape (n, h, w, channels) or (n, channels), float32
            Layer → features, in new arrays each time, since they are written while the next batch is computed.
        """
        ...


@dataclass(frozen=True)
class EngineKind:
    """A row of the registry; the engine may or may not be installed.

    Attributes
    ----------
    make : callable
        Creates the engine from a `Frozen` base and, where there is `convert`, optionally from what it returned.
    module, extra : str
        The module to import, which is also its package's name, and this project's extra that has it.
    allowed : float
        Largest relative (Frobenius) distance of its features from the reference engine's, per layer.
    precision : str
    auto_on : tuple of str
        Kinds of device on which ``auto`` considers it: ``cpu``, ``gpu``.
    device : callable
        Returns the device that it uses.
    runs : tuple of str
        Libraries of the bases that it runs; see `Base`. The first engine of a library is the reference for the others.
    convert : callable, optional
        Returns what it needs to run a base, as arrays that can be kept; see `ReadyBase`.
    begin : callable, optional
        Begins, beside what comes before it, what the engine needs for any base.
    """

    make: Callable[..., Engine]
    module: str
    extra: str
    allowed: float
    precision: str = "float32"
    auto_on: tuple[str, ...] = ("cpu",)
    device: Callable[[], Device] = lambda: CPU
    runs: tuple[str, ...] = ("keras",)
    convert: Callable[[Frozen], Mapping[str, np.ndarray]] | None = None
    begin: Callable[[], None] | None = None


_TF, _GPU = partial(EngineKind, module="tensorflow", extra="tensorflow", device=find_device), ("gpu",)
_F16 = partial(TensorFlowEngine, precision="float16")
_OPENVINO = partial(
    EngineKind, module="openvino", extra="openvino", convert=OpenVINOEngine.convert, runs=("keras", "onnx", "torch")
)
# Compiling takes a minute, which timing would cost on a CPU, where others are faster anyway.
_TORCH = partial(
    EngineKind, module="torch", extra="torch", auto_on=_GPU, device=find_torch_device, runs=("torch",),
    convert=TorchEngine.convert,
)  # fmt: skip
_TORCH_F16 = partial(TorchEngine, precision="float16")
ENGINES = {
    "tensorflow": _TF(TensorFlowEngine, allowed=0.0, auto_on=("cpu", "gpu")),
    "onnxruntime": EngineKind(
        ONNXRuntimeEngine,
        "onnxruntime",
        "onnx",
        0.0,
        auto_on=("cpu", "gpu"),
        device=find_onnx_device,
        runs=("onnx", "torch"),
    ),
    "openvino": _OPENVINO(OpenVINOEngine, allowed=1e-5),
    # Winograd's transforms have larger rounding errors.
    "numba": EngineKind(
        WinogradEngine, "numba", "numba", 1e-4, convert=WinogradEngine.convert, begin=WinogradEngine.begin
    ),
    # bfloat16 has eight bits of precision, so this engine is used only on request.
    "openvino-bf16": _OPENVINO(
        partial(OpenVINOEngine, precision="bf16"), allowed=3e-2, precision="bfloat16", auto_on=()
    ),
    "tensorflow-xla": _TF(partial(TensorFlowEngine, xla=True), allowed=1e-5, auto_on=_GPU),
    # About as far from float32 as features stored in float16.
    "tensorflow-f16": _TF(_F16, allowed=2e-3, precision="float16", auto_on=_GPU),
    "tensorflow-f16-xla": _TF(partial(_F16, xla=True), allowed=2e-3, precision="float16", auto_on=_GPU),
    "torch": _TORCH(TorchEngine, allowed=1e-5),
    "torch-compiled": _TORCH(partial(TorchEngine, compiled=True), allowed=1e-5),
    "torch-f16": _TORCH(_TORCH_F16, allowed=2e-3, precision="float16"),
    "torch-f16-compiled": _TORCH(partial(_TORCH_F16, compiled=True), allowed=2e-3, precision="float16"),
}
CHOICES = ("auto", *ENGINES)


_RETIRED = ("mnn",)  # engines of earlier versions, which stores and runs may name


def current_engine(name: str) -> str:
    """Return the engine that computes what an engine computed: itself, or the reference for one that is no longer there.

    Raises
    ------
    RequestError
        If there never was such an engine.
    """
    if name in ENGINES:
        return name
    if name in _RETIRED:
        return reference_of("keras")
    raise must_be_one_of("engine", ENGINES, name)


def is_installed(name: str) -> bool:
    """Return whether an engine's package is installed, without importing it."""
    return name in ENGINES and importlib.util.find_spec(ENGINES[name].module) is not None


def reference_of(library: str) -> str:
    """Return the reference engine for bases of a library: the first one in the registry."""
    return next(name for name in engines_of(library))


def engines_of(library: str) -> list[str]:
    """Return the engines that run bases of a library, the reference first."""
    return [name for name, kind in ENGINES.items() if library in kind.runs]


def considered(library: str) -> list[str]:
    """Return the engines that ``auto`` considers here for bases of a library, installed or not: those that use a GPU, if any does."""
    found = {name: ENGINES[name].device().kind for name in engines_of(library)}
    where = "gpu" if "gpu" in found.values() else "cpu"
    return [name for name, kind in found.items() if kind == where and where in ENGINES[name].auto_on]


def check_engine(name: str, library: str, of: str) -> None:
    """Raise RequestError unless an engine, or ``auto``, runs bases of a library; `of` says for what, in messages."""
    if name != "auto" and library not in ENGINES[name].runs:
        raise RequestError(
            f"{called('engine')} must be auto or one of {', '.join(engines_of(library))} for {of}; got {name}. Leave it out."
        )


def missing_engine(name: str, why: str = "") -> RequestError:
    """Return the error for an engine that is not installed; `why` says why it is needed if it was not requested by name."""
    if name in _RETIRED:
        return RequestError(
            f"the engine must be one of {', '.join(ENGINES)}; got {name}{why} but is no longer there. "
            f"Extract to another file: {option('out')}"
        )
    kind = ENGINES[name]
    return missing_extra(kind.module, kind.extra, f"the engine {name}{why}")


def describe_engine(name: str) -> EngineSpec:
    """Return the description on this machine of an engine, or what takes its place; it is part of a store's fingerprint."""
    name = current_engine(name)
    kind = ENGINES[name]
    return EngineSpec(name, engine_version(name), kind.device(), kind.precision)


def engine_version(name: str) -> str:
    """Return the version of an engine's package; ONNX Runtime's for GPUs has another name."""
    module = ENGINES[name].module
    try:
        return version(module)
    except PackageNotFoundError:
        return version(f"{module}-gpu")
