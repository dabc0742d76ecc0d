"""The pass, on the tiny base: what is stored is what the model gives, in the rows' order, whatever happens on the way."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest
import tiny as tiny_base
from conftest import assert_same_stores, draw, draw_tree

from features import FeatureStore, extract, plan_cost
from features.backbones.weights import fingerprint_weights, recall_sha256
from features.engines.registry import is_installed
from features.errors import CachedFeaturesError, RequestError, SourceError, StoreError
from features.extraction.forward import Buffer, PassLimits, Stages, cast_features
from features.extraction.request import ExtractRequest
from features.extraction.run import run_pass
from features.extraction.verification import verify
from features.images.decoding import decode
from features.images.image_spec import ImageSpec
from features.images.views import make_view
from features.runtime.keras_runtime import import_keras
from features.runtime.log import log
from features.store import parts
from pipeline import train_head


def run(data, out, limits=None, **options):
    """Extract with the tiny base."""
    options = {"backbone": "tiny", "batch_size": 5, "dtype": "float32", **options}
    return run_pass(ExtractRequest(str(data), out=out, **options), limits=limits or PassLimits())


run_in_small_parts = partial(run, limits=PassLimits(part_bytes=1))  # a part for each batch


@pytest.mark.parametrize("preprocess", ["imagenet", "rescale"])
def test_stored_features_equal_the_models_own_output(tree, tmp_path, preprocess):
    run(tree, tmp_path / "s.h5", preprocess=preprocess, layers=("relu", "last"))
    model = tiny_base.Tiny(None, False, (16, 16, 3))
    both = keras.Model(model.input, [model.get_layer("relu").output, model.output])
    with FeatureStore(tmp_path / "s.h5") as store:
        pixels = np.stack([decode((tree / path).read_bytes(), ImageSpec(16)) for path in store.rows.paths]).astype(
            np.float32
        )
        inputs = tiny_base.preprocess_input(pixels) if preprocess == "imagenet" else pixels / 255
        for layer, expected in zip(("relu", "last"), both.predict(inputs, verbose=0), strict=True):
            np.testing.assert_allclose(store.dataset(layer)[:], expected, rtol=1e-5, atol=1e-5)
        assert store.rows.paths == tuple(sorted(store.rows.paths)) and len(store) == 32


def test_tokens_are_kept_as_such_and_pooled_by_their_kind(tree, tmp_path):
    tokens = {"backbone": "tiny_tokens", "batch_size": 8, "dtype": "float32"}
    extract(str(tree), out=tmp_path / "all.h5", **tokens)
    extract(str(tree), out=tmp_path / "cls.h5", pool="cls", **tokens)
    extract(str(tree), out=tmp_path / "both.h5", pool="cls+avg", **tokens)
    with FeatureStore(tmp_path / "all.h5") as store, FeatureStore(tmp_path / "cls.h5") as pooled:
        assert (store.kinds, pooled.kinds) == ({"tokens": "tokens"}, {"tokens": "vector"})
        values = store.dataset("tokens")[:]
        assert values.shape == (32, 17, 8) and np.ptp(values[:, 0]) > 0
        np.testing.assert_array_equal(store.read(pool="cls"), values[:, 0])
        np.testing.assert_array_equal(pooled.read(), values[:, 0])
        np.testing.assert_allclose(store.read(pool="avg"), values[:, 1:].mean(1), rtol=1e-6)  # without the class token
        both = np.hstack([values[:, 0], values[:, 1:].mean(1)])
        np.testing.assert_allclose(store.read(pool="cls+avg"), both, rtol=1e-6)
        np.testing.assert_array_equal(store.read(pool="flatten"), values.reshape(32, -1))
        with FeatureStore(tmp_path / "both.h5") as stored:
            np.testing.assert_allclose(stored.read(), both, rtol=1e-5, atol=1e-6)
    with pytest.raises(RequestError, match="got 'cls' for last, which takes the first of a transformer's tokens"):
        extract(str(tree), backbone="tiny", out=tmp_path / "maps.h5", pool="cls")


@pytest.mark.parametrize("pool", ["cls", "cls+avg"])
def test_tokens_without_a_class_token_have_no_first_one_to_take(tree, tmp_path, pool):
    tokens = {"backbone": "tiny_tokens", "batch_size": 8, "layers": ["flat"]}  # before the class token is put there
    refused = (
        "pool must be avg, max, avg.max or flatten for tokens without a class token; got .* whose 16 tokens are all"
    )
    with pytest.raises(RequestError, match=refused):
        extract(str(tree), out=tmp_path / "cls.h5", pool=pool, **tokens)
    assert not (tmp_path / "cls.h5").exists()
    path = extract(str(tree), out=tmp_path / "all.h5", **tokens).path
    with FeatureStore(path) as store, pytest.raises(RequestError, match=refused):
        store.read(pool=pool)
    with pytest.raises(RequestError, match=refused):
        train_head(path, head="ridge", pool=pool, out=tmp_path / "run")


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_pooling_at_extraction_equals_pooling_on_reading(tree, tmp_path, pool):
    run(tree, tmp_path / "maps.h5")
    run(tree, tmp_path / "pooled.h5", pool=pool)
    with FeatureStore(tmp_path / "maps.h5") as maps, FeatureStore(tmp_path / "pooled.h5") as pooled:
        np.testing.assert_allclose(pooled.read(), maps.read(pool=pool), rtol=1e-5)
        with pytest.raises(RequestError, match="pooled at extraction"):
            pooled.read(pool="avg")


def test_float16_holds_what_float32_holds_to_half_precision(tree, tmp_path):
    run(tree, tmp_path / "32.h5")
    run(tree, tmp_path / "16.h5", dtype="float16")
    with FeatureStore(tmp_path / "32.h5") as full, FeatureStore(tmp_path / "16.h5") as half:
        np.testing.assert_allclose(half.read(), full.read(), rtol=2**-11)


def test_values_beyond_float16_are_an_error_not_infinity(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_base, "preprocess_input", lambda images: images * 1e4)
    with pytest.raises(StoreError, match=r"Use dtype=.float32"):
        run(tree, tmp_path / "s.h5", dtype="float16", engine="tensorflow")  # of which nothing is kept
    assert not (tmp_path / "s.h5").exists()


def test_same_store_twice_and_by_other_numbers_of_threads(tree, tmp_path):
    for name, workers in (("a.h5", 1), ("b.h5", 7)):
        run(tree, tmp_path / name, workers=workers)
    assert_same_stores(tmp_path / "a.h5", tmp_path / "b.h5")


def test_broken_files_are_listed_and_the_run_goes_on(tree, tmp_path):
    (tree / "train/red/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    (tree / "train/red/empty.jpg").touch()
    (tree / "train/red/nowhere.jpg").symlink_to("none.jpg")
    done = run(tree, tmp_path / "s.h5")
    assert (done.rows, done.computed) == (32, 32)
    with FeatureStore(tmp_path / "s.h5") as store:
        reasons = {each.path: each.reason for each in store.skipped}
    assert list(reasons) == [f"train/red/{name}" for name in ("broken.png", "empty.jpg", "nowhere.jpg")]
    assert reasons["train/red/empty.jpg"] == "empty file" and "No such file" in reasons["train/red/nowhere.jpg"]


def test_file_that_changes_during_the_pass_is_an_error_and_nothing_is_lost(tree, tmp_path, said):
    def change(record):
        if record.getMessage().startswith("weights"):  # once files are hashed, and before they are decoded
            (tree / "val/red/val001.png").write_bytes((tree / "val/red/val002.png").read_bytes())
        return True

    log.addFilter(change)
    try:
        with pytest.raises(SourceError, match=r"val001\.png changed during the pass"):
            run(tree, tmp_path / "s.h5")
    finally:
        log.removeFilter(change)
    assert run(tree, tmp_path / "s.h5").rows == 32


def test_too_many_broken_files_stop_the_run(tree, tmp_path):
    for number in range(3):
        (tree / f"train/red/{number}.jpg").write_bytes(bytes([number]))
    with pytest.raises(SourceError, match="at most 1 of 35"):
        run(tree, tmp_path / "s.h5", max_skipped=0.05)
    assert not (tmp_path / "s.h5").exists()


def test_the_limit_on_broken_files_counts_files_and_not_views(tree, tmp_path, stand_in):
    for number in range(6):
        (tree / f"train/red/{number}.jpg").symlink_to("none.jpg")
    with pytest.raises(SourceError, match="at most 5 of 38"):
        run(tree, tmp_path / "s.h5", views=8, augment="dihedral")


def test_class_without_a_readable_image_is_an_error_before_the_pass(tree, tmp_path):
    for split in ("train", "val", "test"):
        (tree / split / "green").mkdir()
        (tree / split / "green/bad.jpg").write_bytes(split.encode())
    with pytest.raises(SourceError, match="all 3 of 'green' are broken"):
        run(tree, tmp_path / "s.h5")
    model = tiny_base.Tiny(None, False, (16, 16, 3))
    model.save_weights(tmp_path / "tiny.weights.h5")
    known = {"weights": str(tmp_path / "tiny.weights.h5"), "weights_sha256": fingerprint_weights(model)}
    run(tree, tmp_path / "s.h5", allow_missing_classes=True, **known)
    with pytest.raises(SourceError, match="has none of green"):
        run(tree, tmp_path / "s.h5", **known)  # finished, but not what is asked now
    with FeatureStore(tmp_path / "s.h5") as store:
        assert store.rows.counts()["train"]["green"] == 0 and len(store.skipped) == 3


class Killed(BaseException):
    """Stands in for a kill: nothing in the program catches it."""


@pytest.mark.parametrize("survived", [0, 1, 3])
def test_killed_run_resumes_and_equals_an_uninterrupted_one(tree, tmp_path, monkeypatch, survived):
    run_in_small_parts(tree, tmp_path / "whole.h5")
    append, left = parts.Parts.append, [survived]

    def dying(self, *arguments):
        if not left[0]:
            raise Killed
        left[0] -= 1
        append(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(parts.Parts, "append", dying)
        run_in_small_parts(tree, tmp_path / "killed.h5")
    assert not (tmp_path / "killed.h5").exists()
    assert run_in_small_parts(tree, tmp_path / "killed.h5").computed == 32 - 5 * survived
    assert_same_stores(tmp_path / "whole.h5", tmp_path / "killed.h5")
    assert not (tmp_path / "killed.h5.parts").exists()


@pytest.mark.parametrize("done", [0, 1, 3])
def test_an_interrupted_run_keeps_the_batches_that_are_computed(tree, tmp_path, monkeypatch, done):
    """Ctrl-C long before the first part would have been written."""
    run(tree, tmp_path / "whole.h5")
    compute, left = Buffer._forward, [done]

    def interrupted(self):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        compute(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Buffer, "_forward", interrupted)
        run(tree, tmp_path / "s.h5")
    assert not (tmp_path / "s.h5").exists()
    assert run(tree, tmp_path / "s.h5").computed == 32 - 5 * done
    assert_same_stores(tmp_path / "whole.h5", tmp_path / "s.h5")


def test_a_batch_is_collected_while_the_one_before_is_computed():
    collected, kept = threading.Event(), []

    def run_engine(images):
        assert collected.wait(60)
        return {"maps": images.mean(axis=(1, 2))}

    options = SimpleNamespace(dtype="float32", full_batch=2, side=4)
    sink = SimpleNamespace(append=lambda *part: kept.append(part))
    with ThreadPoolExecutor(1) as runner, ThreadPoolExecutor(1) as writer:
        buffer = Buffer(sink, SimpleNamespace(run=run_engine), options, runner, writer, Stages(), PassLimits())
        for row in range(3):
            buffer.add((bytes([row]), 0), np.full((4, 4, 3), row, np.uint8))
        collected.set()  # the third image, while the engine was at the first two
        for row in range(3, 7):
            buffer.add((bytes([row]), 0), np.full((4, 4, 3), row, np.uint8))
        buffer.flush()
    ((features, keys, skipped),) = kept
    assert keys == [(bytes([row]), 0) for row in range(7)] and not skipped
    np.testing.assert_array_equal(features["maps"], np.arange(7.0)[:, None].repeat(3, 1))


def test_growing_computes_new_contents_only_and_equals_a_fresh_run(tree, tmp_path):
    run(tree, tmp_path / "grown.h5")
    draw(tree / "train/red/added.png", 1001)
    draw(tree / "train/red/train001.png", 1002)  # changed
    (tree / "train/red/train002.png").rename(tree / "train/red/renamed.png")
    (tree / "train/blue/train003.png").unlink()
    (tree / "train/blue/copy.png").write_bytes((tree / "train/blue/train004.png").read_bytes())
    assert run(tree, tmp_path / "grown.h5").computed == 2
    run(tree, tmp_path / "fresh.h5")
    assert_same_stores(tmp_path / "grown.h5", tmp_path / "fresh.h5")
    assert run(tree, tmp_path / "grown.h5").computed == 0


def test_images_that_leave_a_store_are_said_and_many_only_leave_if_asked(tree, tmp_path, said):
    store = tmp_path / "s.h5"
    run(tree, store)
    before = store.read_bytes()
    with pytest.raises(
        RequestError, match=r"12 of the 32 images of .*s\.h5 are not in .* another out, or let them go: drop=True"
    ):
        run(tree, store, limit=20)
    other = draw_tree(
        tmp_path / "elsewhere/photos", {"train": 9, "val": 3, "test": 3}
    )  # another source of the same name
    for number, path in enumerate(sorted(other.rglob("*.png"))):
        draw(path, 5000 + number)
    with pytest.raises(RequestError, match="32 of the 32 images"):
        run(other, store)
    assert store.read_bytes() == before
    (tree / "train/blue/train003.png").unlink()
    said.clear()
    assert run(tree, store).rows == 31
    assert any(
        line.startswith("dropped  1 of the 32 images") and "such as train/blue/train003.png" in line for line in said
    )
    said.clear()
    assert run(tree, store, limit=20, drop=True).rows == 20
    assert any(line.startswith("dropped  11 of the 31 images") for line in said)
    assert run(tree, store).computed == 11


def test_a_finished_store_is_answered_without_tensorflow(tree, tmp_path):
    own, store = tmp_path / "own.keras", tmp_path / "s.h5"
    tiny_base.Tiny(None, False, (16, 16, 3)).save(own)
    again = f"""
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
sys.modules["tensorflow"] = sys.modules["keras"] = None  # importing them is an error
from features import extract
done = extract({str(tree)!r}, backbone={str(own)!r}, out={str(store)!r}, layers=("-1",))
print(done.rows, done.computed)
"""

    def ask():
        return subprocess.run([sys.executable, "-c", again], capture_output=True, text=True)

    assert "import of keras halted" in ask().stderr  # nothing is there: it is needed
    extract(str(tree), backbone=str(own), out=store, layers=("-1",))
    assert ask().stdout == "32 0\n"
    draw(tree / "train/red/added.png", 1001)
    added = ask()
    if is_installed("openvino"):  # whose base is ready
        assert added.stdout == "33 1\n"
    else:
        assert "tensorflow, which is not installed" in added.stderr
    (tree / "train/red/added.png").unlink()
    assert ask().stdout == "32 0\n"
    model = tiny_base.Tiny(None, False, (16, 16, 3))
    model.set_weights([array + 1 for array in model.get_weights()])
    model.save(own)
    with pytest.raises(StoreError, match="weights_sha256: stored"):
        extract(str(tree), backbone=str(own), out=store, layers=("-1",))


def test_weights_in_a_file_that_changed_are_not_taken_for_those_loaded_before(tree, tmp_path):
    weights = tmp_path / "tiny.weights.h5"
    model = tiny_base.Tiny(None, False, (16, 16, 3))
    model.save_weights(weights)
    sha256 = fingerprint_weights(model)
    assert recall_sha256("tiny", str(weights)) is None
    run(tree, tmp_path / "s.h5", weights=str(weights), weights_sha256=sha256)
    assert recall_sha256("tiny", str(weights)) == sha256
    times = weights.stat()
    model.set_weights([array + 1 for array in model.get_weights()])
    model.save_weights(weights)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert recall_sha256("tiny", str(weights)) is None


def test_other_settings_are_refused_field_by_field(tree, tmp_path):
    run(tree, tmp_path / "s.h5")
    before = (tmp_path / "s.h5").read_bytes()
    with pytest.raises(
        StoreError, match=r"image_size: stored 16, requested 20; resize: stored bilinear, requested nearest"
    ):
        run(tree, tmp_path / "s.h5", image_size=20, resize="nearest")
    assert (tmp_path / "s.h5").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "vgg"}, "backbone must be one of .*vgg16.*; got 'vgg'. Did you mean 'vgg16'?"),
        ({"layers": ("lst",)}, "Did you mean 'last'"),
        ({"layers": ("9",)}, "layer index must be between -5 and 4; got 9"),
        ({"image_size": 7}, "at least 8 for tiny; got 7"),
        ({"pool": "mean"}, r"pool must be one of avg, avg\+max, cls, cls\+avg, max, none"),
        ({"preprocess": "torch"}, "preprocess must be one of imagenet, none, rescale"),
        ({"dtype": "float8"}, "dtype must be one of float16, float32"),
        ({"image_size": 0}, "image_size must be at least 8 for tiny; got 0"),
        ({"workers": 0}, "workers must be at least 1; got 0. Leave it out"),
        ({"rate": float("inf")}, "rate must be above 0 and at most 1e.15; got inf"),
        ({"images": 10**400}, "images must be above 0 and at most 1e.15; got 10000000000000000000[.]"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"views": 3}, "views must be between 1 and 1 with augment none; got 3. Name one"),
        ({"views": 9, "augment": "dihedral"}, "between 1 and 8 .* Use views=8"),
        (
            {"augment": "flip"},
            "augment must be one of dihedral, hflip, lecture, none; got 'flip'. Did you mean 'hflip'",
        ),
        ({"compression": "lz"}, "Did you mean 'lz4'"),
        ({"layout": "files"}, "Did you mean 'file'"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"max_skipped": 2.0}, "max_skipped must be between 0 and 1"),
    ],
)
def test_wrong_requests_name_the_remedy(tree, tmp_path, options, message):
    with pytest.raises(CachedFeaturesError, match=message):
        run(tree, tmp_path / "s.h5", **options)
    assert list(tmp_path.iterdir()) == [tree]


def test_store_must_end_in_h5(tree, tmp_path):
    with pytest.raises(RequestError, match=r"Use out=.*s.h5"):
        run(tree, tmp_path / "s.hdf5")


def test_an_index_over_parts_has_a_name_in_utf8(tree, tmp_path):
    with pytest.raises(RequestError, match=r"out must have a name in UTF-8 .* got b'caf\\xe9.h5'"):
        run(tree, tmp_path / os.fsdecode(b"caf\xe9.h5"), layout="parts")


def test_maps_that_would_not_fit_are_pooled_and_it_is_said(tree, tmp_path, said):
    run(tree, tmp_path / "s.h5", limits=PassLimits(memory=10_000))
    assert any(line.startswith("pool     avg: whole maps would take") for line in said)
    assert run(tree, tmp_path / "s.h5").computed == 0  # the store's own pooling is asked for again
    with FeatureStore(tmp_path / "s.h5") as store:
        assert store.layers == {"last": (6,)}


def test_a_plan_is_of_the_pass_that_would_run(tree, tmp_path, stand_in, monkeypatch, said):
    asked = {"backbone": "tiny", "out": tmp_path / "new/s.h5"}
    with monkeypatch.context() as patch:
        patch.setattr("features.extraction.preparation.memory_limit", lambda: 10_000)
        cost = plan_cost(str(tree), rate=5.0, images=64, **asked)
        assert any(line.startswith("pool     avg: whole maps would take") for line in said)
        assert cost.store_bytes == 64 * 96 * 2 and not (tmp_path / "new").exists()
        with FeatureStore(extract(str(tree), **asked).path) as store:
            assert store.made.spec.pool == "avg"
    assert plan_cost(str(tree), rate=5.0, **asked).store_bytes == 32 * 96 * 2  # as the store that is there


def test_a_plan_goes_on_without_files_that_cannot_be_read(tree, tmp_path, stand_in):
    (tree / "test/blue/aaa.jpg").symlink_to("none.jpg")
    assert plan_cost(str(tree), backbone="tiny", out=tmp_path / "s.h5").rate > 0


@pytest.mark.parametrize(("augment", "views"), [("hflip", 2), ("dihedral", 8), ("lecture", 4)])
def test_views_are_rows_beside_their_image(tree, tmp_path, augment, views):
    run(tree, tmp_path / "s.h5", views=views, augment=augment)
    model = tiny_base.Tiny(None, False, (16, 16, 3))
    with FeatureStore(tmp_path / "s.h5") as store:
        assert store.rows.views.tolist() == list(range(views)) * 32
        assert len(set(store.rows.paths[:views])) == 1 and len(store.rows.images()) == 32
        pixels = decode((tree / store.rows.paths[0]).read_bytes(), ImageSpec(16))
        made = [make_view(pixels, augment, view, store.rows.sha256[0].tobytes(), 0) for view in range(views)]
        assert len({each.tobytes() for each in made}) == views
        expected = model.predict(tiny_base.preprocess_input(np.stack(made).astype(np.float32)), verbose=0)
        np.testing.assert_allclose(store.dataset("last")[:views], expected, rtol=1e-5, atol=1e-5)
    assert run(tree, tmp_path / "s.h5", views=views, augment=augment).computed == 0
    assert [check.held for check in verify(tmp_path / "s.h5")] == [True, True, True]


def test_more_views_cost_the_new_ones_alone(tree, tmp_path):
    run(tree, tmp_path / "s.h5", views=2, augment="dihedral")
    assert run(tree, tmp_path / "s.h5", views=5, augment="dihedral").computed == 3 * 32
    run(tree, tmp_path / "fresh.h5", views=5, augment="dihedral")
    assert_same_stores(tmp_path / "s.h5", tmp_path / "fresh.h5")


def test_dihedral_views_are_the_eight_symmetries():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    made = {make_view(image, "dihedral", view, b"", 0).tobytes() for view in range(8)}
    turned = [np.rot90(each, times) for each in (image, image[:, ::-1]) for times in range(4)]
    assert made == {each.tobytes() for each in turned}


def test_layer_by_index_is_stored_by_name(tree, tmp_path):
    run(tree, tmp_path / "s.h5", layers=("-2",))
    with FeatureStore(tmp_path / "s.h5") as store:
        assert list(store.layers) == ["relu"]


def test_the_file_is_format_3_for_plain_h5py(tree, tmp_path):
    run(tree, tmp_path / "s.h5", dtype="float16", compression="none")
    with h5py.File(tmp_path / "s.h5") as file:
        assert (
            file.attrs["format"] == b"cached-features" and file.attrs["format_version"] == 3 and file.attrs["complete"]
        )
        provenance = json.loads(file.attrs["provenance"])
        assert (
            provenance["backbone"] == "tiny"
            and len(provenance["fingerprint"]) == len(provenance["weights_sha256"]) == 64
        )
        features, rows = file["features/last"], file["rows"]
        assert features.dtype == np.float16 and features.shape == (32, 3, 3, 6)
        assert features.attrs["kind"] == b"map" and provenance["kinds"] == {"last": "map"}
        values = b"".join(blake2b(row.tobytes(), digest_size=16).digest() for row in features[:])
        assert provenance["values"] == blake2b(values, digest_size=16).hexdigest()
        assert rows["path"].asstr()[0] == "test/blue/test000.png"
        assert list(rows.attrs["class_names"]) == [b"blue", b"red"] and rows["label"].dtype == np.int32
        assert h5py.check_enum_dtype(rows["split"].dtype) == {"train": 0, "val": 1, "test": 2}
        assert rows["view"].dtype == np.uint8 and rows["sha256"].shape == (32, 32)


def test_callers_arrays_and_files_stay_as_they_were(tmp_path):
    tree = draw_tree(tmp_path / "photos")
    before = {path: path.read_bytes() for path in tree.rglob("*.png")}
    run(tree, tmp_path / "s.h5")
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("scale", [1e-7, 1e-4, 1.0, 1e4])
def test_float16_is_rounded_as_numpy_rounds(scale):
    import_keras()  # TensorFlow rounds where it is loaded
    values = np.random.default_rng(0).normal(0, scale, (50, 40)).astype(np.float32)
    found = cast_features("maps", values, "float16")
    np.testing.assert_array_equal(found.view(np.uint16), values.astype(np.float16).view(np.uint16))
