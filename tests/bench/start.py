"""Cold processes, as people start them: one photo to its class, and a folder to its features: ``make bench-start``.

    make bench-start OPTIONS='--photos 50 --runs 1'

Each contender is a process of its own, and they alternate. ``predict`` of one photo beside a script that loads VGG16 and a head by
Keras, and one by PyTorch and torchvision, from files with the same weights; their answers are compared. ``extract`` beside the
lecture's loop, which loads batches of 20 and keeps what `model.predict` gives. *First*: with a user cache that holds weights
alone. *Again*: with the cache that an earlier such process left. Prints Markdown tables: medians [minimum, maximum] of wall and
processor seconds, the peak memory of all processes together, and the ratio of wall times to *again* within each round.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from features.backbones.keras_base import build_base
from features.engines.registry import describe_engine, is_installed
from features.runtime.machine import cores, processor
from features.runtime.user_cache import cache_folder
from features.sources.load import load_source
from pipeline.runs.trained_run import load_trained

PREDICT, EXTRACT, FIRST, AGAIN = "predict", "extract", "first", "again"
KERAS, TORCH, LECTURE = "Keras script", "PyTorch script", "the lecture's loop"
SIDE, TRAINED_ON = 224, 60  # pixels; images that the head of `predict` learns from
SECONDS_BETWEEN_LOOKS = 0.05
# Compiled sources are kept, as those of installed packages are.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

ONE_BY_KERAS = """
import sys, keras, numpy as np
model = keras.models.load_model(sys.argv[1])
image = keras.utils.load_img(sys.argv[3], target_size=(224, 224), interpolation="bilinear")
batch = keras.applications.vgg16.preprocess_input(keras.utils.img_to_array(image)[None])
print(*model.predict(batch, verbose=0)[0])
"""
ONE_BY_TORCH = """
import sys, torch, torchvision
from PIL import Image
vgg = torchvision.models.vgg
base = vgg.make_layers(vgg.cfgs["D"])
state = torch.load(sys.argv[2])
head = torch.nn.Linear(512, len(state["head.bias"]))
model = torch.nn.ModuleDict({"base": base, "head": head}).eval()
model.load_state_dict(state)
image = Image.open(sys.argv[3]).convert("RGB")
image = torchvision.transforms.functional.resize(torchvision.transforms.functional.pil_to_tensor(image), [224, 224], antialias=True)
batch = image.flip(0)[None].float() - torch.tensor([103.939, 116.779, 123.68])[:, None, None]
with torch.inference_mode():
    print(*torch.softmax(head(base(batch).mean((2, 3))), 1)[0].tolist())
"""
WEIGHTS_TO_TORCH = """
import sys, numpy as np, torch
held = np.load(sys.argv[1])
torch.save({name: torch.from_numpy(held[name]) for name in held}, sys.argv[2])
"""
ALL_BY_KERAS = """
import json, sys, numpy as np
from keras.applications.vgg16 import VGG16, preprocess_input
from keras.utils import img_to_array, load_img
files, labels = json.load(open(sys.argv[2]))
base = VGG16(weights=sys.argv[1], include_top=False, input_shape=(224, 224, 3))
features = []
for start in range(0, len(files), 20):
    batch = np.stack([img_to_array(load_img(file, target_size=(224, 224))) for file in files[start : start + 20]])
    features.append(base.predict(preprocess_input(batch), verbose=0))
