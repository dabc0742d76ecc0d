"""Features larger than the memory that a request allows: heads by products of rows, read from the store a part at a time."""

import gc
import shutil
import tracemalloc

import numpy as np
import pytest
from machines import Machines
from samples import provenance_of, write_store

from features import FeatureStore
from features.errors import RequestError, StoreError
from features.store import schema
from pipeline.data.inner_products import gram, transposed
from pipeline.data.row_blocks import Stored
from pipeline.data.scaling import measure
from pipeline.data.training_data import Features, Part
from pipeline.runs.head_file import load_head
from pipeline.training.comparison import compare
from pipeline.training.fit import train_head
from pipeline.training.loading import Reader, find_features
from pipeline.training.request import Request

# Not "distributed": pytest puts tests/features/extraction on the path, whose folder of that name passes for a package.
pytest.importorskip("dask", reason="the extra dask is not installed")

ROWS, SHAPE = 120, (7, 7, 512)
BYTES = 4 * ROWS * int(np.prod(SHAPE))
MEMORY = BYTES / 1e10  # a tenth, in gigabytes
HEADS = {
    "logistic": {"C": (1.0, 30.0)},
    "linear-svm": {"C": (1.0, 30.0)},
    "rbf-svm": {"C": (1.0, 30.0), "gamma": (1.0,)},
}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A store of three classes that overlap, in maps of VGG16's shape."""
    path, random = tmp_path_factory.mktemp("large") / "s.h5", np.random.default_rng(0)
    labels, splits = np.arange(ROWS, dtype=np.int32) % 3, np.repeat(np.array([0, 1, 2], np.uint8), [72, 24, 24])
    maps = np.maximum(random.normal(0, 1, (ROWS, *SHAPE)) + random.normal(0, 0.05, (3, *SHAPE))[labels], 0)
    keys = random.integers(0, 256, (ROWS, 32), dtype=np.uint8)
    names = tuple(f"{row}.png" for row in range(ROWS))
    rows = schema.Rows(("a", "b", "c"), names, labels, splits, labels, np.zeros(ROWS, np.uint8), keys)
    return write_store(path, {"x": maps.astype(np.float16)}, rows, provenance_of({"x": SHAPE}))


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """A scheduler and two workers."""
    with Machines(tmp_path_factory.mktemp("dask")) as started:
        yield started.start_scheduler().start_worker("one").start_worker("two").wait_for_workers(2)


def train(store, out, head, **options):
    """Train a head on whole maps, and return the run and its probabilities."""
    run = train_head(store, head, out=out, pool="flatten", settings=HEADS[head], **options)
    return run, told(out)[0]


def told(out):
    """Return the probabilities of test rows of each head of a run."""
    with np.load(out / "predictions.npz") as kept:
        return [kept[name] for name in kept.files if name.startswith("probabilities")]


@pytest.fixture(scope="module")
def by_parts(large, tmp_path_factory):
    """Each head's run, probabilities and peak memory, where a tenth of the features may be in memory."""
    found = {}
    train(large, tmp_path_factory.mktemp("first") / "r", "logistic", memory=MEMORY)  # imports, which are not counted
    for head in HEADS:
        gc.collect()
        tracemalloc.start()
        run, probabilities = train(large, tmp_path_factory.mktemp("parts") / "r", head, memory=MEMORY)
        found[head] = run, probabilities, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return found


@pytest.mark.parametrize("head", HEADS)
def test_a_store_of_ten_times_the_memory_gives_the_head_of_one_that_fits(large, tmp_path, head, by_parts):
    whole, expected = train(large, tmp_path / "whole", head)
    run, found, peak = by_parts[head]
    assert [each["accuracy"] for each in run.tried] == [each["accuracy"] for each in whole.tried]
    assert run.settings == whole.settings
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert peak < BYTES / 2  # features, their products and what a head is made of
    with FeatureStore(large) as store:
        again = load_head(run.out).predict_proba(store.read(rows=np.arange(96, ROWS)))
    np.testing.assert_allclose(again, found, atol=1e-4)


def test_a_cluster_computes_the_same_products(large, tmp_path, machines, by_parts, monkeypatch):
    read = []
    here = Reader.__call__
    monkeypatch.setattr(Reader, "__call__", lambda self, rows: read.append(len(rows)) or here(self, rows))
    options = {"memory": MEMORY, "cluster": machines.address}
    _, found = train(large, tmp_path / "r", "logistic", **options)
    np.testing.assert_array_equal(found, by_parts["logistic"][1])
    # To look for series, to predict, for novelty, and to predict train and val out of fold; workers read what they multiply.
    assert sum(read) == 3 * ROWS + 96
    compare(large, list(HEADS), out=tmp_path / "c", pool="flatten", settings=HEADS["rbf-svm"], **options)
    for head, probabilities in zip(HEADS, told(tmp_path / "c"), strict=True):
        np.testing.assert_array_equal(probabilities, by_parts[head][1], err_msg=head)


