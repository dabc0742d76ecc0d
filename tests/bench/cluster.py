"""What a cluster costs, run by hand: ``python tests/bench/cluster.py overhead|index|simulate``.

``overhead``: real VGG16, two workers of one thread against one process with both cores, in turns; the pass alone.
``index``: opening a store of 10,000 parts. ``simulate``: 64 workers in one process whose parts sleep instead of computing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from features import FeatureStore
from features.extraction.distributed import run as cluster
from features.extraction.distributed import worker
from features.images.contents import Content
from features.store import schema
from features.store.parts import write_part

sys.path.append(str(Path(__file__).parents[1]))
from samples import provenance_of

ROUND = """
import json, sys
from features import extract
def main():
    options = {options!r}
    done = extract("elpv", limit={images}, engine={engine!r}, batch_size=16, out={out!r}, **options)
    print(json.dumps(done.seconds))
if __name__ == "__main__":
    main()
"""


def overhead(place, options):
    """Compare the rates of the pass, in turns."""
    contenders = {"one process": {}, "two workers": {"cluster": "local:2", "part_images": options.part_images}}
    seconds = {name: [] for name in contenders}
    for number in range(options.rounds):
        for name, asked in contenders.items():
            out, script = place / f"{number}-{len(asked)}.h5", place / "round.py"
            script.write_text(ROUND.format(options=asked, images=options.images, engine=options.engine, out=str(out)))
            done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
            seconds[name].append(json.loads(done.stdout.splitlines()[-1])["pass"])
    ratios = [one / two for one, two in zip(seconds["one process"], seconds["two workers"], strict=True)]
    rates = {name: round(options.images / statistics.median(taken), 1) for name, taken in seconds.items()}
    return {"images/s": rates, "two workers to one process": {"median": statistics.median(ratios), "all": ratios}}


def index(place, options):
    """Write a store of many parts, open it, and read rows of it."""
    path, count = place / "s.h5", options.parts
    made, folder, places = provenance_of({"x": (64,)}), Path(f"{path}.parts"), []
    folder.mkdir()
    for number in range(count):
        values = np.full((4, 64), number % 1000, np.float16)
        part = write_part(folder, made, {"x": values}, [(number.to_bytes(32), view) for view in range(4)])
        places += [(part, row) for row in range(4)]
    rows = schema.Rows(
        ("a", "b"), tuple(f"a/{row}.png" for row in range(4 * count)), np.zeros(4 * count, np.int32),
        np.zeros(4 * count, np.uint8), np.zeros(4 * count, np.int32), np.zeros(4 * count, np.uint8),
        np.zeros((4 * count, 32), np.uint8),
    )  # fmt: skip
    with schema.h5py.File(path, "w", libver=("v110", "v110")) as file:
        schema.link(file, {"x": (64,)}, made, places, place)
        schema.write_rows(file, rows)
        schema.write_skipped(file, [])
        schema.write_attributes(file, made.to_json())
    opened, read = [], []
    for _ in range(options.rounds):
        start = time.perf_counter()
        with FeatureStore(path) as store:
            opened.append(time.perf_counter() - start)
            start = time.perf_counter()
            assert np.array_equal(store.read(rows=np.array([4 * count - 1]))[0], np.full(64, (count - 1) % 1000))
            read.append(time.perf_counter() - start)
    return {"parts": count, "seconds to open": opened, "seconds to the first row": read}


def nap(job, work):
    """Stand in for a part: sleep as long as one takes, a tenth more or less."""
    start = time.perf_counter()
    time.sleep(job.options["seconds"] * (0.9 + 0.2 * work[0][0].sha256[0] / 255))
    return worker.Done("", "", time.perf_counter() - start)


class Nothing:
    """Parts that are adopted without a file."""

    def __init__(self):
        self.skipped, self.folder = {}, Path()

    def adopt(self, part):
        """Take no part in."""


class Everyone:
    """Takes all workers for fit."""

    def __init__(self, client):
        self.fit = dict.fromkeys(cluster.addresses(client))

    def ask(self, there):
        """Ask nobody."""
        return {}


def simulate(place, options):
    """Run parts that sleep on so many workers, and tell how much of their time they were asleep."""
    import distributed

    cluster.compute_part = nap
    job = worker.Job("run", place, {}, {"seconds": options.seconds}, {})
    generator = np.random.default_rng(0)
    count = options.workers * options.parts_each
    works = [[(Content(generator.bytes(32), Path("x")), [0])] for _ in range(count)]
    with (
        distributed.LocalCluster(
            n_workers=options.workers, threads_per_worker=1, processes=False, dashboard_address=None, memory_limit=0
        ) as machines,
        distributed.Client(machines, set_as_default=False) as client,
    ):
        cluster.allowed_skips = lambda total, asked: 0
        run = cluster.Run(client, job, Nothing(), count, Everyone(client))
        start = time.perf_counter()
        run.finish(works)
        wall = time.perf_counter() - start
    return {
        "workers": options.workers, "parts": count, "seconds": wall, "utilisation": run.seconds / (wall * options.workers),
    }  # fmt: skip


BENCHES = {bench.__name__: bench for bench in (overhead, index, simulate)}


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=384, help="overhead")
    parser.add_argument("--part-images", type=int, default=64, help="overhead")
    parser.add_argument("--engine", default="tensorflow", help="overhead")
    parser.add_argument("--parts", type=int, default=10_000, help="index")
    parser.add_argument("--workers", type=int, default=64, help="simulate")
    parser.add_argument("--parts-each", type=int, default=40, help="simulate: 1.3 million images are 40 parts a worker")
    parser.add_argument("--seconds", type=float, default=2.0, help="simulate: what a part takes")
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps({"bench": options.bench, **BENCHES[options.bench](Path(place), options)}))


if __name__ == "__main__":
    main()
