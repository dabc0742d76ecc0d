"""Convolutions of this project on a CPU, compiled by Numba; only the engine is public. See README.md beside this file."""

from .engine import WinogradEngine

__all__ = ["WinogradEngine"]
