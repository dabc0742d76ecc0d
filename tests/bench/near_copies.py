"""How many planted copies of photos the audit finds, how many pairs are false, and how long it takes.

    python tests/bench/near_copies.py plant --photos FOLDER --out planted       # FOLDER with cats_and_dogs/, cifar10_small/
    cached-features extract --data planted/m.csv --out planted.h5
    python tests/bench/near_copies.py find --store planted.h5
    python tests/bench/near_copies.py time --images 100000

Planted are copies of 200 of 2,000 photos: as JPEG at quality 60, cropped to 90 % of each side, mirrored, at half the size, brighter
or darker by a quarter, and cropped, mirrored and at quality 60 together. A pair is false if it is not of one photo, but for two photos that are one picture.
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
from pipeline.data.near_copies import THRESHOLD, find_near_copies

TWINS = {"790", "1172"}  # the same picture of puppies, saved twice among the photos
DRAWS = 8  # of smaller sets


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
    """Print recall and false pairs of a store of planted copies."""
    with FeatureStore(store) as opened:
        layer = list(opened.layers)[-1]
        X, rows = opened.read(layer, "flatten" if opened.kinds[layer] == "vector" else "avg"), opened.rows
    kinds, photos = np.array(rows.columns["kind"]), np.array(rows.columns["photo"])
    large = np.array([not rows.class_names[label].startswith("cifar") for label in rows.labels])
    tell(X, rows.sha256, photos, kinds, large)


def tell(X, contents, photos, kinds, large):
    """Print recall and false pairs: for each kind of copy, for all together, for none, and for sets of fewer images."""
    every = list(dict.fromkeys(kinds[kinds != "original"].tolist()))
    print("| planted | images | recall | false pairs per 1,000 images | cats and dogs alone: images | recall | false |")
    print("|---|---|---|---|---|---|---|")
    for planted in (*([kind] for kind in every), every, []):
        told = []
        for some in (np.ones(len(X), bool), large):
            kept = np.flatnonzero(some & np.isin(kinds, ["original", *planted]))
            recall, false = judge(X[kept], contents[kept], photos[kept], kinds[kept])
            told.append(f"{len(kept):,} | {recall:.3f} | {false:.2f}")
        name = "all" if planted == every else ", ".join(planted) or "none"
        print(f"| {name} | {' | '.join(told)} |", flush=True)
    for n in (30, 100, 400):
        found = [judge(*draw_set(X, contents, photos, kinds, large, n, draw)) for draw in range(DRAWS)]
        recall, false = np.mean(found, axis=0)
        print(f"| one of a tenth, {DRAWS} draws | | | | {n} | {recall:.3f} | {false:.2f} |", flush=True)


def judge(X, contents, photos, kinds):
    """Return the share of copies in the cluster of their photo, and the pairs of different photos per 1,000 images."""
    found, every = find_near_copies(X, contents), np.arange(len(X))
    one, two = np.nonzero(np.triu(found.likeness.between(every, every) >= THRESHOLD, 1))
    false = sum(a != b and {a, b} != TWINS for a, b in zip(photos[one], photos[two], strict=True))
    original = {photos[row]: row for row in np.flatnonzero(kinds == "original")}
    hits = [found.clusters[row] == found.clusters[original[photos[row]]] for row in np.flatnonzero(kinds != "original")]
    return np.mean(hits) if hits else np.nan, 1000 * false / len(X)


def draw_set(X, contents, photos, kinds, large, n, draw):
    """Return n photos of cats and dogs, and of a tenth of them one copy each, of one kind after the other."""
    random = np.random.default_rng(draw)
    chosen = random.permutation(np.unique(photos[large]))[:n]
    copied = random.permutation(np.unique(photos[np.isin(photos, chosen) & (kinds != "original")]))[: max(3, n // 10)]
    kept = np.isin(photos, chosen) & (kinds == "original")
    for place, photo in enumerate(copied):
        kept |= (photos == photo) & (kinds == list(COPIES)[(place + draw) % len(COPIES)])
    return X[kept], contents[kept], photos[kept], kinds[kept]


def clock(images):
    """Print time and memory for made-up features, 512 wide, of which 5 % are nearly copies of others."""
    random, copies = np.random.default_rng(0), images // 20
    mixed = random.standard_normal((512, 512), np.float32) * np.exp(-np.arange(512, dtype=np.float32) / 80)[:, None]
    X = np.maximum(random.standard_normal((images, 512), np.float32) @ mixed * 0.1, 0)
    X[images - copies :] = X[:copies] + 0.02 * random.standard_normal((copies, 512), np.float32)
    contents = random.integers(0, 256, (images, 32)).astype(np.uint8)
    before, busy, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), time.perf_counter()
    found = find_near_copies(X, contents)
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
