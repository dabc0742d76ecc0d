"""Pools and sums, against NumPy's."""

import numpy as np
import pytest
from winograd_loops import FLOORS, call, import_loops, whole_numbers, windows

import_loops("kernels")


@pytest.mark.parametrize("channels", [16, 48])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(
    ("window", "strides", "before", "size"),
    [
        ((2, 2), (2, 2), (0, 0), (3, 3)),
        ((3, 3), (2, 2), (1, 1), (4, 4)),
        ((3, 2), (1, 3), (1, 0), (7, 3)),
        ((1, 1), (1, 1), (0, 0), (7, 7)),
    ],
)
def test_windows_are_pooled(window, strides, before, size, zeros, mean, channels):
    """Of negative numbers, too, of which zeros outside are the largest."""
    images = whole_numbers(0, 2, 7, 7, channels) - 5
    seen = windows(images, window, strides, before, size, 0.0 if zeros else np.nan)
    expected = (np.nanmean if mean else np.nanmax)(seen, axis=(3, 4))
    count = 2 * size[0] * size[1]
    out = np.full((count + 2, channels + 8), 777, np.float32)
    y = out.ravel()[channels + 8 + 3 :]
    for first, last in ((0, count // 2), (count // 2, count)):
        given = mean, zeros, y, channels + 8, *size, first, last
        call("pool", images, 7, 7, channels, *window, *strides, *before, *given)
    found = out[1:-1, 3 : channels + 3].reshape(expected.shape)
    np.testing.assert_array_max_ulp(found, expected.astype(np.float32), 1)
    assert (out[[0, -1]] == 777).all() and (out[:, :3] == 777).all() and (out[:, channels + 3 :] == 777).all()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("two", [False, True])
def test_maps_are_added(two, relu):
    x, other = whole_numbers(0, 6, 16), whole_numbers(1, 6, 16)
    scale, shift, out = whole_numbers(2, 16), whole_numbers(3, 16), np.full((6, 20), 777, np.float32)
    call("add", x, other, two, 16, scale, shift, FLOORS[relu], out.ravel()[2:], 20, 1, 5)
    expected = ((x + other if two else x) * scale + shift).clip(0 if relu else -np.inf, None)
    np.testing.assert_array_equal(out[1:5, 2:18], expected[1:5])
    assert (out[[0, 5]] == 777).all() and (out[:, :2] == 777).all() and (out[:, 18:] == 777).all()
