"""What a base costs per image, in time and in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from features.errors import CachedFeaturesError
from features.extraction.cost import time_engine
from features.extraction.recompute import rebuild_engine
from features.runtime.log import log
from features.store.reader import FeatureStore


@dataclass(frozen=True)
class Cost:
    """What a base costs per image.

    Attributes
    ----------
    milliseconds : float or None
        Of all cores together, for one image of a batch, measured now; None if the base cannot be rebuilt here.
    features : int
        Numbers per image, of all views, that the stored layers have before a head pools them.
    stored : int
        Bytes of these in the store's dtype, before compression.
    """

    milliseconds: float | None
    features: int
    stored: int


def measure_cost(store: FeatureStore) -> Cost:
    """Measure what a store's base costs per image, by a few batches of black images."""
    made, count = store.made, sum(int(np.prod(store.dataset(layer).shape[1:])) for layer in store.layers) * store.views
    stored = count * np.dtype(made.spec.dtype).itemsize
    try:
        batch = np.zeros((made.batch_size, *[made.spec.image_size] * 2, 3), np.uint8)
        rate = time_engine(rebuild_engine(made), batch)
    except (CachedFeaturesError, OSError) as error:
        log.warning(f"{made.spec.backbone} cannot be timed here: {error}")
        return Cost(None, count, stored)
    return Cost(1000 * store.views / rate, count, stored)


def cost_of(base: str, costs: dict[str, Cost]) -> dict[str, Any]:
    """Return the cost of a row of the table: of one base, or of all together."""
    those = [costs[base]] if base in costs else list(costs.values())
    times = [each.milliseconds for each in those]
    known = [each for each in times if each is not None]
    return {
        "milliseconds": sum(known) if len(known) == len(times) else None,
        "stored": sum(each.stored for each in those),
    }
