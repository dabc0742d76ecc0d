"""Features for scikit-learn: what the store would hold, kept, and at home in its tools."""

import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import keras
import numpy as np
import pytest
import standin
from conftest import draw_tree
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

from features import ConvFeatures, FeatureStore, extract
from features.backbones.registry import BACKBONES
from features.engines.registry import ENGINES
from features.errors import RequestError, SourceError
from features.extraction.preparation import prepare
from features.runtime.log import log


@pytest.fixture
def files(tree):
    """Paths of 32 images, and their classes."""
    paths = sorted(tree.rglob("*.png"))
    return paths, np.array([path.parent.name for path in paths])


def make(tmp_path, **parameters):
    """Return a transformer on the tiny base that keeps what it computes below the test's folder."""
    return ConvFeatures("tiny", cache=tmp_path / "kept", batch_size=5, engine="tensorflow", **parameters)


def test_says_how_many_images_it_has_kept(files, tmp_path, said):
    log.setLevel("DEBUG")
    make(tmp_path).transform(files[0][:4])
    make(tmp_path).transform(files[0][:6])
    told = [line.split(" are in ")[0] for line in said if "cache  " in line]
    assert told == ["debug    cache    0 of 4 images", "debug    cache    4 of 6 images"]


@pytest.mark.parametrize("asked", [None, "stretch", "pad"])
def test_images_become_squares_as_in_a_store(tmp_path, monkeypatch, asked):
    """By default as the backbone says: models of timm that are tested so take the middle."""
    monkeypatch.setitem(BACKBONES, "tiny", replace(BACKBONES["tiny"], fit="crop"))
    tree = draw_tree(tmp_path / "photos")
    done = extract(str(tree), backbone="tiny", pool="avg", out=tmp_path / "s.h5", dtype="float32", fit=asked)
    with FeatureStore(done.path) as store:
        assert store.made.spec.fit == (asked or "crop")
        given = {} if asked is None else {"square": asked}
        found = make(tmp_path, dtype="float32", **given).transform([tree / path for path in store.rows.paths])
        np.testing.assert_allclose(found, store.read(), rtol=1e-5, atol=1e-6)


def test_a_pickled_transformer_of_an_earlier_version_does_as_it_did():
    old, kept = ConvFeatures(), ConvFeatures(square="stretch")
    for name in ("square", "mean", "std", "scale", "channels"):
        delattr(old, name)
    assert pickle.loads(pickle.dumps(old)).get_params() == kept.get_params()
    assert pickle.loads(pickle.dumps(kept)).square == "stretch"
    assert pickle.loads(pickle.dumps(ConvFeatures())).square is None


def test_an_onnx_model_has_its_own_normalisation(files, tmp_path):
    onnx_models = pytest.importorskip("onnx_models", reason="the extra onnx is not installed")
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    path = str(onnx_models.save(onnx_models.maps(), tmp_path / "own.onnx"))
    asked = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "scale": 1 / 255, "channels": "bgr"}
    done = extract(
        str(files[0][0].parents[2]), backbone=path, pool="avg", out=tmp_path / "s.h5", dtype="float32", **asked
    )
    with FeatureStore(done.path) as store:
        expected = dict(zip(store.rows.paths, store.read(), strict=True))
    transformer = ConvFeatures(path, cache=tmp_path / "kept", dtype="float32", **asked)
    found = clone(transformer).fit_transform(files[0])
    root = files[0][0].parents[2]
    np.testing.assert_allclose(
        found, [expected[str(each.relative_to(root))] for each in files[0]], rtol=1e-5, atol=1e-6
    )
    other = ConvFeatures(path, cache=tmp_path / "kept", dtype="float32", **asked | {"channels": "rgb"}).transform(
        files[0]
    )
    assert not np.allclose(other, found)
    with pytest.raises(RequestError, match="mean must not go with preprocess"):
        ConvFeatures(path, preprocess="imagenet", mean=[0.5]).fit([])
    with pytest.raises(RequestError, match=r"mean must be left out for tiny"):
        make(tmp_path, mean=(0.5, 0.5, 0.5)).fit([])


@pytest.mark.parametrize("pool", ["avg", "max", "avg+max", "flatten"])
def test_features_are_those_of_a_store(tree, files, tmp_path, pool):
    extract(str(tree), backbone="tiny", out=tmp_path / "s.h5", dtype="float32", batch_size=5)
    with FeatureStore(tmp_path / "s.h5") as store:
        expected = dict(zip(store.rows.paths, store.read("last", pool), strict=True))
    found = make(tmp_path, pool=pool, dtype="float32").fit_transform(files[0])
    for path, row in zip(files[0], found, strict=True):
        np.testing.assert_allclose(row, expected[str(path.relative_to(tree))], rtol=1e-5, atol=1e-5)


