"""What tests of the loops share."""

import ctypes
import importlib

import numpy as np
import pytest

from features.errors import EngineError

ZEROS = np.zeros(1 << 10, np.float32)
FLOORS = {True: np.zeros(1, np.float32), False: np.full(1, -np.inf, np.float32)}


def import_loops(name):
    """Import a module of loops, or skip the tests where Numba or what a processor must have is missing."""
    pytest.importorskip("numba", reason="the extra numba is not installed")
    try:
        return importlib.import_module(f"features.engines.winograd.loops.{name}")
    except EngineError as error:
        pytest.skip(str(error), allow_module_level=True)


def call(name, *given, of=()):
    """Call a compiled loop, with arrays' addresses for arrays."""
    from features.engines.winograd.loops.machine_code import compiled

    held = [each for each in given if isinstance(each, np.ndarray)]
    assert all(each.flags.c_contiguous and each.dtype in (np.float32, np.float64) for each in held)
    compiled(name, *of)(*(each.ctypes.data if isinstance(each, np.ndarray) else int(each) for each in given))


def transform_packed(kernel, tile):
    """Return a kernel as the loops transform and pack it, flat, float32."""
    from features.engines.winograd.loops.kernels import TransformedKernel

    made = TransformedKernel(kernel, tile)
    place = made.locate(1, take=None, split=None)  # a small kernel needs neither
    return np.ctypeslib.as_array((ctypes.c_float * made.floats).from_address(place)).copy()


def transform_kernel(kernel, outputs):
    """Return G g G^T for each pair of channels, (n, n', ...), float32, from g, (r, r', ...), by NumPy in float64."""
    from features.engines.winograd.loops.toom_cook import matrices

    def weigh(row, taps):
        return sum(weight * tap for weight, tap in zip(row, taps, strict=True) if weight)

    down, across = (matrices(m, r)[1] for m, r in zip(outputs, kernel.shape[:2], strict=True))
    lines = [weigh(row, kernel.astype(np.float64)) for row in down]
    return np.array([[weigh(row, line) for row in across] for line in lines], np.float32)


def whole_numbers(seed, *shape):
    """Return whole numbers, float32, whose sums of products are exact in float32, in any order."""
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float32)


def windows(images, window, strides, before, size, fill=0.0):
    """Return (n, h, w, kh, kw, c): the window that each output is computed from, `fill` outside the images."""
    (kh, kw), (h, w) = window, size
    (top, left), (_, height, width, _) = before, images.shape
    below, right = (max((h - 1) * strides[0] + kh - top - height, 0), max((w - 1) * strides[1] + kw - left - width, 0))
    padded = np.pad(images, ((0, 0), (top, below), (left, right), (0, 0)), constant_values=fill)
    found = np.lib.stride_tricks.sliding_window_view(padded, window, (1, 2)).transpose(0, 1, 2, 4, 5, 3)
    return found[:, :: strides[0], :: strides[1]][:, :h, :w]
