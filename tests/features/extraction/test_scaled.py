"""Scaled decoding as a setting of stores: recorded, never mixed with full decoding, and followed by all who compute again."""

import json
import pickle
import re
from dataclasses import replace

import h5py
import numpy as np
import pytest
import tiny as tiny_base
from PIL import Image

from features import ConvFeatures, FeatureStore, extract
from features.backbones.weights import fingerprint_weights
from features.errors import RequestError, StoreError
from features.extraction.recompute import embed, rebuild_engine
from features.extraction.verification import verify
from features.images.contents import Content
from features.images.decoding import decode
from features.images.image_spec import ImageSpec
from features.store import schema
from features.store.index_seal import break_seals
from features.store.reader import parts_folder

RAW = {"preprocess": "rescale", "dtype": "float32"}  # so that a level of 255 is seen in the features


@pytest.fixture
def photos(tmp_path):
    """Twelve JPEGs of 90 x 117 pixels, at least four times the 16 of the tiny base, in two classes; one is turned."""
    random, folder = np.random.default_rng(0), tmp_path / "photos"
    for number in range(12):
        pixels = random.integers(0, 256, (90, 117, 3)) // 2 + np.array([(20, 20, 120), (120, 20, 20)][number % 2])
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 3 else 1
        path = folder / ("blue", "red")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path, exif=exif)
    return folder


def run(photos, **options):
    """Extract through the tiny base into ``s.h5``."""
    options = {
        "out": photos.parent / "s.h5",
        "backbone": "tiny",
        "engine": "tensorflow",
        "batch_size": 4,
        **RAW,
    } | options
    return extract(str(photos), **options)


def expected(photos, decoding):
    """Return path → features by Keras itself."""
    model = tiny_base.Tiny(None, False, (16, 16, 3))
    files = sorted(photos.rglob("*.jpg"))
    pixels = np.stack([decode(file.read_bytes(), ImageSpec(16, decode=decoding)) for file in files])
    maps = np.asarray(model(pixels.astype(np.float32) / 255))
    return {str(file.relative_to(photos)): row for file, row in zip(files, maps, strict=True)}


@pytest.mark.parametrize("decoding", [None, "scaled", "full"])
def test_features_are_of_photos_as_they_are_asked_to_be_decoded(photos, decoding, said):
    path = run(photos, **{} if decoding is None else {"decode": decoding}).path
    should = expected(photos, decoding or "scaled")
    with FeatureStore(path) as store:
        made = store.made
        assert made.spec.decode == store.provenance["decode"] == (decoding or "scaled")
        found = {name: store.dataset("last")[row] for row, name in enumerate(store.rows.paths)}
    for name, row in found.items():
        np.testing.assert_allclose(row, should[name], rtol=1e-5)
    other = expected(photos, "scaled" if decoding == "full" else "full")
    assert max(np.abs(found[name] - other[name]).max() for name in found) > 1e-3  # what the decoding changes
    checks = verify(path)
    assert all(check.held for check in checks) and float(re.search("at most ([^ ]+) ", checks[-1].seen)[1]) < 1e-6
    assert not any(line.startswith("decode   ") for line in said)
    contents = [Content(row.tobytes(), photos / name) for row, name in zip(store.rows.sha256, found, strict=True)]
    for some in embed(contents, made, rebuild_engine(made), 1):
        for key, row in zip(some.keys, some.features["last"], strict=True):
            (name,) = (each.file.relative_to(photos) for each in contents if each.sha256 == key)
            np.testing.assert_array_equal(row, found[str(name)])
    transformer = ConvFeatures("tiny", cache=None, batch_size=4, engine="tensorflow", decode=decoding, **RAW)
    np.testing.assert_allclose(
        transformer.transform([photos / name for name in found]),
        [row.astype(np.float32).mean((0, 1)) for row in found.values()], rtol=1e-5,
    )  # fmt: skip


def forget_decode(path):
    """Make a store one of the version before this setting was recorded."""
    with h5py.File(path, "a", libver=("v110", "v110")) as file:
        told = json.loads(file.attrs["provenance"])
        assert told.pop("decode") == "full"
        schema.set_text(file, "provenance", json.dumps(told, sort_keys=True))
        schema.set_text(file, "sha256", schema.digest_attributes(file))
    break_seals(parts_folder(path))


@pytest.mark.parametrize("layout", ["file", "parts"])
def test_a_store_of_an_earlier_version_goes_on_in_full(photos, layout, said):
    model, weights = tiny_base.Tiny(None, False, (16, 16, 3)), photos.parent / "tiny.weights.h5"
    model.save_weights(weights)  # a file, so that a finished store is recognised without loading it
    asked = {"layout": layout, "weights": str(weights), "weights_sha256": fingerprint_weights(model)}
    path = run(photos, decode="full", **asked).path
    forget_decode(path)
    assert run(photos, **asked).computed == 0 and any("nothing to compute" in line for line in said)
    Image.open(photos / "red/1.jpg").rotate(90).save(photos / "red/new.jpg")
    assert run(photos, **asked).computed == 1
    assert f"images   decode full, as {path} was made so far. New stores have other defaults: decode='scaled' with another out" in said  # fmt: skip
    should = expected(photos, "full")
    with FeatureStore(path) as store:
        assert store.made.spec.decode == "full"
        for name, row in zip(store.rows.paths, store.dataset("last"), strict=True):
            np.testing.assert_allclose(row, should[name], rtol=1e-5)
    with pytest.raises(StoreError, match="decode: stored full, requested scaled"):
        run(photos, decode="scaled", **asked)


def test_parts_of_an_interrupted_pass_decide_too(photos, tmp_path):
    path = run(photos, decode="full", layout="parts").path
    path.unlink()  # what was committed stays
    assert run(photos, layout="parts").computed == 0
    with FeatureStore(path) as store:
        assert store.made.spec.decode == "full"


@pytest.mark.parametrize("resize", ["nearest", "box"])
def test_rules_that_need_all_pixels_decode_in_full(photos, resize):
    with FeatureStore(run(photos, resize=resize).path) as store:
        assert store.made.spec.decode == "full"
    with pytest.raises(
        RequestError, match=f"decode must be full with resize {resize}; got scaled, .* Use decode='full'"
    ):
        run(photos, resize=resize, decode="scaled")


def test_a_store_keeps_its_rule_of_resizing_unless_another_is_asked_for(photos):
    """As of models of timm, whose own rule was not taken by earlier versions."""
    assert run(photos, resize="nearest").computed == 12 and run(photos).computed == 0
    with pytest.raises(StoreError, match="resize: stored nearest, requested bilinear"):
        run(photos, resize="bilinear")


def test_a_pickled_transformer_of_an_earlier_version_decodes_in_full():
    old = ConvFeatures("tiny")
    del old.decode
    assert (
        pickle.loads(pickle.dumps(old)).decode == "full" and pickle.loads(pickle.dumps(ConvFeatures())).decode is None
    )


def test_a_store_that_says_something_else_is_not_computed_again(photos):
    with FeatureStore(run(photos).path) as store:
        made = store.made
    with pytest.raises(RequestError, match="decode must be one of full, scaled; got 'half'"):
        rebuild_engine(replace(made, spec=replace(made.spec, decode="half")))
