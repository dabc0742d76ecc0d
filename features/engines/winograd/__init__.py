"""Our own convolutions on a CPU, compiled by Numba; the door is the engine."""
