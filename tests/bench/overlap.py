"""The pass with an engine that computes elsewhere, as a GPU does: what decoding and collecting images leave of its pace.

``.venv/bin/python tests/bench/overlap.py 200 300``: images per second of the engine alone, which sleeps instead of computing. Prints the
pass's pace beside each, on solar cells from memory at 224 px in batches of 64, and that of decoding alone.
"""

import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import elpv_dataset
import numpy as np

from features.extraction.forward import compute
from features.images.decoding import decode
from features.images.image_spec import ImageSpec
from features.runtime.machine import cores

IMAGES, BATCH, SIDE = 640, 64, 224


class Elsewhere:
    """An engine that takes a fixed time per image, and no processor."""

    def __init__(self, pace):
        self.pace = pace

    def run(self, images):
        time.sleep(len(images) / self.pace)
        return {"none": np.zeros((len(images), 512), np.float32)}


def main(paces):
    """Print a row for each pace."""
    spec = ImageSpec(SIDE)
    files = sorted((Path(elpv_dataset.__file__).parent / "data/images").glob("*.png"))[:IMAGES]
    held = [path.read_bytes() for path in files]
    todo = [
        (SimpleNamespace(sha256=row.to_bytes(2), image=lambda spec, data=data: decode(data, spec)), [0])
        for row, data in enumerate(held)
    ]
    options = SimpleNamespace(
        max_skipped=None, full_batch=BATCH, side=SIDE, views=1, workers=cores(), image_spec=spec, augment="none", seed=0,
        dtype="float32",
    )  # fmt: skip
    parts = SimpleNamespace(skipped={}, append=lambda *part: None)
    told = SimpleNamespace(update=lambda *more: None)
    print("| the engine alone, images/s | the pass, images/s | of the engine |\n|---|---|---|")
    for pace in (*paces, 1e9):
        marks = [time.perf_counter()]
        for _ in range(3):
            compute(todo, len(todo), Elsewhere(pace), parts, options, told)
            marks.append(time.perf_counter())
        found = sorted(len(todo) / (after - before) for before, after in pairwise(marks))
        name, share = (f"{pace:.0f}", f"{found[1] / pace:.2f}") if pace < 1e9 else ("takes no time", "-")
        print(f"| {name} | {found[1]:.0f} [{found[0]:.0f}, {found[2]:.0f}] | {share} |")


if __name__ == "__main__":
    main([float(each) for each in sys.argv[1:]])
