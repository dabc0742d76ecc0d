"""Our pass against what people do now and each engine alone, on the same images, alternating in one run: ``make bench``.

Prints a Markdown table of images/s and ratios. Real VGG16, the cells of elpv-dataset; other backbones with ``--random``
weights, whose features mean nothing but take as long. PyTorch takes part where it is installed.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

from features import extract
from features.backbones import keras_base
from features.backbones.registry import find_backbone
from features.backbones.weights import Weights, fingerprint_weights
from features.engines.frozen_graph import Frozen
from features.engines.registry import ENGINES, describe_engine, is_installed
from features.errors import EngineError
from features.images.decoding import decode, read_bytes
from features.images.image_spec import ImageSpec
from features.runtime.machine import cores, processor
from features.sources.load import load_source

PREDICT, PASS = "Keras model.predict alone", "extract, files to store"
LECTURE, BOOK = "files by ImageDataGenerator, model.predict", "files by image_dataset_from_directory, model.predict"
TORCH = "PyTorch alone, channels last"


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--backbone", default="vgg16")
    parser.add_argument("--random", action="store_true", help="random weights: speed alone")
    parser.add_argument("--layers", metavar="L[,L]", default="block3_pool,block4_pool,block5_pool", help="for vgg16")
    parser.add_argument("--engines", metavar="E[,E]", default=",".join(ENGINES), help="alone, of those installed")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all seconds there too")
    options = parser.parse_args()
    if options.random:
        keras_base.load_weights = functools.partial(_random_weights, kept=[])
    with tempfile.TemporaryDirectory() as folder:
        measure(options, make_contenders(options, Path(folder)))


def measure(options, contenders):
    """Run all contenders in turns, and print what they took."""
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
    if options.json:
        about = {"processor": processor(), "cores": cores(), "engines": told, **vars(options), "json": None}
        kept = {name: [list(each) for each in taken] for name, taken in seconds.items()}
        options.json.write_text(json.dumps({**about, "wall_and_processor_seconds": kept}, indent=1) + "\n")
    for name, taken in seconds.items():
        rate = options.images / statistics.median(wall for wall, _ in taken)
        ratios = (
            _ratio(seconds[PREDICT], taken, 0),
            _ratio(seconds[PREDICT], taken, 1),
            _ratio(seconds[PASS], taken, 0),
        )
        print(f"| {name} | {rate:.1f} | {' | '.join(ratios)} |")


def make_contenders(options, folder):
    """Return {name: what runs once over all images and returns its seconds}; their folders lie below `folder`."""
    source = load_source(options.data, limit=options.images)
    files = [source.file(row) for row in range(len(source))]
    start = _now()
    decoded = np.stack([decode(read_bytes(file), ImageSpec(options.size)) for file in files])
    print(f"decoding and resizing: {len(files) / (_now() - start)[1]:.0f} images/s a core", file=sys.stderr)
    base = keras_base.build_base(options.backbone, [find_backbone(options.backbone).layer], options.size)
    frozen = Frozen(base, options.size, options.batch_size)

    def through(*layers, engine="auto"):
        """Files to a committed store, start-up left out: what the pass and the commit take."""
        asked = {"limit": options.images, "batch_size": options.batch_size, "image_size": options.size}
        with tempfile.TemporaryDirectory() as folder:
            done = extract(
                options.data,
                **asked,
                backbone=options.backbone,
                layers=layers or None,
                engine=engine,
                out=Path(folder) / "s.h5",
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
    contenders |= file_readers(options, base, files, folder)
    if options.backbone == "vgg16" and importlib.util.find_spec("torch"):
        contenders[TORCH] = torch_runner(options, base, decoded)
    return {**contenders, PREDICT: predict}


def file_readers(options, base, files, folder):
    """Return the two recipes that people copy: arrays in memory, batch by batch, at the size of the lecture's batches."""
    import tensorflow as tf

    for number, file in enumerate(files):
        place = folder / ("even" if number % 2 == 0 else "odd")
        place.mkdir(exist_ok=True)
        (place / f"{number:05d}{file.suffix}").symlink_to(file.resolve())

    def run(batches):
        start, kept = _now(), []
        for batch, _ in batches:
            kept.append(base.model.predict(base.preprocess(batch), verbose=0))
        assert sum(len(next(iter(each.values()))) for each in kept) == len(files)
        return _now() - start

    def lecture():
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(sys.stderr):
            loader = tf.keras.preprocessing.image.ImageDataGenerator()
            side = (options.size, options.size)
            flow = loader.flow_from_directory(folder, side, batch_size=20, class_mode="binary", shuffle=False)
        return run(flow[number] for number in range(len(flow)))

    def book():
        side = (options.size, options.size)
        return run(tf.keras.utils.image_dataset_from_directory(folder, image_size=side, batch_size=32, verbose=False))

    return {LECTURE: lecture, BOOK: book}


def torch_runner(options, base, decoded):
    """Return VGG16's convolutions in PyTorch with the same weights, on an array of decoded images."""
    import torch

    torch.set_num_threads(cores())
    layers = []
    for layer in base.model.layers:
        if "conv" in layer.name:
            kernel, bias = layer.get_weights()
            layers += [torch.nn.Conv2d(*kernel.shape[2:], 3, padding=1), torch.nn.ReLU(inplace=True)]
            layers[-2].weight.data = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
            layers[-2].bias.data = torch.from_numpy(bias)
        elif "pool" in layer.name:
            layers.append(torch.nn.MaxPool2d(2))
    model = torch.nn.Sequential(*layers).to(memory_format=torch.channels_last).eval()
    inputs = np.ascontiguousarray(base.preprocess(decoded.astype(np.float32)).transpose(0, 3, 1, 2))
    inputs = torch.from_numpy(inputs).to(memory_format=torch.channels_last)

    def run():
        start = _now()
        with torch.inference_mode():
            outs = [model(batch) for batch in inputs.split(options.batch_size)]
        taken = _now() - start
        expected = next(iter(base.model.predict(base.preprocess(decoded[:1].astype(np.float32)), verbose=0).values()))
        np.testing.assert_allclose(outs[0][:1].permute(0, 2, 3, 1).numpy(), expected, rtol=1e-2, atol=1e-2)
        return taken

    return run


def _random_weights(model, *_, kept):
    """Give a model the random weights of the first; a seed of TensorFlow's would make it forget its compiled functions.

    They are somewhat smaller than He's, which keeps maps of a usual size: values near 0 take longer to round to float16.
    """
    if not kept:
        random = np.random.default_rng(0)
        kept += [_draw(random, array) if array.ndim == 4 else array for array in model.get_weights()]
    model.set_weights(kept)
    return Weights("random", fingerprint_weights(model))


def _draw(random, kernel):
    inputs = np.prod(kernel.shape[:2]) * (kernel.shape[2] if kernel.shape[3] > 1 else 1)  # 1: depthwise
    return random.normal(0, np.sqrt(1.6 / inputs), kernel.shape)


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
    logging.basicConfig(level="WARNING", format="%(message)s")
    logging.getLogger("cached_features").setLevel("INFO")
    main()
