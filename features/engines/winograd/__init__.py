"""Our own convolutions on a CPU, compiled by Numba: what is used from outside is the engine. See README.md beside this file."""

from .engine import WinogradEngine

__all__ = ["WinogradEngine"]
