"""Our pass against Keras' ``model.predict`` on the same images, alternating in one run: ``make bench``.

Prints a Markdown table of images/s and ratios. Real VGG16, the cells of elpv-dataset.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from features import extract, images
from features.backbones import build_base
from features.engines import TensorFlowEngine, describe_engine
from features.frozen import freeze
from features.sources import load_source


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    source = load_source("elpv", limit=options.images)
    files = [source.file(row) for row in range(len(source))]
    base = build_base("vgg16", ["block5_pool"], 224)
    engine = TensorFlowEngine(freeze(base, 224, options.batch_size))
    decoded = np.stack([images.decode(images.read_bytes(file), 224) for file in files])

    def pipeline(*layers):
        """Files to a committed store, start-up left out: what the pass and the commit take."""
        asked = {"limit": options.images, "batch_size": options.batch_size, "layers": layers}
        with tempfile.TemporaryDirectory() as folder:
            done = extract("elpv", **asked, out=Path(folder) / "s.h5")
        return done.seconds["pass"] + done.seconds["commit"]

    def predict():
        """Keras alone, on an array of decoded images."""
        inputs = base.preprocess(decoded.astype(np.float32))
        start = time.perf_counter()
        base.model.predict(inputs, batch_size=options.batch_size, verbose=0)
        return time.perf_counter() - start

    def frozen():
        """The engine alone, on the same array."""
        start = time.perf_counter()
        for first in range(0, len(decoded) - options.batch_size + 1, options.batch_size):
            engine.run(decoded[first : first + options.batch_size])
        return time.perf_counter() - start

    contenders = {
        "extract, files to store": lambda: pipeline("block5_pool"),
        "extract, three layers (block3, block4, block5)": lambda: pipeline("block3_pool", "block4_pool", "block5_pool"),
        "engine alone": frozen,
        "Keras model.predict alone": predict,
    }
    for run in (predict, frozen):
        run()  # traces and allocates
    seconds = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, run in contenders.items():
            seconds[name].append(run())
    print(
        f"{platform.processor() or platform.machine()}, {describe_engine('tensorflow')}, Keras {version('keras')}, {len(source)} images",
        file=sys.stderr,
    )
    print("| | images/s (median) | ratio to predict: median [min, max] | time, against one layer |\n|---|---|---|---|")
    for name, taken in seconds.items():
        rate = len(source) / statistics.median(taken)
        to_predict = _ratio(seconds["Keras model.predict alone"], taken)
        print(f"| {name} | {rate:.1f} | {to_predict} | {_ratio(taken, seconds['extract, files to store'])} |")


def _ratio(these, those):
    """Return the median of ratios of the same round, and their range."""
    ratios = [one / other for one, other in zip(these, those, strict=True)]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


if __name__ == "__main__":
    main()
