"""The readers of files, each with small valid files for it and what it reads from them, for the fuzzer and its corpus."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
from PIL import Image
from samples import blobs, provenance_of, rows_of, write_store

SIDE = 16


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes
    ----------
    make : callable
        ``make(folder)`` writes valid files.
    read : callable
        ``read(folder)`` reads them and returns what they say; None if there is nothing to use, as of a cache that misses.
    files : str
        Pattern of the files that are harmed.
    checked : bool
        Whether files have checksums, so that what differs from the original is an error. Without them, a changed file is another file.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    files: str
    checked: bool = True


def digest(value):
    """Return a hash of all that a value holds."""
    return hashlib.sha256("".join(_pieces(value)).encode("utf-8", "surrogatepass")).hexdigest()


def _pieces(value):
    if isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}{hashlib.sha256(np.ascontiguousarray(value)).hexdigest()}"
    elif is_dataclass(value):
        yield from _pieces({each.name: getattr(value, each.name) for each in fields(value)})
    elif isinstance(value, dict):
        for name in sorted(value, key=str):
            yield f"{name!r}:"
            yield from _pieces(value[name])
    elif isinstance(value, list | tuple):
        yield f"{len(value)}["
        for each in value:
            yield from _pieces(each)
    else:
        yield f"{value!r},"


# Stores, their parts and their index


def _contents():
    random = np.random.default_rng(0)
    y = np.arange(24, dtype=np.int32) % 3
    values = {
        "maps": random.exponential(size=(24, 3, 3, 16)).astype(np.float16),
        "vector": random.exponential(size=(24, 32)).astype(np.float16),
    }
    rows = rows_of(y, (np.arange(24) // 8).astype(np.uint8), 3)
    return values, rows, provenance_of({name: each.shape[1:] for name, each in values.items()})


def make_store(folder):
    values, rows, made = _contents()
    write_store(folder / "s.h5", values, rows, made)


def make_plain_store(folder):
    values, rows, _ = _contents()
    write_store(
        folder / "s.h5",
        values,
        rows,
        provenance_of({name: each.shape[1:] for name, each in values.items()}, compression="none"),
    )


def make_old_store(folder):
    (folder / "s.h5").write_bytes((Path(__file__).parent / "features/store/formats/format1-gzip.h5").read_bytes())


def read_store(folder):
    from features import FeatureStore

    with FeatureStore(folder / "s.h5") as store:
        for layer in store.layers:
            store.check(layer, np.arange(len(store)))
        return [store.provenance, store.rows, store.skipped, {layer: store.read(layer) for layer in store.layers}]


def make_parts(folder):
    from features.store.parts import write_part

    values, rows, made = _contents()
    (folder / "s.h5.parts").mkdir()
    for first in (0, 8, 16):
        some = slice(first, first + 8)
        keys = [(key.tobytes(), 0) for key in rows.sha256[some]]
        write_part(folder / "s.h5.parts", made, {name: each[some] for name, each in values.items()}, keys)


def _commit(folder, layout):
    from features.store.parts import Parts

    _, rows, made = _contents()
    Parts(folder / "s.h5", made).commit(rows, [], layout)


def read_parts(folder):
    """Go on with a pass that computed all parts, and read its store."""
    with mock.patch("os.fsync"):  # how the trial ends is not its matter
        _commit(folder, "file")
    return read_store(folder)


def make_index(folder):
    make_parts(folder)
    _commit(folder, "parts")


def _cache(folder):
    from features.store.content_cache import ContentCache

    return ContentCache(folder, _contents()[2])


def make_content_cache(folder):
    values, rows, _ = _contents()
    _cache(folder).keep("vector", {key.tobytes(): row for key, row in zip(rows.sha256, values["vector"], strict=True)})


def read_content_cache(folder):
    return _cache(folder).read("vector", [key.tobytes() for key in _contents()[1].sha256]) or None


# Runs

RUN_HEADS = ("logistic", "rbf-svm", "hist-gradient-boosting", "knn")
_X = np.random.default_rng(1).exponential(size=(5, 12)).astype(np.float32)


def make_run(head):
    def make(folder):
        from pipeline import train_head

        X, y, splits = blobs(3)
        write_store(
            folder / "s.h5", {"vector": X.astype(np.float16)}, rows_of(y, splits, 3), provenance_of({"vector": (12,)})
        )
        train_head(folder / "s.h5", head, out=folder / "run")

    return make


def without_sums(make):
    """As a stranger makes a run: nothing says which files it should have."""

    def made(folder):
        make(folder)
        (folder / "run/SHA256SUMS").unlink()

    return made


def read_run(folder):
    from pipeline.runs.trained_run import load_trained

    run = load_trained(folder / "run")
    probabilities = run.probabilities(_X)
    return [run.class_names, run.reading, probabilities, run.unlike(_X), run.decide(probabilities), run.made.to_json()]


def read_results(folder):
    from pipeline.reports.run_results import load_run

    run = load_run(folder / "run")
    pairs = {head: run.predictions.pairs(head) for head in run.predictions.probabilities}
    means = {head: run.predictions.mean(head) for head in run.predictions.probabilities}
    return [run.predictions, pairs, means, run.heads]


def make_fit(folder):
    from pipeline.training.fits.fit_cache import save_result
    from pipeline.training.fits.results import Result

    probabilities = np.random.default_rng(2).dirichlet(np.ones(3), 40)
    told = {field.name: None for field in fields(Result)} | {
        "probabilities": probabilities,
        "head": "logistic",
        "parts": (),
    }
    save_result(Result(**told), folder / "fit.npz")


def read_fit(folder):
    from pipeline.training.fits.fit_cache import load_result

    return load_result(folder / "fit.npz")


# The user's cache

_KEY = {"base": 1, "engine": "x"}


def _frozen():
    return SimpleNamespace(base=SimpleNamespace(identity=_KEY, library="onnx"), pool="none")


def make_ready_base(folder):
    from features.engines.ready_base import ReadyBase, keep_ready

    with _home(folder):
        parts = {
            "weights": np.arange(600, dtype=np.float32).reshape(20, 30),
            "graph": np.frombuffer(b"graph" * 30, np.uint8),
        }
        keep_ready("onnxruntime", _frozen(), ReadyBase(parts, {"last": np.ones((2, 4), np.float32)}))


def read_ready_base(folder):
    from features.engines.ready_base import find_ready

    with _home(folder):
        found = find_ready("onnxruntime", _frozen())
    return found and [dict(found.parts), found.expected]


def make_note(folder):
    from features.runtime.user_cache import remember

    with _home(folder):
        remember("weights", _KEY, {"sha256": "0" * 64, "rate": 12.5, "engines": ["a", "b"]})


def read_note(folder):
    from features.runtime.user_cache import recall

    with _home(folder):
        return recall("weights", _KEY)


def _home(folder):
    return mock.patch.dict(os.environ, {"XDG_CACHE_HOME": str(folder)})


# Weights and models


def _tiny_model():
    import tiny

    return tiny.Tiny(None, False, (SIDE, SIDE, 3))


def make_weights(name):
    def make(folder):
        model = _tiny_model()
        if name.endswith(".weights.h5"):
            model.save_weights(folder / name)
        else:
            model.save(folder / name)

    return make


def read_weights(name):
    def read(folder):
        from features.backbones.weights import fingerprint_weights, load_weights

        model = _tiny_model()
        expected = fingerprint_weights(model)
        model.set_weights([np.zeros_like(each) for each in model.get_weights()])
        with _home(folder):
            loaded = load_weights(model, "tiny", str(folder / name), expected)
        return [loaded, fingerprint_weights(model)]

    return read


def make_onnx_weights(folder):
    import onnx_models
    from onnx import helper, numpy_helper

    random, held = np.random.default_rng(3), []
    for name, shape in (("conv1", (4, 3, 3, 3)), ("conv2", (5, 4, 3, 3))):
        kernel, bias = (
            random.normal(size=shape).astype(np.float32),
            random.normal(size=(1, shape[0], 1, 1)).astype(np.float32),
        )
        held.append(numpy_helper.from_array(kernel, f"vgg/{name}_1/convolution/ReadVariableOp:0"))
        held.append(numpy_helper.from_array(bias, f"vgg/{name}_1/Squeeze:0"))
    nodes = [helper.make_node("Relu", ["pixels"], ["out"])]
    onnx_models.save(onnx_models.model_of(nodes, held, ("n", 3, SIDE, SIDE), "out"), folder / "weights.onnx")


def read_onnx_weights(folder):
    import keras

    from features.backbones.weights import fingerprint_weights, load_weights

    images = keras.Input((SIDE, SIDE, 3))
    maps = keras.layers.Conv2D(5, 3, name="conv2")(keras.layers.Conv2D(4, 3, name="conv1")(images))
    model = keras.Model(images, maps, name="vgg")
    with _home(folder):
        loaded = load_weights(model, "own", str(folder / "weights.onnx"), _expected_of_onnx())
    return [loaded, fingerprint_weights(model)]


def _expected_of_onnx():
    random, sha256 = np.random.default_rng(3), hashlib.sha256()
    for shape in ((4, 3, 3, 3), (5, 4, 3, 3)):
        kernel, bias = (
            random.normal(size=shape).astype(np.float32),
            random.normal(size=(1, shape[0], 1, 1)).astype(np.float32),
        )
        sha256.update(np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)))
        sha256.update(bias)
    return sha256.hexdigest()


def read_own_model(folder):
    from features.backbones.custom_model import input_side, load_own
    from features.backbones.weights import fingerprint_weights

    path = folder / "own.keras"
    model, weights = load_own(path, input_side(path), None)
    return [weights, fingerprint_weights(model)]


def make_onnx(folder):
    import onnx_models

    onnx_models.save(onnx_models.maps(), folder / "own.onnx")


def read_onnx(folder):
    from features.backbones.keras_base import build_base
    from features.engines.frozen_graph import Frozen
    from features.engines.registry import ENGINES

    base = build_base(str(folder / "own.onnx"), ["last"], SIDE, "none")
    images = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    return [base.weights, base.layers, ENGINES["onnxruntime"].make(Frozen(base, SIDE, 2)).run(images)]


# Images and lists


def _picture(mode="RGB"):
    down, across = np.mgrid[:40, :48]
    pixels = np.stack([down * 5, across * 5, (down * across) % 256], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _dicom(path):
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["a"])
    made = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = 40, 48, 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.WindowCenter, made.WindowWidth = 2048, 4096
    made.PixelData = (np.arange(40 * 48, dtype="<u2") * 2 % 4096).tobytes()
    made.save_as(path, enforce_file_format=True)


def _heic(path):
    import pillow_heif

    pillow_heif.from_pillow(_picture()).save(path, quality=60)


def _saved(mode="RGB", **options):
    return lambda path: _picture(mode).save(path, **options)


IMAGES = {
    "image.jpg": _saved(quality=80),
    "image-progressive.jpg": _saved(progressive=True),
    "image.png": _saved(),
    "image-palette.png": _saved("P"),
    "image.gif": _saved("P", save_all=True, append_images=[_picture("L").convert("P")]),
    "image.bmp": _saved(),
    "image.webp": _saved(),
    "image-lossless.webp": _saved("RGBA", lossless=True),
    "image.tif": _saved(),
    "image-lzw.tif": _saved("L", compression="tiff_lzw"),
    "image-deflate.tif": _saved(compression="tiff_adobe_deflate"),
    "image-jpeg.tif": _saved(compression="jpeg"),
    "image.avif": _saved(),
    "image.jp2": _saved(),
    "image.heic": _heic,
    "image.dcm": _dicom,
}


def read_image(name):
    def read(folder):
        from features.images.decoding import decode, decode_whole, read_bytes
        from features.images.image_spec import ImageSpec

        data, spec = read_bytes(folder / name), ImageSpec(SIDE)
        return [decode(data, spec), decode_whole(data, spec)]

    return read


def make_manifest(folder):
    lines = ["path,label,split,patient"]
    for number in range(12):
        (folder / f"{number:02d}.png").write_bytes(b"x")
        lines.append(
            f"{number:02d}.png,{'cat' if number % 2 else 'dog'},{('train', 'val', 'test')[number // 2 % 3]},p{number % 5}"
        )
    (folder / "photos.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_manifest(folder):
    from features.sources.lists.manifest import read_csv

    return read_csv(folder / "photos.csv")


def make_corrections(folder):
    lines = ["sha256,old,verdict,new"] + [f"{number:064x},cat,{('keep', 'drop')[number % 2]}," for number in range(8)]
    (folder / "corrections.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_corrections(folder):
    from features.sources.lists.corrections import Corrections

    return Corrections.read(folder / "corrections.csv")


READERS = {
    "store": Reader(make_store, read_store, "s.h5"),
    "store, uncompressed": Reader(make_plain_store, read_store, "s.h5"),
    "store, format 1": Reader(make_old_store, read_store, "s.h5", checked=False),
    "parts": Reader(make_parts, read_parts, "s.h5.parts/*.h5"),
    "index": Reader(make_index, read_store, "s.h5"),
    "parts of an index": Reader(make_index, read_store, "s.h5.parts/*.h5"),
    "cached features": Reader(make_content_cache, read_content_cache, "*.parts/*.h5"),
    "kept fit": Reader(make_fit, read_fit, "fit.npz"),
    "ready base": Reader(make_ready_base, read_ready_base, "cached-features/ready/*"),
    "cached note": Reader(make_note, read_note, "cached-features/weights/*"),
    **{f"run, {head}": Reader(make_run(head), read_run, "run/*") for head in RUN_HEADS},
    **{f"run of a stranger, {head}": Reader(without_sums(make_run(head)), read_run, "run/*.[njs]*", checked=False) for head in RUN_HEADS},
    "results": Reader(make_run("logistic"), read_results, "run/*"),
    "results of a stranger": Reader(without_sums(make_run("logistic")), read_results, "run/[rp]*.[nj]*", checked=False),
    "weights .weights.h5": Reader(make_weights("w.weights.h5"), read_weights("w.weights.h5"), "w.weights.h5"),
    "weights .h5": Reader(make_weights("w.h5"), read_weights("w.h5"), "w.h5"),
    "weights .keras": Reader(make_weights("w.keras"), read_weights("w.keras"), "w.keras"),
    "weights .onnx": Reader(make_onnx_weights, read_onnx_weights, "weights.onnx"),
    "model .keras": Reader(make_weights("own.keras"), read_own_model, "own.keras", checked=False),
    "model .onnx": Reader(make_onnx, read_onnx, "own.onnx", checked=False),
    **{name: Reader(lambda folder, name=name: IMAGES[name](folder / name), read_image(name), name, checked=False) for name in IMAGES},
    "manifest": Reader(make_manifest, read_manifest, "photos.csv", checked=False),
    "corrections": Reader(make_corrections, read_corrections, "corrections.csv", checked=False),
}  # fmt: skip
