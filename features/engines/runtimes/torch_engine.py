"""The engine PyTorch, on a GPU if there is one, for bases that are modules of PyTorch."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...errors import EngineError, batch_too_large
from ...pooling import pools_of, tokens_before
from ...runtime.keras_runtime import import_torch
from ...runtime.machine import cores, gpu_in_sight
from ...store.provenance import CPU, Device
from ..frozen_graph import Frozen
from ..per_core import Lanes


class TorchEngine:
    """See `features.engines.registry.Engine`.

    Parameters
    ----------
    frozen : Frozen
    parts : mapping of str to ndarray, optional
        What `convert` returned; by default, it is called.
    precision : {'float32', 'float16'}
        float16 is PyTorch's autocast: what loses too much in it stays in float32.
    compiled : bool
        Whether ``torch.compile`` makes machine code of the module, which needs a C compiler and takes a minute.
    device : Device, optional
        The device that PyTorch uses; by default, detected.

    Raises
    ------
    EngineError
        If the base is not a module of PyTorch.
    """

    def __init__(
        self,
        frozen: Frozen,
        parts: Mapping[str, np.ndarray] | None = None,
        precision: str = "float32",
        compiled: bool = False,
        device: Device | None = None,
    ):
        parts = self.convert(frozen) if parts is None else parts
        torch = import_torch()
        self._torch, self._frozen, self._device = torch, frozen, device or find_torch_device()
        on_cpu = self._device.kind == "cpu"
        self._target = "cpu" if on_cpu else "cuda"
        module = _module_of(frozen, False)
        module.load_state_dict({name: torch.tensor(values) for name, values in parts.items()})
        module = _join(frozen, module, precision).to(self._target, memory_format=torch.channels_last)
        self._module = torch.compile(module, dynamic=False) if compiled else module
        piece = 1 if on_cpu else frozen.batch_size
        self._lanes = Lanes([self._compute] * (min(cores(), frozen.batch_size) if on_cpu else 1), piece)
        if compiled:  # now, so that what cannot be compiled is refused
            self.run(np.zeros((piece, frozen.image_size, frozen.image_size, 3), np.uint8))

    @staticmethod
    def convert(frozen: Frozen) -> dict[str, np.ndarray]:
        """Return the values of the base's module, as its ``state_dict`` names them.

        Raises
        ------
        EngineError
            If the base is not a module of PyTorch.
        """
        return {name: values.numpy() for name, values in _module_of(frozen, True).state_dict().items()}

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See `features.engines.registry.Engine.run`."""
        try:
            with _unrounded(self._torch):
                return self._frozen.named(self._lanes.run(images), len(images))
        except self._torch.OutOfMemoryError as error:
            raise batch_too_large(str(self._device), *images.shape[:2]) from error

    def _compute(self, images: np.ndarray) -> list[np.ndarray]:
        torch = self._torch
        if self._target == "cpu":  # each core computes images of its own; of this thread, and those that begin later
            torch.set_num_threads(1)
        with torch.inference_mode():
            return [output.cpu().numpy() for output in self._module(torch.tensor(images).to(self._target))]


def _module_of(frozen: Frozen, loaded: bool) -> Any:
    if frozen.base.module is None:
        raise EngineError("PyTorch runs the layers features and pooled of models of timm, and no other.")
    return frozen.base.module(loaded)


def _join(frozen: Frozen, module: Any, precision: str) -> Any:
    """Return a module from bytes of images to flat features; only the base itself computes in another precision."""
    import_torch()
    import torch

    pool = frozen.pool

    def pooled(values: Any) -> Any:
        if pool == "none" or values.ndim == 2:
            return values
        seen, over = values, tuple(range(1, values.ndim - 1))
        if values.ndim == 3:
            seen = values[:, tokens_before(values.shape[1]) :]
        kinds = {"cls": lambda: values[:, 0], "avg": lambda: seen.mean(over), "max": lambda: seen.amax(over)}
        return torch.cat([kinds[name]() for name in pools_of(pool)], dim=1)

    class Joined(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, images: Any) -> list[Any]:
            half = {"dtype": torch.float16, "enabled": precision == "float16"}
            with torch.autocast(images.device.type, **half):
                found = self.module(images.float())
            return [pooled(values.float()).reshape(-1) for values in found]

    return Joined().eval()


@contextmanager
def _unrounded(torch: Any) -> Iterator[None]:
    """Let GPUs multiply float32 as such, where PyTorch would round it to TF32, and sum float16 in float32; then as it was before."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    asked = {"fp32_precision": "ieee", "allow_fp16_reduced_precision_reduction": False}
    before = {name: getattr(matmul, name) for name in asked}
    with cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=False, fp32_precision="ieee"):
        try:
            for name, value in asked.items():
                setattr(matmul, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(matmul, name, value)


def find_torch_device() -> Device:
    """Return the device that PyTorch uses; it is imported only where there may be a GPU."""
    if not gpu_in_sight() or importlib.util.find_spec("torch") is None:
        return CPU
    torch = import_torch()
    return Device("gpu", torch.cuda.get_device_name(0)) if torch.cuda.is_available() else CPU
