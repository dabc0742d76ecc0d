"""Engines on the tiny base: their features are TensorFlow's, a store keeps its engine, and none talks to anybody."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny as tiny_base
from conftest import draw

from features import FeatureStore, extract
from features.backbones.keras_base import build_base
from features.engines import mnn_engine
from features.engines.frozen_graph import Frozen
from features.engines.registry import CHOICES, ENGINES, EngineKind, describe_engine, is_installed
from features.engines.selection import make_checked, pick_engine
from features.errors import EngineError, RequestError, StoreError
from features.extraction.verification import verify
from features.runtime.user_cache import cache_folder
from features.store.provenance import CPU, Device
from pipeline.cli.parser import make_parser

INSTALLED = [name for name in ENGINES if is_installed(name)]
OTHERS = [name for name in INSTALLED if name != "tensorflow"]
BATCH = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
# Lists what a process connects to, resolves and starts by a shell; the last line it prints is what it did and imported.
WATCH = """
import sys
seen = []
watched = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "os.system", "urllib.Request")
sys.addaudithook(lambda event, arguments: seen.append((event, str(arguments)[:200])) if event in watched else None)
"""


def need(name):
    """Skip where an engine is not installed."""
    if not is_installed(name):
        pytest.skip(f"the extra {name} is not installed")
    try:
        ENGINES[name].make(frozen())
    except EngineError as error:
        pytest.skip(f"{name}: {error}")


def frozen(pool="none", layers=("relu", "last")):
    """Freeze the tiny base; `relu` has successors."""
    return Frozen(build_base("tiny", layers, 16), 16, 5, pool)


def run(data, out, **options):
    """Extract with the tiny base."""
    return extract(str(data), out=out, **{"backbone": "tiny", "batch_size": 5, "dtype": "float32", **options})


@pytest.mark.parametrize("pool", ["none", "avg+max"])
@pytest.mark.parametrize("name", ENGINES)
def test_features_are_those_of_the_model(name, pool):
    need(name)
    found = ENGINES[name].make(frozen(pool)).run(BATCH)
    model = tiny_base.Tiny(None, False, (16, 16, 3))
    values = tiny_base.preprocess_input(BATCH.astype(np.float32))
    for layer in model.layers[1:]:
        values = np.asarray(layer(values))
        if layer.name in found:
            pooled = np.concatenate([values.mean((1, 2)), values.max((1, 2))], axis=1)
            expected = values if pool == "none" else pooled
            assert found[layer.name].shape == expected.shape and found[layer.name].dtype == np.float32
            rounding = 1e-4 if ENGINES[name].precision == "float32" else 2e-2 * np.abs(expected).max()
            np.testing.assert_allclose(found[layer.name], expected, rtol=1e-4, atol=rounding)
    assert list(found) == ["relu", "last"]


@pytest.mark.parametrize("name", ENGINES)
def test_an_images_features_depend_on_nothing_else_in_the_batch(name):
    need(name)
    engine, order = ENGINES[name].make(frozen()), [3, 1, 4, 0, 2]
    turned, straight = engine.run(BATCH[order]), engine.run(BATCH)
    for layer, values in straight.items():
        np.testing.assert_array_equal(turned[layer], values[order])


@pytest.mark.parametrize("name", OTHERS)
def test_each_engine_is_checked_against_tensorflow(name, monkeypatch):
    need(name)
    assert 0 < make_checked(name, frozen(), BATCH).parity <= ENGINES[name].allowed
    real = ENGINES[name].make

    class Wrong:
        def __init__(self, frozen):
            self.real = real(frozen)

        def run(self, images):
            return {
                layer: values * (1.001 + 3 * ENGINES[name].allowed) for layer, values in self.real.run(images).items()
            }

    monkeypatch.setitem(ENGINES, name, replace(ENGINES[name], make=Wrong))
    with pytest.raises(
        EngineError, match=rf"features of {name} must be within .* of those of tensorflow; .* engine=.tensorflow"
    ):
        make_checked(name, frozen(), BATCH)


def test_an_engine_of_another_library_is_held_against_the_first_of_that_library(monkeypatch):
    for name, value in (("theirs", 1.0), ("quick", 1.1)):
        engine = SimpleNamespace(run=lambda images, value=value: {"maps": np.full((len(images), 2), value)})
        kind = EngineKind(lambda frozen, engine=engine: engine, name, name, allowed=1e-3, runs="another")
        monkeypatch.setitem(ENGINES, name, kind)
    told = r"features of quick must be within 1e-03 \(relative\) of those of theirs; .* engine='theirs'"
    with pytest.raises(EngineError, match=told):
        make_checked("quick", SimpleNamespace(base=SimpleNamespace(library="another")), BATCH)


def test_auto_times_the_engines_once_and_remembers_the_fastest(monkeypatch, said):
    timed, rates, whole = [], {"tensorflow": 1.0, "openvino": 3.0, "mnn": 2.0, "numba": 1.5}, frozen()

    def change(**how):
        for name, kind in list(ENGINES.items()):
            monkeypatch.setitem(ENGINES, name, replace(kind, **how))

    def pick(key):
        return pick_engine(None, whole, key, BATCH, lambda names, *rest: timed.append(names) or rates)

    change(module="numpy", device=lambda: CPU)  # all are installed
    assert [pick({"weights_sha256": "a"}), pick({"weights_sha256": "a"})] == ["openvino", "openvino"]
    assert timed == [["tensorflow", "openvino", "mnn", "numba"]]
    assert "openvino 3.0" in said[1] and "was the fastest in an earlier run" in said[1]
    pick({"weights_sha256": "b"})
    change(module="h5py")
    pick({"weights_sha256": "a"})
    assert len(timed) == 3  # other weights, another version
    change(device=lambda: Device("gpu", "X"))
    rates["tensorflow-f16"] = 9.0
    assert pick({"weights_sha256": "a"}) == "tensorflow-f16"
    assert timed[3:] == [["tensorflow", "tensorflow-xla", "tensorflow-f16", "tensorflow-f16-xla"]]


def test_auto_leaves_out_an_engine_that_cannot_take_the_base_and_says_so(monkeypatch, said):
    need("mnn")

    def refuse(frozen):
        raise EngineError("X cannot run this base (why).")

    monkeypatch.setitem(ENGINES, "mnn", replace(ENGINES["mnn"], make=refuse))
    for name in ENGINES.keys() - {"tensorflow", "mnn"}:
        monkeypatch.setitem(ENGINES, name, replace(ENGINES[name], module="not_installed"))
    assert pick_engine(None, frozen(), {"of": "this test"}, BATCH) == "tensorflow"
    assert said[0] == "warning  X cannot run this base (why). It is skipped."
    with pytest.raises(EngineError, match=r"\(why\)\. Use another: engine=.tensorflow"):
        make_checked("mnn", frozen(), BATCH)


@pytest.mark.parametrize("name", OTHERS)
def test_a_store_keeps_its_engine(tree, tmp_path, name, monkeypatch):
    need(name)
    run(tree, tmp_path / "s.h5", engine=name)
    with FeatureStore(tmp_path / "s.h5") as store:
        assert store.made.spec.engine == describe_engine(name)
        assert 0 < store.made.parity <= ENGINES[name].allowed
    draw(tree / "train/red/added.png", 1001)
    with pytest.raises(StoreError, match=f"engine: stored {name} .*, requested tensorflow .*out="):
        run(tree, tmp_path / "s.h5", engine="tensorflow")
    with monkeypatch.context() as patch:
        patch.setitem(ENGINES, name, replace(ENGINES[name], module="not_installed"))
        with pytest.raises(
            RequestError, match=rf"{name}, which created this store .* 'cached-features\[{name.split('-')[0]}\]'"
        ):
            run(tree, tmp_path / "s.h5")
        assert [check.held for check in verify(tmp_path / "s.h5")][2] is None
    assert run(tree, tmp_path / "s.h5").computed == 1
    with FeatureStore(tmp_path / "s.h5") as store:
        assert store.made.spec.engine == describe_engine(name)
    assert [check.held for check in verify(tmp_path / "s.h5")] == [True, True, True]


def test_an_engine_that_is_not_installed_is_refused_before_any_work(tree, tmp_path, monkeypatch):
    monkeypatch.setitem(ENGINES, "mnn", replace(ENGINES["mnn"], module="not_installed"))
    with pytest.raises(RequestError, match=r"the engine mnn needs the package mnn.*'cached-features\[mnn\]'"):
        run(tmp_path / "no-such-folder", tmp_path / "s.h5", engine="mnn")
    with pytest.raises(RequestError, match=r"engine must be one of auto, .*; got 'mn'. Did you mean 'mnn'"):
        run(tmp_path / "no-such-folder", tmp_path / "s.h5", engine="mn")


def test_a_model_is_converted_once_and_again_when_its_file_is_damaged(monkeypatch, tmp_path):
    need("mnn")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = mnn_engine.MNNEngine(frozen()).run(BATCH)
    (file,) = (cache_folder() / "converted").iterdir()
    made = file.stat().st_ino
    mnn_engine.MNNEngine(frozen())
    assert file.stat().st_ino == made
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)
    found = mnn_engine.MNNEngine(frozen()).run(BATCH)
    (again,) = (cache_folder() / "converted").iterdir()
    assert again.read_bytes() != damaged
    for layer, values in expected.items():
        np.testing.assert_array_equal(found[layer], values)


def test_mnn_says_so_where_it_cannot_convert(tmp_path):
    need("mnn")
    with pytest.raises(EngineError, match="MNN cannot run this base"):
        mnn_engine.convert(b"no graph", tmp_path / "model")


def test_mnns_converter_reports_to_nobody(tmp_path):
    need("mnn")
    (tmp_path / "base.pb").write_bytes(frozen().graph())
    tell = "import atexit; atexit.register(lambda: print(seen, [name for name in sys.modules if 'MNN' in name]))\n"
    options = ["-f", "TF", "--modelFile", "base.pb", "--MNNModel", "base.mnn", "--bizCode", "x"]
    command = [sys.executable, "-I", "-c", WATCH + tell + mnn_engine._CONVERT, *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (tmp_path / "base.mnn").exists() and done.stdout.splitlines()[-1] == "[] []", done.stdout + done.stderr


@pytest.mark.parametrize("name", [name for name in OTHERS if ENGINES[name].module != "tensorflow"])
def test_engines_report_to_nobody(name, tmp_path):
    build_base("tiny_chain", ["-1"], 16).model.save(tmp_path / "tiny.keras")
    code = f"""{WATCH}
import numpy as np
from features.backbones.keras_base import build_base
from features.engines.registry import ENGINES
from features.engines.frozen_graph import Frozen
images = np.zeros((2, 16, 16, 3), np.uint8)
ENGINES[{name!r}].make(Frozen(build_base({str(tmp_path / "tiny.keras")!r}, ["-1"], 16), 16, 2)).run(images)
talkers = ("MNN.tools", "openvino.tools.ovc", "openvino_telemetry", "aliyun")
print(seen, [name for name in sys.modules if name.startswith(talkers)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[] []"], done.stdout + done.stderr


def test_the_command_line_offers_every_engine():
    parser = make_parser()
    for name in CHOICES:
        assert parser.parse_args(["extract", "--data", "x", "--engine", name]).engine == name
