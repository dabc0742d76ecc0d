"""Photos of twelve megapixels: scaled against full decoding, in pixels, in speed and through ``extract`` as whole processes.

    .venv/bin/python tests/bench/decoding.py --data photos --photos 6 --rounds 3
    .venv/bin/python tests/bench/decoding.py --data photos --photos 300 --rounds 3 --extract

The photos are made of a source's: each enlarged, whose detail is soft, or 64 beside each other, whose detail is finer than a
camera's and has hard edges. Prints Markdown tables.
"""

import argparse
import io
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from start import clock, middle

from features import FeatureStore
from features.images.decoding import decode
from features.images.image_spec import DECODE, SMOOTH, ImageSpec
from features.sources.load import load_source
from pipeline.runs.trained_run import load_trained

WIDTH, HEIGHT, SIDES, ACROSS = 4032, 3024, (160, 224, 299), 8


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a source of photos; see features/README.md")
    parser.add_argument("--photos", type=int, default=6, help="of each kind; with --extract, of both together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--extract", action="store_true", help="time extract instead, at 224 px")
    parser.add_argument("--backbone", default="vgg16", help="of extract")
    parser.add_argument("--engine", default="auto", help="of extract")
    parser.add_argument("--run", help="a head on VGG16's block5_pool, whose probabilities are compared after --extract")
    options = parser.parse_args()
    source = load_source(options.data)
    files = [source.file(row) for row in np.random.default_rng(0).permutation(len(source))]
    if options.extract:
        time_extract(files, options)
    else:
        compare(
            {kind: list(itertools.islice(make(files), options.photos)) for kind, make in KINDS.items()}, options.rounds
        )


def enlarged(files):
    """Yield each photo as a JPEG of twelve megapixels."""
    for file in files:
        yield encoded(Image.open(file).convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def mosaics(files):
    """Yield JPEGs of 64 photos beside each other."""
    some = itertools.cycle(files)
    width, height = WIDTH // ACROSS, HEIGHT // ACROSS
    while True:
        whole = Image.new("RGB", (WIDTH, HEIGHT))
        for number in range(ACROSS**2):
            place = number % ACROSS * width, number // ACROSS * height
            whole.paste(Image.open(next(some)).convert("RGB").resize((width, height)), place)
        yield encoded(whole)


KINDS = {"enlarged": enlarged, "mosaic": mosaics}


def encoded(image):
    """Return an image as a JPEG's bytes."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90)
    return data.getvalue()


def compare(photos, rounds):
    """Print how far pixels are apart, and how many photos a core decodes per second."""
    print("| photos | side, px | resize | mean difference, of 255 | largest |\n|---|---|---|---|---|")
    for kind, side, resize in itertools.product(photos, SIDES, SMOOTH):
        seen = [
            np.abs(decode(each, ImageSpec(side, resize, "scaled")).astype(int) - decode(each, ImageSpec(side, resize)))
            for each in photos[kind]
        ]
        print(f"| {kind} | {side} | {resize} | {np.mean(seen):.2f} | {np.max(seen)} |", flush=True)
    print("\n| photos | MB | decode | photos per second of processor time, 224 px |\n|---|---|---|---|")
    for kind, some in photos.items():
        rates = {how: [] for how in DECODE}
        for _, how in itertools.product(range(rounds), DECODE):
            start = time.process_time()
            for each in some:
                decode(each, ImageSpec(224, decode=how))
            rates[how].append(len(some) / (time.process_time() - start))
        for how, each in rates.items():
            print(
                f"| {kind} | {np.mean([len(data) for data in some]) / 1e6:.1f} | {how} | {middle(each)} |", flush=True
            )


def time_extract(files, options):
    """Print what whole processes of ``extract`` take, in turns."""
    taken = {how: [] for how in DECODE}
    with tempfile.TemporaryDirectory() as folder:
        kinds = [make(itertools.cycle(files)) for make in KINDS.values()]
        for number in range(options.photos):
            place = Path(folder, "photos", "ab"[number // 2 % 2], f"{number}.jpg")  # both kinds in both classes
            place.parent.mkdir(parents=True, exist_ok=True)
            # What follows a JPEG's end is not decoded, and makes each file a content of its own.
            place.write_bytes(next(kinds[number % 2]) + b"%d" % number)
        for number, how in itertools.product(range(options.rounds), DECODE):
            out = Path(folder, f"{number}-{how}.h5")
            asked = [
                "--data",
                Path(folder, "photos"),
                "--decode",
                how,
                "--backbone",
                options.backbone,
                "--image-size",
                "224",
                "--engine",
                options.engine,
                "--out",
                out,
                "--json",
            ]
            used, told = clock([sys.executable, "-m", "pipeline", "extract", *asked], {})
            taken[how].append(used | {"pass": json.loads(told)["seconds"]["pass"]})
        compare_features(Path(folder, "0-scaled.h5"), Path(folder, "0-full.h5"), options.run)
    print(
        f"| decode, {options.photos} photos | wall s | processor s | pass s | peak memory, GB |\n|---|---|---|---|---|"
    )
    for how, rounds in taken.items():
        columns = [middle([each[what] for each in rounds]) for what in ("wall", "processor", "pass")]
        print(f"| {how} | {' | '.join(columns)} | {middle([each['memory'] / 1e9 for each in rounds], 2)} |")
    ratios = [full["wall"] / scaled["wall"] for full, scaled in zip(taken["full"], taken["scaled"], strict=True)]
    print(f"\nfull takes {middle(ratios, 2)} times the wall time of scaled")


def compare_features(scaled, full, run):
    """Print how far features, and a head's probabilities, of two stores of the same photos are apart."""
    with FeatureStore(scaled) as one, FeatureStore(full) as other:
        assert one.rows.paths == other.rows.paths
        found, expected = one.read(), other.read()
        apart = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
        print(f"features are {np.mean(apart):.1e} apart on average, at most {np.max(apart):.1e} (relative)")
        if run:
            trained, rows = load_trained(run), np.arange(len(one))
            first, second = (trained.probabilities(trained.reading.of_store(store, rows)) for store in (one, other))
            largest, same = np.abs(first - second).max(), np.count_nonzero(first.argmax(1) == second.argmax(1))
            print(f"probabilities differ by at most {largest:.1e}; {same} of {len(rows)} photos have the same class")


if __name__ == "__main__":
    main()