np.savez(sys.argv[3], features=np.concatenate(features), labels=labels)
"""


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="elpv", help="a source with two classes; see features/README.md")
    parser.add_argument(
        "--photos", default="50,240,2000", metavar="N[,N]", help="how many are extracted; 0: only predict"
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--engine", default="auto")
    parser.add_argument(
        "--torch-python", default=sys.executable, metavar="FILE", help="a Python that has torch and torchvision"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    options = parser.parse_args()
    told = [str(describe_engine(name)) for name in ("numba", "openvino", "tensorflow") if is_installed(name)]
    print(f"{processor()}, {cores()} cores; {'; '.join(told)}; Keras {version('keras')}; {options.data}\n", flush=True)
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        measured[PREDICT] = show(f"{PREDICT} of one photo", bench.rounds(bench.predictors()))
        for count in filter(None, map(int, options.photos.split(","))):
            measured[f"{EXTRACT} {count}"] = show(f"{EXTRACT} of {count} photos", bench.rounds(bench.extractors(count)))
    if options.json:
        options.json.write_text(
            json.dumps({"about": told, "processor": processor(), "measured": measured}, indent=1) + "\n"
        )


class Bench:
    """Files that all contenders share, and the contenders."""

    def __init__(self, options, folder):
        import keras

        self.options, self.folder = options, folder
        base = build_base("vgg16", ["block5_pool"], SIDE)
        model = keras.applications.VGG16(weights=None, include_top=False, input_shape=(SIDE, SIDE, 3))
        model.set_weights(base.model.get_weights())
        self.weights = folder / "vgg16.weights.h5"
        model.save_weights(self.weights)
        self._train(model)

    def _train(self, model):
        """Train the head that all predict with, and write it for each of them."""
        import keras

        ours = [sys.executable, "-m", "pipeline"]
        store, self.run = self.folder / "few.h5", self.folder / "run"
        data, limit = ["--data", self.options.data], ["--limit", str(TRAINED_ON)]
        check([*ours, "extract", *data, *limit, "--engine", self.options.engine, "--out", store], self.cache(AGAIN))
        check([*ours, "train-head", "--store", store, "--head", "logistic", "--out", self.run], self.cache(AGAIN))
        few, source = (load_source(self.options.data, limit=limit) for limit in (TRAINED_ON, None))
        self.photo = next(source.file(row) for row in range(len(source)) if source.paths[row] not in set(few.paths))
        head = load_trained(self.run).head
        kernel, bias = head.coef_.astype(np.float32), head.intercept_.astype(np.float32)
        if len(bias) == 1:  # the score of the second of two classes
            kernel, bias = np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0))
        last = keras.layers.Dense(len(bias), activation="softmax")
        whole = keras.Sequential([model, keras.layers.GlobalAveragePooling2D(), last])
        last.set_weights([kernel, bias])
        whole.save(self.folder / "classifier.keras")
        self.has_torch = self._write_for_torch(model, kernel, bias)

    def _write_for_torch(self, model, kernel, bias):
        """Write weights for PyTorch; return whether it is there."""
        python = self.options.torch_python
        there = subprocess.run([python, "-c", "import torch, torchvision"], capture_output=True, text=True)
        if there.returncode:
            why = there.stderr.strip().splitlines()[-1]
            print(f"without {TORCH}: {python} says {why}. Name another: --torch-python FILE\n", flush=True)
            return False
        state, place = {"head.weight": kernel.T.copy(), "head.bias": bias}, 0
        for layer in model.layers:
            if "conv" in layer.name:
                weights, offsets = layer.get_weights()
                state |= {f"base.{place}.weight": weights.transpose(3, 2, 0, 1).copy(), f"base.{place}.bias": offsets}
                place += 2  # a ReLU follows
            elif "pool" in layer.name:
                place += 1
        np.savez(self.folder / "classifier.npz", **state)
        check([python, "-c", WEIGHTS_TO_TORCH, self.folder / "classifier.npz", self.folder / "classifier.pt"], {})
        return True

    def cache(self, name):
        """Return the environment of a user cache that is new, or that earlier processes left, with the user's weights."""
        place = self.folder / f"cache-{name}"
        if name == FIRST:
            shutil.rmtree(place, ignore_errors=True)
        (place / "cached-features").mkdir(parents=True, exist_ok=True)
        for weights in cache_folder().glob("*.weights.h5"):
            link = place / "cached-features" / weights.name
            if not link.exists():
                link.symlink_to(weights)
        return {"XDG_CACHE_HOME": str(place)}

    def predictors(self):
        """Return contender → a function that runs it once and returns what it took and its probabilities."""

        def ours(name):
            environment = self.cache(name)
            run = ["--run", self.run, self.photo, "--json"]
            taken, told = clock([sys.executable, "-m", "pipeline", "predict", *run], environment)
            predicted = json.loads(told)
            assert predicted["computed"] == 1
            return taken | {"answer": list(predicted["predictions"][0]["probabilities"].values())}

        def theirs(python, script):
            files = [self.folder / "classifier.keras", self.folder / "classifier.pt", self.photo]
            taken, told = clock([python, "-c", script, *files], {})
            return taken | {"answer": [float(each) for each in told.split()]}

        found = {
            AGAIN: lambda: ours(AGAIN),
            FIRST: lambda: ours(FIRST),
            KERAS: lambda: theirs(sys.executable, ONE_BY_KERAS),
        }
        if self.has_torch:
            found[TORCH] = lambda: theirs(self.options.torch_python, ONE_BY_TORCH)
        return found

    def extractors(self, count):
        """Return contender → a function that runs it once over so many photos and returns what it took."""
        listed, out = self.folder / f"{count}.json", self.folder / f"{count}.h5"
        source = load_source(self.options.data, limit=count)
        listed.write_text(json.dumps([[str(source.file(row)) for row in range(len(source))], source.labels.tolist()]))

        def ours(name):
            environment = self.cache(name)
            asked = [
                "--data",
                self.options.data,
                "--limit",
                str(count),
                "--engine",
                self.options.engine,
                "--pool",
                "none",
            ]
            out.unlink(missing_ok=True)
            command = [sys.executable, "-m", "pipeline", "extract", *asked, "--out", out, "--json"]
            taken, told = clock(command, environment)
            done = json.loads(told)
            assert done["computed"] == len(source) - len(done["skipped"])
            return taken | {"pass": done["seconds"]["pass"]}

        def lecture():
            command = [sys.executable, "-c", ALL_BY_KERAS, self.weights, listed, self.folder / "features.npz"]
            return clock(command, {})[0]

        return {AGAIN: lambda: ours(AGAIN), FIRST: lambda: ours(FIRST), LECTURE: lecture}

    def rounds(self, contenders):
        """Run contenders in turns, after one run of *again* that is not counted; return what they took, by round."""
        contenders[AGAIN]()
        taken = {name: [] for name in contenders}
        for _ in range(self.options.runs):
            for name, run in contenders.items():
                taken[name].append(run())
        return taken


