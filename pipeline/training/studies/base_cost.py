"""What a base costs per image: multiply-adds, time and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.backbones.multiply_adds import count_multiply_adds
from features.errors import CachedFeaturesError
from features.extraction.cost import time_engine
from features.extraction.recompute import prepare_again, start_engine
from features.runtime.log import log
from features.store.reader import FeatureStore


@dataclass(frozen=True)
class Cost:
    """What a base costs per image.

    Attributes
    ----------
    multiply_adds : int or None
        Of all views; None if the base cannot be rebuilt here, or has operations whose cost is not known.
    milliseconds : float or None
        Of all cores together, for one image of a batch, measured now; None if the base cannot be rebuilt here.
    stored : int
        Bytes of the stored layers' features, of all views, before compression.
    """

    multiply_adds: int | None
    milliseconds: float | None
    stored: int


def measure_cost(store: FeatureStore) -> Cost:
    """Measure what a store's base costs per image, by a few batches of black images."""
    made = store.made
    values = sum(int(np.prod(store.dataset(layer).shape[1:])) for layer in store.layers) * store.views
    stored = values * np.dtype(made.spec.dtype).itemsize
    try:
        batch = np.zeros((made.batch_size, *[made.spec.image_size] * 2, 3), np.uint8)
        prepared = prepare_again(made)
        rate = time_engine(start_engine(prepared), batch)
        counted = count_multiply_adds(prepared.base)
    except (CachedFeaturesError, OSError) as error:
        log.warning(f"{made.spec.backbone} cannot be timed here: {error}")
        return Cost(None, None, stored)
    return Cost(None if counted is None else counted * store.views, 1000 * store.views / rate, stored)


def cost_of(base: str, costs: dict[str, Cost]) -> dict[str, Any]:
    """Return the cost of a row of the table: of one base, or of all together."""
    those = [costs[base]] if base in costs else list(costs.values())
    return {
        "multiply_adds": _sum([each.multiply_adds for each in those]),
        "milliseconds": _sum([each.milliseconds for each in those]),
        "stored": sum(each.stored for each in those),
    }


def _sum(values: Sequence[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return sum(known) if len(known) == len(values) else None
