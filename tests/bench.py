"""Our pass and each engine against Keras' ``model.predict`` on the same images, alternating in one run: ``make bench``.

Prints a Markdown table of images/s and ratios. Real VGG16, the cells of elpv-dataset; other backbones with ``--random``
weights, whose features mean nothing but take as long.
"""

import argparse
import functools
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from features import backbones, extract, images
from features.engines import ENGINES, describe_engine, is_installed, processor
from features.errors import EngineError
from features.frozen import freeze
from features.mnn_engine import cores
from features.runtime import import_keras
from features.sources import load_source
from features.weights import Weights, fingerprint_weights

PREDICT, PASS = "Keras model.predict alone", "extract, files to store"


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="vgg16")
    parser.add_argument("--random", action="store_true", help="random weights: speed alone")
    parser.add_argument("--layers", metavar="L[,L]", default="block3_pool,block4_pool,block5_pool", help="for vgg16")
    parser.add_argument("--engines", metavar="E[,E]", default=",".join(ENGINES), help="alone, of those installed")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    if options.random:
        backbones.load_weights = lambda model, *rest: Weights("random", fingerprint_weights(model))
    contenders = make_contenders(options)
    seconds = {name: [] for name in contenders}
    for number in range(options.rounds + 1):
        for name, run in contenders.items():
            taken = run()  # wall and processor seconds
            if number:  # the first round traces, allocates, converts and lets auto choose
                seconds[name].append(taken)
    told = [describe_engine(name) for name in ENGINES if is_installed(name)]
    print(f"{processor()}, {cores()} cores; {'; '.join(told)}; Keras {version('keras')}", file=sys.stderr)
    print(f"{options.backbone} at {options.size} px, {options.images} images", file=sys.stderr)
    print(
        "| | images/s (median) | ratio to predict: median [min, max] | the same in processor time | ratio to extract |"
    )
    print("|---|---|---|---|---|")
    for name, taken in seconds.items():
        rate = options.images / statistics.median(wall for wall, _ in taken)
        ratios = (
            _ratio(seconds[PREDICT], taken, 0),
            _ratio(seconds[PREDICT], taken, 1),
            _ratio(seconds[PASS], taken, 0),
        )
        print(f"| {name} | {rate:.1f} | {' | '.join(ratios)} |")


def make_contenders(options):
    """Return {name: what runs once over all images and returns its seconds}."""
    source = load_source("elpv", limit=options.images)
    files = [source.file(row) for row in range(len(source))]
    decoded = np.stack([images.decode(images.read_bytes(file), options.size) for file in files])
    keras = import_keras()
    keras.utils.set_random_seed(0)
    base = backbones.build_base(options.backbone, [backbones.find_backbone(options.backbone).layer], options.size)
    frozen = freeze(base, options.size, options.batch_size)

    def through(*layers, engine="auto"):
        """Files to a committed store, start-up left out: what the pass and the commit take."""
        asked = {"limit": options.images, "batch_size": options.batch_size, "image_size": options.size}
        keras.utils.set_random_seed(0)  # random weights, where they are asked for, are the same each time
        with tempfile.TemporaryDirectory() as folder:
            done = extract(
                "elpv",
                **asked,
                backbone=options.backbone,
                layers=layers or None,
                engine=engine,
                out=Path(folder) / "s.h5",
                say=_engine,
            )
        return done.seconds["pass"] + done.seconds["commit"], None

    def alone(engine):
        """The engine, on an array of decoded images."""
        start = _now()
        for first in range(0, len(decoded), options.batch_size):
            engine.run(_full(decoded[first : first + options.batch_size], options.batch_size))
        return _now() - start

    def predict():
        inputs = base.preprocess(decoded.astype(np.float32))
        start = _now()
        base.model.predict(inputs, batch_size=options.batch_size, verbose=0)
        return _now() - start

    contenders = {PASS: through}
    if options.backbone == "vgg16" and options.layers:
        contenders[f"extract, {options.layers}"] = lambda: through(*options.layers.split(","))
    for name, kind in ENGINES.items():
        if is_installed(name) and name in options.engines.split(","):
            try:
                contenders[f"{name} alone"] = functools.partial(alone, kind.make(frozen))
            except EngineError as error:
                print(f"warning  {name}: {error}", file=sys.stderr)
                continue
            if kind.precision != "float32":  # auto never takes it
                contenders[f"extract, --engine {name}"] = functools.partial(through, engine=name)
    return {**contenders, PREDICT: predict}


def _engine(line):
    if line.startswith(("engine", "timed", "warning")):
        print(line, file=sys.stderr)


def _full(batch, size):
    return np.pad(batch, [(0, size - len(batch)), (0, 0), (0, 0), (0, 0)])


def _now():
    """Return wall and processor seconds; the latter are steadier where other work shares the machine."""
    return np.array([time.perf_counter(), time.process_time()])


def _ratio(these, those, which):
    """Return the median of ratios of the same round, and their range; `which` 0 is wall, 1 processor time."""
    if those[0][which] is None:
        return "-"
    ratios = [one[which] / other[which] for one, other in zip(these, those, strict=True)]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


if __name__ == "__main__":
    main()