def test_pixels_give_what_their_files_give(files, tmp_path):
    pixels = np.stack([np.asarray(Image.open(path)) for path in files[0]])
    transformer = make(tmp_path)
    np.testing.assert_array_equal(transformer.transform(pixels), transformer.transform(files[0]))


def test_the_limit_of_pixels_is_no_setting_of_features(files, tmp_path):
    """An image is 480 pixels."""
    with pytest.raises(SourceError, match=r"max_pixels=480\. Leave it out"):
        make(tmp_path, max_pixels=479).transform(files[0][:2])
    first = make(tmp_path).transform(files[0][:2])
    np.testing.assert_array_equal(make(tmp_path, max_pixels=479).transform(files[0][:2]), first)  # from the cache
    with pytest.raises(RequestError, match="max_pixels must be from 1 to"):
        make(tmp_path, max_pixels=0).fit(files[0])


def test_one_image_is_that_image_whatever_holds_it(files, tmp_path):
    path, transformer = files[0][0], make(tmp_path)
    expected = transformer.transform([path])
    pixels = np.asarray(Image.open(path))
    for one in (path, str(path), Image.open(path), [Image.open(path)], pixels, [pixels]):
        np.testing.assert_array_equal(transformer.transform(one), expected)
    mixed = transformer.transform([path, Image.open(files[0][1]), np.zeros((9, 7, 3), np.uint8)])
    np.testing.assert_array_equal(mixed[0], expected[0])


def test_features_have_names_and_go_into_tables(files, tmp_path):
    transformer = make(tmp_path)
    features = transformer.transform(files[0][:2])
    assert transformer.get_feature_names_out().tolist() == [f"convfeatures{n}" for n in range(features.shape[1])]
    pytest.importorskip("pandas", reason="the extra pandas is not installed")
    table = make(tmp_path).set_output(transform="pandas").fit_transform(files[0][:2])
    assert list(table.columns) == list(transformer.get_feature_names_out())
    np.testing.assert_array_equal(table, features)


def test_the_cache_is_looked_into_before_a_base_is_loaded(files, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keras.utils.set_random_seed(1)
    keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3)]).save(tmp_path / "own.keras")

    def fresh():
        return ConvFeatures(str(tmp_path / "own.keras"), cache=tmp_path / "kept", engine="tensorflow")

    first = fresh().transform(files[0][:4])
    monkeypatch.setattr("features.transformer._READY", {})  # as in another process
    with monkeypatch.context() as patch:
        patch.setattr("features.transformer.prepare", lambda *_: pytest.fail("a base was loaded"))
        np.testing.assert_array_equal(fresh().transform(files[0][:4][::-1]), first[::-1])
    np.testing.assert_array_equal(fresh().transform(files[0][:6])[:4], first)


def test_what_was_computed_is_kept_by_its_content(files, tmp_path, monkeypatch):
    kind, runs = ENGINES["tensorflow"], []

    class Watched:
        def __init__(self, frozen):
            self.real = kind.make(frozen)

        def run(self, images):
            runs.append(len(images))
            return self.real.run(images)

    monkeypatch.setitem(ENGINES, "tensorflow", replace(kind, make=Watched))
    asked = {"resize": "nearest"}  # as in no other test, so that its engine is made here
    first = make(tmp_path, **asked).transform(files[0])
    count = len(runs)
    np.testing.assert_array_equal(make(tmp_path, **asked).transform(files[0][::-1]), first[::-1])
    assert len(runs) == count > 0
    make(tmp_path, layer="relu", **asked).transform(files[0])  # others are not taken for them
    assert len(runs) >= count + 7
    make(tmp_path, **asked).set_params(cache=None).transform(files[0])
    assert len(runs) >= count + 14


@pytest.mark.usefixtures("stand_in")
def test_threads_make_a_base_once_and_take_turns_at_it(files, monkeypatch):
    rules, together, made, running, at_once = ("bilinear", "box", "lanczos"), threading.Barrier(9), [], [], []

    class Watched(standin.StandInEngine):
        def run(self, images):
            running.append(self)
            at_once.append(running.count(self))
            time.sleep(0.002)  # for other threads to come
            features = super().run(images)
            running.remove(self)
            return features

    def prepare_slowly(options, contents):
        made.append(options.resize)
        time.sleep(0.05)
        return prepare(options, contents)

    monkeypatch.setitem(ENGINES, "stand-in", replace(standin.ENGINE, make=Watched))
    monkeypatch.setattr("features.transformer._READY", {})
    monkeypatch.setattr("features.transformer._READY_AT_ONCE", len(rules))
    monkeypatch.setattr("features.transformer.prepare", prepare_slowly)

    def transform(resize):
        together.wait()
        return ConvFeatures("tiny", resize=resize, batch_size=2, cache=None).transform(files[0])

    with ThreadPoolExecutor(9) as pool:
        found = list(pool.map(transform, rules * 3))
    assert sorted(made) == sorted(rules) and max(at_once) == 1
    for one, another in zip(found, found[3:], strict=False):
        np.testing.assert_array_equal(one, another)


