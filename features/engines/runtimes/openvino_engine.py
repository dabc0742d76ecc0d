"""The OpenVINO engine, on the CPU in float32 or, if the processor supports it, in bfloat16."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import EngineError
from ...runtime.child_process import refuse_forks
from ...runtime.machine import cores
from ..frozen_graph import Frozen
from ..per_core import Lane, Lanes
from .onnx_graph import join_graph, piece_of

_CONVERTER = "openvino.tools.ovc"


class OpenVINOEngine:
    """See `features.engines.registry.Engine`.

    Parameters
    ----------
    frozen : Frozen
    parts : mapping of str to ndarray, optional
        What `convert` returned; by default, it is called.
    precision : {'f32', 'bf16'}

    Raises
    ------
    EngineError
        If OpenVINO cannot run this base, or not in this precision.
    """

    def __init__(self, frozen: Frozen, parts: Mapping[str, np.ndarray] | None = None, precision: str = "f32"):
        openvino, self._frozen, core = import_openvino(), frozen, _core()
        refuse_forks("OpenVINO")  # a model of a fork may be given threads of its parent's that are free
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineError("this processor does not compute in bfloat16.")
        piece = piece_of(frozen)
        count = min(cores(), -(-frozen.batch_size // piece))
        # By default, OpenVINO uses bfloat16 if the processor supports it.
        options = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": count, "INFERENCE_NUM_THREADS": cores()}
        parts = self.convert(frozen) if parts is None else parts
        try:
            read = core.read_model(parts["model"].tobytes(), openvino.Tensor(parts["weights"]))
            model = core.compile_model(read, "CPU", options)
        except RuntimeError as error:
            raise _cannot_run(error) from error
        outputs = [model.output(str(name)) for name in parts["outputs"]]
        self._lanes = Lanes([_lane(model.create_infer_request(), outputs) for _ in range(count)], piece)

    @staticmethod
    def convert(frozen: Frozen) -> dict[str, np.ndarray]:
        """Return the base for one image in OpenVINO's own format, and the names of its outputs.

        Raises
        ------
        EngineError
            If OpenVINO cannot run this base.
        """
        openvino = import_openvino()
        graph, end, outputs = _graph(frozen)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"base.{end}"
            path.write_bytes(graph)
            try:
                model = _core().read_model(path)
                openvino.save_model(model, path.with_suffix(".xml"), compress_to_fp16=False)
            except RuntimeError as error:
                raise _cannot_run(error) from error
            written = {name: path.with_suffix(end) for name, end in (("model", ".xml"), ("weights", ".bin"))}
            parts = {name: np.fromfile(file, np.uint8) for name, file in written.items()}
        return {**parts, "outputs": np.array(outputs)}

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `features.engines.registry.Engine.run`."""
        return self._frozen.named(self._lanes.run(images), len(images))


@cache
def _core() -> Any:
    """Return OpenVINO's Core, one for the process, which lives until it ends.

    Each one gives the thread that makes it a stack for signals, and takes it away in the end. Of two, the second would put back
    the stack of the first, which may be gone by then: the next signal, such as Ctrl-C, would end the process.
    """
    return import_openvino().Core()


def _graph(frozen: Frozen) -> tuple[bytes, str, list[str]]:
    """Return the base for one image, or as many as it takes, as a file's bytes, extension and names of outputs."""
    if frozen.base.is_onnx:
        joined = join_graph(frozen, piece_of(frozen))
        return joined.graph, "onnx", list(joined.outputs)
    single = frozen.of_batch(1)
    return single.graph(), "pb", [f"{name}:0" for name in single.outputs]


def _cannot_run(error: RuntimeError) -> EngineError:
    return EngineError(f"OpenVINO cannot run this base ({str(error).strip().splitlines()[-1]}).")


def _lane(request: Any, outputs: list[Any]) -> Lane:
    # Created here, because two threads that create OpenVINO's first tensor deadlock.
    image = request.get_input_tensor().data

    def run(images: np.ndarray) -> list[np.ndarray]:
        image[:] = images
        request.infer()
        return [np.array(request.get_tensor(output).data) for output in outputs]

    return run


def import_openvino() -> Any:
    """Import OpenVINO without its model converter, which would send telemetry on import."""
    with _without(_CONVERTER):
        import openvino
    return openvino


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Temporarily block the import of a module that has not been imported yet."""
    absent = module not in sys.modules
    if absent:
        sys.modules[module] = None  # type: ignore[assignment]  # Python's own way to block an import
    try:
        yield
    finally:
        if absent:
            del sys.modules[module]
