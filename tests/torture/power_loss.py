"""Lose power at each moment of a command and see what is left: ``python tests/torture/power_loss.py store``.

A command is recorded by strace, and its record replayed on a model of a disk (disk_model.py). After each call the disk is what was
synced: with all names or only those whose folders were synced, and with the last write torn. Each state that differs is written to a
folder and read: what is under a final name must be what was there before, or what the command makes, as a whole. Some are gone on with.
"""

import argparse
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/torture")]

import numpy as np  # noqa: E402
from disk_model import Disk, materialise, record, tree_of  # noqa: E402
from fuzzed_readers import digest, read_store  # noqa: E402

POLICIES = ("lazy", "eager", "torn")


def _images(folder, count):
    from PIL import Image

    for number in range(count):
        path = folder / ("train", "val", "test")[number % 3] / ("a", "b")[number // 3 % 2] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(path)
    return folder


def _extract(place, layout, count):
    import standin

    from features.extraction.forward import PassLimits
    from features.extraction.request import ExtractRequest
    from features.extraction.run import run_pass

    standin.install()
    data = place.parent / f"images{count}"
    if not data.exists():
        _images(data, count)
    asked = ExtractRequest(
        str(data), out=place / "cache/s.h5", backbone="tiny", batch_size=8, image_size=16, layout=layout
    )
    run_pass(asked, limits=PassLimits(part_bytes=1))


def _store(place):
    from features import FeatureStore

    if not (place / "cache/s.h5").exists():
        return None
    with FeatureStore(place / "cache/s.h5") as store:
        values = {layer: store.read(layer) for layer in store.layers}
    return digest([values, store.rows.sha256, read_store(place / "cache")[1].labels])


def _sample_store(place):
    from samples import blobs, provenance_of, rows_of, write_store

    X, y, splits = blobs(3)
    path = place.parent / "sample.h5"
    if not path.exists():
        write_store(path, {"vector": X.astype(np.float16)}, rows_of(y, splits, 3), provenance_of({"vector": (12,)}))
    return path


def _train(place, seed):
    from pipeline import train_head

    train_head(
        _sample_store(place),
        "logistic",
        out=place / "runs/r",
        seed=seed,
        settings={"C": (0.1 * (seed + 1),)},
        overwrite=True,
    )


def _run(place):
    from fuzzed_readers import read_run

    if not (place / "runs/r").exists():
        return None
    (place / "run").symlink_to("runs/r")
    _, _, probabilities, *_ = read_run(place)
    (place / "run").unlink()
    return digest(probabilities)


def _compare(place, seed):
    from pipeline import compare

    compare(_sample_store(place), ["nearest-mean", "majority"], out=place / "runs/c", seed=seed, overwrite=True)


def _comparison(place):
    from pipeline.reports.run_results import load_run
    from pipeline.training.fits.fit_cache import load_result

    for fit in (place / "runs").rglob("*.npz"):
        if fit.name != "predictions.npz":
            load_result(fit)  # a result, or a miss
    if not (place / "runs/c").exists():
        return None
    run = load_run(place / "runs/c")
    return digest([run.predictions.splits, run.predictions.probabilities])


def _remember(place, number):
    from features.runtime.user_cache import remember, remember_bytes

    os.environ["XDG_CACHE_HOME"] = str(place)
    remember("rate", "key", number)
    remember_bytes("ready", "key", [np.full(3000, number, np.uint8)], 1 << 20)


def _remembered(place):
    from features.runtime.user_cache import recall, recall_bytes

    os.environ["XDG_CACHE_HOME"] = str(place)
    held = recall_bytes("ready", "key")
    found = {recall("rate", "key"), held and held[0], held and held[2999], held and len(held)} - {None}
    assert found <= {1, 2, 3000}, found
    return


def _own_runs(place, base):
    """Make two runs on a base of one's own, `base` being its file."""
    from features import extract
    from pipeline import train_head

    data, store = place.parent / "images150", place.parent / "own.h5"
    if store.exists():
        return
    _images(data, 150)
    extract(
        str(data), backbone=str(base), layers=("last",), preprocess="rescale", out=store, image_size=16, batch_size=8
    )
    for each in (1, 2):
        train_head(store, "logistic", out=place.parent / f"own{each}", settings={"C": (0.01 * each,)})


def _onnx_runs(place):
    import onnx_models

    base = place.parent / "own.onnx"
    if not base.exists():
        onnx_models.save(onnx_models.maps(), base)
    _own_runs(place, base)


def _keras_runs(place):
    import tiny

    base = place.parent / "own.keras"
    if not base.exists():
        tiny.Tiny(None, False, (16, 16, 3)).save(base)
    _own_runs(place, base)


def _export(place, number):
    from pipeline import export

    _onnx_runs(place)
    export(place.parent / f"own{number}", place / "models/m.onnx", overwrite=True, rows=2)


def _export_keras(place, number):
    from pipeline import export

    _keras_runs(place)
    export(place.parent / f"own{number}", place / "models/m.keras", overwrite=True, rows=2)


def _report(place, number):
    from pipeline import report

    _onnx_runs(place)
    report(place.parent / f"own{number}", out=place / "pages/p.html")


def _predict(place, number):
    """Go on with what is there, as a user does; a file that is there whole is done."""
    from pipeline import Predictor
    from pipeline.deploy.prediction_file import predict_to

    _onnx_runs(place)
    if not (place / "found/p.csv").exists():
        with Predictor(place.parent / f"own{number}") as predictor:
            predict_to(place / "found/p.csv", place.parent / "images150", predictor)


_BELONGS = {}  # SHA-256 of a file → those of the files that belong to it; first those of whole results


def _together(place, name, *others):
    """Return the SHA-256 of a file. Alone it is not wrong, but what lies beside it must belong to it."""
    if not (place / name).exists():
        return None
    sha256, *beside = (
        hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
        for path in (place / each for each in (name, *others))
    )
    for found, own in zip(beside, _BELONGS.setdefault(sha256, beside), strict=True):
        assert found in (None, own), f"{name} lies beside what belongs to another"
    return sha256


def _exported(name):
    return lambda place: _together(place / "models", name, f"{name}.json", f"{name}.md")


@dataclass(frozen=True)
class Trial:
    """A command, given a number, and what it leaves: ``make(place, before)`` is done, ``make(place, after)`` recorded.

    Of states that differ in what is unfinished and `hidden`, each is tried where the command goes on with that.
    """

    make: object
    read: object
    before: object
    after: object
    hidden: bool = False


TRIALS = {
    "store": Trial(lambda place, count: _extract(place, "file", count), _store, 24, 36),
    "parts": Trial(lambda place, count: _extract(place, "parts", count), _store, 24, 36),
    "first store": Trial(lambda place, count: _extract(place, "file", count), _store, None, 24),
    "run": Trial(_train, _run, 0, 1),
    "first run": Trial(_train, _run, None, 1),
    "comparison": Trial(_compare, _comparison, 0, 1),
    "cache": Trial(_remember, _remembered, 1, 2),
    "export": Trial(_export, _exported("m.onnx"), 1, 2),
    "export of keras": Trial(_export_keras, _exported("m.keras"), 1, 2),
    "report": Trial(_report, lambda place: _together(place / "pages", "p.html", "p-doubted-labels.csv"), 1, 2),
    "predictions": Trial(_predict, lambda place: _together(place / "found", "p.csv"), None, 1, hidden=True),
}


def _shown(state):
    """Return what of a state has a final name: what is unfinished lies in folders that are hidden or called so."""
    return {
        path: data
        for path, data in state.items()
        if not any(part.startswith((".", "unfinished-")) for part in path.split("/"))
    }


def lose_power(name, place, every):
    """Return what a trial saw; ready bases are not waited for, since their digests are in their names."""
    trial, live, before = TRIALS[name], place / "live", place / "before"
    live.mkdir()
    if trial.before is not None:
        trial.make(live, trial.before)
    old = trial.read(live)
    shutil.copytree(live, before)
    child = [sys.executable, __file__, name, "--make", str(live)]
    assert record(child, place / "log") == 0
    new = trial.read(live)
    assert old != new or name == "cache"
    shutil.move(live, place / "after")
    before.rename(live)
    disk, seen, outcomes = Disk(live), {}, Counter(calls=0, states=0, broken=0, **{"gone on with": 0})
    for call in disk.replay(place / "log"):
        outcomes["calls"] += 1
        for policy in POLICIES:
            state = disk.state(policy)
            told = state if trial.hidden else _shown(state)
            key = hashlib.sha256(repr(sorted(told.items())).encode()).digest()
            if key not in seen:
                seen[key] = state
                judge(
                    name,
                    trial,
                    state,
                    place,
                    {None, old, new} if trial.before is None else {old, new},
                    f"{policy} after {call}",
                    outcomes,
                    every,
                )
    kept, real = disk.state("kept"), tree_of(place / "after")
    assert kept == real, ("the record lacks something", sorted(set(kept.items()) ^ set(real.items()), key=str)[:3])
    synced = disk.state("lazy")
    lost = sorted(
        path for path, data in _shown(real).items() if synced.get(path, b"") != data and "/ready/" not in path
    )
    return {"trial": name, **outcomes, "not on disk at the end": lost}


def judge(name, trial, state, place, allowed, when, outcomes, every):
    """Read a state, which must be one of those allowed, and go on with each n-th."""
    from features.errors import CachedFeaturesError

    folder = place / "live"
    shutil.rmtree(folder)
    materialise(state, folder)
    outcomes["states"] += 1
    try:
        found = trial.read(folder)
        if name != "cache" and found not in allowed:
            raise AssertionError(f"neither what was there nor what is made: {found}")
    except (CachedFeaturesError, AssertionError, OSError, ValueError) as error:
        outcomes["broken"] += 1
        print(f"{name}: {when}: {error!r:.300}", file=sys.stderr, flush=True)
        return
    if outcomes["states"] % every == 0:
        trial.make(folder, trial.after)
        again = trial.read(folder)
        assert again is not None or name == "cache"
        assert not trial.hidden or again in allowed - {None}, "what was gone on with is not what is made at once"
        outcomes["gone on with"] += 1


def main():
    """Run a trial and print what was seen; exit with 1 if anything was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trial", choices=TRIALS)
    parser.add_argument("--every", type=int, default=5, help="go on with each n-th state")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable()
    os.environ.update(CUDA_VISIBLE_DEVICES="-1", ORT_DISABLE_TELEMETRY="1", TF_CPP_MIN_LOG_LEVEL="3")
    if options.make:
        TRIALS[options.trial].make(options.make, TRIALS[options.trial].after)
        return
    if shutil.which("strace") is None:
        sys.exit("this trial needs strace: apt-get install strace")
    with tempfile.TemporaryDirectory() as place:
        start = time.monotonic()
        seen = lose_power(options.trial, Path(place).resolve(), options.every)
    print(json.dumps({**seen, "seconds": round(time.monotonic() - start)}))
    sys.exit(bool(seen["broken"] or seen["not on disk at the end"]))


if __name__ == "__main__":
    main()
