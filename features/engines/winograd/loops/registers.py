"""How a product of matrices fills this processor's vector registers; needs llvmlite, and no Numba."""

from __future__ import annotations

from collections.abc import Mapping

from llvmlite.binding import get_host_cpu_features

from ....errors import EngineError


def register_tile(has: Mapping[str, bool]) -> tuple[int, int, int, int]:
    """Return floats per vector and, of a product, its rows, its rows when fewer are left, and its output channels.

    The sums of a product take most of the registers: 24 of 32 with AVX-512, 12 of 16 with AVX2. With more, LLVM keeps some sums in
    memory, where each addition waits for the one before to be written.

    Parameters
    ----------
    has : mapping of str to bool
        Processor features by LLVM's names.

    Raises
    ------
    EngineError
        If the processor has neither AVX-512 nor AVX2 with FMA.
    """
    if has.get("avx512f"):
        return 16, 12, 8, 32
    if has.get("avx2") and has.get("fma"):
        return 8, 6, 4, 16
    raise EngineError("numba's convolutions need a processor with AVX2 and FMA.")


LANES, ROWS, FEWER, PANEL = register_tile(get_host_cpu_features())
