"""A page on which the images of a queue get their class by a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from features.errors import UnreadableImage
from features.images.decoding import decode_whole, read_bytes
from features.images.image_spec import ImageSpec

from ..runs.html_page import data_uri, fill_page

SIDE = 480
KEYS = "123456789abcefghijklmnopqrtuvwyz"  # of classes, in their order; d, s and x have other meanings


def render_page(
    queue: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    spec: ImageSpec,
    labels: str,
    add: str,
    group: str | None = None,
) -> str:
    """Return the page as HTML, with all images in it.

    Parameters
    ----------
    queue : sequence of dict
        With ``path``, ``predicted`` and ``probability`` of each image.
    class_names : sequence of str
    spec : ImageSpec
        How files became the pixels that the base saw.
    labels : str
        Name of the file that the page saves.
    add : str
        The command that adds them to the store.
    group : str, optional
        The column of the store's groups, in which each image gets a text of its own.
    """
    with ThreadPoolExecutor(4) as pool:
        shown = list(pool.map(lambda each: _thumbnail(each["path"], spec), queue))
    cards: list[dict[str, Any]] = [
        {**{name: each[name] for name in ("path", "predicted", "probability")}, "image": image}
        for each, image in zip(queue, shown, strict=True)
    ]
    classes = [
        {"name": name, "key": KEYS[number] if number < len(KEYS) else None} for number, name in enumerate(class_names)
    ]
    page = {"cards": cards, "classes": classes, "labels": labels, "add": add, "group": group}
    return fill_page("pipeline.labelling", "queue", page)


def _thumbnail(path: str, spec: ImageSpec) -> str | None:
    try:
        return data_uri(Image.fromarray(decode_whole(read_bytes(Path(path)), spec)), SIDE)
    except UnreadableImage:
        return None
