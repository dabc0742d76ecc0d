"""Write changed copies of a store's test images, as if another camera had taken them.

    python tests/bench/changed.py --store photos.h5 --out changed && python -m pipeline extract --data changed/changed.csv --out changed.h5

Blurred: a Gaussian of a two-hundredth of the longer side. Recropped: the middle half of each side. Darker: half as bright. For
`novelty.py --changed changed.h5`; extract with the settings of the store.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from features import FeatureStore
from features.splits import SPLITS


def middle(image):
    width, height = image.size
    return image.crop((width // 4, height // 4, width - width // 4, height - height // 4))


CHANGES = {
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) / 200)),
    "recropped": middle,
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.5),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--most", type=int, default=200, help="images")
    given = parser.parse_args()
    with FeatureStore(given.store) as store:
        rows, root = store.rows, Path(store.provenance["source"]["root"])
    test = np.random.default_rng(0).permutation(np.flatnonzero((rows.splits == SPLITS["test"]) & (rows.views == 0)))
    out = Path(given.out)
    table = [("path", "label")]
    for row in test[: given.most].tolist():
        image = ImageOps.exif_transpose(Image.open(root / rows.paths[row])).convert("RGB")
        for kind, change in CHANGES.items():
            place = out / kind / f"{row}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            change(image).save(place, compress_level=1)
            table.append((f"{kind}/{row}.png", rows.class_names[rows.labels[row]]))
    with open(out / "changed.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)


if __name__ == "__main__":
    main()
