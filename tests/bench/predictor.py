"""Memory of a process that predicts again and again, by one `Predictor` or by calls of `pipeline.predict`.

    .venv/bin/python tests/bench/predictor.py --run runs/photos-vgg16-logistic --images photos/test --times 300

The images are crops, which no store holds. Prints a Markdown table.
"""

import argparse
import itertools
import os
import time
from pathlib import Path

from PIL import Image

import pipeline
from pipeline.deploy.prediction import images_below

SHOWN = (1, 2, 5, 10, 25, 50, 100, 150, 200, 250, 300)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, nargs="+", help="folders of trained heads, used in turns")
    parser.add_argument("--images", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--times", type=int, default=300)
    parser.add_argument("--calls", action="store_true", help="call pipeline.predict instead of one Predictor")
    options = parser.parse_args()
    print("| predictions | resident memory, MB | s | processor s |\n|---|---|---|---|", flush=True)
    predictors = {} if options.calls else {run: pipeline.Predictor(run) for run in options.run}
    start = time.perf_counter()
    turns = zip(range(1, options.times + 1), itertools.cycle(options.run), crops(options.images), strict=False)
    for number, run, image in turns:
        if options.calls:
            pipeline.predict(run, image)
        else:
            predictors[run].predict(image)
        if number in SHOWN:
            print(
                f"| {number} | {resident():.0f} | {time.perf_counter() - start:.1f} | {time.process_time():.1f} |",
                flush=True,
            )
    for predictor in predictors.values():
        predictor.close()
    print(f"| closed | {resident():.0f} | | |")


def crops(folder):
    """Yield images without end, each a little smaller than the one before of the same file."""
    files = sorted(images_below(folder))
    for margin in itertools.count(1):
        for file in files:
            with Image.open(file) as image:
                yield image.crop((0, 0, image.width - margin, image.height - margin))


def resident():
    """Return this process's resident memory in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
