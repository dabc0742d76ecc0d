"""Files made to do harm: every loader gives a clear error, and nothing in them runs or takes the memory."""

import io
import json
import pickle
import resource
import shutil
import struct
import warnings
import zipfile
from pathlib import Path

import h5py
import joblib
import keras
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

import pipeline
from features import FeatureStore
from features.backbones.keras_base import build_base
from features.errors import CachedFeaturesError, RequestError, StoreError, UnsafeFile
from features.safefiles.npz import read_arrays, save_arrays
from features.safefiles.trees import check_trees
from features.store import schema
from features.store.index_seal import break_seals
from pipeline.deploy.predictor import predict
from pipeline.runs.folders import read_run
from pipeline.runs.head_file import load_head
from pipeline.training.fits.fit_cache import load_result

HUGE = 10**12


class Touch:
    """What a pickle does as it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.fixture
def harmed(tmp_path):
    """A path that must not come to be, and memory that must not be taken."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), limits[1]))
    yield tmp_path / "harmed"
    resource.setrlimit(resource.RLIMIT_AS, limits)
    assert not (tmp_path / "harmed").exists()


@pytest.fixture(scope="module")
def runs(tiny_store, tmp_path_factory):
    """Runs of a linear head, of one that skops keeps, of a Dense one, and of one that has members."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for head in ("logistic", "knn", "dense", "vote"):
            pipeline.train_head(tiny_store, head, out=head)
    return folder


def crafted(runs, tmp_path, head, **files):
    """Return a copy of a run in which some files are others, and which has no checksums, as hostile ones need not."""
    folder = shutil.copytree(runs / head, tmp_path / "crafted")
    (folder / "SHA256SUMS").unlink()
    for name, content in files.items():
        path = folder / name.replace("_", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def npy(header, data=b""):
    """Return an array file with any header."""
    text = repr(header).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def archive(members, compression=zipfile.ZIP_STORED):
    """Return a zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return file.getvalue()


