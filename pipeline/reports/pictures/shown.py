"""What the page's script shows: test images with all heads' predictions, doubted labels and the map, as columns of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from features.splits import SPLITS

from ...runs.predictions import Predictions
from . import sprite
from .thumbnails import Thumbnails

_VALUES = 50  # of a column by which images can be filtered


def page_data(
    predictions: Predictions,
    heads: Sequence[str],
    points: Sequence[int],
    doubts: Sequence[Any],
    thumbnails: Thumbnails,
    folder: Path,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the data, and the sheets of thumbnails.

    Parameters
    ----------
    predictions : Predictions
    heads : sequence of str
        Best first.
    points : sequence of int
        Rows on the map.
    doubts : sequence of Suspect
    thumbnails : Thumbnails
    folder : Path
        Where the page will lie. If the images lie below it, paths are links.
    """
    rows = predictions.rows
    means = {head: predictions.mean(head) for head in heads}
    tested = np.flatnonzero(~np.isnan(means[heads[0]][:, 0]))
    doubted = [each.row for each in doubts]
    shown = np.array(sorted({*tested.tolist(), *points, *doubted}), int)
    place = {int(row): number for number, row in enumerate(shown)}
    wrong = [tested[means[head][tested].argmax(axis=1) != rows.labels[tested]].tolist() for head in heads]
    pictured = list(dict.fromkeys([*doubted, *wrong[0], *points, *(row for each in wrong[1:] for row in each)]))
    pictured = pictured[: sprite.MOST]
    side = sprite.side_for(len(pictured))
    made = sprite.make_sprite(thumbnails.pixels(pictured, side), side)
    of_row = dict(zip(pictured, made.places, strict=True))
    data = {
        "classes": list(rows.class_names),
        "splits": list(SPLITS),
        "row": shown.tolist(),
        "path": [rows.paths[row] for row in shown],
        "label": rows.labels[shown].tolist(),
        "split": predictions.splits[0][shown].tolist(),
        "thumb": [of_row.get(int(row), -1) for row in shown],
        "sheet": {"side": side, "across": sprite.ACROSS},
        "tested": [place[int(row)] for row in tested],
        "heads": [
            {
                "name": head,
                "predicted": mean[tested].argmax(axis=1).tolist(),
                "chance": np.round(mean[tested].max(axis=1), 4).tolist(),
            }
            for head, mean in means.items()
        ],
        "doubts": {
            "image": [place[row] for row in doubted],
            "suggested": [each.suggested for each in doubts],
            "given": [round(each.given, 4) for each in doubts],
            "chance": [round(each.likelier, 4) for each in doubts],
            "sha256": [rows.sha256[row].tobytes().hex() for row in doubted],
        },
        "columns": _columns(rows.columns, shown),
        "root": str(thumbnails.root),
        "link": _link(thumbnails.root, folder),
        "points": [place[int(row)] for row in points],
    }
    return data, made.sheets


def _columns(columns: Any, shown: np.ndarray) -> dict[str, Any]:
    """Return the columns whose values images can be filtered by: each image's value as a number."""
    found = {}
    for name, texts in columns.items():
        values = sorted({texts[row] for row in shown})
        if 1 < len(values) <= _VALUES:
            number = {text: code for code, text in enumerate(values)}
            found[name] = {"values": values, "codes": [number[texts[row]] for row in shown]}
    return found


def _link(root: Path, folder: Path) -> str | None:
    """Return the relative URL of the images' folder, if it is the page's or below it."""
    try:
        below = root.resolve().relative_to(folder.resolve())
    except ValueError:
        return None
    return "./" + "".join(f"{quote(part)}/" for part in below.parts)
