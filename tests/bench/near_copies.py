"""How many planted copies of photos the audit finds, how many pairs are false, and how long it takes.

    python tests/bench/near_copies.py plant --photos FOLDER --out planted       # FOLDER with cats_and_dogs/, cifar10_small/
    cached-features extract --data planted/m.csv --out planted.h5
    python tests/bench/near_copies.py find --store planted.h5
    python tests/bench/near_copies.py time --images 100000

Planted are copies of 200 of 2,000 photos: as JPEG at quality 60, cropped to 90 % of each side, mirrored, at half the size, brighter
or darker by a quarter, and cropped, mirrored and at quality 60 together. A pair is false if it is not of one photo.
"""

import argparse
import csv
import hashlib
import resource
import shutil
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from features import FeatureStore
from pipeline.data.near_copies import find_near_copies


def crop(image, random):
    """Cut out 90 % of each side, anywhere."""
    width, height = (round(0.9 * side) for side in image.size)
    left, top = (
        int(random.integers(0, side - kept + 1)) for side, kept in zip(image.size, (width, height), strict=True)
    )
    return image.crop((left, top, left + width, top + height))


COPIES = {  # kind → copy of an image, and the quality it is saved with
    "jpeg": (lambda image, _: image, 60),
    "crop": (crop, 90),
    "flip": (lambda image, _: ImageOps.mirror(image), 90),
    "resize": (lambda image, _: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS), 90),
    "bright": (lambda image, random: ImageEnhance.Brightness(image).enhance(random.choice([0.8, 1.25])), 90),
    "crop, flip and jpeg": (lambda image, random: ImageOps.mirror(crop(image, random)), 60),
}


def plant(photos, out):
    """Write the photos, the copies, all under names that tell nothing, and a CSV file."""
    random, rows = np.random.default_rng(0), []
    (out / "images").mkdir(parents=True)
    large = sorted(photos.glob("cats_and_dogs/*/*/*"))
    small = sorted(photos.glob("cifar10_small/*/*/*"))
    small = [small[number] for number in np.sort(random.permutation(len(small))[:600])]
    chosen = set(random.permutation(len(large))[:200].tolist())

    def place(name):
        return f"images/{hashlib.sha256(name.encode()).hexdigest()[:16]}.jpg"

    for number, file in enumerate([*large, *small]):
        label = file.parent.name if number < len(large) else f"cifar_{file.parent.name}"
        shutil.copy(file, out / place(str(file)))
        rows.append((place(str(file)), label, number, "original"))
        for kind, (copy, quality) in COPIES.items() if number in chosen else ():
            path = place(f"{file}{kind}")
            copy(Image.open(file).convert("RGB"), random).save(out / path, quality=quality)
            rows.append((path, label, number, kind))
    with open(out / "m.csv", "w", newline="") as opened:
        csv.writer(opened).writerows([("path", "label", "photo", "kind"), *rows])


def find(store):
    """Print recall and false pairs, for each kind of copy alone and for all together."""
    with FeatureStore(store) as opened:
        X, rows = opened.read(pool="avg"), opened.rows
    kinds, photos = np.array(rows.columns["kind"]), np.array(rows.columns["photo"])
    large = np.array([not rows.class_names[label].startswith("cifar") for label in rows.labels])
    print(
        "| copies | among images | threshold | recall | false pairs | per 1,000 images | s |\n|---|---|---|---|---|---|---|"
    )
    every = list(dict.fromkeys(kinds[kinds != "original"].tolist()))
    for some, where in ((np.ones(len(X), bool), ""), (large, ", cats and dogs alone")):
        for planted in (*([kind] for kind in every), every, []):
            kept = np.flatnonzero(some & np.isin(kinds, ["original", *planted]))
            started = time.perf_counter()
            found = find_near_copies(X[kept], rows.labels[kept], rows.sha256[kept])
            seconds = time.perf_counter() - started
            alike = found.likeness.between(np.arange(len(kept)), np.arange(len(kept))) >= found.threshold
            one, two = np.nonzero(np.triu(alike, 1))
            false = int((photos[kept[one]] != photos[kept[two]]).sum())
            original = {photos[row]: place for place, row in enumerate(kept) if kinds[row] == "original"}
            copies = [place for place, row in enumerate(kept) if kinds[row] != "original"]
            hits = [found.clusters[place] == found.clusters[original[photos[kept[place]]]] for place in copies]
            name = "all" if planted == every else ", ".join(planted) or "none"
            print(
                f"| {name} | {len(kept):,}{where} | {found.threshold:.2f} | {np.mean(hits) if hits else float('nan'):.3f} "
                f"| {false} | {1000 * false / len(kept):.2f} | {seconds:.1f} |"
            )


def clock(images):
    """Print time and memory for made-up features, 512 wide, of which 5 % are nearly copies of others."""
    random, copies = np.random.default_rng(0), images // 20
    mixed = random.standard_normal((512, 512), np.float32) * np.exp(-np.arange(512, dtype=np.float32) / 80)[:, None]
    X = np.maximum(random.standard_normal((images, 512), np.float32) @ mixed * 0.1, 0)
    X[images - copies :] = X[:copies] + 0.02 * random.standard_normal((copies, 512), np.float32)
    labels, contents = random.integers(0, 10, images), random.integers(0, 256, (images, 32)).astype(np.uint8)
    before, busy, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), time.perf_counter()
    found = find_near_copies(X, labels, contents)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    recall = np.mean(found.clusters[images - copies :] == np.arange(copies))
    print(
        f"{images:,} images: {seconds:.0f} s, {busy:.0f} s of processor time, {more / 1024:.0f} MiB more; recall {recall:.3f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    planting = verbs.add_parser("plant")
    planting.add_argument("--photos", type=Path, required=True)
    planting.add_argument("--out", type=Path, required=True)
    verbs.add_parser("find").add_argument("--store", required=True)
    verbs.add_parser("time").add_argument("--images", type=int, default=100_000)
    options = parser.parse_args()
    if options.verb == "plant":
        plant(options.photos, options.out)
    elif options.verb == "find":
        find(options.store)
    else:
        clock(options.images)
