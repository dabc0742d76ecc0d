"""Long trials of a store's survival, run by hand: ``python tests/torture/store.py kills --times 100``.

The engine is a numpy stand-in (tests/standin.py): the trials are about files, and hundreds of starts of TensorFlow would
only make them slow. `kills --real` uses VGG16.
"""

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

CHILD = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import logging
import standin
from features.extraction.forward import PassLimits
from features.extraction.request import ExtractRequest
from features.extraction.run import run_pass
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
from features.errors import CachedFeaturesError
if {stand_in}: standin.install()
print("started", flush=True)
try:
    asked = ExtractRequest({data!r}, out={out!r}, backbone={backbone!r}, batch_size=8, **{options!r})
    done = run_pass(asked, limits=PassLimits(part_bytes={part}))
except CachedFeaturesError as error:
    sys.exit(f"error {{error}}")
print("computed", done.computed)
"""


def child(data, out, part=1, real=False, **options):
    """Return the command that extracts in another process."""
    code = CHILD.format(
        root=str(ROOT), tests=str(ROOT / "tests"), data=str(data), out=str(out), part=part, stand_in=not real,
        options=options, backbone="vgg16",
    )  # fmt: skip
    return [sys.executable, "-c", code]


def finish(command):
    """Run a child to its end and return (exit status, standard error)."""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr


def same(one, other):
    """Tell whether two stores are equal dataset by dataset."""
    from conftest import assert_same_stores

    assert_same_stores(one, other)
    return True


def make_images(folder, count, side=40):
    """Draw `count` images of noise, half of them a class."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / ("train", "val", "test")[number % 3] / ("a", "b")[number // 3 % 2] / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return folder