def show(name, taken):
    """Print a table of what contenders took, compare their answers, and return it."""
    print(f"| {name} | wall s | processor s | peak memory, GB | outside the pass, s | wall time of *again*'s |")
    print("|---|---|---|---|---|---|")
    for contender, rounds in taken.items():
        ratios = [each["wall"] / again["wall"] for each, again in zip(rounds, taken[AGAIN], strict=True)]
        outside = middle([each["wall"] - each["pass"] for each in rounds]) if "pass" in rounds[0] else "-"
        columns = [middle([each[what] for each in rounds]) for what in ("wall", "processor")]
        columns += [middle([each["memory"] / 1e9 for each in rounds], 2), outside, middle(ratios, 2)]
        print(f"| {contender} | {' | '.join(columns)} |", flush=True)
        if "answer" in rounds[0]:
            np.testing.assert_allclose(rounds[0]["answer"], taken[AGAIN][0]["answer"], atol=0.02, err_msg=contender)
    print()
    return taken


def middle(values, digits=1):
    """Return median [minimum, maximum]."""
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def check(command, environment):
    """Run what is not measured."""
    clock(command, environment)


def clock(command, environment):
    """Run a process; return what it and all its children took, and its standard output."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(each) for each in command], stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True,
            env={**_ENVIRONMENT, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
        )  # fmt: skip
        peak, ended = [0], threading.Event()
        watching = threading.Thread(target=watch_memory, args=(process.pid, peak, ended))
        watching.start()
        told = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        ended.set()
        watching.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{command[:4]} failed:\n{errors.read().decode()[-2000:]}")
    # Of a process that ended with its children waited for, usage counts theirs too. Its ru_maxrss would count this process.
    return {"wall": wall, "processor": usage.ru_utime + usage.ru_stime, "memory": peak[0]}, told


def watch_memory(session, peak, ended):
    """Keep in `peak` the most resident memory, in bytes, of all processes of a session together, or of one since it started."""
    page = os.sysconf("SC_PAGE_SIZE")
    while not ended.wait(SECONDS_BETWEEN_LOOKS):
        total = largest = 0
        for place in Path("/proc").glob("[0-9]*"):
            try:
                fields = (place / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) != session:
                    continue
                total += int(fields[21]) * page
                told = (place / "status").read_text().partition("VmHWM:")[2].split()  # none, once it has ended
            except OSError:
                continue  # it has ended
            largest = max(largest, int(told[0]) * 1024 if told else 0)
        peak[0] = max(peak[0], total, largest)


if __name__ == "__main__":
    main()