@pytest.mark.parametrize("block_rows", [1, 3, 50])
def test_products_and_moments_of_parts_are_those_of_the_whole(block_rows):
    random = np.random.default_rng(0)
    X = random.exponential(1, (41, 600)).astype(np.float32)
    X[:, 5] = 3
    stored = Stored(X.shape, lambda rows: X[rows], block_rows)
    one, two = measure(X), measure(stored)
    for name in ("mean", "squares", "variances"):
        np.testing.assert_allclose(getattr(two, name), getattr(one, name), rtol=1e-12, atol=1e-12)
    scales = [one.scale(how, (200, 400)) for how in ("layer", "feature", "all")]
    for scale, products in zip(scales, gram(stored, one.mean, scales), strict=True):
        rows = (X - X.mean(axis=0, dtype=np.float64)) / scale
        np.testing.assert_allclose(np.triu(products), np.triu(rows @ rows.T), atol=1e-12)
        np.testing.assert_allclose(transposed(stored, one.mean, scale, rows), rows.T @ rows, atol=1e-12)


def test_views_are_averaged_a_part_at_a_time():
    X = np.random.default_rng(0).normal(size=(12, 30)).astype(np.float32)
    stored = Features(Stored(X.shape, lambda rows: X[rows], 4), (30,), 3, (Part("x", "flatten"),))
    some = np.array([True, False, True, True])
    expected = X.reshape(4, 3, 30).mean(axis=1)[some]
    np.testing.assert_array_equal(stored.averaged().only(some).X[np.arange(3)], expected)
    np.testing.assert_array_equal(stored.only(some).averaged().X[np.arange(3)], expected)


def test_what_cannot_do_with_a_part_is_refused_before_work(large, tiny_store, tmp_path):
    with pytest.raises(RequestError, match=r"features must fit into 0.0012 GB; knn .* use .*logistic.* memory=\.\.\."):
        train_head(large, "knn", out=tmp_path / "r", pool="flatten", memory=MEMORY)
    with pytest.raises(RequestError, match=r"32 rows of 6, and more for products of rows\. Use head=.dense"):
        train_head(tiny_store, "logistic", out=tmp_path / "r", pool="avg", memory=1e-7)
    with pytest.raises(RequestError, match="memory must hold at least four rows of 100352 bytes"):
        train_head(large, "logistic", out=tmp_path / "r", pool="flatten", memory=MEMORY / 10)
    stored = Stored((50_000, 100_000), lambda rows: None, 10)
    with pytest.raises(
        RequestError, match=r"inner products of rows may take half of the memory, 0\.5 GB; 50000 rows need"
    ):
        gram(stored, np.zeros(1), [np.ones(1)], memory=1 << 30)


def test_a_head_that_cannot_do_with_a_part_is_no_hindrance_to_the_others(large, tmp_path):
    asked = {"pool": "flatten", "memory": MEMORY, "settings": {"C": (1.0,)}}
    found = compare(large, ["knn", "logistic"], out=tmp_path / "c", **asked)
    assert [head["head"] for head in found.heads] == ["logistic"]
    assert found.not_fitted["knn"].startswith("features must fit into 0.0012 GB; knn needs")


def test_a_head_that_cannot_be_fitted_on_a_cluster_is_no_hindrance_to_the_others(machines, tiny_store, tmp_path):
    asked = {"settings": {"n_neighbors": (500,)}, "cluster": machines.address}
    found = compare(tiny_store, ["knn", "majority"], out=tmp_path / "c", **asked)
    assert [head["head"] for head in found.heads] == ["majority"] and "n_neighbors" in found.not_fitted["knn"]


def test_values_that_are_not_finite_are_refused_in_a_part_too(large, tmp_path):
    with FeatureStore(large) as store:
        maps, rows = store.read("x", "flatten", np.arange(ROWS)).reshape(ROWS, *SHAPE), store.rows
    maps[100, 3, 3, 7] = np.inf
    path = write_store(tmp_path / "s.h5", {"x": maps.astype(np.float16)}, rows, provenance_of({"x": SHAPE}))
    with pytest.raises(StoreError, match=r"must be finite; got inf for 100\.png\. .* dtype=.float32"):
        train_head(path, "logistic", out=tmp_path / "r", pool="flatten", memory=MEMORY)


def test_a_store_that_changed_under_its_name_is_not_mixed(large, tiny_store, tmp_path):
    copy = tmp_path / "s.h5"
    shutil.copy(large, copy)
    with FeatureStore(copy) as store:
        features = find_features(store, "logistic", Request(copy, memory=MEMORY, pool="flatten"))
    assert features.X[np.array([3])].shape == (1, BYTES // ROWS // 4)
    shutil.copy(tiny_store, tmp_path / "new.h5")
    (tmp_path / "new.h5").replace(copy)
    with pytest.raises(StoreError, match=r"s\.h5 must be the same store"):
        features.X[np.array([3])]
