"""No two feature maps that are in use at once lie in the same memory."""

import numpy as np
import pytest

from features.engines.winograd.graph import FeatureMap
from features.engines.winograd.loops.huge_pages import large_zeros
from features.engines.winograd.memory import MapMemory, Stage

STAGES = (Stage(0, 4, 1), Stage(4, 8, 2), Stage(8, 12, 4))


@pytest.mark.parametrize("seed", range(5))
def test_maps_that_are_in_use_keep_their_values(seed):
    """Steps as the network takes them: stage by stage, image by image or some together; each map read where it is last."""
    random = np.random.default_rng(seed)
    shapes = [(int(random.integers(1, 5)), 3, int(random.integers(1, 4))) for _ in range(13)]
    maps = [FeatureMap(shape, number) for number, shape in enumerate(shapes)]  # step j makes map j + 1
    last = {number: int(random.integers(number, 12)) for number in range(12)} | {12: 12 - 1}
    touched = {number: [number - 1, last[number]] for number in last}
    memory = MapMemory(maps, touched, STAGES)
    for group in (0, 2):
        for image in (group, group + 1):
            memory.array(0, image)[:] = 1000 * image
            take(memory, STAGES[0], [image], last)
        take(memory, STAGES[1], [group, group + 1], last)
    take(memory, STAGES[2], range(4), last)


def take(memory, stage, images, last):
    """Write what each step makes, and read what is read for the last time."""
    for step in range(stage.begin, stage.end):
        for image in images:
            memory.array(step + 1, image)[:] = 1000 * image + step + 1
        for number in (number for number, end in last.items() if end == step):
            for image in images:
                assert (memory.array(number, image) == 1000 * image + number).all(), (number, image)


def test_memory_is_used_again_and_parts_of_a_map_lie_in_it():
    maps = [FeatureMap((2, 2, 8), number) for number in range(4)] + [FeatureMap((2, 2, 3), 2, 5)]
    memory = MapMemory(
        maps, {0: [-1, 0], 1: [0, 1], 2: [1, 2], 3: [2]}, (Stage(0, 3, 1), Stage(3, 3, 1), Stage(3, 3, 1))
    )
    assert memory.locate(3, 0) == memory.locate(1, 0) != memory.locate(2, 0)
    for number in (1, 2, 3):
        assert memory.locate(0, 0) != memory.locate(number, 0)  # the image's, whose padding stays 0
    memory.array(2, 0)[:] = np.arange(8)
    np.testing.assert_array_equal(memory.array(4, 0), np.broadcast_to([5, 6, 7], (2, 2, 3)))
    assert memory.locate(4, 0) == (memory.locate(2, 0).address + 4 * 5, 8)


@pytest.mark.parametrize("count", [0, 1, 5_000_000])
def test_memory_begins_at_a_large_page(count):
    zeros = large_zeros(count)
    assert zeros.dtype == np.float32 and zeros.shape == (count,) and not zeros.any()
    assert zeros.ctypes.data % (2 << 20) == 0 or not count