def test_a_model_of_ones_own_that_is_saved_again_gives_new_features(files, tmp_path):
    transformer = ConvFeatures(str(tmp_path / "own.keras"), cache=tmp_path / "kept", engine="tensorflow")
    found = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3)]).save(tmp_path / "own.keras")
        os.utime(tmp_path / "own.keras", ns=(1, 1))  # as what unpacks an archive or copies a disk may set it
        found.append(transformer.transform(files[0][:2]))
    assert not np.allclose(*found)


def test_a_process_that_finds_another_keeping_features_leaves_them_to_it(files, tmp_path):
    from features.store.writer_lock import one_writer

    first = make(tmp_path).transform(files[0][:4])
    (kept,) = (tmp_path / "kept").iterdir()
    parts = sorted(kept.glob("part-*.h5"))
    with one_writer(kept):
        again = make(tmp_path).transform(files[0][:8])
        assert sorted(kept.glob("part-*.h5")) == parts
    np.testing.assert_array_equal(again[:4], first)


def test_a_search_over_layers_in_a_pipeline(files, tmp_path):
    model = make_pipeline(make(tmp_path), LogisticRegression())
    grid = {"convfeatures__layer": ["conv", "last"], "logisticregression__C": [1.0, 10.0]}
    search = GridSearchCV(model, grid, cv=2).fit(*files)
    assert search.best_score_ > 0.9 and search.best_params_["convfeatures__layer"] in ("conv", "last")
    assert (search.predict(files[0][:3]) == files[1][:3]).all()
    assert len(list((tmp_path / "kept").iterdir())) == 2  # one for each layer


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_valid_tag_types,
    ],
)
def test_scikit_learns_checks_that_need_no_table(check):
    check("ConvFeatures", ConvFeatures())
    assert clone(ConvFeatures(layer="block4_pool")).layer == "block4_pool"


def test_bad_input_is_a_clear_error(files, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    for broken in (tmp_path / "broken.jpg", tmp_path / "gone.jpg"):
        with pytest.raises(SourceError, match="every image must be readable"):
            make(tmp_path).transform([files[0][0], broken])
    for wrong in (np.zeros((3, 8)), np.zeros((2, 8, 8, 3)), [1, 2], 7, [np.zeros((0, 7, 3), np.uint8)]):
        with pytest.raises(RequestError, match="images must be"):
            make(tmp_path).transform(wrong)
    with pytest.raises(SourceError, match="every image must be readable; photos"):
        make(tmp_path).transform("photos")
    for pool in ("mean", "none"):
        with pytest.raises(RequestError, match=r"pool must be one of .*flatten"):
            make(tmp_path, pool=pool).fit([])
    with pytest.raises(RequestError, match="layer must be one of conv"):
        make(tmp_path, layer="nothing").fit_transform(files[0][:2])


def test_no_image_and_no_batch_are_refused_before_a_base_is_loaded(files, monkeypatch):
    monkeypatch.setattr("features.transformer.prepare", lambda *_: pytest.fail("a base was loaded"))
    for none in ([], (), np.zeros((0, 8, 8, 3), np.uint8)):
        with pytest.raises(RequestError, match=r"^X must have at least 1 image; got none\."):
            ConvFeatures("tiny", image_size=12, cache=None).transform(none)
    with pytest.raises(RequestError, match="batch_size must be at least 1; got -1"):
        ConvFeatures("tiny", batch_size=-1, cache=None).transform(files[0][:2])  # not fitted, as scikit-learn allows


def test_an_image_that_cannot_be_used_is_named_whatever_holds_it(files, tmp_path, monkeypatch):
    """None in memory is refused today; one that were would be named by its shape."""
    monkeypatch.setattr("features.images.contents.Pixels.image", lambda *_: "too dark")
    with pytest.raises(SourceError, match=r"every image must be readable; an array of shape \(9, 7, 3\): too dark\."):
        make(tmp_path, image_size=12).transform([np.zeros((9, 7, 3), np.uint8)])