def kills(place, times, real):
    """Kill runs at random moments and resume each until it is whole."""
    data = make_images(place / "images", 48 if real else 240)
    options = {"image_size": 64} if real else {"image_size": 32}
    start = time.monotonic()
    assert finish(child(data, place / "whole.h5", real=real, **options))[0] == 0
    length, deaths, moments = time.monotonic() - start, 0, Counter()
    for number in range(times):
        out = place / f"killed{number}.h5"
        random.seed(number)
        while True:
            process = subprocess.Popen(
                child(data, out, real=real, **options), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            process.stdout.readline()  # imports are done
            try:
                process.wait(random.uniform(0, length * 0.7))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                deaths += 1
                left = (
                    sorted(path.name for path in Path(f"{out}.parts").glob("*"))
                    if Path(f"{out}.parts").exists()
                    else []
                )
                unfinished = [path.name for path in Path(f"{out}.parts").glob("unfinished-*/*")]
                moment = (
                    "none yet" if not left else "part" if any("part-" in name for name in unfinished) else "between"
                )
                moments["consolidation" if out.name in unfinished else moment] += 1
                if out.exists():
                    same(place / "whole.h5", out)  # never half a store under the final name
                    moments["after the rename"] += 1
                continue
            assert process.returncode == 0
            break
        same(place / "whole.h5", out)
        assert not Path(f"{out}.parts").exists()
        out.unlink()
    return {"runs": times, "kills": deaths, "killed in": dict(moments), "all equal": True}


FLIP = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
import numpy as np
from conftest import contents
from features.errors import StoreError
from features.store.reader import FeatureStore
from features.extraction.verification import verify
import pickle
whole = pickle.load(open({whole!r}, "rb"))
for line in sys.stdin:
    path = line.strip()
    try:
        checks = verify(path, rows=0)
        if any(check.held is False for check in checks): print("reported", flush=True); continue
        found = contents(path)
        with FeatureStore(path) as store: told = [store.provenance, store.rows.class_names]
        equal = found.keys() == whole[0].keys() and all(np.array_equal(found[name], whole[0][name]) for name in found)
        print("harmless" if equal and told == whole[1] else "silent", flush=True)
    except StoreError:
        print("reported", flush=True)
"""


def flip_bit(data, generator):
    """Flip one bit at a random place."""
    where = generator.randrange(len(data) * 8)
    data[where // 8] ^= 1 << where % 8
    return f"bit {where}"


def overwrite(data, generator):
    """Overwrite a random stretch with zeros or with ones, as a hole in a file or an erased block of flash memory."""
    where, length = generator.randrange(len(data)), generator.choice((2, 16, 512, 4096))
    value = generator.choice((0, 255))
    data[where : where + length] = bytes([value]) * len(data[where : where + length])
    return f"{length} bytes of {value} at {where}"


def outcomes_of(path, harm, times, seed):
    """Harm copies of a store and count how each showed: reported, harmless, silent, crashed or hung."""
    import pickle

    from conftest import contents

    from features.store.reader import FeatureStore

    generator, data = random.Random(seed), path.read_bytes()
    with FeatureStore(path) as store:
        told = [store.provenance, store.rows.class_names]
    whole, damaged = path.with_suffix(".pickle"), path.with_name("flipped.h5")
    whole.write_bytes(pickle.dumps([contents(path), told]))
    code = FLIP.format(root=str(ROOT), tests=str(ROOT / "tests"), whole=str(whole))

    def start():
        return subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    outcomes, judge = Counter(silent=0, crashed=0, hung=0), start()
    for _ in range(times):
        changed = bytearray(data)
        what = harm(changed, generator)
        damaged.write_bytes(changed)
        judge.stdin.write(f"{damaged}\n")
        judge.stdin.flush()
        ready, _, _ = select.select([judge.stdout], [], [], 20)
        answer = judge.stdout.readline().strip() if ready else ""
        ended = "crashed" if ready else "hung"
        outcomes[answer or ended] += 1
        if not answer:
            print(f"{ended} by {what}", file=sys.stderr)
            judge.kill()
            judge.communicate()
            judge = start()
        elif answer == "silent":
            print(f"silent by {what}", file=sys.stderr)
    judge.communicate()
    return outcomes


def flips(place, times, real):
    """Flip single bits, and overwrite stretches with zeros or ones, at random places of finished stores."""
    data, found = make_images(place / "images", 60), {}
    for compression in ("gzip", "none"):
        path = place / f"{compression}.h5"
        assert finish(child(data, path, image_size=32, compression=compression))[0] == 0
        for harm in (flip_bit, overwrite):
            found[f"{compression}, {harm.__name__}"] = dict(outcomes_of(path, harm, times, seed=0))
    return found


def disk(place, times, real):
    """Fill the disk at different moments, make space, and resume."""
    data = make_images(place / "images", 240)
    options = {"image_size": 32, "dtype": "float32", "compression": "none"}
    assert finish(child(data, place / "whole.h5", **options))[0] == 0
    need, mounted, seen = (place / "whole.h5").stat().st_size * 2.2, place / "disk", Counter()
    mounted.mkdir()
    for number in range(times):
        size = int(need * (0.05 + 0.9 * number / times))
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mounted]).returncode:
            return {"skipped": "mounting is not permitted here"}
        try:
            # Free space is claimed to be enough, so that the disk fills in the middle.
            command = child(data, mounted / "s.h5", **options)
            command[2] = (
                "import shutil; shutil.disk_usage = lambda path: shutil._ntuple_diskusage(9**15, 0, 9**15)\n"
                + command[2]
            )
            status, told = finish(command)
            assert status == 1 and "is full. Free some space" in told, (status, told)
            assert not (mounted / "s.h5").exists()
            parts = len(list((mounted / "s.h5.parts").glob("part-*.h5")))
            seen[f"after {parts} parts"] += 1
            subprocess.run(["mount", "-o", f"remount,size={int(need * 2)}", mounted], check=True)
            assert finish(child(data, mounted / "s.h5", **options))[0] == 0
            same(place / "whole.h5", mounted / "s.h5")
        finally:
            subprocess.run(["umount", "-l", mounted], check=True)
    return {"moments": dict(seen), "all equal": True}


def memory(place, times, real):
    """Compare the peak memory of 500 and 5,000 images."""
    peaks = {}
    for count in (500, 5000):
        data = make_images(place / str(count), count)
        command = child(data, place / f"{count}.h5", part=1 << 20, image_size=32)
        command[2] += "\nimport resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        peaks[count] = (
            int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]) / 1024
        )
    return {"peak MB": peaks, "ratio": peaks[5000] / peaks[500]}


def readers(place, times, real):
    """Let ten readers open and read while a writer extends the store."""
    from features.store.reader import FeatureStore

    data = make_images(place / "images", 60)
    assert finish(child(data, place / "s.h5", image_size=32))[0] == 0
    with FeatureStore(place / "s.h5") as store:
        known = {key.tobytes(): row for key, row in zip(store.rows.sha256, store.read(), strict=True)}
    stop, reads, wrong = threading.Event(), Counter(), []

    def read():
        while not stop.is_set():
            with FeatureStore(place / "s.h5") as store:
                for key, row in zip(store.rows.sha256, store.read(), strict=True):
                    if key.tobytes() in known and not np.array_equal(known[key.tobytes()], row):
                        wrong.append(key)
                reads[len(store)] += 1

    threads = [threading.Thread(target=read) for _ in range(10)]
    for thread in threads:
        thread.start()
    for number in range(times):
        path = data / "train/a" / f"new{number}.png"
        Image.fromarray(np.random.default_rng(number + 99).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
        assert finish(child(data, place / "s.h5", image_size=32))[0] == 0
    stop.set()
    for thread in threads:
        thread.join()
    return {"reads": sum(reads.values()), "sizes seen": len(reads), "torn rows": len(wrong)}


TRIALS = {trial.__name__: trial for trial in (kills, flips, disk, memory, readers)}


def main():
    """Run one trial and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trial", choices=TRIALS)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--real", action="store_true", help="kills: VGG16 instead of the stand-in")
    options = parser.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    with tempfile.TemporaryDirectory() as place:
        start = time.monotonic()
        seen = TRIALS[options.trial](Path(place), options.times, options.real)
        print(json.dumps({"trial": options.trial, **seen, "seconds": round(time.monotonic() - start)}))


if __name__ == "__main__":
    main()
