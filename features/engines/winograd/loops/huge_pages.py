"""Memory that the system can back with huge pages, which makes address translation faster."""

from __future__ import annotations

import numpy as np

_PAGE = 1 << 21  # bytes


def large_zeros(count: int) -> np.ndarray:
    """Return float32 zeros aligned to a huge page, so that the system can use huge pages for them."""
    raw = np.zeros(4 * count + _PAGE, np.uint8)
    start = -raw.ctypes.data % _PAGE
    return raw[start : start + 4 * count].view(np.float32)


def address(array: np.ndarray) -> int:
    """Return where an array's values begin, which is what compiled functions take."""
    return int(array.ctypes.data)
