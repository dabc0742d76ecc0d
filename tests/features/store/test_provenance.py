"""How features were made, as records and as the JSON of stores and runs that are there already."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from features import FeatureStore
from features.errors import StoreError, UnsafeFile
from features.store.provenance import CPU, Augment, Device, EngineSpec, Provenance, check_same

# A store's of the first format, as it was written before there were records.
TOLD = {
    "augment": "lecture, seed 3", "backbone": "tiny", "backbone_file": None, "batch_size": 5, "compression": "lz4",
    "dtype": "float16", "engine": "openvino 2026.4.0, cpu, float32",
    "fingerprint": "8b48c2b469176a41a2dcbfe5841e0d8872708576632c7086aaca1a06d809f4d6",
    "image_size": 16, "layers": ["relu", "last"], "layers_asked": ["-2", "last"], "parity": 2.5e-07, "pool": "avg+max",
    "preprocess": "imagenet", "resize": "bilinear", "seed": 3,
    "source": {"data": "photos", "kind": "folder", "limit": None, "root": "/photos"},
    "splits": ["val: a tenth of train"], "versions": {"keras": "3.15.0", "numpy": "2.1.0"}, "views": 2,
    "weights": "imagenet", "weights_origin": "Keras' download", "weights_sha256": "d9a27cc1fc7f975ef8cff49180e794ccd7c4bc868ebb49740803b3bbaa8dbefd",
}  # fmt: skip


@pytest.fixture
def made():
    """The record of the JSON above."""
    return Provenance.from_json(TOLD, "a store")


def test_json_of_a_store_that_is_there_becomes_a_record_and_the_same_json_again(made):
    group = {"source": {**TOLD["source"], "group": None, "added": [], "drawn": [], "asked": {}}}
    images = {"decode": "full", "colour": "ignored", "background": "none", "range": "16-bit", "fit": "stretch"}
    since = {"kinds": {}, "values": None, "parity_on": None, **images, **group}  # not told by the first version
    assert made.to_json() == TOLD | since
    assert made.spec.fingerprint == TOLD["fingerprint"]  # as it was computed when the store was made
    for name, value in (
        ("decode", "scaled"),
        ("colour", "srgb"),
        ("background", "white"),
        ("range", "12-bit"),
        ("fit", "crop"),
        ("fit", "crop:0.9"),
    ):
        assert replace(made.spec, **{name: value}).fingerprint != TOLD["fingerprint"]
    assert made.spec.engine == EngineSpec("openvino", "2026.4.0", CPU, "float32")
    assert made.spec.augment == Augment("lecture", 3) and made.spec.layers == ("relu", "last")
    assert made.origin.root == "/photos" and made.origin.notes == ("val: a tenth of train",)


def test_a_finished_store_and_its_record_tell_the_same(tiny_store):
    with FeatureStore(tiny_store) as store:
        assert store.made.to_json() == store.provenance
        assert store.made.spec.fingerprint == store.provenance["fingerprint"]


def test_a_run_that_is_there_is_read_back(hostile_run, tmp_path):
    """Of earlier versions, which did not tell how layers were asked for, nor how far from TensorFlow features were."""
    told = json.loads((Path(hostile_run) / "compare.json").read_text(encoding="utf-8"))["provenance"]
    assert Provenance.from_json(told, "a run").to_json() == told
    older = {name: value for name, value in told.items() if name not in ("layers_asked", "parity", "backbone_file")}
    read = Provenance.from_json(older, "a run")
    assert read.layers_asked == read.spec.layers and read.parity is None and read.backbone_file is None


@pytest.mark.parametrize(
    "engine",
    [
        EngineSpec("tensorflow-f16-xla", "2.21.0", Device("gpu", "NVIDIA H100 80GB HBM3"), "float16"),
        EngineSpec("tensorflow", "2.21.0", Device("gpu", "A, with a comma"), "float32"),
        EngineSpec("tensorflow", "2.21.0", Device("gpu"), "float32"),
        EngineSpec("openvino-bf16", "2026.4.0-1", CPU, "bfloat16"),
    ],
)
def test_an_engines_text_says_all_of_it(engine):
    assert EngineSpec.parse(str(engine)) == engine


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("engine", "openvino"), ("engine", 7), ("engine", "x 1, tpu, float32"), ("augment", "lecture, seed x"), ("augment", None),
        ("layers", "last"), ("layers", [1]), ("image_size", 0), ("image_size", 1 << 40), ("image_size", True), ("batch_size", "5"),
        ("batch_size", 5000), ("views", 300), ("pool", "mean"), ("dtype", "object"), ("source", {}), ("source", "photos"), ("seed", 0.5),
        ("versions", []), ("parity", "small"), ("decode", True), ("colour", 1), ("range", None), ("weights_sha256", None),
    ],
)  # fmt: skip
def test_what_says_something_else_is_not_believed(name, value):
    with pytest.raises(UnsafeFile, match=r"a file must say how features were made; .*Make it again"):
        Provenance.from_json({**TOLD, name: value}, "a file")
    with pytest.raises(UnsafeFile):
        Provenance.from_json({each: held for each, held in TOLD.items() if each != "engine"}, "a file")


def test_specs_that_differ_are_named_field_by_field(made):
    check_same(made.spec, made.spec, Path("s.h5"))
    other = replace(
        made.spec, image_size=32, augment=Augment("hflip"), engine=replace(made.spec.engine, version="2027.0.0")
    )
    with pytest.raises(
        StoreError,
        match=r"image_size: stored 16, requested 32; augment: stored lecture, seed 3, requested hflip; "
        r"engine: stored openvino 2026.4.0, cpu, float32, requested openvino 2027.0.0, cpu, float32\. .*out=.*s-2.h5",
    ):
        check_same(made.spec, other, Path("s.h5"))
