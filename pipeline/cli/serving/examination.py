"""What is told of one uploaded image: class, set, novelty, where the head looked, and the nearest training images."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from features.errors import UnreadableImage
from features.images.decoding import decode_whole, read_bytes

from ...deploy.predictor import Examined, Predictor
from ...reports.analysis.class_activation import activation_maps, cells_of, grid_of, heat
from ...runs.html_page import data_uri

NEAREST, SIDE = 4, 160


def examine(predictor: Predictor, data: bytes, name: str, details: bool) -> dict[str, Any]:
    """Return what is told of an image file as JSON; with details, images as data URIs.

    Raises
    ------
    UnreadableImage
        If it is no image that can be used.
    """
    examined = predictor.examine(data, name)
    told = examined.prediction.to_json()
    if examined.prediction.novelty is not None:
        told["unlike"] = examined.prediction.novelty > 1
    if details:
        told["looked"] = _looked(predictor, examined)
        told["nearest"] = _nearest(predictor, examined)
    return told


def _looked(predictor: Predictor, examined: Examined) -> str | None:
    """Return where the head looked as a translucent image; None where that is not known, as of heads that are not linear."""
    reading, names = predictor.trained.reading, predictor.class_names
    layer, pool = reading.layers[0]
    maps = examined.maps[layer]
    grid = grid_of(maps.shape[1:], pool)
    if len(reading.layers) > 1 or grid is None:
        return None
    try:
        coef, _ = predictor.trained.head.coefficients(len(names))
    except TypeError:
        return None
    added = activation_maps(cells_of(maps[:1].astype(np.float32), grid), coef, pool)[0]
    of_class = added[:, :, names.index(examined.prediction.class_name)]
    return heat(of_class, float(np.abs(of_class).max()))


def _nearest(predictor: Predictor, examined: Examined) -> list[dict[str, Any]]:
    """Return the nearest training images whose files are still there."""
    known = predictor.trained.novelty
    if known is None or known.contents is None:
        return []
    order, distances = known.nearest(examined.X.mean(axis=0)[None], NEAREST)
    keys = [known.contents[place].tobytes() for place in order[0].tolist()]
    held, found = predictor.find_stored(keys), []
    for key, distance in zip(keys, distances[0].tolist(), strict=True):
        if key not in held:
            continue
        file, label = held[key]
        try:
            image = data_uri(Image.fromarray(decode_whole(read_bytes(file), predictor.image_spec)), SIDE)
        except UnreadableImage:
            continue
        found.append({"label": label, "name": file.name, "distance": distance, "image": image})
    return found
