"""Long trials of ready bases, run by hand: ``python tests/torture/ready.py --times 30``.

Processes that make a base ready, one or two at once, are killed at random moments, and what they leave is damaged at random. Each
time a process that is let alone must give the same features, and the one after it without TensorFlow.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODEL = """
import sys
import keras, numpy as np
layers = keras.layers
x = images = keras.Input((48, 48, 3))
for width in (64, 128, 256):
    x = layers.MaxPooling2D()(layers.Conv2D(width, 3, padding="same", activation="relu")(x))
keras.utils.set_random_seed(0)
keras.Model(images, x).save(sys.argv[1])
"""
CHILD = """
import hashlib, json, sys
import numpy as np
from features.extraction.preparation import prepare
from features.extraction.request import FeatureOptions
print("started", flush=True)
engine = prepare(FeatureOptions(backbone=sys.argv[1], engine=sys.argv[2], pool="none"), ()).checked.engine
(found,) = engine.run(np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), np.uint8)).values()
print(json.dumps([hashlib.sha256(found.tobytes()).hexdigest(), "tensorflow" in sys.modules]))
"""


def main():
    """Run the trials and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--engine", default="numba")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    seen = Counter()
    with tempfile.TemporaryDirectory() as place:
        model = Path(place) / "own.keras"
        subprocess.run([sys.executable, "-c", MODEL, model], check=True, capture_output=True)
        begun = time.monotonic()
        expected, _ = finish(start(model, options.engine, Path(place) / "first"))
        longest = time.monotonic() - begun
        for number in range(options.times):
            seen.update(trial(model, options.engine, Path(place) / str(number), expected, longest))
    print(dict(seen))


def trial(model, engine, home, expected, longest):
    """Kill one or two processes at a random moment, maybe damage a file, and let two others finish one after the other."""
    children = [start(model, engine, home) for _ in range(random.choice((1, 2)))]
    time.sleep(random.uniform(0, longest))
    for child in children:
        child.kill()
        child.communicate()
    files = [path for path in home.rglob("*") if path.is_file()]
    if files and random.random() < 0.5:
        file = random.choice(files)
        held = bytearray(file.read_bytes())
        if held:
            held[random.randrange(len(held))] ^= 1 << random.randrange(8)
        file.write_bytes(held[: random.choice((len(held), random.randrange(len(held) + 1)))])
        yield "damaged"
    found, _ = finish(start(model, engine, home))
    again, imported = finish(start(model, engine, home))
    yield "same features" if found == again == expected else "OTHER FEATURES"
    yield "no TensorFlow afterwards" if not imported else "TENSORFLOW AGAIN"


def start(model, engine, home):
    """Start a process with a user cache of its own."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(home), "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, str(model), engine]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(child):
    """Return the digest of the features, and whether TensorFlow was imported."""
    out, errors = child.communicate()
    if child.returncode:
        raise SystemExit(errors)
    return json.loads(out.splitlines()[-1])


if __name__ == "__main__":
    main()
