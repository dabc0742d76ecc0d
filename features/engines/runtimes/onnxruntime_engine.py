"""The engine ONNX Runtime, on a GPU if its package can use one; the reference for other engines of ONNX models."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np

from ...errors import EngineError, missing_extra
from ...runtime.machine import cores, gpu_in_sight
from ...store.provenance import CPU, Device
from ..frozen_graph import Frozen
from ..per_core import Lanes
from .onnx_graph import IMAGES, join_graph, piece_of

_CUDA = "CUDAExecutionProvider"


class ONNXRuntimeEngine:
    """See `features.engines.registry.Engine`.

    Parameters
    ----------
    frozen : Frozen

    Raises
    ------
    RequestError
        If ONNX Runtime is not installed.
    EngineError
        If ONNX Runtime cannot run this base.
    """

    def __init__(self, frozen: Frozen):
        runtime, self._frozen = import_onnxruntime(), frozen
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # what it warns of is said by its errors
        on_cpu = find_onnx_device().kind == "cpu"
        piece = piece_of(frozen, on_cpu)
        joined = join_graph(frozen, piece)
        if on_cpu:  # each core computes images of its own; see `Lanes`
            options.intra_op_num_threads = options.inter_op_num_threads = 1
        exact = {"use_tf32": "0"}  # TF32 would round features by 1e-3
        providers = ["CPUExecutionProvider"] if on_cpu else [(_CUDA, exact), "CPUExecutionProvider"]
        try:
            self._session = runtime.InferenceSession(joined.graph, options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors have no class of their own
            raise _cannot_run(error) from error
        if (
            not on_cpu and _CUDA not in self._session.get_providers()
        ):  # it goes on without a provider that it cannot load
            raise EngineError(
                "ONNX Runtime cannot use the GPU that is here: CUDA or cuDNN of the versions that its package needs is not "
                "installed. To run on the CPU: CUDA_VISIBLE_DEVICES=-1"
            )
        self._outputs = list(joined.outputs)
        count = min(cores(), -(-frozen.batch_size // piece)) if on_cpu else 1
        self._lanes = Lanes([self._compute] * count, piece)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `features.engines.registry.Engine.run`."""
        try:
            return self._frozen.named(self._lanes.run(images), len(images))
        except RuntimeError as error:
            raise _cannot_run(error) from error

    def _compute(self, images: np.ndarray) -> list[np.ndarray]:
        return self._session.run(self._outputs, {IMAGES: images})


def _cannot_run(error: Exception) -> EngineError:
    return EngineError(f"ONNX Runtime cannot run this base ({str(error).strip().splitlines()[0][:200]}).")


def import_onnxruntime() -> Any:
    """Import ONNX Runtime without its telemetry, or raise RequestError if it is not installed.

    From version 1.29 on, it sends names and hashes of models to its makers, from a thread of its own, unless a variable is set
    when it is loaded (its Privacy.md).
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise missing_extra("onnxruntime", "onnx", "running an ONNX model")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def find_onnx_device() -> Device:
    """Return the device that ONNX Runtime uses; it is imported only where there may be a GPU."""
    if not gpu_in_sight() or importlib.util.find_spec("onnxruntime") is None:
        return CPU
    return Device("gpu", "CUDA") if _CUDA in import_onnxruntime().get_available_providers() else CPU
