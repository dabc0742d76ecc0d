"""Processor and wall time of heads on many classes, or many rows, of synthetic features; the whole fit with its figures.

What was expected before is of a machine with nothing beside it, so of one core (`taskset -c 0`, OMP_NUM_THREADS=1) processor time.

    python tests/bench/many_classes.py --heads logistic,nearest-mean [--classes 1000] [--rows 10] [--features 512]

Features are those of a base in kind: not negative, many near 0, classes apart by some of them. Prints a Markdown table.
"""

import argparse
import logging
import resource
import time

import numpy as np

from features.errors import RequestError
from features.splits import SPLITS
from features.store.schema import Rows
from pipeline.data.training_data import Features, Part
from pipeline.training.fits.fitting import fit_head
from pipeline.training.fits.time_estimate import expected_cost
from pipeline.training.request import USUAL


def made_up(classes: int, rows: int, features: int, apart: float) -> tuple[Features, Rows]:
    """Return features, and rows of which a quarter is test and a fifth of the rest val."""
    random = np.random.default_rng(0)
    y = np.tile(np.arange(classes), rows)
    means = random.normal(0, apart, (classes, features))
    X = np.maximum(means[y] + random.normal(0, 1, (len(y), features)), 0).astype(np.float32)
    splits = np.array([SPLITS[("test", "train", "train", "train", "val")[i % 5]] for i in np.arange(len(y)) // classes])
    numbers = np.arange(len(y), dtype="<u4")
    sha256 = np.pad(numbers[:, None].view(np.uint8), ((0, 0), (0, 28)))
    names, paths = tuple(map(str, range(classes))), tuple(map(str, numbers))
    own = Rows(names, paths, y, splits.astype(np.uint8), y, np.zeros(len(y), np.uint8), sha256)
    return Features(X, (features,), 1, (Part("made up", "avg"),)), own


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--heads", default="logistic,nearest-mean")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10, help="rows per class")
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument(
        "--apart", type=float, default=0.35, help="spread of the classes' means; that of their rows is 1"
    )
    options = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    features, rows = made_up(options.classes, options.rows, options.features, options.apart)
    print(f"{options.classes} classes x {options.rows} rows, {options.features} features\n")
    print(
        "| head | expected s | processor s | wall s | of it choosing and fitting | accuracy | settings tried | peak GB |\n|---|---|---|---|---|---|---|---|"
    )
    for name in options.heads.split(","):
        cost = expected_cost(name, features, rows.labels, rows.splits, USUAL)
        expected = "unknown" if cost is None else f"{cost.choosing + 2 * cost.fitting:.1f}"
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            result, _ = fit_head(name, features, rows, rows.splits)
        except RequestError as error:
            print(f"| `{name}` | refused after {time.perf_counter() - wall:.1f} s: {error} |", flush=True)
            continue
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        told = (
            f"{wall:.1f} | {result.fit_seconds:.1f} | {result.test['accuracy']:.3f} | {len(result.tried)} | {peak:.1f}"
        )
        print(f"| `{name}` | {expected} | {cpu:.1f} | {told} |", flush=True)


if __name__ == "__main__":
    main()