def arrays_of(**arrays):
    """Return an ``.npz`` file, of objects too."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def bad_archives(harmed):
    """Return zip files that no loader may take: name → bytes."""
    pickled = np.array([Touch(harmed)], object)
    claim = npy({"descr": "<f8", "fortran_order": False, "shape": (HUGE,)}, b"x" * 8)
    twice = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(twice, "w") as made:
        warnings.simplefilter("ignore")  # of zipfile, about the name
        for number in (0, 1):
            made.writestr(
                "classes.npy", npy({"descr": "<i8", "fortran_order": False, "shape": (1,)}, bytes([number] * 8))
            )
    deflated = archive({"classes.npy": bytes(1 << 20)}, zipfile.ZIP_DEFLATED)
    return {
        "a pickle": pickle.dumps(Touch(harmed)),
        "objects": arrays_of(classes=pickled),
        "names outside": archive({"../classes.npy": npy({})}),
        "absolute names": archive({"/classes.npy": npy({})}),
        "10^12 rows": archive({"classes.npy": claim}),
        "10^12 rows of nothing": archive({"c.npy": npy({"descr": "|S0", "fortran_order": False, "shape": (HUGE,)})}),
        "a header that is no header": archive({"classes.npy": npy("[" * 3000)}),
        "compressed": deflated,
        "a member twice": twice.getvalue(),
        "text": b"no zip",
        "nothing": b"",
    }


KINDS = sorted(bad_archives(Path("x")))


@pytest.mark.parametrize("kind", KINDS)
def test_archives_of_heads_fits_and_models(runs, tmp_path, harmed, kind):
    content = bad_archives(harmed)[kind]
    with pytest.raises(
        UnsafeFile, match={"objects": "holds Python objects", "a member twice": "twice"}.get(kind, r"\. ")
    ):
        load_head(crafted(runs, tmp_path / "a", "logistic", head_npz=content))
    with pytest.raises(UnsafeFile, match=r"\. "):
        load_head(crafted(runs, tmp_path / "b", "knn", head_skops=content))
    (tmp_path / "own.keras").write_bytes(content)
    with pytest.raises(UnsafeFile, match=r"\. "):
        build_base(str(tmp_path / "own.keras"), ["-1"], 16)
    (tmp_path / "fit.npz").write_bytes(content)
    assert load_result(tmp_path / "fit.npz") is None  # made anew


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[1, 2]", "", "null", '{"kind": "nothing"}', '"' + "x" * (65 << 20)]
)
def test_json_that_is_a_bomb_or_something_else(runs, tmp_path, harmed, text):
    folder = crafted(runs, tmp_path, "logistic", head_json=text, run_json=text)
    for load in (load_head, read_run):
        with pytest.raises(UnsafeFile, match="must be at most" if len(text) > 64 << 20 else r"\. "):
            load(folder)


def test_heads_that_are_put_together_otherwise(runs, tmp_path):
    told, arrays = json.loads((runs / "vote/head.json").read_text()), read_arrays(runs / "vote/head.npz")
    member = told["members"][0]
    nested = {**told, "members": [{"kind": "vote", "members": [member], "first": 0, "last": member["last"]}]}
    inner = {f"0.{name}": array for name, array in arrays.items() if name != "classes"}
    turned = {**arrays, "classes": arrays["classes"][::-1]}
    for number, (heads, values, reason) in enumerate(
        (
            (nested, {**inner, "classes": arrays["classes"]}, "a member must be an SVM"),
            (told, turned, "rising integers"),
        )
    ):
        folder = crafted(runs, tmp_path / str(number), "vote", head_json=json.dumps(heads))
        save_arrays(folder / "head.npz", values)
        with pytest.raises(UnsafeFile, match=reason):
            load_head(folder)


@pytest.mark.parametrize(
    "kind", ["harmful.Head", "pipeline.heads.linear_head.LinearHead", "LinearHead", "", None, 7, ["linear"], {}]
)
def test_what_a_head_is_is_looked_up_in_a_table_and_nowhere_else(runs, tmp_path, harmed, monkeypatch, kind):
    (tmp_path / "harmful.py").write_text(f"open({str(harmed)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    for head in ("logistic", "vote"):
        told = json.loads((runs / head / "head.json").read_text())
        (told["members"][0] if head == "vote" else told)["kind"] = kind
        (tmp_path / head).mkdir()
        with pytest.raises(UnsafeFile, match=rf"the head in .*{head}.crafted is damaged"):
            load_head(crafted(runs, tmp_path / head, head, head_json=json.dumps(told)))


def test_a_head_that_is_called_another_kind_is_refused(runs, tmp_path):
    for head, kind in (("logistic", "svm"), ("vote", "linear"), ("knn", "dense"), ("dense", "estimator")):
        told = json.loads((runs / head / "head.json").read_text()) | {"kind": kind}
        (tmp_path / head).mkdir()
        with pytest.raises(UnsafeFile, match="is damaged"):
            load_head(crafted(runs, tmp_path / head, head, head_json=json.dumps(told)))


def test_a_pickle_is_loaded_only_where_that_is_asked_for(tiny_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = pipeline.train_head(tiny_store, "sklearn.gaussian_process.GaussianProcessClassifier", out="own", joblib=True)
    assert run.head_file == "head.joblib" == json.loads(Path("own/head.json").read_text())["file"]
    with pytest.raises(RequestError, match="is a pickle, which can run any"):
        load_head("own")
    assert load_head("own", allow_joblib=True).classes_.tolist() == [0, 1]
    joblib.dump(Touch(tmp_path / "harmed"), "own/head.joblib")
    Path("own/SHA256SUMS").unlink()
    with pytest.raises(RequestError, match="is a pickle"):
        predict("own", [next(Path(run.provenance["source"]["root"]).rglob("*.png"))])
    assert not (tmp_path / "harmed").exists()


def test_a_head_of_unknown_types_is_refused_as_it_is_saved(tiny_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=r"has sklearn\.gaussian_process.* joblib=True"):
        pipeline.train_head(tiny_store, "sklearn.gaussian_process.GaussianProcessClassifier", out="run")
    assert not Path("run").exists()


def test_skops_of_types_that_are_not_known(runs, tmp_path, harmed):
    folder = crafted(runs, tmp_path, "knn")
    with zipfile.ZipFile(folder / "head.skops") as made:
        schema = json.loads(made.read("schema.json"))
    call = {
        "__class__": "system",
        "__module__": "os",
        "__loader__": "FunctionNode",
        "content": {"module_path": "os", "function": "system"},
        "__id__": 1,
    }
    for hidden in (call, {**call, "__loader__": "TypeNode"}, {**call, "__loader__": "Nothing"}):
        schema["content"]["content"]["metric"] = hidden
        (folder / "head.skops").write_bytes(archive({"schema.json": json.dumps(schema)}))
        with pytest.raises(UnsafeFile):
            load_head(folder)


@pytest.mark.parametrize("make", [HistGradientBoostingClassifier, RandomForestClassifier])
def test_trees_whose_nodes_lead_nowhere(make):
    X, y = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 2
    check_trees(make().fit(X, y))
    forest = make().fit(X, y)
    if hasattr(forest, "_predictors"):
        forest._predictors[0][0].nodes["left"][0] = 1 << 30
    else:
        forest.n_features_in_ = 1
    with pytest.raises(ValueError, match="missing nodes or features"):
        check_trees(forest)


def test_a_run_names_no_code_that_is_then_imported(runs, tmp_path, harmed, monkeypatch):
    (tmp_path / "harmful.py").write_text(f"open({str(harmed)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    told = json.loads((runs / "logistic/run.json").read_text())
    told |= {"head": "harmful.Head", "store": "gone.h5", "store_from_run": "gone.h5"}
    told["provenance"] |= {"backbone": "harmful.Base"}
    folder = crafted(runs, tmp_path, "logistic", run_json=json.dumps(told))
    shutil.copy(next(Path(told["provenance"]["source"]["root"]).rglob("*.png")), tmp_path / "x.png")
    with pytest.raises(CachedFeaturesError, match="backbone must be one of"):
        predict(folder, [tmp_path / "x.png"])


@pytest.mark.parametrize(
    "changed",
    [
        {"image_size": HUGE}, {"image_size": "16"}, {"batch_size": HUGE}, {"layers": None}, {"layers": 7}, {"views": HUGE},
        {"resize": "harm"}, {"augment": 3}, {"pool": "harm"}, {"preprocess": "harm"}, {"weights": "/dev/zero"}, {"dtype": "object"},
    ],
)  # fmt: skip
def test_provenance_that_makes_no_sense(runs, tmp_path, harmed, changed):
    told = json.loads((runs / "logistic/run.json").read_text()) | {"store": "gone.h5", "store_from_run": "gone.h5"}
    told["provenance"] |= changed
    folder = crafted(runs, tmp_path, "logistic", run_json=json.dumps(told))
    shutil.copy(next(Path(told["provenance"]["source"]["root"]).rglob("*.png")), tmp_path / "x.png")
    with pytest.raises(CachedFeaturesError):
        predict(folder, [tmp_path / "x.png"])


@pytest.mark.parametrize("what", ["Lambda", "function", "units", "TFSMLayer"])
def test_dense_heads_of_other_layers(runs, tmp_path, harmed, what):
    told = json.loads((runs / "dense/head.json").read_text())
    hidden = next(layer for layer in told["model"]["layers"] if layer["class_name"] == "Dense")
    if what == "units":
        hidden["config"]["units"] = HUGE
    elif what == "function":
        hidden["config"]["activation"] = {
            "module": "os",
            "class_name": "function",
            "config": "system",
            "registered_name": "function",
        }
    else:
        hidden["class_name"] = what
    folder = crafted(runs, tmp_path, "dense", head_json=json.dumps(told))
    with pytest.raises(UnsafeFile, match=r"dense|names|claims"):
        load_head(folder)


@pytest.mark.parametrize("what", ["Lambda", "module", "units", "external"])
def test_models_of_ones_own_that_hold_more_than_layers(tmp_path, harmed, what):
    inner = keras.layers.Lambda(lambda x: x) if what == "Lambda" else keras.layers.Dense(3, name="wide")
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(2, 3), inner])
    model.save(tmp_path / "own.keras")
    with zipfile.ZipFile(tmp_path / "own.keras") as made:
        members = {name: made.read(name) for name in made.namelist()}
    config = members["config.json"].decode()
    if what == "module":
        config = config.replace('"keras.layers", "class_name": "Dense"', '"os", "class_name": "system"')
    if what == "units":
        config = config.replace('"units": 3', f'"units": {HUGE}')
    if what == "external":
        file = io.BytesIO(members["model.weights.h5"])
        with h5py.File(file, "a") as weights:
            weights["stolen"] = h5py.ExternalLink("/etc/passwd", "/")
        members["model.weights.h5"] = file.getvalue()
    (tmp_path / "own.keras").write_bytes(archive({**members, "config.json": config}))
    with pytest.raises(UnsafeFile, match=r"nothing that runs code|has a link"):
        build_base(str(tmp_path / "own.keras"), ["-1"], 16)


def edited(tiny_store, tmp_path, edit):
    """Return a copy of a store that was edited and whose checksum of attributes is right again."""
    path = Path(shutil.copy(tiny_store, tmp_path / "edited.h5"))
    with h5py.File(path, "a") as file:
        edit(file)
        schema.set_text(file, "sha256", schema.digest_attributes(file))
    return path


def _external_link(file):
    del file["features/last"]
    file["features/last"] = h5py.ExternalLink("other.h5", "features/last")


def _soft_link(file):
    del file["rows/label"]
    file["rows/label"] = h5py.SoftLink("/rows/split")


def _virtual(file):
    shape = file["features/last"].shape
    del file["features/last"]
    layout = h5py.VirtualLayout(shape, "f2")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "features/last", shape)
    file.create_virtual_dataset("features/last", layout)


def _external_storage(file):
    shape = file["features/last"].shape
    del file["features/last"]
    file.create_dataset("features/last", shape, "f2", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _many_rows(file):
    del file["rows/label"]
    file["rows"].create_dataset("label", (HUGE,), "i4", chunks=(1 << 20,), compression="gzip")


def _long_texts(file):
    del file["rows/path"]
    file["rows"].create_dataset("path", (32,), h5py.string_dtype("utf-8", 1 << 30), chunks=(1,), compression="gzip")


def _objects(file):
    del file["rows/path"]
    file["rows"].create_dataset("path", data=["a"] * 32, dtype=h5py.string_dtype())


def _large_maps(file):
    del file["features/last"]
    file["features"].create_dataset(
        "last", (32, 1 << 20, 1 << 20, 6), "f2", chunks=(1, 1024, 1024, 6), compression="gzip"
    )


def _deep_json(file):
    schema.set_text(file, "provenance", "[" * 50_000)


def _part_outside(file):
    schema.set_text(file, "parts", json.dumps({"../../etc/passwd": [1, "0" * 64]}))


def _other_chunks(file):
    values = file["features/last"][:]
    del file["features/last"]
    file["features"].create_dataset("last", data=values, chunks=(1, 1, 3, 6), compression="gzip")


def _other_kinds(file):
    told = json.loads(file.attrs["provenance"])
    schema.set_text(file, "provenance", json.dumps({**told, "kinds": [["last", "map"]]}))


EDITS = [
    _external_link, _soft_link, _virtual, _external_storage, _many_rows, _long_texts, _objects, _large_maps, _deep_json,
    _part_outside, _other_chunks, _other_kinds,
]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_stores_that_reach_out_or_claim_too_much(tiny_store, tmp_path, harmed, edit):
    with pytest.raises((UnsafeFile, StoreError), match=r"\. "):
        FeatureStore(edited(tiny_store, tmp_path, edit))


def test_parts_that_reach_out(tree, tmp_path):
    from features import extract

    path = tmp_path / "s.h5"
    extract(str(tree), backbone="tiny", out=path, layout="parts")
    with FeatureStore(path) as store:
        before = store.read()
    (part,) = (tmp_path / "s.h5.parts").glob("part-*.h5")
    size = part.stat().st_size
    with h5py.File(part, "a") as file:
        del file["features/last"]
        file["features/last"] = h5py.ExternalLink("/tmp/other.h5", "x")
    with open(part, "ab") as file:
        file.write(bytes(max(0, size - part.stat().st_size)))
    with h5py.File(path, "a") as file:
        held = {f"s.h5.parts/{part.name}": [part.stat().st_size, "0" * 64]}
        schema.set_text(file, "parts", json.dumps(held))
        schema.set_text(file, "sha256", schema.digest_attributes(file))
    break_seals(part.parent)
    with FeatureStore(path) as store, pytest.raises(UnsafeFile, match="has a link"):
        store.read()
    assert len(before) == 32


def test_a_matrix_larger_than_the_memory_is_a_clear_error(tiny_store):
    with FeatureStore(tiny_store) as store:
        needed = store.read(memory=1e6).nbytes
        with pytest.raises(StoreError, match="must fit into"):
            store.read(memory=needed - 1)


def test_arrays_come_back_as_they_were(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros((0, 8), np.int32), "c": np.float32(3)}
    save_arrays(tmp_path / "a.npz", arrays)
    read = read_arrays(tmp_path / "a.npz")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
