"""Size and reading of a store by compression, beside h5py and ``np.load``.

    .venv/bin/python tests/bench/storage.py --store cache/elpv-vgg16.h5

All are read into float32, from the page cache, in turns. MB/s are of the values as stored, decompressed. The last column is
``np.load`` of a float16 file, cast to float32, over the reader; each cell is the median [min, max] of the rounds.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from features import FeatureStore
from features.store.chunks import COMPRESSION

sys.path.append(str(Path(__file__).parents[1]))
from samples import provenance_of, write_store

BATCH, BATCHES = 32, 60


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        with FeatureStore(options.store) as store:
            layer = list(store.layers)[-1]
            values = store.read(layer).astype(np.float16).reshape(len(store), *store.layers[layer])
            for compression in COMPRESSION:
                made = provenance_of({layer: values.shape[1:]}, compression=compression)
                write_store(folder / f"{compression}.h5", {layer: values}, store.rows, made)
        np.save(folder / "values.npy", values)
        random = np.random.default_rng(0)
        batches = [random.integers(0, len(values), BATCH) for _ in range(BATCHES)]
        size = {name: values.nbytes / (folder / f"{name}.h5").stat().st_size for name in COMPRESSION}
        rates = measure(folder, layer, values, batches, options.rounds)
    print(f"{len(values)} rows of {values[0].nbytes / 1e3:.1f} kB, float16, {(values != 0).mean():.1%} not zero\n")
    print("| reader | smaller | scan, MB/s | its processor time, s | random batches of 32, MB/s | np.load over it |")
    print("|---|---|---|---|---|---|")
    base = [scan for scan, _, _ in rates["np.load"]]
    for name, found in rates.items():
        scans, busy, batched = (list(column) for column in zip(*found, strict=True))
        over = [one / other for one, other in zip(scans, base, strict=True)]
        smaller = size.get(name.split()[-1], 1.0)
        cells = [f"{smaller:.2f}", spread(scans), spread(busy, 2), spread(batched), spread(over, 2)]
        print(f"| {name} | {' | '.join(cells)} |")


def measure(folder, layer, values, batches, rounds):
    """Return by reader, for each round: MB/s of a scan, its processor time in seconds, and MB/s of random batches."""
    rates = {}
    for _ in range(rounds):
        for compression in COMPRESSION:
            with FeatureStore(folder / f"{compression}.h5") as store:
                rates.setdefault(f"FeatureStore, {compression}", []).append(
                    timed(values, batches, store.read, lambda rows, store=store: store.read(rows=rows))
                )
        for compression in ("gzip", "lz4"):
            with h5py.File(folder / f"{compression}.h5") as file:
                data = file[f"features/{layer}"]
                rates.setdefault(f"h5py, {compression}", []).append(
                    timed(
                        values,
                        batches,
                        lambda data=data: data[:].astype(np.float32),
                        lambda rows, data=data: np.stack([data[row] for row in rows]).astype(np.float32),
                    )
                )
        mapped = np.load(folder / "values.npy", mmap_mode="r")
        rates.setdefault("np.load", []).append(
            timed(
                values,
                batches,
                lambda: np.load(folder / "values.npy").astype(np.float32),
                lambda rows, mapped=mapped: mapped[rows].astype(np.float32),
            )
        )
    return rates


def timed(values, batches, scan, read):
    """Return MB/s of a scan, its processor time in seconds, and MB/s of batches."""
    start, busy = time.perf_counter(), time.process_time()
    scan()
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    start = time.perf_counter()
    for rows in batches:
        read(rows)
    some = BATCH * BATCHES * values[0].nbytes / (time.perf_counter() - start)
    return values.nbytes / 1e6 / seconds, busy, some / 1e6


def spread(numbers, digits=0):
    """Format median [min, max]."""
    return f"{statistics.median(numbers):.{digits}f} [{min(numbers):.{digits}f}, {max(numbers):.{digits}f}]"


if __name__ == "__main__":
    main()
