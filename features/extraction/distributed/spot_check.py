"""Checking a worker's part: the client computes one random row of it again."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

from ...engines.registry import Engine
from ...errors import CachedFeaturesError
from ...images.image_spec import ImageSpec
from ...images.views import make_view
from ...safefiles.regular_files import is_out_of_reach
from ...store.part_index import open_part, reading
from ...store.provenance import Provenance
from ...store.schema import get_text, read_layer, read_table
from ..recompute import forward
from .compatibility import AGREE, distance
from .worker import Work


class SpotCheck:
    """Finds parts of a worker that goes wrong after its first check, by a sample of one row per part.

    Parameters
    ----------
    engine : Engine
        The client's.
    made : Provenance
        Of the store.
    images : ImageSpec
        How the client reads image files.
    """

    def __init__(self, engine: Engine, made: Provenance, images: ImageSpec):
        self._engine, self._made, self._images, self._random = engine, made, images, random.SystemRandom()

    def fault(self, part: Path, work: Work) -> str:
        """Return how a part differs from what the client computes of one of its images; empty if it does not.

        Parameters
        ----------
        part : Path
        work : list of (Content, list of int)
            What the part is to hold, as sent to the worker.

        Raises
        ------
        StoreError
            If the system cannot read the part.
        """
        content, views = self._random.choice(work)
        view, spec = self._random.choice(views), self._made.spec
        try:
            with reading(part), open_part(part) as file:
                keys, numbers = read_table(file, "sha256"), read_table(file, "view")
                row = np.flatnonzero((keys == np.frombuffer(content.sha256, np.uint8)).all(axis=1) & (numbers == view))
                layers = {name: read_layer(file, name, part).read_rows(row) for name in spec.layers}
                skipped = {key for key, _ in json.loads(get_text(file, "skipped"))}
        except CachedFeaturesError as error:
            if is_out_of_reach(error.__cause__):  # by the client, which says nothing of the worker
                raise
            return str(error)
        image = content.image(self._images)
        if isinstance(image, str):  # the client cannot decode it, and so not check it
            return ""
        if len(row) != 1:
            why = "skips it" if content.sha256.hex() in skipped else "lacks it"
            return f"the client reads {content.file}, and the part {why}"
        again = make_view(image, spec.augment.name, view, content.sha256, self._made.seed)
        computed = forward(again[None], self._engine, self._made)
        apart = max(distance(computed[name].astype(np.float32), layers[name].astype(np.float32)) for name in layers)
        if apart <= AGREE:  # also False for nan
            return ""
        return f"features of {content.file} must be those that the client computes to {AGREE:.0e} (relative); they are {apart:.1e} away"
